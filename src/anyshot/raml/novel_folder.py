"""`novel/` in a model folder: classes added to a trained network without retraining (raml.md 2.5, 6.5).

Two files per class, and `settings.json`: how regions are proposed and matched.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, field_validator

from anyshot.data.classes import IGNORE_8_BIT, IGNORE_16_BIT, ClassTable, Colour, voc_colour
from anyshot.data.images import read_image, read_mask
from anyshot.data.transforms import resize_labels
from anyshot.engine.artifacts import write_json
from anyshot.errors import ArtifactError, ConfigError, DataError
from anyshot.options import Options
from anyshot.raml.bank import (
    NovelClass,
    Support,
    describe_support,
    file_stem,
    load_class,
    novel_class,
    save_class,
)
from anyshot.raml.open_model import ModelFacts, OpenModel, shrunk
from anyshot.raml.options import OpenWorld

NOVEL_FOLDER, SETTINGS_FILE = "novel", "settings.json"


class Settings(Options):
    """How `anyshot predict` finds novel regions; the defaults are the published values (raml.md 2.6)."""

    threshold: float = Field(0.8, ge=-1, le=2, description="theta: least cosine of a region and a prototype")
    hit_ratio: float = Field(
        0.15, ge=0, le=1, description="kappa: a channel is taken when it covers more than this of a mask"
    )
    channel_threshold: float = Field(0.5, ge=0, le=1, description="a meta channel is on at or above this")
    closing: int = Field(5, ge=1, description="side of the closing's square, cells of 4 px; odd; 1 = none")
    min_area: int = Field(250, ge=1, description="least area of a region, cells of 4 x 4 px")
    reject_known: bool = Field(False, description="a region nearer to a known prototype stays known")

    @field_validator("closing")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"the closing has side {value}; give an odd number of cells, 1 for none")
        return value

    def open_world(self) -> OpenWorld:
        """The options of the stage that segments."""
        return OpenWorld(**self.model_dump(exclude={"hit_ratio"}))


def read_settings(folder: Path) -> Settings:
    """The settings of a model folder; the defaults where it has none. Raises ArtifactError."""
    path = folder / NOVEL_FOLDER / SETTINGS_FILE
    if not path.exists():
        return Settings()
    try:
        return Settings.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is damaged ({_first(error)}); correct it, or delete it to have the defaults"
        ) from error


def changed_settings(folder: Path, changes: Mapping[str, Any]) -> Settings:
    """A model folder's settings with some changed (None = as they are). Raises ConfigError."""
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return Settings.model_validate({**read_settings(folder).model_dump(), **given})
    except ValidationError as error:
        raise ConfigError(f"these settings cannot be: {_first(error)}") from error


def write_settings(folder: Path, settings: Settings) -> None:
    """Write a model folder's settings where they are not there yet."""
    path = folder / NOVEL_FOLDER / SETTINGS_FILE
    if not path.exists() or settings != read_settings(folder):
        write_json(path, settings.model_dump(mode="json"))


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        part = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, part['loc']))}: {part['msg']}"
    return str(error)


@dataclass(frozen=True, kw_only=True)
class StoredClass:
    """A class that lies in a folder; `facts` is its JSON."""

    path: Path
    novel: NovelClass
    facts: Mapping[str, Any]

    @property
    def colour(self) -> Colour:
        """Red, green, blue; VOC's colour of its id where the file has none."""
        red, green, blue = self.facts.get("colour") or voc_colour(self.novel.id)
        return red, green, blue


def class_files(folder: Path) -> list[Path]:
    """The .safetensors files of a model folder's novel classes, by name."""
    return sorted((folder / NOVEL_FOLDER).glob("*.safetensors"))


def read_class(path: Path) -> StoredClass:
    """Read one class. Raises ArtifactError or WeightsError."""
    novel = load_class(path)
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return StoredClass(path=path, novel=novel, facts=facts)


