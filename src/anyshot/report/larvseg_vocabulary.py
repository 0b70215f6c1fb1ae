"""LarvSeg's vocabulary and its compactness measure in the report: from mapping.json and compactness.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyshot.report.blocks import Block, Cell, Details, Note, RowGroup, Section, Table, Text
from anyshot.report.larvseg import SYSTEM
from anyshot.report.material import Material, finite, place_of, read_json
from anyshot.report.tables import ABSENT, VARIANTS, number, percent

PARTS: Mapping[str, str] = {
    "base": "base", "novel": "novel", "covered": "covered", "uncovered": "not covered"
}  # fmt: skip
MOST_UNIFIED = 60  # rows of the table of unified names
MOST_NAMES = 12  # names listed in a remark
UNIFIED_REMARK = (
    "Class lists are unified by name, where they have them by synset id. A target's class is base when a"
    " source with masks has its row, covered when one with image labels has. So a spelling decides what is"
    " base and what is novel; the name rules of a source or target (`rules`) decide the spelling."
)
NEAR_REMARK = "Near names that stayed apart, each in other lists: one thing in two spellings, or two things."
COMPACTNESS_REMARK = (
    "Whether features group the pixels of a class, without any classifier: of each class that an image shows,"
    " a few random pixels are seeds, and every pixel goes to the class of its most similar seed. Where unseen"
    " classes do nearly as well as seen ones, what was learnt from masks carries over."
)


def vocabulary(material: Material) -> Section | None:
    """Per experiment: lists and rows, base and novel, what was unified and which near names were not."""
    parts = []
    for path in sorted(material.files("mapping", system=SYSTEM), key=lambda path: place_of(path).order):
        split = place_of(path).split
        parts.append(Section(f"{SYSTEM}-vocabulary-{split}", split, mapping_blocks(read_json(path))))
    return Section(f"{SYSTEM}-vocabulary", "Vocabulary", (), subsections=parts) if parts else None


def mapping_blocks(mapping: Mapping[str, Any]) -> list[Block]:
    """The short form of a mapping report (`anyshot.larvseg.mapping`)."""
    unified, near = mapping.get("unified") or [], mapping.get("near") or []
    found: list[Block] = [
        Text([f"{mapping['rows']} rows, digest `{mapping['digest']}`. {UNIFIED_REMARK}"]),
        lists_table(mapping),
    ]
    if mapping.get("targets"):
        found.append(targets_table(mapping["targets"]))
    found += _warnings(mapping)
    if near:
        rows = [[Cell(first), Cell(second)] for first, second in near]
        found.append(
            Details(f"Near names: {len(near)}", [Text([NEAR_REMARK]), _plain(["Name", "and"], rows)])
        )
    if unified:
        found.append(Details(f"Unified names: {len(unified)}", [unified_table(unified)]))
    return found


def _plain(columns: Sequence[str], rows: Sequence[Sequence[Cell]], footnote: str = "") -> Table:
    return Table("", columns, [RowGroup("", rows)], footnote=footnote)


def lists_table(mapping: Mapping[str, Any]) -> Table:
    """Class lists by classes, rows, shared rows and, of sources, training images."""
    images: Mapping[str, Sequence[int]] = mapping.get("images") or {}
    rows = []
    for entry in mapping["lists"]:
        shared = entry.get("multiplicity") or {}
        counts = images.get(entry["title"])
        rows.append([
            Cell(entry["title"]),
            number(entry["classes"]),
            number(entry["rows"]),
            Cell(", ".join(f"{name} x {count}" for name, count in shared.items())),
            Cell(ABSENT, number=True) if counts is None else number(sum(map(bool, counts))),
        ])  # fmt: skip
    columns = ["List", "classes", "rows", "classes that share a row", "classes with training images"]
    return Table("Class lists of sources and targets", columns, [RowGroup("", rows)])


def targets_table(targets: Mapping[str, Mapping[str, Any]]) -> Table:
    """Number of base, novel, covered and uncovered classes of each target."""
    rows = [
        [Cell(target), *(number(found[part]["classes"]) for part in PARTS), Cell(found["base"]["digest"])]
        for target, found in targets.items()
    ]
    columns = ["Target", *PARTS.values(), "digest of the base classes"]
    return Table("Classes of the targets", columns, [RowGroup("", rows)])


def _warnings(mapping: Mapping[str, Any]) -> list[Block]:
    """Classes that nothing teaches: in no source, or in one without an image."""
    found: list[Block] = []
    for target, parts in (mapping.get("targets") or {}).items():
        names = parts["uncovered"]["names"]
        if names:
            text = (
                f"{target}: {len(names)} classes are in no source, so they cannot be learnt: {_some(names)}"
            )
            found.append(Note(text, "warning"))
    for source, counts in (mapping.get("images") or {}).items():
        empty = sum(not count for count in counts)
        if empty:
            text = f"{source}: {empty} of {len(counts)} classes have no training image."
            found.append(Note(text, "warning"))
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (" ..." if len(names) > MOST_NAMES else ".")


def unified_table(unified: Sequence[Mapping[str, Any]]) -> Table:
    """Rows that several names or lists share: the name, and what each list calls it."""
    rows = [
        [
            Cell(str(entry["name"])),
            Cell("; ".join(f"{title}: {', '.join(names)}" for title, names in entry["from"].items())),
        ]
        for entry in unified[:MOST_UNIFIED]
    ]
    more = len(unified) - MOST_UNIFIED
    footnote = f"And {more} more, in mapping.json." if more > 0 else ""
    return _plain(["Row", "is made of"], rows, footnote)


def compactness(material: Material) -> Section | None:
    """Seen and unseen classes by the number of seed pixels, a group of rows per experiment."""
    groups = []
    for path in sorted(material.files("compactness", system=SYSTEM), key=lambda path: place_of(path).order):
        content = read_json(path)
        title = str(content.get("target") or "")
        split = place_of(path).split
        groups.append(RowGroup(f"{split}, on {title}" if title else split, _compactness_rows(content)))
    if not groups:
        return None
    columns = ["Method", "seeds per class", "seen", "unseen", "all"]
    footnote = "Mean of the drawings ± their sample standard deviation."
    table = Table("Compactness: mIoU in %", columns, groups, (("", 2), ("mIoU in %", 3)), footnote)
    return Section(f"{SYSTEM}-compactness", "Compactness", [Text([COMPACTNESS_REMARK]), table])


def _compactness_rows(content: Mapping[str, Any]) -> list[list[Cell]]:
    rows = []
    for entry in content.get("points") or ():
        method = str(content.get("method", ""))
        row = [Cell(VARIANTS.get(method, method)), number(entry["points"])]
        for key in ("seen", "unseen", "all"):
            mean, spread = (finite((entry.get(key) or {}).get(part)) for part in ("mean", "spread"))
            text = percent(mean) + ("" if spread is None else f" ± {percent(spread)}")
            row.append(Cell(text, number=True))
        rows.append(row)
    return rows
