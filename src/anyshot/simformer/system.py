"""SimFormer as a whole: its data, splits and variants, and every stage's options with those filled in."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from anyshot.data.splits import novel_class_names, split_names
from anyshot.options import Options, StageOptions, check_system
from anyshot.simformer.options import (
    ADE20K_SIDES,
    Augmentation,
    Evaluate,
    Joint,
    JointOptimiser,
    PairLosses,
    Pairs,
    Predict,
    PseudoLabel,
    Retrain,
    RetrainOptimiser,
    SetLosses,
    Summary,
    Variant,
    WeakDataset,
)

STAGES: dict[str, type[StageOptions]] = {
    "pairs": Pairs,
    "joint": Joint,
    "pseudo_label": PseudoLabel,
    "retrain": Retrain,
    "predict": Predict,
    "evaluate": Evaluate,
    "summary": Summary,
}

FILLED_IN = {"dataset", "variant", "published", "scheme"}  # keys of stages that `Simformer.stage` sets
EVALUATING = ("predict", "evaluate")
RETRAINED = "retrained"  # what `retrain` makes; in the results it stands beside the variants of `joint`


class Simformer(Options):
    """SimFormer as a whole: the data, the splits, what is trained on each, and one group per stage."""

    data: str = Field("coco_stuff", description="name of a data set under `data:`")
    scheme: str | None = Field(
        "coco_stuff_weak", description="named table of novel classes per split, e.g. `ade20k_weak`"
    )
    novel_classes: dict[str, list[str]] | None = Field(
        None, description="own splits: {split name: [names of novel classes]}; instead of `scheme`"
    )
    splits: list[str] = Field(
        default_factory=lambda: ["split1", "split2", "split3", "split4"],
        min_length=1,
        description="splits to build",
    )
    train_subsets: list[str] = Field(
        default_factory=lambda: ["train"], min_length=1, description="subsets to learn from"
    )
    evaluate_subset: str = Field("test", description="subset on which everything is scored")
    variants: list[Variant] = Field(
        default_factory=lambda: list[Variant](("full",)),
        min_length=1,
        description="what is trained jointly: `full` (the method), `no_extras` (without complementary loss"
        " and distillation), `no_complementary`, `no_similarity` (an untrained teacher), `no_distillation`,"
        " `ignore_novel` (novel classes unseen), `oracle` (masks of all classes)",
    )
    retraining: bool = Field(
        True, description="also train a network on the pseudo labels of `full`, as the paper's last step"
    )
    shards: int = Field(1, ge=1, description="jobs into which per-image stages are cut")
    pairs: Pairs = Field(default_factory=Pairs)
    joint: Joint = Field(default_factory=Joint)
    pseudo_label: PseudoLabel = Field(default_factory=PseudoLabel)
    retrain: Retrain = Field(default_factory=Retrain)
    predict: Predict = Field(default_factory=Predict)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    summary: Summary = Field(default_factory=Summary)

    @model_validator(mode="after")
    def _no_contradictions(self) -> Simformer:
        check_system(self, STAGES, FILLED_IN, lists=("splits", "variants"))
        if "full" not in self.variants:
            raise ValueError(f"`variants` lists {self.variants}: `full` must be among them")
        return self

    def every_split(self) -> list[str]:
        """All splits that the scheme or the own list has. Raises ConfigError for an unknown scheme."""
        if self.novel_classes is not None:
            return list(self.novel_classes)
        return list(split_names(str(self.scheme)))

    def novel_names(self, split: str) -> list[str]:
        """Names of a split's novel classes. Raises KeyError or ConfigError."""
        if self.novel_classes is not None:
            return list(self.novel_classes[split])
        return novel_class_names(str(self.scheme), split)

    def scored(self) -> list[str]:
        """Everything that is scored on a split: the variants, and `retrained`."""
        return [*self.variants, *([RETRAINED] if self.retraining else [])]

    def stage(self, name: str, *, split: str | None = None, method: str | None = None) -> StageOptions:
        """Options of one stage with the system's keys filled in; the keywords are the rule's wildcards.

        Raises KeyError for an unknown stage or split. A stage over all splits needs no `split`.
        """
        if name not in STAGES:
            raise KeyError(f"unknown SimFormer stage {name!r}, known: {', '.join(STAGES)}")
        options: StageOptions = getattr(self, name)
        fields = type(options).model_fields
        if "dataset" not in fields:
            return options
        subsets = [self.evaluate_subset] if name in EVALUATING else self.train_subsets
        novel = self.novel_names(str(split))
        filled: dict[str, Any] = {
            "dataset": WeakDataset(subsets=subsets, split=str(split), novel=novel),
            "variant": method or "full",
            "published": self.is_published(),
            "scheme": self.scheme,
        }
        return options.model_copy(update={key: value for key, value in filled.items() if key in fields})

    def is_published(self) -> bool:
        """Whether every value that changes a result is the published one, for COCO-Stuff-10K or ADE20K."""
        keys = ("splits", "shards", "data", "variants", "retraining")
        free: dict[str, Any] = {
            **dict.fromkeys(keys, True),
            "predict": {"shown_images": True, "shown_proposals": True},
            "joint": {"backbone": {"weights": True}},
            "retrain": {"backbone": {"weights": True}},
        }
        own = self.model_dump(exclude=free)
        return any(own == made().model_dump(exclude=free) for made in (Simformer, published_ade20k))


def published_ade20k() -> Simformer:
    """The published settings for ADE20K (simformer.md 3); those for COCO-Stuff-10K are the defaults."""
    augmentation = Augmentation(crop=512, short_sides=list(ADE20K_SIDES), longest=2048)
    losses = SetLosses(complementary_weight=0.2)
    scales: dict[str, Any] = {"longest": 4480, "mirror": True}
    return Simformer(
        data="ade20k",
        scheme="ade20k_weak",
        evaluate_subset="val",
        joint=Joint(
            augmentation=augmentation,
            losses=losses,
            pairs=PairLosses(distillation_weight=0.5),
            optimiser=JointOptimiser(max_steps=160000),
        ),
        pseudo_label=PseudoLabel(short_sides=[320, 480, 640, 800, 960], **scales),
        retrain=Retrain(augmentation=augmentation, optimiser=RetrainOptimiser(max_steps=160000)),
        predict=Predict(short_sides=[512], longest=2048),
    )
