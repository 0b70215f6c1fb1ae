"""What was unified with what in a vocabulary, and what was not: the mapping report (larvseg.md 1.4, 7.1).

Base and novel classes depend on spelling (larvseg.md 6, item 23), so a result comes with this report.
No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyshot.data.class_lists import ClassList, digest_of
from anyshot.errors import DataError
from anyshot.larvseg.vocabulary import BaseNovel, Vocabulary


def mapping_report(vocabulary: Vocabulary, lists: Sequence[ClassList]) -> dict[str, Any]:
    """The report of a vocabulary and the lists it was made of; JSON types only.

    Returns:
        rows, digest, names_digest: of the vocabulary
        lists: per list its title, classes, rows and digest, and {name: multiplicity} of what shares a row
        unified: rows that several lists have, or that names of several spellings share: row, id, name, and
            {title: original names}
        alone: {title: names that only this list has}
        near: pairs of rows that stayed apart but differ only in case, hyphens, blanks, underscores or a final
            s; no list has both, so they may be one thing written in two ways

    Raises DataError when the lists are not those of the vocabulary.
    """
    _refuse_other_lists(vocabulary, lists)
    sources: list[dict[str, list[str]]] = [{} for _ in vocabulary.ids]
    for one in lists:
        for row, original in zip(vocabulary.member(one.title).rows, one.originals, strict=True):
            sources[row].setdefault(one.title, []).append(original)
    unified = [
        {"row": row, "id": vocabulary.ids[row], "name": vocabulary.names[row], "from": found}
        for row, found in enumerate(sources)
        if len(found) > 1 or len({name for names in found.values() for name in names}) > 1
    ]
    alone: dict[str, list[str]] = {one.title: [] for one in lists}
    for name, titles in zip(vocabulary.names, sources, strict=True):
        if len(titles) == 1:
            alone[next(iter(titles))].append(name)
    return {
        "rows": len(vocabulary),
        "digest": vocabulary.digest,
        "names_digest": vocabulary.names_digest,
        "lists": [_list_entry(vocabulary, one) for one in lists],
        "unified": unified,
        "alone": alone,
        "near": _near(vocabulary, sources),
    }


def base_novel_report(vocabulary: Vocabulary, target: ClassList, split: BaseNovel) -> dict[str, Any]:
    """Base and novel classes of a target by name, with their digests; JSON types only (larvseg.md 1.5, 4)."""
    parts = {
        "base": split.base, "novel": split.novel, "covered": split.covered, "uncovered": split.uncovered
    }  # fmt: skip
    found: dict[str, Any] = {"target": target.title, "vocabulary": vocabulary.digest}
    for part, indices in parts.items():
        names = [target.originals[index] for index in indices]
        found[part] = {
            "classes": len(indices), "digest": digest_of(names), "names": names, "indices": list(indices)
        }  # fmt: skip
    return found


def _refuse_other_lists(vocabulary: Vocabulary, lists: Sequence[ClassList]) -> None:
    expected = [(member.title, len(member.rows)) for member in vocabulary.members]
    found = [(one.title, len(one)) for one in lists]
    if found != expected:
        raise DataError(
            f"mapping report: found the lists (title, classes) {found}, but the vocabulary was made of"
            f" {expected}; give the same lists in the same order"
        )


def _list_entry(vocabulary: Vocabulary, one: ClassList) -> dict[str, Any]:
    member = vocabulary.member(one.title)
    shared = {
        vocabulary.names[row]: count
        for row, count in zip(member.active, member.multiplicity, strict=True)
        if count > 1
    }
    return {
        "title": one.title,
        "classes": len(one),
        "rows": len(member.active),
        "digest": one.digest,
        "multiplicity": shared,
    }


def _near(vocabulary: Vocabulary, sources: Sequence[dict[str, list[str]]]) -> list[list[str]]:
    """Pairs of names whose rows no list shares, and whose plain spelling is the same."""
    by_spelling: dict[str, list[int]] = {}
    for row, name in enumerate(vocabulary.names):
        by_spelling.setdefault(_plain(name), []).append(row)
    pairs = []
    for rows in by_spelling.values():
        for number, first in enumerate(rows):
            for second in rows[number + 1 :]:
                if sources[first].keys().isdisjoint(sources[second]):
                    pairs.append([vocabulary.names[first], vocabulary.names[second]])
    return pairs


def _plain(name: str) -> str:
    letters = "".join(letter for letter in name.casefold() if letter not in "-_ ")
    return letters[:-1] if letters.endswith("s") and not letters.endswith("ss") else letters
