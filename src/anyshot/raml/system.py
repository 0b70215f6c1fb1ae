"""RAML as a whole: its data, splits and support draws, and every stage's options with those filled in."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from anyshot.data.open_splits import OpenSplit, open_splits
from anyshot.options import Options, StageOptions, check_draws, check_system
from anyshot.raml.options import (
    Anomaly,
    ClosedSet,
    Evaluate,
    MetaChannel,
    Metric,
    NovelBank,
    OpenDataset,
    OpenWorld,
    Profile,
    Split,
    Summary,
)

STAGES: dict[str, type[StageOptions]] = {
    "split": Split,
    "closed_set": ClosedSet,
    "meta_channel": MetaChannel,
    "metric": Metric,
    "novel_bank": NovelBank,
    "open_world": OpenWorld,
    "anomaly": Anomaly,
    "evaluate": Evaluate,
    "summary": Summary,
}

# keys of stages that `Raml.stage` sets
FILLED_IN = {"dataset", "published", "novel", "ignored", "profile", "shots", "support_seed", "variant"}
EVALUATING = ("open_world", "anomaly", "evaluate")


class Raml(Options):
    """RAML as a whole: the data, the splits, the draws of support images, and one group per stage."""

    data: str = Field("cityscapes", description="name of a data set under `data:`")
    scheme: str | None = Field("cityscapes_open", description="named table of novel classes per split")
    novel_classes: dict[str, list[str]] | None = Field(
        None, description="own splits: {split name: [names of novel classes]}; instead of `scheme`"
    )
    splits: list[str] = Field(
        default_factory=lambda: ["16_3", "16_1", "12_7"],
        min_length=1,
        description="splits to build; quote names such as '16_3', YAML reads a bare 16_3 as a number",
    )
    profile: Profile = Field(
        "official",
        description="where paper and code disagree: `official` = code, `paper` = as printed, `fixed` = sane",
    )
    train_subsets: list[str] = Field(
        default_factory=lambda: ["train"], min_length=1, description="subsets to learn from"
    )
    evaluate_subset: str = Field("val", description="subset on which everything is scored")
    shots: list[int] = Field(
        default_factory=lambda: [5, 1], min_length=1, description="support images per class"
    )
    support_seeds: list[int] = Field(
        default_factory=lambda: [0], min_length=1, description="random draws of support images, one bank each"
    )
    shards: int = Field(1, ge=1, description="jobs into which per-image stages are cut")
    split: Split = Field(default_factory=Split)
    closed_set: ClosedSet = Field(default_factory=ClosedSet)
    meta_channel: MetaChannel = Field(default_factory=MetaChannel)
    metric: Metric = Field(default_factory=Metric)
    novel_bank: NovelBank = Field(default_factory=NovelBank)
    open_world: OpenWorld = Field(default_factory=OpenWorld)
    anomaly: Anomaly = Field(default_factory=Anomaly)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    summary: Summary = Field(default_factory=Summary)

    @model_validator(mode="after")
    def _no_contradictions(self) -> Raml:
        check_system(self, STAGES, FILLED_IN, lists=("shots", "support_seeds", "splits"))
        check_draws(self.shots, self.support_seeds)
        return self

    def every_split(self) -> dict[str, OpenSplit]:
        """All splits that the scheme or the own list has. Raises ConfigError for an unknown scheme."""
        if self.novel_classes is not None:
            return {name: OpenSplit(name, tuple(novel), ()) for name, novel in self.novel_classes.items()}
        return open_splits(str(self.scheme))

    def banks(self) -> list[tuple[int, int]]:
        """(shots, support seed) of every bank of a split."""
        return [(shots, seed) for shots in self.shots for seed in self.support_seeds]

    def stage(
        self, name: str, *, split: str | None = None, shot: str | None = None, support: str | None = None
    ) -> StageOptions:
        """Options of one stage with the system's keys filled in; `shot` and `support` name a bank.

        Raises KeyError for an unknown stage or split. A stage over all splits needs no `split`.
        """
        if name not in STAGES:
            raise KeyError(f"unknown RAML stage {name!r}, known: {', '.join(STAGES)}")
        options: StageOptions = getattr(self, name)
        fields = type(options).model_fields
        if not FILLED_IN & fields.keys():
            return options
        chosen = self.every_split()[str(split)]
        subsets = [self.evaluate_subset] if name in EVALUATING else self.train_subsets
        filled = {
            "dataset": OpenDataset(subsets=subsets, split=chosen.name),
            "novel": list(chosen.novel),
            "ignored": list(chosen.ignored),
            "profile": self.profile,
            "shots": int(shot or 1),
            "support_seed": int(support or 0),
            "published": self.is_published(),
            "variant": "raml_reject_known" if self.open_world.reject_known else "raml",
        }
        return options.model_copy(update={key: value for key, value in filled.items() if key in fields})

    def is_published(self) -> bool:
        """Whether every value that changes a result is the published one."""
        keys = ("splits", "shards", "data", "shots", "support_seeds")
        free: dict[str, Any] = {**dict.fromkeys(keys, True), "open_world": {"shown_images": True}}
        return self.model_dump(exclude=free) == Raml().model_dump(exclude=free)
