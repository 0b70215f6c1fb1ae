"""RAML's `novel/`: what is kept of a class, and `settings.json`, how regions are proposed and matched
(raml.md 2.5, 6.5)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from anyshot.data.transforms import resize_labels
from anyshot.engine import novel_folder
from anyshot.engine.artifacts import write_json
from anyshot.engine.novel_folder import NOVEL_FOLDER, SETTINGS_FILE, StoredClass, SupportImage, check_name
from anyshot.errors import ArtifactError, ConfigError
from anyshot.options import Options
from anyshot.raml.bank import NovelClass, Support, describe_support, load_class, novel_class, save_class
from anyshot.raml.open_model import ModelFacts, OpenModel, shrunk
from anyshot.raml.options import OpenWorld


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


def read_class(path: Path) -> StoredClass[NovelClass]:
    """Read one class. Raises ArtifactError or WeightsError."""
    return StoredClass(path=path, novel=load_class(path), facts=novel_folder.read_facts(path))


def problem_of(model: ModelFacts, stored: StoredClass[NovelClass]) -> str | None:
    """Why a class does not fit a model, None where it does."""
    for key, length in model.sizes.items():
        found = tuple(getattr(stored.novel, key).shape)
        if len(found) != 2 or found[1] != length or not found[0]:
            return f"its {key} have the shape {found}, the model needs (shots, {length})"
    return novel_folder.problem_of(model, stored)


def read_classes(model: ModelFacts) -> list[StoredClass[NovelClass]]:
    """The model folder's novel classes by id. Raises ArtifactError for one that does not fit the model."""
    if novel_folder.class_files(model.folder):
        model.require_embedding()
    return novel_folder.read_fitting(model, read_class, lambda stored: problem_of(model, stored))


def add_class(
    model: OpenModel,
    name: str,
    images: Sequence[Path],
    masks: Sequence[Path],
    *,
    mask_value: int | None,
    channel_threshold: float,
    replace: bool,
) -> StoredClass[NovelClass]:
    """Describe a class by images and masks, and write it; no other class's file is touched.

    Raises ConfigError or DataError for what cannot be used; nothing is written then.
    """
    facts = model.facts
    facts.require_embedding()
    check_name(facts, name, replace=replace)
    given = novel_folder.read_supports(images, masks, mask_value)
    supports = [_support(model, one, channel_threshold) for one in given]
    number = novel_folder.id_for(facts, name)
    novel = novel_class(number, name, [path.name for path in images], supports)
    return _write(facts, novel)


def _support(model: OpenModel, given: SupportImage, threshold: float) -> Support:
    small = shrunk(given.image)
    scaled = resize_labels(given.chosen, *small.shape[:2])
    assert model.metric is not None  # required before
    return describe_support(model.metric, model.maps(small), scaled, hit_threshold=threshold, what=given.what)


def _write(model: ModelFacts, novel: NovelClass, **facts: Any) -> StoredClass[NovelClass]:
    own = {**facts, **novel_folder.facts_for(model, novel)}
    path = save_class(model.folder / NOVEL_FOLDER, novel, **own)
    return read_class(path.with_suffix(".safetensors"))


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


def copy_bank(model: ModelFacts, bank: Path, *, replace: bool) -> list[StoredClass[NovelClass]]:
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
