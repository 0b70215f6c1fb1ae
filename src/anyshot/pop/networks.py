"""POP's network: a PSPNet that gives features, and a head of prototypes (pop.md 2.1).

Stage 2 trains another head on the decoder's features (`PrototypeHead.with_novel`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from anyshot.nets.backbones import build_backbone
from anyshot.nets.pspnet import PspNet
from anyshot.options import BackboneOptions, OptimiserOptions
from anyshot.pop.head import PrototypeHead
from anyshot.pop.heads import prototype_head


class PopNet(nn.Module):
    """Features of a PSPNet and logits from their projections onto class prototypes.

    Args:
        decoder: the PSPNet, backbone included.
        head: its channels are those of the decoder.
    """

    def __init__(self, *, decoder: PspNet, head: PrototypeHead) -> None:
        super().__init__()
        if decoder.channels != head.channels:
            raise ValueError(f"features of {decoder.channels} channels, prototypes of {head.channels}")
        self.decoder, self.head = decoder, head

    def features(self, images: Tensor) -> Tensor:
        """q (B, C, h, w), signed, of normalised images (B, 3, H, W)."""
        return self.decoder(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1 + Kb + Kn, h, w), background, base, novel; float32, on the backbone's deepest grid.

        They are to be upsampled with aligned corners (pop.md 2.3, 2.5).
        """
        return self.head(self.features(images))


def build_pop_net(options: Mapping[str, Any], *, load: bool = False) -> PopNet:
    """The network of a model card's options: backbone, channels, base, novel, background.

    load: take the backbone's initial weights too; False for a network that is filled right after.
    """
    backbone = build_backbone(BackboneOptions.model_validate(options["backbone"]), load=load)
    head = prototype_head(options)
    return PopNet(decoder=PspNet(backbone=backbone, channels=options["channels"]), head=head)


def parameter_groups(
    model: nn.Module, options: OptimiserOptions, *, prototype_multiplier: float = 1.0
) -> list[dict[str, Any]]:
    """Trainable parameters in POP's three groups (pop.md 2.3), for the training loop.

    The backbone has lr `scale` 1, all else `head_multiplier`; outside the backbone parameters whose name
    contains `bias` do not decay, everything else does, norms of the backbone included. With a
    `prototype_multiplier` other than 1 the head is a fourth group, with that factor on top.
    """
    backbone: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if "backbone." in name:
                backbone.append(parameter)
            elif "bias" in name:
                biases.append(parameter)
            else:
                (head if name.startswith("head.") and prototype_multiplier != 1 else others).append(parameter)
    scale = options.head_multiplier
    groups: list[dict[str, Any]] = [
        {"params": backbone, "scale": 1.0},
        {"params": biases, "scale": scale, "weight_decay": 0.0},
        {"params": others, "scale": scale},
    ]
    return groups + ([{"params": head, "scale": scale * prototype_multiplier}] if head else [])
