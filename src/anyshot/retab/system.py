"""RETAB as a whole: its data, its splits, and the options of every stage with those keys filled in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from anyshot.options import Options, StageOptions, check_system
from anyshot.retab.options import (
    Affinity,
    AffinityMap,
    Boundary,
    BoundaryMap,
    Cam,
    Classifier,
    CrfLabel,
    Dataset,
    Evaluate,
    Predict,
    PseudoLabel,
    RandomWalk,
    ScoreMaps,
    Segmentation,
    Split,
    Summary,
)

STAGES: dict[str, type[StageOptions]] = {
    "split": Split,
    "classifier": Classifier,
    "cam": Cam,
    "crf_label": CrfLabel,
    "boundary": Boundary,
    "boundary_map": BoundaryMap,
    "affinity": Affinity,
    "affinity_map": AffinityMap,
    "random_walk": RandomWalk,
    "pseudo_label": PseudoLabel,
    "segmentation": Segmentation,
    "predict": Predict,
    "score_maps": ScoreMaps,
    "evaluate": Evaluate,
    "summary": Summary,
}


FILLED_IN = {"dataset", "published", "novel"}  # keys of stages that `Retab.stage` sets


class Retab(Options):
    """RETAB as a whole: the data, the folds, and one group of options per stage."""

    data: str = Field("voc2012", description="name of a data set under `data:`")
    scheme: str | None = Field("pascal_5i", description="named table of novel classes per split")
    novel_classes: dict[str, list[str]] | None = Field(
        None, description="own splits: {split name: [names of novel classes]}; instead of `scheme`"
    )
    folds: list[str] = Field(
        default_factory=lambda: ["fold0", "fold1", "fold2", "fold3"],
        min_length=1,
        description="splits to build",
    )
    train_subsets: list[str] = Field(
        default_factory=lambda: ["train", "train_sbd"], min_length=1, description="subsets to learn from"
    )
    score_subset: str = Field("train", description="subset on which CAMs and pseudo labels are scored")
    evaluate_subset: str = Field("val", description="subset on which the segmenter is scored")
    shards: int = Field(1, ge=1, description="jobs into which per-image stages are cut")
    baselines: list[Literal["psa"]] = Field(["psa"], description="baselines beside RETAB")
    split: Split = Field(default_factory=Split)
    classifier: Classifier = Field(default_factory=Classifier)
    cam: Cam = Field(default_factory=Cam)
    crf_label: CrfLabel = Field(default_factory=CrfLabel)
    boundary: Boundary = Field(default_factory=Boundary)
    boundary_map: BoundaryMap = Field(default_factory=BoundaryMap)
    affinity: Affinity = Field(default_factory=Affinity)
    affinity_map: AffinityMap = Field(default_factory=AffinityMap)
    random_walk: RandomWalk = Field(default_factory=RandomWalk)
    pseudo_label: PseudoLabel = Field(default_factory=PseudoLabel)
    segmentation: Segmentation = Field(default_factory=Segmentation)
    predict: Predict = Field(default_factory=Predict)
    score_maps: ScoreMaps = Field(default_factory=ScoreMaps)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    summary: Summary = Field(default_factory=Summary)

    @model_validator(mode="after")
    def _no_contradictions(self) -> Retab:
        check_system(self, STAGES, FILLED_IN)
        return self

    def stage(
        self,
        name: str,
        *,
        split: str | None = None,
        novel: list[str] | None = None,
        labels: str | None = None,
        walk: str | None = None,
    ) -> StageOptions:
        """Options of one stage with the system's keys filled in.

        `split` is its name, `novel` the names of its novel classes (for the stage `split`), `labels` is for
        `affinity`, `walk` (retab or psa) for `random_walk`. Raises KeyError for an unknown stage.
        """
        options: StageOptions = getattr(self, name) if name in STAGES else _unknown(name)
        update: dict[str, object] = {}
        if "dataset" in type(options).model_fields:
            subsets = {"score_maps": [self.score_subset], "predict": [self.evaluate_subset]}
            subsets["evaluate"] = subsets["predict"]
            update["dataset"] = Dataset(
                subsets=subsets.get(name, self.train_subsets), split=split or "shared"
            )
        if name == "split":
            update["novel"] = list(novel or [])
        if name == "affinity" and labels is not None:
            update["labels"] = labels
        if name == "random_walk" and walk is not None:
            update["boundary"] = walk == "retab" and self.random_walk.boundary
        if name in ("score_maps", "evaluate"):
            update["published"] = self.is_published()
        return options.model_copy(update=update)

    def is_published(self) -> bool:
        """Whether every value that changes a result is the published one."""
        free = {"folds", "shards", "baselines", "data"}
        return self.model_dump(exclude=free) == Retab().model_dump(exclude=free)


def _unknown(name: str) -> StageOptions:
    raise KeyError(f"unknown RETAB stage {name!r}, known: {', '.join(STAGES)}")