def problem_of(model: ModelFacts, stored: StoredClass) -> str | None:
    """Why a class does not fit a model, None where it does."""
    novel, table = stored.novel, model.tables.table
    expected = {"split": model.card.split, "classes_digest": table.digest()}
    for key, value in expected.items():
        if stored.facts.get(key) != value:
            return f"its {key} is {stored.facts.get(key)!r}, the model's is {value!r}"
    made_with = stored.facts.get("model")
    if made_with is not None and model.weights is not None and made_with != model.weights:
        return (
            f"it was made with other weights (sha256 {made_with[:12]}, the model's are {model.weights[:12]})"
        )
    for key, length in model.sizes.items():
        found = tuple(getattr(novel, key).shape)
        if len(found) != 2 or found[1] != length or not found[0]:
            return f"its {key} have the shape {found}, the model needs (shots, {length})"
    if novel.name in table.names and novel.id != table.ids_of([novel.name])[0]:
        return f"{novel.name} has the id {novel.id}, in the model's table {table.ids_of([novel.name])[0]}"
    if novel.id in table.index_of and table.name_of(novel.id) != novel.name:
        return f"its id {novel.id} is that of {table.name_of(novel.id)} in the model's table"
    return f"{novel.name} is a known class of the model" if novel.id in model.tables.known_ids else None


def read_classes(model: ModelFacts) -> list[StoredClass]:
    """The model folder's novel classes by id. Raises ArtifactError for one that does not fit the model."""
    found = [read_class(path) for path in class_files(model.folder)]
    if found:
        model.require_embedding()
    for stored in found:
        problem = problem_of(model, stored)
        if problem:
            raise ArtifactError(
                f"{stored.path} does not fit the model: {problem}; add the class again with --replace, or"
                f" anyshot novel remove --model {model.folder} --name {stored.novel.name!r}"
            )
    for what in ("id", "name"):
        values = [getattr(stored.novel, what) for stored in found]
        for value in values:
            if values.count(value) > 1:
                raise ArtifactError(f"{model.folder / NOVEL_FOLDER}: two classes have the {what} {value}")
    return sorted(found, key=lambda stored: stored.novel.id)


def result_table(model: ModelFacts, stored: Sequence[StoredClass]) -> ClassTable:
    """Known classes in the order of the network's channels, then the novel ones by id."""
    table, known = model.tables.table, list(model.tables.known_ids)
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


def free_id(taken: Collection[int]) -> int:
    """The id after the largest one; a gap below 255, else one above, where 8 bits do not hold that."""
    after = max(taken, default=0) + 1
    candidates = chain(range(after, IGNORE_8_BIT), range(1, IGNORE_8_BIT), range(256, IGNORE_16_BIT))
    return next(number for number in candidates if number not in taken)


