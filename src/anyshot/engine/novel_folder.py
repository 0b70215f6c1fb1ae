"""`novel/` in a model folder: classes added to a trained network, two files each, whatever the system.

`<name>.safetensors` holds what a system keeps of a class, `<name>.json` its facts. No class changes the files
of another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from PIL import Image

from anyshot.data.classes import IGNORE_8_BIT, IGNORE_16_BIT, ClassTable, Colour, voc_colour
from anyshot.data.images import read_image, read_mask
from anyshot.engine.model_folder import Card
from anyshot.errors import ArtifactError, ConfigError, DataError

NOVEL_FOLDER = "novel"
SETTINGS_FILE = "settings.json"  # in the same folder, so that no class may be called so
SHOWN = 10  # mask values in a message


class NovelModel(Protocol):
    """A trained model to which classes are added: what its card says."""

    @property
    def folder(self) -> Path: ...

    @property
    def card(self) -> Card: ...

    @property
    def table(self) -> ClassTable:
        """The classes of the data set, also those that the network does not know."""

    @property
    def known_ids(self) -> tuple[int, ...]:
        """Ids of the classes that the network itself segments, in the order of its channels."""

    @property
    def weights(self) -> str | None:
        """sha256 of the weights; None in a card that does not have it."""


class NamedClass(Protocol):
    """What a system keeps of a class has an id, a name and support images."""

    @property
    def id(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def supports(self) -> tuple[str, ...]: ...


Novel = TypeVar("Novel", bound=NamedClass)


@dataclass(frozen=True, kw_only=True)
class StoredClass(Generic[Novel]):
    """A class that lies in a folder; `facts` is its JSON."""

    path: Path
    novel: Novel
    facts: Mapping[str, Any]

    @property
    def colour(self) -> Colour:
        """Red, green, blue; VOC's colour of its id where the file has none."""
        return _colour(self.facts)


def _colour(facts: Mapping[str, Any]) -> Colour:
    red, green, blue = facts.get("colour") or voc_colour(int(facts["id"]))
    return red, green, blue


def file_stem(name: str) -> str:
    """The name as a file name: letters, digits, _ and -, other characters as _."""
    return re.sub(r"[^\w-]+", "_", name)


def check_stems(names: Iterable[str]) -> None:
    """Raises ConfigError for two names that would be written to one file."""
    taken: dict[str, str] = {}
    for name in names:
        stem = file_stem(name)
        other = taken.setdefault(stem, name)
        if other != name:
            raise ConfigError(
                f"the novel classes {other!r} and {name!r} would both be written to {stem}.safetensors:"
                " rename one of them in the class table"
            )


def class_files(folder: Path) -> list[Path]:
    """The .safetensors files of a model folder's novel classes, by name."""
    return sorted((folder / NOVEL_FOLDER).glob("*.safetensors"))


