"""LarvSeg's network: tokens, the cosine classifier, the bank of its attention (larvseg.md 2.1, 2.2, 2.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from anyshot.errors import ConfigError
from anyshot.larvseg.bank import CompactBank
from anyshot.larvseg.head import CosineHead
from anyshot.larvseg.options import Neck, TokenBackbone
from anyshot.nets.backbones import build_backbone
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD, Backbone
from anyshot.nets.maskformer import PixelDecoder
from anyshot.nets.vit_tokens import build_vit, is_vision_transformer
from anyshot.options import BackboneOptions

NETWORK = "larvseg"  # its name in a model card
OWN_OPTIONS = ("drop_path", "position_grid", "input_statistics")  # that BackboneOptions does not have


class LarvSegNet(nn.Module):
    """Tokens of images; the classifier and the bank stand by for losses and inference.

    Args:
        backbone: its deepest map, or its maps from `stride` on.
        neck: pyramid over the maps; None: the deepest map as it is.
        head: the classifier, of the tokens' width.
        bank: seeds of the attention; None where the network was trained without.
    """

    def __init__(
        self, *, backbone: Backbone, neck: PixelDecoder | None, stride: int, head: CosineHead,
        bank: CompactBank | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone, self.neck, self.head, self.bank = backbone, neck, head, bank
        self._used = _maps_in_use(backbone.reductions, stride)
        self.reduction = stride if neck is not None else backbone.reductions[-1]
        self.mean, self.std = backbone.mean, backbone.std

    def tokens(self, images: Tensor) -> Tensor:
        """Features (B, D, h, w) of normalised images (B, 3, H, W), h = ceil(H / reduction)."""
        maps = self.backbone(images)
        if self.neck is None:
            return maps[-1]
        return self.neck([maps[index] for index in self._used])

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """`tokens` of several batches of images, each of its own size."""
        return [self.tokens(one) for one in images]


def _maps_in_use(reductions: Sequence[int], stride: int) -> list[int]:
    """Index of the deepest map of each reduction from `stride` on, finest first."""
    deepest = {reduction: index for index, reduction in enumerate(reductions) if reduction >= stride}
    return [deepest[reduction] for reduction in sorted(deepest)]


def build_larvseg(options: Mapping[str, Any], *, load: bool = False) -> LarvSegNet:
    """The network of a model card's options.

    options: `backbone` (TokenBackbone), `neck` (Neck), `rows` (G), and `bank`: null, or an object of `slots`,
    `tokens` and `half` (Attention), perhaps with the `seed` of its first content.
    load: take the backbone's initial weights too; False for a network that is filled right after.

    Raises:
        ConfigError: the backbone has no map of the neck's stride, or does not know its options.
        WeightsError: the backbone's weights are missing, broken, or made for another network.
    """
    backbone = build_token_backbone(TokenBackbone.model_validate(options["backbone"]), load=load)
    neck, decoder = Neck.model_validate(options["neck"]), None
    width = backbone.channels[-1]
    if neck.kind == "fpn":
        if neck.stride not in backbone.reductions:
            raise ConfigError(
                f"the pyramid ends at stride {neck.stride}, but the backbone has maps of stride"
                f" {', '.join(map(str, backbone.reductions))}: set `neck.stride` to one of them, or `none`"
            )
        used = _maps_in_use(backbone.reductions, neck.stride)
        decoder = PixelDecoder(channels=[backbone.channels[index] for index in used], width=neck.width)
        width = neck.width
    kept, bank = options["bank"], None
    if kept is not None:
        bank = CompactBank(classes=options["rows"], width=width, **kept)
    head = CosineHead(width=width, classes=options["rows"])
    return LarvSegNet(backbone=backbone, neck=decoder, stride=neck.stride, head=head, bank=bank)


def build_token_backbone(options: TokenBackbone, *, load: bool) -> Backbone:
    """A transformer as its tokens, any other network as its maps."""
    statistics = (IMAGENET_MEAN, IMAGENET_STD) if options.input_statistics == "imagenet" else None
    if is_vision_transformer(options.name):
        backbone: Backbone = build_vit(
            options.name,
            weights=options.weights,
            grid=options.position_grid,
            drop_path=options.drop_path,
            statistics=statistics,
            load=load,
        )
        if backbone.reductions[-1] != options.output_stride:
            raise ConfigError(
                f"output_stride is {options.output_stride}, but {options.name} has patches of"
                f" {backbone.reductions[-1]} px: set output_stride to that, or choose another network"
            )
        backbone.freeze(norm=options.freeze_norm, stages=options.frozen_stages)
        return backbone
    return build_backbone(
        BackboneOptions.model_validate(options.model_dump(exclude=set(OWN_OPTIONS))), load=load
    )
