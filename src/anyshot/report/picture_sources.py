"""What every system's pictures start from."""

from __future__ import annotations

from collections.abc import Callable

from anyshot.data.manifest import Manifest
from anyshot.report.blocks import Gallery, Section, Text
from anyshot.report.gallery import Painter
from anyshot.report.material import Material, SplitResult, place_of
from anyshot.report.tables import scored_variants


def sources(material: Material, result: SplitResult) -> tuple[Manifest, Painter] | None:
    """A split's manifest, and a painter that knows which classes are novel; None where inputs are absent."""
    manifest, table = material.manifest(result.dataset), material.class_table(result.dataset)
    if manifest is None or table is None:
        return None
    entries = [entry for item in scored_variants(result) for entry in item.classes]
    roles = {entry["id"]: str(entry.get("role", "")) for entry in entries}
    return manifest, Painter.of(table, roles, material.options)


def split_galleries(
    material: Material,
    name: str,
    anchor: str,
    remark: str,
    gallery_of: Callable[[SplitResult, Manifest, Painter], Gallery],
    *,
    heading: str = "Pictures",
) -> Section | None:
    """A gallery for each split that has files `name`; None where there is nothing to show.

    anchor: `<system>-<part>`; gallery_of: makes one split's, left out when it has no rows.
    """
    system = anchor.split("-")[0]
    if material.options.gallery_images == 0:
        return None
    known = {result.split: result for result in material.results_of(system)}
    parts: list[Section] = []
    for split in sorted({place_of(path).split for path in material.files(name, system=system)}):
        result = known.get(split, SplitResult(system, split))
        if (found := sources(material, result)) is not None:
            gallery = gallery_of(result, *found)
            parts += [Section(f"{anchor}-{split}", split, [gallery])] if gallery.rows else []
    return Section(anchor, heading, [Text([remark])], subsections=parts) if parts else None