def read_facts(path: Path) -> dict[str, Any]:
    """What the JSON beside a class's file says, `id` and `name` at least. Raises ArtifactError."""
    beside = path.with_suffix(".json")
    try:
        facts = dict(json.loads(beside.read_text(encoding="utf-8")))
        return {**facts, "id": int(facts["id"]), "name": str(facts["name"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{beside} is missing or damaged ({error!r}); delete {path.name} and it, and add the class again"
        ) from error


# --- what fits a model ---


def check_name(model: NovelModel, name: str, *, replace: bool) -> None:
    """Raises ConfigError for a name that cannot be, or is taken."""
    stem = file_stem(name)
    if not name.strip() or name != name.strip() or f"{stem}.json" == SETTINGS_FILE or not stem.strip("_"):
        raise ConfigError(
            f"a class cannot be called {name!r}: give letters or digits, without spaces around them, and not"
            " `settings`"
        )
    table = model.table
    if name in table.names and table.ids_of([name])[0] in model.known_ids:
        raise ConfigError(
            f"{name!r} is a known class of {model.folder}, which the network segments already; known are"
            f" {', '.join(table.name_of(number) for number in model.known_ids)}: choose another --name"
        )
    path = model.folder / NOVEL_FOLDER / f"{stem}.json"
    if not path.exists():
        return
    other = _name_in(path)
    if other != name:
        raise ConfigError(
            f"{name!r} would be written to {path.name}, which is {other!r}: choose another --name"
        )
    if not replace:
        raise ConfigError(f"{model.folder} has the novel class {name!r} already: --replace makes it anew")


def _name_in(path: Path) -> str | None:
    try:
        return str(read_facts(path)["name"])
    except ArtifactError:
        return None


def problem_of(model: NovelModel, stored: StoredClass[Any]) -> str | None:
    """Why a class does not fit a model of whatever system, None where it does."""
    novel, table = stored.novel, model.table
    expected = {"split": model.card.split, "classes_digest": table.digest()}
    for key, value in expected.items():
        if stored.facts.get(key) != value:
            return f"its {key} is {stored.facts.get(key)!r}, the model's is {value!r}"
    made_with = stored.facts.get("model")
    if made_with is not None and model.weights is not None and made_with != model.weights:
        return (
            f"it was made with other weights (sha256 {made_with[:12]}, the model's are {model.weights[:12]})"
        )
    if novel.name in table.names and novel.id != table.ids_of([novel.name])[0]:
        return f"{novel.name} has the id {novel.id}, in the model's table {table.ids_of([novel.name])[0]}"
    if novel.id in table.index_of and table.name_of(novel.id) != novel.name:
        return f"its id {novel.id} is that of {table.name_of(novel.id)} in the model's table"
    return f"{novel.name} is a known class of the model" if novel.id in model.known_ids else None


def read_fitting(
    model: NovelModel,
    read: Callable[[Path], StoredClass[Novel]],
    problem: Callable[[StoredClass[Novel]], str | None],
    *,
    without: Collection[str] = (),
) -> list[StoredClass[Novel]]:
    """The model folder's novel classes by id.

    read, problem: how a system reads a class, and why one does not fit; without: names of classes that are
    left out unread, say because they are made anew. Raises ArtifactError for a class that does not fit, and
    for two classes of one id or name.
    """
    found = [read(path) for path in class_files(model.folder) if _name_in(path) not in without]
    for stored in found:
        reason = problem(stored)
        if reason:
            raise ArtifactError(
                f"{stored.path} does not fit the model: {reason}; add the class again with --replace, or"
                f" anyshot novel remove --model {model.folder} --name {stored.novel.name!r}"
            )
    for what in ("id", "name"):
        values = [getattr(stored.novel, what) for stored in found]
        for value in values:
            if values.count(value) > 1:
                raise ArtifactError(f"{model.folder / NOVEL_FOLDER}: two classes have the {what} {value}")
    return sorted(found, key=lambda stored: stored.novel.id)


def result_table(model: NovelModel, stored: Sequence[StoredClass[Any]]) -> ClassTable:
    """Known classes in the order of the network's channels, then the novel ones in the order given."""
    table, known = model.table, list(model.known_ids)
    rows = [table.index_of[number] for number in known]
    ids, names = list(known), [table.names[row] for row in rows]
    kinds, colours = [table.kinds[row] for row in rows], [table.colours[row] for row in rows]
    for one in stored:
        row = table.index_of.get(one.novel.id)
        ids.append(one.novel.id)
        names.append(one.novel.name)
        kinds.append("thing" if row is None else table.kinds[row])
        colours.append(one.colour if row is None else table.colours[row])
    return ClassTable(ids=tuple(ids), names=tuple(names), kinds=tuple(kinds), colours=tuple(colours))


# --- facts of a new class ---


def id_for(model: NovelModel, name: str) -> int:
    """The id in the model's table, that of the class to replace, or a free one."""
    table = model.table
    if name in table.names:
        return table.ids_of([name])[0]
    others = [read_facts(path) for path in class_files(model.folder)]
    for facts in others:
        if facts["name"] == name:
            return int(facts["id"])
    return free_id({*table.ids, *(facts["id"] for facts in others)})


def free_id(taken: Collection[int]) -> int:
    """The id after the largest one; a gap below 255, else one above, where 8 bits do not hold that."""
    after = max(taken, default=0) + 1
    candidates = chain(range(after, IGNORE_8_BIT), range(1, IGNORE_8_BIT), range(256, IGNORE_16_BIT))
    return next(number for number in candidates if number not in taken)


def facts_for(model: NovelModel, novel: NamedClass) -> dict[str, Any]:
    """What every system writes of a class: the model that it belongs to, and a colour if it needs one."""
    facts: dict[str, Any] = {
        "split": model.card.split,
        "classes_digest": model.table.digest(),
        "model": model.weights,
    }
    if novel.id not in model.table.index_of:
        facts["colour"] = list(_free_colour(model, novel))
    return facts


def _free_colour(model: NovelModel, novel: NamedClass) -> Colour:
    """VOC's colour of the id, or of the first larger number whose colour no other class has."""
    others = [read_facts(path) for path in class_files(model.folder)]
    taken = {*model.table.colours, *(_colour(facts) for facts in others if facts["name"] != novel.name)}
    return next(colour for n in range(novel.id, novel.id + 10_000) if (colour := voc_colour(n)) not in taken)


def remove_class(folder: Path, name: str) -> None:
    """Delete a class's two files. Raises ConfigError naming the classes there are."""
    names = {_name_in(path): path for path in class_files(folder)}
    if name not in names:
        there = ", ".join(sorted(str(one) for one in names if one)) or "none"
        raise ConfigError(f"{folder} has no novel class {name!r}; it has: {there}")
    names[name].unlink()
    names[name].with_suffix(".json").unlink()


# --- support images ---


@dataclass(frozen=True, kw_only=True)
class SupportImage:
    """An image that shows a class, and where; `what` names both files in messages."""

    image: np.ndarray  # uint8 RGB (H, W, 3)
    chosen: np.ndarray  # pixels of the class, bool (H, W)
    ignored: np.ndarray  # pixels of which nothing is known, bool (H, W)
    what: str


def read_supports(images: Sequence[Path], masks: Sequence[Path], value: int | None) -> Iterator[SupportImage]:
    """Support images, read one after the other; `value` is the class's value in the masks, None = any.

    Raises ConfigError for another number of masks than of images, DataError for what cannot be used.
    """
    if len(images) != len(masks):
        raise ConfigError(f"{len(images)} --images but {len(masks)} --masks: give one mask for each image")
    return (_read_support(*pair, value) for pair in zip(images, masks, strict=True))


def _read_support(image_path: Path, mask_path: Path, value: int | None) -> SupportImage:
    mask = read_mask(mask_path)
    chosen = _chosen(mask, mask_path, value)
    image = read_image(image_path)
    if image.shape[:2] != chosen.shape:
        raise DataError(
            f"{image_path} has {image.shape[:2]} px (height, width; upright), its mask {mask_path}"
            f" {chosen.shape}: give masks of the images' sizes, in the same order as the images"
        )
    return SupportImage(
        image=image,
        chosen=chosen,
        ignored=(mask == _ignore(mask)) & ~chosen,
        what=f"{image_path}, {mask_path}",
    )


def _ignore(mask: np.ndarray) -> int:
    return IGNORE_8_BIT if mask.dtype == np.uint8 else IGNORE_16_BIT


def _chosen(mask: np.ndarray, path: Path, value: int | None) -> np.ndarray:
    """The class's pixels bool (H, W): those of `value`, or all that are neither 0 nor ignored (255)."""
    ignore = _ignore(mask)
    chosen: np.ndarray = (mask != 0) & (mask != ignore) if value is None else mask == value
    if not chosen.any():
        found = ", ".join(map(str, np.unique(mask)[:SHOWN]))
        meant = f"the value {value}" if value is not None else f"a value other than 0 and {ignore} (ignored)"
        raise DataError(
            f"{path} holds no pixel of the class: it has {found}, needed is {meant}; --mask-value"
        )
    several = np.unique(mask[chosen])
    if len(several) > 1 and _has_palette(path):
        listed = ", ".join(map(str, several[:SHOWN]))
        raise DataError(
            f"{path} is a palette mask of {len(several)} values ({listed}), which are several classes as a"
            " rule: say with --mask-value which one is meant"
        )
    return chosen


def _has_palette(path: Path) -> bool:
    with Image.open(path) as file:
        return file.mode == "P"
