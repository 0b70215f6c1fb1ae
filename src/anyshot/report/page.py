"""The page: sections put together by the template, one HTML file that needs nothing else.

To add a system, write functions that take the `Material` and return a `Section` or None, and name them in
`SECTIONS`: one `System` for each, whose first function makes the heading that the others stand below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import jinja2
import markupsafe

from anyshot.errors import ArtifactError
from anyshot.job import duration
from anyshot.report import (
    larvseg,
    larvseg_pictures,
    larvseg_vocabulary,
    pictures,
    pop,
    pop_pictures,
    raml,
    raml_pictures,
    retab,
    sections,
    simformer,
    simformer_pictures,
)
from anyshot.report.blocks import Section
from anyshot.report.data_card import card_of, data
from anyshot.report.material import SYSTEMS, Material, title_of

SectionFunction = Callable[[Material], Section | None]


@dataclass(frozen=True)
class System:
    """The part of one system: `results` makes its heading and headline numbers, `parts` stand below."""

    name: str
    results: SectionFunction
    parts: tuple[SectionFunction, ...]


SECTIONS: tuple[SectionFunction | System, ...] = (
    System(
        retab.SYSTEM,
        retab.results,
        (pictures.gallery, retab.classes, retab.thresholds, retab.confusions),
    ),
    System(raml.SYSTEM, raml.results, (raml_pictures.gallery, raml.classes, raml.anomaly)),
    System(
        pop.SYSTEM,
        pop.results,
        (pop.shots, pop.classes, pop.prototypes, pop_pictures.gallery, pop_pictures.supports),
    ),
    System(
        simformer.SYSTEM,
        simformer.results,
        (simformer_pictures.gallery, simformer.classes, simformer.similarity),
    ),
    System(
        larvseg.SYSTEM,
        larvseg.results,
        (
            larvseg_pictures.gallery,
            larvseg.classes,
            larvseg.confusions,
            larvseg.warm_up,
            larvseg_vocabulary.vocabulary,
            larvseg_vocabulary.compactness,
        ),
    ),
    data,
    sections.training,
    sections.cost,
    sections.provenance,
)

GALLERIES: tuple[SectionFunction, ...] = (
    pictures.gallery,
    raml_pictures.gallery,
    pop_pictures.gallery,
    pop_pictures.supports,
    simformer_pictures.gallery,
    larvseg_pictures.gallery,
)
# Factors on the gallery pictures' side, tried in turn until the page is small enough.
SHRINK = (1.0, 0.8, 0.65, 0.5, 0.35)


@dataclass(frozen=True)
class Fact:
    """One line of the page's head."""

    label: str
    value: str


def build(material: Material, contents: Sequence[SectionFunction | System] = SECTIONS) -> str:
    """The page as HTML text, smaller than `max_megabytes`.

    Sections whose inputs are absent are left out. Raises ArtifactError when the page stays too large with the
    smallest pictures.
    """
    limit = material.options.max_megabytes * 1e6
    made = {function: function(material) for section in contents for function in _functions(section)}
    for factor in SHRINK:
        if factor < 1:
            side = max(32, round(material.options.image_side * factor))
            smaller = replace(material, options=material.options.model_copy(update={"image_side": side}))
            made.update({function: function(smaller) for function in GALLERIES if made.get(function)})
        whole = [_assembled(section, made) for section in contents]
        page = render(material.options.title, facts(material), [part for part in whole if part is not None])
        size = len(page.encode("utf-8"))
        if size < limit:
            return page
        if not any(made.get(function) for function in GALLERIES):
            break
    raise ArtifactError(
        f"the report has {size / 1e6:.1f} MB, allowed are {limit / 1e6:.1f} MB (report.max_megabytes): lower"
        " report.gallery_images or raise the limit"
    )


def _functions(section: SectionFunction | System) -> tuple[SectionFunction, ...]:
    return (section.results, *section.parts) if isinstance(section, System) else (section,)


def _assembled(
    section: SectionFunction | System, made: Mapping[SectionFunction, Section | None]
) -> Section | None:
    """A system's parts below its heading; a section of its own as it is."""
    if not isinstance(section, System):
        return made[section]
    parts = [part for function in section.parts if (part := made[function]) is not None]
    head = made[section.results]
    if head is None and parts:
        head = Section(section.name, title_of(section.name), ())
    return head and replace(head, subsections=parts)


def facts(material: Material) -> list[Fact]:
    """What was run on what, in a few lines."""
    found = []
    systems = list(dict.fromkeys(result.system for result in material.results))
    for system in systems:
        splits = ", ".join(result.split for result in material.results_of(system))
        found.append(Fact("System", f"{title_of(system)} on {splits}"))
    for name in material.datasets:
        card, table = card_of(material, name), material.class_table(name)
        counts = {subset: entry.get("images") for subset, entry in (card.get("subsets") or {}).items()}
        manifest = None if counts else material.manifest(name)
        counts = counts or (manifest.counts() if manifest is not None else {})
        images = ", ".join(f"{count} {subset}" for subset, count in counts.items())
        classes = f"{len(table)} classes" if table is not None else ""
        found.append(Fact("Data", f"{name}: " + "; ".join(text for text in (images, classes) if text)))
    version, commit = material.provenance.get("anyshot"), material.provenance.get("commit")
    version = version or material.provenance.get("anyshot_version")
    if version:
        found.append(
            Fact(
                "Made with",
                f"anyshot {version}" + (f", commit {sections.short_commit(commit)}" if commit else ""),
            )
        )
    total = sections.total_seconds(material)
    if total:
        found.append(Fact("Computed in", f"{duration(total)}, all jobs one after the other"))
    return found


def render(title: str, head: Sequence[Fact], parts: Sequence[Section]) -> str:
    """Sections as one HTML page. All text is escaped; colours and `data:` addresses are ours."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("anyshot.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["prose"] = prose
    return environment.get_template("page.html").render(
        title=title, facts=head, sections=parts, systems=SYSTEMS
    )


def prose(text: str) -> markupsafe.Markup:
    """Text escaped, what stands between backticks as code."""
    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(text))))
