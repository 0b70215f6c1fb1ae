"""Classes asked for by id, name or synonym, and by words that stand for several (larvseg.md 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from anyshot.larvseg.artifacts import vocabulary_table
from anyshot.larvseg.vocabulary import Vocabulary

Groups = Mapping[str, Sequence[str]]  # word -> ids of the rows that it stands for


def rows_of_words(vocabulary: Vocabulary, words: Iterable[str], *, groups: Groups | None = None) -> list[int]:
    """The vocabulary rows of words, in order, each row once.

    A word is an id, a name, a synonym, a name with its id behind it as class tables have it, or a group's; if
    it is none of these, blanks, underscores and case do not count. Raises ConfigError for an unknown word,
    with close matches, and for a name that several rows have, with their ids.
    """
    groups = groups or {}
    own = {word for row in (*vocabulary.synonyms, vocabulary.names, vocabulary.ids) for word in row}
    listed = {name: row for row, name in enumerate(vocabulary_table(vocabulary).names) if name not in own}
    by_spelling = {_plain(word): word for word in (*groups, *listed, *sorted(own))}
    found: dict[int, None] = {}
    for word in words:
        known = word in own or word in listed or word in groups
        exact = word if known else by_spelling.get(_plain(word), word)
        if exact in own:
            found |= dict.fromkeys(vocabulary.rows_of([exact]))
        elif exact in listed:
            found[listed[exact]] = None
        else:
            found |= dict.fromkeys(vocabulary.rows_of(groups.get(exact, [exact])))
    return list(found)


def known_words(vocabulary: Vocabulary, groups: Groups | None = None) -> set[str]:
    """Every word that `rows_of_words` knows exactly."""
    return {
        *vocabulary.ids,
        *vocabulary.names,
        *(word for words in vocabulary.synonyms for word in words),
        *vocabulary_table(vocabulary).names,
        *(groups or {}),
    }


def _plain(word: str) -> str:
    return " ".join(word.replace("_", " ").casefold().split())