def check_name(model: ModelFacts, name: str, *, replace: bool) -> None:
    """Raises ConfigError for a name that cannot be, or is taken."""
    stem = file_stem(name)
    if not name.strip() or name != name.strip() or f"{stem}.json" == SETTINGS_FILE or not stem.strip("_"):
        raise ConfigError(
            f"a class cannot be called {name!r}: give letters or digits, without spaces around them, and not"
            " `settings`"
        )
    table = model.tables.table
    if name in table.names and table.ids_of([name])[0] in model.tables.known_ids:
        raise ConfigError(
            f"{name!r} is a known class of {model.folder}, which the network segments already; known are"
            f" {', '.join(table.name_of(number) for number in model.tables.known_ids)}: choose another --name"
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
        return str(json.loads(path.read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mask_of(path: Path, value: int | None) -> np.ndarray:
    """The class's pixels bool (H, W): those of `value`, or all that are neither 0 nor ignored (255)."""
    mask = read_mask(path)
    ignore = IGNORE_8_BIT if mask.dtype == np.uint8 else IGNORE_16_BIT
    chosen: np.ndarray = (mask != 0) & (mask != ignore) if value is None else mask == value
    if not chosen.any():
        found = ", ".join(map(str, np.unique(mask)[:10]))
        meant = f"the value {value}" if value is not None else f"a value other than 0 and {ignore} (ignored)"
        raise DataError(
            f"{path} holds no pixel of the class: it has {found}, needed is {meant}; --mask-value"
        )
    return chosen


def add_class(
    model: OpenModel,
    name: str,
    images: Sequence[Path],
    masks: Sequence[Path],
    *,
    mask_value: int | None,
    channel_threshold: float,
    replace: bool,
) -> StoredClass:
    """Describe a class by images and masks, and write it; no other class's file is touched.

    Raises ConfigError or DataError for what cannot be used; nothing is written then.
    """
    facts = model.facts
    facts.require_embedding()
    check_name(facts, name, replace=replace)
    if len(images) != len(masks):
        raise ConfigError(f"{len(images)} --images but {len(masks)} --masks: give one mask for each image")
    pairs = zip(images, masks, strict=True)
    supports = [
        _support(model, image, mask_of(mask, mask_value), mask, channel_threshold) for image, mask in pairs
    ]
    number = _id_for(facts, name)
    novel = novel_class(number, name, [path.name for path in images], supports)
    return _write(facts, novel)


def _support(
    model: OpenModel, image_path: Path, chosen: np.ndarray, mask_path: Path, threshold: float
) -> Support:
    image = read_image(image_path)
    if image.shape[:2] != chosen.shape:
        raise DataError(
            f"{image_path} has {image.shape[:2]} px (height, width; upright), its mask {mask_path}"
            f" {chosen.shape}: give masks of the images' sizes, in the same order as the images"
        )
    small = shrunk(image)
    scaled = resize_labels(chosen, *small.shape[:2])
    assert model.metric is not None  # required before
    return describe_support(
        model.metric, model.maps(small), scaled, hit_threshold=threshold, what=f"{image_path}, {mask_path}"
    )


def _id_for(model: ModelFacts, name: str) -> int:
    """The id in the model's table, that of the class to replace, or a free one."""
    table = model.tables.table
    if name in table.names:
        return table.ids_of([name])[0]
    others = [read_class(path) for path in class_files(model.folder)]
    for stored in others:
        if stored.novel.name == name:
            return stored.novel.id
    return free_id({*table.ids, *(stored.novel.id for stored in others)})


def _write(model: ModelFacts, novel: NovelClass, **facts: Any) -> StoredClass:
    own = {
        **facts,
        "split": model.card.split,
        "classes_digest": model.tables.table.digest(),
        "model": model.weights,
    }
    if novel.id not in model.tables.table.index_of:
        own["colour"] = list(_free_colour(model, novel))
    path = save_class(model.folder / NOVEL_FOLDER, novel, **own)
    return read_class(path.with_suffix(".safetensors"))


def _free_colour(model: ModelFacts, novel: NovelClass) -> Colour:
    """VOC's colour of the id, or of the first larger number whose colour no other class has."""
    others = [read_class(path) for path in class_files(model.folder)]
    taken = {*model.tables.table.colours}
    taken |= {stored.colour for stored in others if stored.novel.name != novel.name}
    return next(colour for n in range(novel.id, novel.id + 10_000) if (colour := voc_colour(n)) not in taken)


def bank_facts(bank: Path) -> dict[str, Any]:
    """What the workflow's bank.json says. Raises ArtifactError."""
    try:
        facts = json.loads(bank.read_text(encoding="utf-8"))
        if not all(entry["file"] for entry in facts["classes"]):
            raise KeyError("file")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{bank} is no novel bank ({error!r}); give the bank.json that raml_novel_bank has written"
        ) from None
    return dict(facts)


def copy_bank(model: ModelFacts, bank: Path, *, replace: bool) -> list[StoredClass]:
    """Take over the classes of a bank that the workflow has built.

    Raises ArtifactError for a bank of another model or split; nothing is written then.
    """
    model.require_embedding()
    facts = bank_facts(bank)
    hashes = json.loads(facts.get("input_hashes", "{}")).get("metric", [])
    if hashes and model.weights is not None and model.weights not in hashes:
        raise ArtifactError(
            f"{bank} was built with other weights than those of {model.folder}: take the bank of this model,"
            " or run raml_novel_bank again"
        )
    stored = [read_class(bank.parent / entry["file"]) for entry in facts["classes"]]
    for one in stored:
        problem = problem_of(model, one)
        if problem:
            raise ArtifactError(
                f"{one.path} does not fit {model.folder}: {problem}; take the bank of this model"
            )
        check_name(model, one.novel.name, replace=replace)
    return [_write(model, one.novel, copied_from=str(bank)) for one in stored]


def remove_class(model: ModelFacts, name: str) -> None:
    """Delete a class's two files. Raises ConfigError naming the classes there are."""
    names = {_name_in(path.with_suffix(".json")): path for path in class_files(model.folder)}
    if name not in names:
        there = ", ".join(sorted(str(one) for one in names if one)) or "none"
        raise ConfigError(f"{model.folder} has no novel class {name!r}; it has: {there}")
    names[name].unlink()
    names[name].with_suffix(".json").unlink()
