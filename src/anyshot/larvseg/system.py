"""LarvSeg as a whole: its experiments and methods, and every stage's options with those filled in."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from anyshot.larvseg.image_set_options import Images, ImageSet
from anyshot.larvseg.options import (
    Attentive,
    Baseline,
    Compactness,
    Evaluate,
    Experiment,
    Method,
    Predict,
    Segment,
    Source,
    Summary,
    Target,
    Vocabulary,
)
from anyshot.options import Options, StageOptions

STAGES: dict[str, type[StageOptions]] = {
    "images": Images,
    "vocabulary": Vocabulary,
    "baseline": Baseline,
    "attentive": Attentive,
    "predict": Predict,
    "compactness": Compactness,
    "segment_21k": Segment,
    "evaluate": Evaluate,
    "summary": Summary,
}

FILLED_IN = {
    "experiment",
    "split",
    "published",
    "target",
    "name",
    "image_set",
}  # keys of stages that `Larvseg.stage` sets
ATTENTIVE = "attentive"  # the method that has a training stage of its own


def published_experiment() -> Experiment:
    """COCO-Stuff with masks, ADE20K with image labels, scored on ADE20K (larvseg.md 1.3)."""
    return Experiment(
        sources=[
            Source(name="coco", data="coco_stuff", role="pixel", rules="coco_stuff"),
            Source(name="ade", data="ade20k", role="image", names="ade150", weight=0.1),
        ],
        targets=[Target(name="a150", data="ade20k", names="ade150")],
    )


class Larvseg(Options):
    """LarvSeg as a whole: the experiments, what is trained in each, and one group per stage."""

    experiments: dict[str, Experiment] = Field(
        default_factory=lambda: {"c171_a150w": published_experiment()},
        min_length=1,
        description="{name: sources and targets}; a split of the other systems is an experiment here",
    )
    image_sets: dict[str, ImageSet] = Field(
        default_factory=dict,
        description="{name: folders of images by class}, for sources of role `image` too large for `data:`",
    )
    splits: list[str] | None = Field(
        None, min_length=1, description="names of the experiments to build; null: all of them"
    )
    methods: list[Method] = Field(
        default_factory=lambda: list[Method](("attentive", "baseline")),
        min_length=1,
        description="what is trained: `attentive` (the method), `baseline` (image-level loss alone),"
        " `pixel_only` (no image labels), `oracle` (masks of the image-labelled sources, too)",
    )
    measure_compactness: bool = Field(
        False, description="also measure whether features group the pixels of unseen classes"
    )
    shards: int = Field(1, ge=1, description="jobs into which per-image stages are cut")
    images: Images = Field(default_factory=Images)
    vocabulary: Vocabulary = Field(default_factory=Vocabulary)
    baseline: Baseline = Field(default_factory=Baseline)
    attentive: Attentive = Field(default_factory=Attentive)
    predict: Predict = Field(default_factory=Predict)
    compactness: Compactness = Field(default_factory=Compactness)
    segment_21k: Segment = Field(default_factory=Segment)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    summary: Summary = Field(default_factory=Summary)

    @model_validator(mode="after")
    def _no_contradictions(self) -> Larvseg:
        for name in STAGES:
            for key in FILLED_IN & getattr(self, name).model_fields_set:
                raise ValueError(f"`{name}.{key}` is filled in from `experiments`: remove it there")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"`methods` lists {self.methods}: every entry once")
        if ATTENTIVE not in self.methods:
            raise ValueError(f"`methods` lists {self.methods}: `attentive` must be among them")
        if self.segment_21k.method not in self.methods:
            raise ValueError(f"`segment_21k.method` is {self.segment_21k.method}, not among `methods`")
        unknown = [split for split in self.splits or [] if split not in self.experiments]
        if unknown:
            raise ValueError(
                f"`splits` lists {unknown[0]!r}, not among `experiments`: {', '.join(self.experiments)}"
            )
        self._check_bundles()
        self._check_attention()
        self._check_image_sets()
        return self

    def _check_image_sets(self) -> None:
        for split in self.built():
            experiment = self.experiments[split]
            needing: list[Source | Target] = [one for one in experiment.sources if one.role == "pixel"]
            for one in [*needing, *experiment.targets]:
                if one.data in self.image_sets:
                    raise ValueError(
                        f"`experiments.{split}`: {one.name} needs masks, but the image set {one.data} has"
                        " none: only a source of role `image` can name it"
                    )
            without = [source.data for source in experiment.sources if source.data in self.image_sets]
            if without and "oracle" in self.methods:
                raise ValueError(
                    f"`methods` lists `oracle`, but the image set {without[0]} has no masks: take it out"
                )

    def _check_bundles(self) -> None:
        for key in ("baseline", "attentive"):
            bundles = getattr(self, key).optimiser.batch_size
            for name in self.built():
                for source in self.experiments[name].sources:
                    if source.images_per_step % bundles:
                        raise ValueError(
                            f"`experiments.{name}`: source `{source.name}` has images_per_step"
                            f" {source.images_per_step}, no multiple of {key}.optimiser.batch_size {bundles}"
                        )

    def _check_attention(self) -> None:
        attention = self.attentive.attention
        if attention.single_image and (attention.slots != 1 or attention.warm_up):
            raise ValueError(
                f"`attention.single_image` needs `slots: 1` and `warm_up: 0`, found {attention.slots} and"
                f" {attention.warm_up}"
            )

    def every_split(self) -> list[str]:
        """All experiments, built or not."""
        return list(self.experiments)

    def built(self) -> list[str]:
        """Names of the experiments to build."""
        return list(self.experiments) if self.splits is None else list(self.splits)

    def targets(self, split: str) -> list[str]:
        """Names of an experiment's targets. Raises KeyError."""
        return [target.name for target in self.experiments[split].targets]

    def every_target(self) -> set[str]:
        """Names of the targets of all experiments."""
        return {target for split in self.experiments for target in self.targets(split)}

    def data_sets(self) -> list[str]:
        """Names of all data sets of the experiments to build, each once."""
        found = [name for split in self.built() for name in self.experiments[split].data()]
        return list(dict.fromkeys([*found, *([self.segment_21k.data] if self.segment_21k.data else [])]))

    def stage(
        self,
        name: str,
        *,
        split: str | None = None,
        method: str | None = None,
        target: str | None = None,
        image_set: str | None = None,
    ) -> StageOptions:
        """Options of one stage with the experiment filled in; the keywords are the rule's wildcards.

        Of the experiment a stage gets what it depends on, so that another weight trains again only where it
        counts. A stage over all experiments needs no `split`. Raises KeyError for an unknown stage or
        experiment.
        """
        if name not in STAGES:
            raise KeyError(f"unknown LarvSeg stage {name!r}, known: {', '.join(STAGES)}")
        if name == "images":
            return Images(name=image_set, image_set=self.image_sets[str(image_set)])
        options: StageOptions = getattr(self, name)
        fields = type(options).model_fields
        if "experiment" not in fields:
            return options
        experiment = self.experiments[str(split)]
        if name == "baseline":
            experiment = experiment.without_attention()
        elif name != ATTENTIVE:
            experiment = experiment.lists_only()
        filled: dict[str, Any] = {
            "experiment": experiment,
            "split": str(split),
            "target": target or experiment.targets[0].name,
            "published": self.is_published(str(split)),
        }
        if method is not None:
            filled["method"] = method
        return options.model_copy(update={key: value for key, value in filled.items() if key in fields})

    def is_published(self, split: str | None = None) -> bool:
        """Whether every value that changes a result is the published one, for COCO-Stuff and ADE20K.

        split: an experiment; None: all that are built.
        """
        free: dict[str, Any] = {
            **dict.fromkeys(
                (
                    "experiments",
                    "image_sets",
                    "splits",
                    "methods",
                    "shards",
                    "measure_compactness",
                    "segment_21k",
                ),
                True,
            ),
            "predict": {"shown_images": True, "memory_mib": True},
            "evaluate": True,
            "compactness": True,
            "baseline": {"backbone": {"weights": True}},
            "attentive": {"backbone": {"weights": True}},
        }
        same = self.model_dump(exclude=free) == Larvseg().model_dump(exclude=free)
        wanted = self.built() if split is None else [split]
        return same and all(self.experiments[one] == published_experiment() for one in wanted)
