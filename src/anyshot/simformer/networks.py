"""SimFormer's network: a MaskFormer and, while trained on pairs, the similarity network (simformer.md 2).

Only the MaskFormer segments; SimNet and the window that balances its loss belong to training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from anyshot.nets.backbones import build_backbone
from anyshot.nets.contract import NORM_LAYERS
from anyshot.nets.maskformer import MaskFormer, Proposals
from anyshot.options import BackboneOptions
from anyshot.simformer.options import MaskNetwork
from anyshot.simformer.similarity import BalanceWindow, SimilarityNet

NETWORK = "simformer"  # its name in a model card
UNDECAYED = (*NORM_LAYERS, nn.Embedding)  # layers whose parameters do not decay (simformer.md 3)


class SimFormer(nn.Module):
    """Proposals of images; SimNet and its window stand by for the losses of pairs.

    Args:
        maskformer: all that inference needs.
        similarity: SimNet, of the MaskFormer's width; None where no pairs are trained on.
        balance: window over the counts of similar and dissimilar points; given with `similarity`.

    Raises:
        ValueError: only one of `similarity` and `balance` is given.
    """

    def __init__(
        self,
        *,
        maskformer: MaskFormer,
        similarity: SimilarityNet | None = None,
        balance: BalanceWindow | None = None,
    ) -> None:
        super().__init__()
        if (similarity is None) != (balance is None):
            raise ValueError("give `similarity` and `balance` together, or neither")
        self.maskformer, self.similarity, self.balance = maskformer, similarity, balance

    def forward(self, images: Tensor, *, every_layer: bool = True) -> Proposals:
        """Proposals of normalised images (B, 3, H, W), after every layer or after the last alone."""
        return self.maskformer(images, every_layer=every_layer)


def build_simformer(options: Mapping[str, Any], *, load: bool = False) -> SimFormer:
    """The network of a model card's options.

    options: `backbone` (BackboneOptions), `classes` (K), `network` (MaskNetwork), and `similarity`: null, or
    an object of `depth`, `norm` and `window` (PairLosses).
    load: take the backbone's initial weights too; False for a network that is filled right after.

    Raises:
        ConfigError: the backbone has no map of stride 4, or does not know its options.
        WeightsError: the backbone's weights are missing, broken, or made for another network.
    """
    network = MaskNetwork.model_validate(options["network"])
    backbone = build_backbone(BackboneOptions.model_validate(options["backbone"]), load=load)
    maskformer = MaskFormer(backbone=backbone, classes=options["classes"], **network.model_dump())
    pairs = options["similarity"]
    if pairs is None:
        return SimFormer(maskformer=maskformer)
    return SimFormer(
        maskformer=maskformer,
        similarity=SimilarityNet(width=network.width, depth=pairs["depth"], norm=pairs["norm"]),
        balance=BalanceWindow(length=pairs["window"]),
    )
