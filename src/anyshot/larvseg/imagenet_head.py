"""An image classifier of 1,000 ImageNet classes as a LarvSeg network, without any training.

The rows of the classifier's last layer are the class table, both projections the identity, and the tokens the
map that it would have averaged: the baseline's logits before pooling (larvseg.md 2.2, 2.4).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from anyshot.engine.model_folder import model_card, save_model_folder
from anyshot.errors import DataError
from anyshot.larvseg.artifacts import vocabulary_table
from anyshot.larvseg.head import CosineHead
from anyshot.larvseg.networks import LarvSegNet
from anyshot.larvseg.segmenter import IMAGENET_HEAD
from anyshot.larvseg.vocabulary import Member, Vocabulary
from anyshot.nets.contract import Backbone
from anyshot.nets.weight_files import load_exactly
from anyshot.nets.wheel_weights import WHEEL_MEAN, WHEEL_NETWORK, WHEEL_STD, WHEEL_WEIGHTS, read_wheel

CLASSES, WIDTH = 1000, 1280
CLASSIFIER = "classifier.weight"
SYNSETS, LEMMAS = "imagenet_synsets.txt", "imagenet_synset_to_lemma.txt"
# Words for what ImageNet only has finer classes of, as ranges of its sorted synset ids: first and last.
RANGES: dict[str, tuple[tuple[str, str], ...]] = {
    "dog": (("n02085620", "n02113978"),),
    "cat": (("n02123045", "n02124075"),),
    "bird": (("n01514668", "n01622779"), ("n01795545", "n01860187"), ("n02002556", "n02058221")),
}


class ClassifierMap(Backbone):
    """The last map of an image classifier before it is averaged: (B, 1280, h, w) of images (B, 3, H, W).

    stride: 32 as trained, 16 or 8 with dilated convolutions instead of the last strides.
    """

    body: Any

    def __init__(self, *, stride: int) -> None:
        super().__init__(channels=[WIDTH], reductions=[stride], mean=WHEEL_MEAN, std=WHEEL_STD)
        self.body = timm.create_model(WHEEL_NETWORK, pretrained=False, num_classes=0, output_stride=stride)

    def maps(self, images: Tensor) -> list[Tensor]:
        return [self.body.forward_features(images)]

    def stages(self) -> list[list[nn.Module]]:
        """The network as one stage: nothing of it is trained."""
        return [list(self.body.modules())]


def build_imagenet_head(options: Mapping[str, Any]) -> LarvSegNet:
    """The network of a model card's options, with random weights: `imagenet_head`, `stride`, `rows`."""
    backbone = ClassifierMap(stride=options["stride"])
    backbone.choose_memory_format()
    head = CosineHead(width=WIDTH, classes=options["rows"])
    return LarvSegNet(backbone=backbone, neck=None, stride=options["stride"], head=head)


def imagenet_head(*, stride: int) -> tuple[LarvSegNet, dict[str, Any]]:
    """The network with the weights of the installed package, and the options it is built of again.

    Raises WeightsError when the package is missing or holds another network.
    """
    options = {"imagenet_head": True, "stride": stride, "rows": CLASSES}
    network, state = build_imagenet_head(options), read_wheel()
    backbone = network.backbone
    assert isinstance(backbone, ClassifierMap)
    load_exactly(
        backbone.body, state, source=WHEEL_WEIGHTS, ignored={name for name in state if "classifier" in name}
    )
    with torch.no_grad():
        network.head.feature_projection.copy_(torch.eye(WIDTH))
        network.head.class_projection.copy_(torch.eye(WIDTH))
        network.head.table.copy_(state[CLASSIFIER])
    return network.eval(), options


def imagenet_vocabulary() -> Vocabulary:
    """The 1,000 classes in the order of the classifier: wnid, first lemma, further lemmas.

    Read from the data of the installed timm, without importing it. Raises DataError when it has none.
    """
    folder = _timm_folder()
    wnids = _lines(folder / SYNSETS)
    lemmas = dict(line.split("\t", 1) for line in _lines(folder / LEMMAS))
    missing = [wnid for wnid in wnids if wnid not in lemmas]
    if len(wnids) != CLASSES or wnids != sorted(set(wnids)) or missing:
        raise DataError(
            f"{folder / SYNSETS}: found {len(set(wnids))} synsets, {len(missing)} of them without a name,"
            f" expected {CLASSES} in sorted order: install another version of timm"
        )
    words = [[word.strip() for word in lemmas[wnid].split(",")] for wnid in wnids]
    return Vocabulary(
        ids=tuple(wnids),
        names=tuple(first for first, *_ in words),
        synonyms=tuple(tuple(dict.fromkeys(further)) for _, *further in words),
        members=(Member("imagenet", tuple(range(CLASSES))),),
    )


def groups_of(wnids: Sequence[str]) -> dict[str, list[str]]:
    """{word: wnids} of `RANGES`."""
    return {
        word: [wnid for wnid in wnids if any(first <= wnid <= last for first, last in ranges)]
        for word, ranges in RANGES.items()
    }


def write_imagenet_head(folder: Path, *, stride: int, short_side: int) -> int:
    """Write the network as a model folder; the number of its classes.

    stride: px per token; short_side: px that an image's shorter side is fitted to. Raises WeightsError,
    DataError or ArtifactError.
    """
    network, options = imagenet_head(stride=stride)
    vocabulary = imagenet_vocabulary()
    table = vocabulary_table(vocabulary)
    card = model_card(
        system="larvseg",
        split="imagenet1k",
        network=IMAGENET_HEAD,
        network_options=options,
        table=table,
        mean=network.mean,
        std=network.std,
        method="imagenet_head",
        novel=list(table.names),
        vocabulary=vocabulary.to_json(),
        groups=groups_of(vocabulary.ids),
        view={"short_side": short_side, "long_side": 4 * short_side},
    )
    save_model_folder(folder, state_dict=network.state_dict(), card=card)
    return len(vocabulary)


def _timm_folder() -> Path:
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise DataError("the names of the ImageNet classes come with the package timm: pip install timm")
    return Path(spec.origin).parent / "data" / "_info"


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): install a version of timm that has it"
        ) from error
