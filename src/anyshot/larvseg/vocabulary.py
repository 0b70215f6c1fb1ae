"""Vocabularies: class lists unified into one table of rows, by name or by synset id (larvseg.md 1.4 to 1.7).

The classifier has one row of its class table per vocabulary row. A data set's classes are its `Member`: the
row of each class. Several classes of a data set may share a row; the row then has a multiplicity, which
stands for the copied logit columns of the original (larvseg.md 1.4). No torch here.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from anyshot.data.class_lists import ClassList, digest_of, refuse_unknown
from anyshot.data.files import write_bytes
from anyshot.errors import ConfigError, DataError

FORMAT: Final = 1  # of the JSON file
BETWEEN: Final = "|"  # between the synonyms of a row in the csv file
COLUMNS: Final = ("row", "id", "name", "synonyms")
MOST_LISTED: Final = 5

Key = tuple[str, str]  # ("id", synset id) or ("name", name)


@dataclass(frozen=True)
class Member:
    """A data set's classes in a vocabulary.

    title: of the class list; rows: the vocabulary row of every class, by class index.
    """

    title: str
    rows: tuple[int, ...]

    @cached_property
    def active(self) -> tuple[int, ...]:
        """The distinct rows, in the order of their first class: V, the active classes of larvseg.md 2.2."""
        return tuple(dict.fromkeys(self.rows))

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """By class index, the position of its row among `active`: the labels that a loss is given."""
        found = {row: position for position, row in enumerate(self.active)}
        return tuple(found[row] for row in self.rows)

    @cached_property
    def multiplicity(self) -> tuple[int, ...]:
        """How many classes share a row, for every row of `active`: k of log Σ k exp z (larvseg.md 1.4)."""
        count = Counter(self.rows)
        return tuple(count[row] for row in self.active)


@dataclass(frozen=True)
class BaseNovel:
    """Class indices of a target: base ones, novel ones, and those of the novel that image labels cover."""

    base: tuple[int, ...]
    novel: tuple[int, ...]
    covered: tuple[int, ...] = ()

    @property
    def uncovered(self) -> tuple[int, ...]:
        """The novel classes that no image-labelled set has either."""
        return tuple(index for index in self.novel if index not in set(self.covered))


@dataclass(frozen=True)
class Vocabulary:
    """One row per distinct class, and where each data set's classes are among the rows.

    ids: by row, the synset id, or the name where the class has none; every id once. Checkpoints belong to
        these.
    names: by row, for display; they may occur more than once where ids differ (larvseg.md 1.7).
    synonyms: by row, what else the lists call it.

    Raises DataError when an id occurs twice, a member has a row that is none, or the numbers differ.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    members: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.names) == len(self.synonyms):
            raise DataError(
                f"vocabulary: found {len(self.ids)} ids, {len(self.names)} names and {len(self.synonyms)}"
                " lists of synonyms; expected one of each per row"
            )
        _refuse_repeated(self.ids, "id")
        _refuse_repeated([member.title for member in self.members], "class list")
        for member in self.members:
            outside = [row for row in member.rows if not 0 <= row < len(self.ids)]
            if outside:
                raise DataError(
                    f"vocabulary: a class of {member.title!r} has row {outside[0]}, the rows are"
                    f" 0..{len(self.ids) - 1}; make the vocabulary again"
                )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """The digest of the ids in any order; larvseg.md 1.5's where no class has a synset id."""
        return digest_of(self.ids)

    @property
    def names_digest(self) -> str:
        """The digest of the distinct names: larvseg.md 1.5's also where classes have synset ids."""
        return digest_of(set(self.names))

    def member(self, title: str) -> Member:
        """The classes of a list by its title. Raises ConfigError naming those that are there."""
        found = {member.title: member for member in self.members}
        refuse_unknown([title], known=found, where="the vocabulary's set of class lists")
        return found[title]

    def rows_of(self, words: Iterable[str]) -> list[int]:
        """The row of every word, which is an id, a name or a synonym, in this order of preference.

        Raises ConfigError for words that the vocabulary lacks, with close matches, and for names and synonyms
        that several rows have, with their ids.
        """
        wanted = list(words)
        refuse_unknown(wanted, known=self._rows_by_word, where="the vocabulary")
        shared = {word: self._rows_by_word[word] for word in wanted if len(self._rows_by_word[word]) > 1}
        if shared:
            shown = [
                f"{word!r} (one of {', '.join(self.ids[row] for row in rows[:MOST_LISTED])})"
                for word, rows in list(shared.items())[:MOST_LISTED]
            ]
            raise ConfigError(f"several rows of the vocabulary are called {', '.join(shown)}; give the id")
        return [self._rows_by_word[word][0] for word in wanted]

    @cached_property
    def _rows_by_word(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for words in (self.synonyms, tuple((name,) for name in self.names), tuple((i,) for i in self.ids)):
            level: dict[str, list[int]] = {}
            for row, row_words in enumerate(words):
                for word in row_words:
                    level.setdefault(word, []).append(row)
            found |= level  # names stand above synonyms, ids above both
        return found

    def place(self, classes: ClassList) -> Member:
        """The rows of a list that was not part of the union, by id, else by name or synonym.

        Raises ConfigError for a class that the vocabulary lacks, with close matches.
        """
        by_id = {key: row for row, key in enumerate(self.ids)}
        words = [key if key in by_id else name for name, key in zip(classes.names, classes.ids, strict=True)]
        try:
            return Member(classes.title, tuple(self.rows_of(words)))
        except ConfigError as error:
            raise ConfigError(f"class list {classes.title!r}: {error}") from error

    def base_novel(self, target: str, *, pixel: Sequence[str], image: Sequence[str] = ()) -> BaseNovel:
        """Which classes of `target` are base: those whose row a pixel-labelled list has (larvseg.md 1.5, 4).

        pixel, image: titles of the pixel-labelled and of the image-labelled lists. Raises ConfigError for an
        unknown title.
        """
        with_pixels = {row for title in pixel for row in self.member(title).rows}
        with_images = {row for title in image for row in self.member(title).rows}
        rows = self.member(target).rows
        novel = tuple(index for index, row in enumerate(rows) if row not in with_pixels)
        return BaseNovel(
            base=tuple(index for index, row in enumerate(rows) if row in with_pixels),
            novel=novel,
            covered=tuple(index for index in novel if rows[index] in with_images),
        )

    def write(self, path: Path) -> None:
        """Write the whole vocabulary, atomically, as .json or .csv. Raises DataError for another suffix."""
        if path.suffix.lower() == ".json":
            text = json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"
        elif path.suffix.lower() == ".csv":
            text = _to_csv(self)
        else:
            raise DataError(f"{path}: vocabularies are written as .json or .csv; change the suffix")
        write_bytes(path, text.encode("utf-8"))

    @classmethod
    def read(cls, path: Path, *, rows: int | None = None, digest: str | None = None) -> Vocabulary:
        """Read what `write` wrote, or the official form: a JSON list of names, row by row (larvseg.md 1.4).

        rows, digest: what the file must have, e.g. that of a checkpoint's class table.

        Raises DataError when the file is missing (the official code then goes on with wrong rows, larvseg.md
        6, item 1), broken, or another one than expected.
        """
        if not path.is_file():
            raise DataError(
                f"{path}: no such vocabulary file (seen from {Path.cwd()}); a checkpoint's rows mean nothing"
                " without it: put it back, or make it again from the same class lists"
            )
        try:
            text = path.read_text(encoding="utf-8-sig")
            content = _from_csv(text) if path.suffix.lower() == ".csv" else json.loads(text)
            found = cls.from_json(content)
        except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            raise DataError(f"{path}: not a vocabulary file ({error!r}); make it again") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        if rows is not None and len(found) != rows:
            raise DataError(
                f"{path}: the vocabulary has {len(found)} rows, expected {rows}; use the vocabulary that the"
                " checkpoint was trained with"
            )
        if digest is not None and found.digest != digest:
            raise DataError(
                f"{path}: the vocabulary's digest is {found.digest}, expected {digest}: it has other classes;"
                " use the vocabulary that the checkpoint was trained with"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """JSON types only: rows (id, name, synonyms), members (title, rows), digest."""
        rows = zip(self.ids, self.names, self.synonyms, strict=True)
        return {
            "format": FORMAT,
            "digest": self.digest,
            "rows": [{"id": key, "name": name, "synonyms": list(more)} for key, name, more in rows],
            "members": [{"title": member.title, "rows": list(member.rows)} for member in self.members],
        }

    @classmethod
    def from_json(cls, content: Any) -> Vocabulary:
        """The vocabulary of what `to_json` gave, or of a list of names.

        Raises DataError, KeyError, TypeError or ValueError.
        """
        if isinstance(content, list):
            names = tuple(str(name) for name in content)
            return cls(names, names, ((),) * len(names))
        found = cls(
            ids=tuple(row["id"] for row in content["rows"]),
            names=tuple(row["name"] for row in content["rows"]),
            synonyms=tuple(tuple(row["synonyms"]) for row in content["rows"]),
            members=tuple(Member(one["title"], tuple(map(int, one["rows"]))) for one in content["members"]),
        )
        if content.get("format", FORMAT) != FORMAT or content.get("digest", found.digest) != found.digest:
            raise DataError(
                f"the file asserts format {content.get('format')} and digest {content.get('digest')}, found"
                f" are format {FORMAT} and digest {found.digest}; it was damaged or edited: make it again"
            )
        return found


def union(lists: Sequence[ClassList]) -> Vocabulary:
    """One vocabulary of several class lists, with a row per distinct class in the order of first appearance.

    Two classes with ids are the same if their ids are equal. A class without an id is the same as the
    classes of its name. Which classes are the same does not depend on the order of the lists.

    Raises DataError when there is no list or a title occurs twice, ConfigError when a class without an id has
    a name that several ids have.
    """
    if not lists:
        raise DataError("a vocabulary needs a class list at least; found none")
    keys = _keys(lists)
    row_of: dict[Key, int] = {}
    names: list[str] = []
    words: list[dict[str, None]] = []
    members = []
    for one, of_list in zip(lists, keys, strict=True):
        rows = []
        for key, name, original in zip(of_list, one.names, one.originals, strict=True):
            if key not in row_of:
                row_of[key] = len(names)
                names.append(name)
                words.append({})
            rows.append(row_of[key])
            words[row_of[key]] |= {name: None, original: None}
        members.append(Member(one.title, tuple(rows)))
    return Vocabulary(
        ids=tuple(value for _, value in row_of),
        names=tuple(names),
        synonyms=tuple(
            tuple(w for w in found if w != name) for found, name in zip(words, names, strict=True)
        ),
        members=tuple(members),
    )


def _keys(lists: Sequence[ClassList]) -> list[list[Key]]:
    """By list and class, what makes it one: its id, else the only id of its name, else its name."""
    ids_of: dict[str, dict[str, None]] = {}
    for one in lists:
        for name, key in zip(one.names, one.ids, strict=True):
            if key is not None:
                ids_of.setdefault(name, {})[key] = None
    for one in lists:
        for name, key in zip(one.names, one.ids, strict=True):
            if key is None and len(ids_of.get(name, ())) > 1:
                shown = ", ".join(list(ids_of[name])[:MOST_LISTED])
                raise ConfigError(
                    f"class list {one.title!r}: {name!r} has no id, and {len(ids_of[name])} ids have this"
                    f" name ({shown}); say which it is with `with_ids`, or rename it"
                )

    def key_of(name: str, key: str | None) -> Key:
        if key is not None:
            return "id", key
        return ("id", next(iter(ids_of[name]))) if name in ids_of else ("name", name)

    return [[key_of(n, k) for n, k in zip(one.names, one.ids, strict=True)] for one in lists]


def retitled(classes: ClassList, title: str) -> ClassList:
    """The same list under another title, to have it in a vocabulary twice."""
    return replace(classes, title=title)


def _refuse_repeated(words: Sequence[str], what: str) -> None:
    repeated = [word for word, count in Counter(words).items() if count > 1]
    if repeated:
        shown = ", ".join(map(repr, repeated[:MOST_LISTED]))
        raise DataError(
            f"vocabulary: the {what} {shown} occurs more than once ({len(repeated)} such); every {what} once"
        )


def _to_csv(vocabulary: Vocabulary) -> str:
    """A row per row; a column per member, with the indices of the row's classes between blanks."""
    titles = [member.title for member in vocabulary.members]
    if set(titles) & set(COLUMNS) or any(BETWEEN in word for words in vocabulary.synonyms for word in words):
        raise DataError(
            f"a class list is called like one of the columns {', '.join(COLUMNS)}, or a synonym has the sign"
            f" {BETWEEN!r}, which a csv file cannot tell apart; write the vocabulary as .json"
        )
    by_row = []
    for member in vocabulary.members:
        found: dict[int, list[str]] = {}
        for index, row in enumerate(member.rows):
            found.setdefault(row, []).append(str(index))
        by_row.append(found)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *titles])
    rows = zip(vocabulary.ids, vocabulary.names, vocabulary.synonyms, strict=True)
    for row, (key, name, synonyms) in enumerate(rows):
        cells = [" ".join(found.get(row, ())) for found in by_row]
        writer.writerow([row, key, name, BETWEEN.join(synonyms), *cells])
    return text.getvalue()


def _from_csv(text: str) -> dict[str, Any]:
    """What `to_json` gives, from the csv file. Raises DataError, KeyError or ValueError."""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if not rows or list(rows[0])[: len(COLUMNS)] != list(COLUMNS):
        raise DataError(f"the first columns are not {','.join(COLUMNS)}; make the file again")
    if [row["row"] for row in rows] != [str(number) for number in range(len(rows))]:
        raise DataError("the column `row` does not count 0, 1, ...; every row in its place, or make it again")
    members = []
    for title in list(rows[0])[len(COLUMNS) :]:
        row_of = {int(index): number for number, row in enumerate(rows) for index in row[title].split()}
        if sorted(row_of) != list(range(len(row_of))):
            raise DataError(f"the class indices of {title!r} are not 0, 1, ..., each once; make it again")
        members.append({"title": title, "rows": [row_of[index] for index in range(len(row_of))]})
    found = [
        {"id": row["id"], "name": row["name"], "synonyms": list(filter(None, row["synonyms"].split(BETWEEN)))}
        for row in rows
    ]
    return {"rows": found, "members": members}
