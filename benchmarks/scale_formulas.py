"""Bytes, operations and CPU seconds of every stage for so many images: formulas, with the figures below.

Operation counts of the networks are computed (`networks.py` counts them); what was measured says where.
`scale_costs.py` prints tables; `tests/workflow/test_scale.py` holds the formulas to the totals in the heads
of `config/paper`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anyshot.config import Config
from anyshot.options import OptimiserOptions
from benchmarks.scale_counts import Stage, data_sets

# Forward multiply-adds. Per pixel of the input: ResNet-38 at stride 8, RAML's DeepLabV3+ with ResNet-101 at
# stride 16, MaskFormer with ResNet-50, POP's PSPNet with ResNet-50 at stride 8.
RESNET38, DEEPLAB, MASKFORMER, PSPNET = 399e9 / 448**2, 78.9e9 / 512**2, 75e9 / 640**2, 165e9 / 473**2
RESNET38_SEGMENTER = 459e9 / 448**2  # with the dilated 3x3 convolution on 4,096 channels of its head
VIT_TOKEN, VIT_PAIR = 85.1e6, 18.4e3  # ViT-B/16: per token and per pair of tokens; 213 GFLOP at 512 px
TRAINING = 3  # a step with gradients, in forward passes
ASPECT = 4 / 3  # of an image that is given by its short side

# Bytes. Measured with EfficientNet-Lite0 on scenes of 160 px and on MSRC-21 of 256 x 170 px: a palette PNG
# has 0.038 to 0.051 bytes per pixel (larger images less: contours grow with the side), its row in labels.csv
# 92 to 96 bytes, a confusion matrix in JSON 12 bytes per entry, log and benchmark of a job 2,400, Snakemake's
# record of an output 5,100; per image a row of manifest.csv 82, of pairs.json 148, of POP's index.csv 25.
MAP_PER_PIXEL, MAP_ROW, COUNT, JOB, RECORD = 0.05, 96, 12, 2400, 5100
MANIFEST_ROW, PAIR_ROW, INDEX_ROW = 82, 148, 25
# RETAB's score stores before compression, which saves what the content allows: CAMs, CRF labels and contours
# per pixel and class, affinities per cell of 8 x 8 px (34 neighbours), results of a walk per cell and class.
BYTES = {"float32": 4, "float16": 2}  # of the stages with an option `dtype`
CONTOUR, NEIGHBOURS, WALK_VALUE = 2, 34, 4
FEATURE_CHUNK = 30  # bytes of HDF5 per channel and image, measured
INDEX, PATH = 16, 30  # bytes per image of an index, beside its path; n01440764/n01440764_10026.JPEG
PACKED = 270  # bytes per image of a pack beside the JPEG: a row of 60, and half a chunk per 10,000 images
# Counted in the networks of config/paper.
PARAMETERS = {"retab": 105.2e6, "raml": 58.9e6, "pop": 47.6e6, "simformer": 42.0e6, "larvseg": 87.6e6}
VIT_WIDTH = 768

# CPU seconds per image on one core, measured (benchmarks/results/README.md): two CRFs of 375 x 500 px on one
# lattice, a walk of both stages on 47 x 63 cells.
CRF, WALK = 1 / 2.18, 2 * 0.024
VOC_PIXELS = 375 * 500
INDEXING, PACKING = 5.1e-5, 2.1e-3  # an image set: indexed; packed, images of 512 px that stay as they are
DRAWN = {"coco": 1, "coco_stuff10k": 1}  # readers that make masks, and seconds per image (docs/data.md)
DRAWING = {"coco": 0.007, "coco_stuff10k": 0.05}


@dataclass(frozen=True)
class Data:
    """Numbers of images, pixels of a mean one, and classes that are scored.

    `vocabulary`: classes that LarvSeg learns; `listed`: images of its image sets; `packed`: bytes of one of
    them as it is packed, 0 where sets are only indexed.
    """

    train: int
    evaluated: int
    pixels: float = 640 * 480
    classes: int = 171
    vocabulary: int = 171
    listed: int = 0
    packed: float = 0.0


@dataclass(frozen=True)
class Cost:
    """Of all jobs of a stage: bytes beside label maps, operations on GPUs, and CPU seconds of one core."""

    bytes: float = 0.0
    flop: float = 0.0
    cpu: float = 0.0


Costs = dict[str, Cost]


def steps_of(options: OptimiserOptions, images: float) -> float:
    """Steps of a training whose list has so many images."""
    epochs = options.epochs * (images // options.batch_size)
    return epochs if options.max_steps is None else min(epochs, options.max_steps)


def trained(steps: float, batch: float, macs: float) -> float:
    return steps * batch * macs * 2 * TRAINING


def passes(scales: Sequence[float], mirror: bool) -> float:
    """Forward passes over the image at its own size that several scales amount to."""
    return sum(scale**2 for scale in scales) * (2 if mirror else 1)


def sizes(short_sides: Sequence[int], mirror: bool) -> float:
    """Pixels of all passes over an image that is resized to these short sides."""
    return sum(side**2 for side in short_sides) * ASPECT * (2 if mirror else 1)


def vit(side: float) -> float:
    """Operations of a forward pass over a square crop."""
    tokens = (side / 16) ** 2
    return 2 * (VIT_TOKEN * tokens + VIT_PAIR * tokens**2)


def retab(config: Config, data: Data) -> Costs:
    options, folds = config.retab, len(config.retab.folds)
    walks = folds + bool(options.baselines)
    image = RESNET38 * data.pixels
    cells = data.pixels / 64

    def training(stage: str, crop: int, networks: int, network: float = RESNET38) -> Cost:
        chosen: OptimiserOptions = getattr(options, stage).optimiser
        steps = steps_of(chosen, data.train)
        flop = networks * trained(steps, chosen.batch_size, network * crop**2)
        return Cost(4 * PARAMETERS["retab"] * networks, flop)

    def maps(networks: int, per_image: float) -> Cost:
        return Cost(networks * data.train * per_image, networks * data.train * image * 2)

    shown = classes_shown(data)
    cam = passes(options.cam.scales, options.cam.mirror)
    scale = data.pixels / VOC_PIXELS
    predicted = passes(options.predict.scales, options.predict.mirror)
    refined = CRF / 2 if options.predict.crf is not None else 0.0
    return {
        "retab_classifier": training("classifier", options.classifier.crop, 1),
        "retab_cam": Cost(
            data.train * shown * data.pixels * BYTES[options.cam.dtype], data.train * image * cam * 2
        ),
        "retab_crf_label": Cost(
            data.train * 2 * (shown + 1) * data.pixels * BYTES[options.crf_label.dtype],
            0,
            data.train * CRF * scale,
        ),
        "retab_boundary": training("boundary", options.boundary.crops.crop, folds),
        "retab_boundary_map": maps(folds, data.pixels * CONTOUR),
        "retab_affinity": training("affinity", options.affinity.crops.crop, walks),
        "retab_affinity_map": maps(walks, cells * NEIGHBOURS * BYTES[options.affinity_map.dtype]),
        "retab_random_walk": Cost(
            walks * data.train * (shown + 1) * cells * WALK_VALUE, 0, walks * data.train * WALK * scale
        ),
        "retab_segmentation": training("segmentation", options.segmentation.crop, folds, RESNET38_SEGMENTER),
        "retab_predict": Cost(
            0,
            folds * data.evaluated * RESNET38_SEGMENTER * data.pixels * predicted * 2,
            folds * data.evaluated * refined * scale,
        ),
    }


def classes_shown(data: Data) -> float:
    """Classes that an image shows: 1.55 in VOC (retab.md 1), 3 where there are more classes."""
    return 1.55 if data.classes <= 21 else 3.0


def raml(config: Config, data: Data) -> Costs:
    options, splits = config.raml, len(config.raml.splits)

    def training(stage: str, factor: int) -> Cost:
        group = getattr(options, stage)
        chosen: OptimiserOptions = group.optimiser
        steps = steps_of(chosen, data.train)
        images = splits * steps * chosen.batch_size
        return Cost(4 * PARAMETERS["raml"] * splits, images * DEEPLAB * group.crop**2 * 2 * factor)

    evaluation = splits * data.evaluated * DEEPLAB * data.pixels * 2
    return {
        "raml_closed_set": training("closed_set", TRAINING),
        "raml_meta_channel": training("meta_channel", TRAINING),
        "raml_metric": training("metric", 1),  # the network stays as it is; only a small layer learns
        "raml_open_world": Cost(splits * options.shards * COUNT * data.classes**2, evaluation),
        "raml_anomaly": Cost(0, evaluation),
    }


def pop(config: Config, data: Data) -> Costs:
    options, folds = config.pop, len(config.pop.folds)
    base, update = options.base, options.novel_update
    image = PSPNET * base.crop**2
    named = {name for fold in options.every_split() for name in options.novel_names(fold)}
    heads = [(fold, *head) for fold in options.folds for head in options.heads(fold)]
    cached = update.mode == "cached"
    flop = 0.0
    for fold, method, shots, _ in heads:
        if method != "prototype" and not cached:
            classes = len(named) - len(options.novel_names(fold))
            steps = steps_of(update.optimiser, classes * shots * update.optimiser.batch_size)
            flop += steps * 2 * update.optimiser.batch_size * image * 2  # two images, forward only
    width = base.channels
    head = 4 * (2 * (2 * width**2 + width) + len(named) * width)
    cells = math.ceil(options.features.size / base.backbone.output_stride) ** 2
    stored = width * (2 * cells + FEATURE_CHUNK)
    drawn = len({fold for fold, *_ in heads})
    matrices = options.shards * (1 + len(heads) / max(1, drawn)) * COUNT * (len(named) + 2) ** 2
    encoded = PSPNET * options.predict.size**2 * 2
    features = Cost(drawn * data.train * stored, drawn * data.train * encoded) if cached else Cost()
    views = options.views.number * sum(
        len(options.novel_names(fold)) * shots for fold in options.folds for shots, _ in options.draws()
    )
    pixels = options.views.crop**2
    shown = Cost(views * (stored + MAP_PER_PIXEL * pixels), views * PSPNET * pixels * 2)
    steps = steps_of(base.optimiser, data.train)
    return {
        "pop_index": Cost((data.train + data.evaluated) * INDEX_ROW),
        "pop_base": Cost(
            4 * PARAMETERS["pop"] * folds, folds * trained(steps, base.optimiser.batch_size, image)
        ),
        "pop_features": features,
        "pop_views": shown if options.has_views() else Cost(),
        "pop_novel_update": Cost(len(heads) * head, flop),
        "pop_predict": Cost(folds * matrices, folds * data.evaluated * encoded),
    }


def simformer(config: Config, data: Data) -> Costs:
    options = config.simformer
    splits, variants = len(options.splits), len(options.variants)
    networks = 4 * PARAMETERS["simformer"]
    joint, again, seen = options.joint, options.retrain, options.predict
    joint_steps = steps_of(joint.optimiser, data.train)
    again_steps = steps_of(again.optimiser, data.train)
    pairs = 2 * joint.optimiser.batch_size  # images of a step
    per_step = (MASKFORMER * joint.augmentation.crop**2, MASKFORMER * again.augmentation.crop**2)
    labelled = MASKFORMER * sizes(options.pseudo_label.short_sides, options.pseudo_label.mirror) * 2
    evaluated = MASKFORMER * sizes(seen.short_sides, seen.mirror) * 2
    runs = splits * len(options.scored())
    found = {
        "simformer_pairs": Cost(splits * data.train * PAIR_ROW),
        "simformer_joint": Cost(
            networks * splits * variants, splits * variants * trained(joint_steps, pairs, per_step[0])
        ),
        "simformer_predict": Cost(
            runs * options.shards * COUNT * data.classes**2, runs * data.evaluated * evaluated
        ),
    }
    if options.retraining:
        flop = splits * trained(again_steps, again.optimiser.batch_size, per_step[1])
        found["simformer_pseudo_label"] = Cost(0, splits * data.train * labelled)
        found["simformer_retrain"] = Cost(networks * splits, flop)
    return found


def larvseg(config: Config, data: Data) -> Costs:
    options = config.larvseg
    weights = 4 * (PARAMETERS["larvseg"] + VIT_WIDTH * data.vocabulary)
    slots = options.attentive.attention.slots
    bank = 4 * slots * VIT_WIDTH * data.vocabulary
    methods, found = len(options.methods), {}
    experiments = [options.experiments[name] for name in options.built()]

    def flop(stage: str) -> float:
        steps = getattr(options, stage).optimiser.max_steps or 0
        images = sum(one.images_per_step * vit(one.crop) for each in experiments for one in each.sources)
        return steps * images * TRAINING

    side = options.predict.window or options.predict.short_side
    windows = math.ceil(options.predict.short_side * ASPECT / side)
    runs = sum(len(each.targets) for each in experiments) * methods
    found["larvseg_baseline"] = Cost(
        weights * len(experiments) * (methods - 1), flop("baseline") * (methods - 1)
    )
    found["larvseg_attentive"] = Cost((weights + bank) * len(experiments), flop("attentive"))
    found["larvseg_predict"] = Cost(
        runs * options.shards * COUNT * data.classes**2, runs * data.evaluated * windows * vit(side)
    )
    if data.listed:
        one = INDEX + PATH + data.packed + (PACKED if data.packed else 0)
        cpu = data.listed * (PACKING if data.packed else INDEXING)
        found["larvseg_images"] = Cost(data.listed * one, cpu=cpu)
    return found


SYSTEMS: dict[str, Callable[[Config, Data], Costs]] = {
    "retab": retab, "raml": raml, "pop": pop, "simformer": simformer, "larvseg": larvseg
}  # fmt: skip


def bytes_of(stage: Stage, cost: Cost, data: Data) -> float:
    """Bytes of a stage: its own, its label maps, and log, benchmark and records of its jobs."""
    images = {"none": 0, "train": data.train, "evaluated": data.evaluated}[stage.maps]
    maps = stage.passes * images * (MAP_PER_PIXEL * data.pixels + MAP_ROW)
    return cost.bytes + maps + stage.jobs * JOB + stage.records() * RECORD


def drawn_masks(config: Config, data: Data) -> int:
    """Masks that reading a data set makes, one per image."""
    readers = [config.data[name].reader for name in data_sets(config)]
    return sum(DRAWN.get(reader, 0) for reader in readers) * (data.train + data.evaluated)


def data_prepare(config: Config, data: Data) -> Cost:
    images = data.train + data.evaluated
    masks = drawn_masks(config, data)
    return Cost(
        images * MANIFEST_ROW + masks * MAP_PER_PIXEL * data.pixels,
        cpu=sum(images * DRAWING.get(config.data[name].reader, 0.0) for name in data_sets(config)),
    )


def packed_files(config: Config, data: Data) -> int:
    """Files of the image sets: an index of six, and a file per `per_shard` images where they are packed."""
    count = 0
    for options in config.larvseg.image_sets.values():
        count += 6 + (6 + math.ceil(data.listed / options.per_shard) if options.pack else 0)
    return count if data.listed else 0
