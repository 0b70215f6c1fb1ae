"""The report's section on the data: what `card.json`, the manifest and the class table say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Manifest
from anyshot.report.blocks import Block, Cell, Details, Note, RowGroup, Section, Table, Text, css_colour
from anyshot.report.material import Material, finite, read_json
from anyshot.report.tables import ABSENT, number, percent


def data(material: Material) -> Section | None:
    """Data card of every data set: images per subset, void audit, classes, problems."""
    parts = [part for name in material.datasets if (part := _data_set(material, name)) is not None]
    if not parts:
        return None
    if len(parts) == 1:
        return Section("data", f"Data: {parts[0].heading}", parts[0].blocks)
    return Section("data", "Data", (), subsections=parts)


def card_of(material: Material, dataset: str) -> dict[str, Any]:
    """`card.json` of a data set; empty when it was not given. The only one given serves every name."""
    paths = material.files("card")
    chosen = next(
        (path for path in paths if path.parent.name == dataset), paths[0] if len(paths) == 1 else None
    )
    return read_json(chosen) if chosen else {}


def _data_set(material: Material, name: str) -> Section | None:
    card = card_of(material, name)
    subsets: Mapping[str, Any] = card.get("subsets") or {}
    manifest, table = material.manifest(name), material.class_table(name)
    if not subsets and manifest is not None:
        subsets = _subsets_of(manifest, table)
    blocks: list[Block] = []
    if card.get("reader"):
        blocks.append(Text([f"Read by `{card['reader']}` from {card.get('root', 'an unnamed folder')}."]))
    problems = card.get("problems") or {}
    if isinstance(problems, Mapping) and problems.get("count"):
        blocks.append(_problems(problems))
    if subsets:
        blocks.append(_audit(subsets))
    if table is not None:
        blocks.append(Details(f"The {len(table)} classes", [_classes(table, subsets)]))
    return Section(f"data-{name}", name, blocks) if blocks else None


def _subsets_of(manifest: Manifest, table: ClassTable | None) -> dict[str, Any]:
    """What the manifest alone says of its subsets, in the words of the card."""
    found = {}
    for subset in manifest.subsets:
        samples = manifest.samples([subset])
        images = Counter(label for sample in samples for label in sample.labels)
        ids = table.ids if table is not None else tuple(sorted(images))
        found[subset] = {
            "images": len(samples),
            "masks": sum(sample.mask is not None for sample in samples),
            "labels_per_image": images.total() / len(samples),
            "classes": [{"id": identity, "images": images[identity]} for identity in ids],
        }
    return found


def _problems(problems: Mapping[str, Any]) -> Note:
    kinds = ", ".join(f"{kind}: {count}" for kind, count in (problems.get("kinds") or {}).items())
    text = f"{problems['count']} problems were found in the data ({kinds})"
    dropped = problems.get("dropped_samples")
    first = [str(entry.get("message", "")) for entry in (problems.get("listed") or [])[:3]]
    text += f"; {dropped} samples were left out" if dropped else ""
    return Note(text + (". First: " + "; ".join(first) if first else "."), "warning")


def _audit(subsets: Mapping[str, Any]) -> Table:
    rows = []
    for name, subset in subsets.items():
        void = finite(subset.get("void_share"))
        contours, masks = finite(subset.get("images_with_void")), finite(subset.get("masks")) or 0
        with_contour = Cell(ABSENT, number=True)
        if contours is not None:
            share = f" ({100 * contours / masks:.0f} %)" if masks else ""
            with_contour = Cell(f"{contours:.0f}{share}", number=True)
        rows.append(
            [
                Cell(name),
                _count(subset.get("images")),
                _count(subset.get("masks")),
                with_contour,
                Cell(percent(void), number=True),
                _decimal(subset.get("labels_per_image")),
                _count(subset.get("background_only")),
                Cell(_sizes(subset.get("sizes"))),
                Cell(str(subset.get("sha256_of_ids") or ABSENT)[:10], muted=True),
            ]
        )
    columns = [
        "Subset",
        "images",
        "with mask",
        "with void contour",
        "void, % of pixels",
        "labels per image",
        "background only",
        "height × width, px",
        "sha256 of the ids",
    ]
    footnote = (
        "Void pixels (255, or 65535 in 16-bit masks) are not scored; boundary networks learn from them."
    )
    return Table("Images per subset", columns, [RowGroup("", rows)], footnote=footnote)


def _count(value: Any) -> Cell:
    known = finite(value)
    return Cell(ABSENT, number=True) if known is None else number(known)


def _decimal(value: Any) -> Cell:
    known = finite(value)
    return Cell(ABSENT if known is None else f"{known:.2f}", number=True)


def _sizes(sizes: Any) -> str:
    if not isinstance(sizes, Mapping) or not sizes.get("smallest"):
        return ABSENT
    small, large = ("\u2009×\u2009".join(str(side) for side in sizes[key]) for key in ("smallest", "largest"))
    return small if small == large else f"{small} to\u00a0{large}"


def _classes(table: ClassTable, subsets: Mapping[str, Any]) -> Table:
    """Every class with its images and its share of the pixels in every subset."""
    entries = {
        name: {entry.get("id"): entry for entry in subset.get("classes") or []}
        for name, subset in subsets.items()
    }
    pixels = {
        name: sum(finite(e.get("pixels")) or 0 for e in found.values()) for name, found in entries.items()
    }
    rows = []
    for identity, name, kind, colour in zip(table.ids, table.names, table.kinds, table.colours, strict=True):
        row = [Cell(name, swatch=css_colour(colour)), Cell(str(identity), number=True), Cell(kind)]
        for subset, found in entries.items():
            entry = found.get(identity, {})
            row.append(_count(entry.get("images")))
            if pixels[subset]:
                share = (finite(entry.get("pixels")) or 0) / pixels[subset]
                row.append(Cell(percent(share), number=True))
        rows.append(row)
    columns, spans = ["Class", "id", "kind"], [("", 3)]
    for subset in entries:
        columns += ["images", "% of pixels"] if pixels[subset] else ["images"]
        spans.append((subset, 2 if pixels[subset] else 1))
    return Table("Classes and the images that show them", columns, [RowGroup("", rows)], tuple(spans))
