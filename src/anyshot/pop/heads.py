"""Heads that are trained or averaged on a frozen base model, and what they are built from again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyshot.ops.projections import full, projections, unit_prototypes
from anyshot.pop.head import PrototypeHead

# names in model cards: of the base model (networks.py), and of a head that belongs to one
POP_NETWORK, HEAD_NETWORK = "pop_segmenter", "pop_head"
BELOW = 1e4  # so far below the lowest cosine is a class without prototype: none after a softmax, yet finite


class CosineHead(nn.Module):
    """The baseline of averaged features: a class's logit is the cosine of a feature and its prototype, times
    a temperature, as CAPL classifies.

    Args:
        channels: C, channels of the features.
        classes: background, base and novel classes together.
        temperature: factor on the cosines.
    """

    prototypes: Tensor

    def __init__(self, *, channels: int, classes: int, temperature: float) -> None:
        super().__init__()
        self.channels, self.classes, self.temperature = channels, classes, temperature
        self.register_buffer("prototypes", torch.zeros(classes, channels))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, classes, h, w) of features (B, C, h, w).

        A class without prototype (zeros) is never the best where any other has one: its logit is far below
        all others, but finite, so that it can be interpolated.
        """
        unit = F.normalize(full(features), dim=1)
        logits = self.temperature * projections(unit, unit_prototypes(self.prototypes))
        missing = ~self.prototypes.any(dim=1)
        return logits.masked_fill(missing[:, None, None], -self.temperature - BELOW)


class OnFrozen(nn.Module):
    """A head on an encoder that is not part of it: neither trained, saved, nor put into training mode.

    What moves the head to a device cannot see the encoder: it follows the first images that come from there.
    """

    def __init__(self, *, head: PrototypeHead | CosineHead, encoder: nn.Module | None) -> None:
        super().__init__()
        self.head = head
        self._encoder = [encoder]  # in a list, where torch does not look for modules

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, 1 + Kb + Kn, h, w) of images (B, 3, H, W), or, without encoder, of features."""
        encoder = self._encoder[0]
        if encoder is not None:
            if any(weight.device != inputs.device for weight in encoder.parameters()):
                encoder.to(inputs.device)
            with torch.no_grad():
                inputs = encoder(inputs)
        return self.head(inputs)


def head_options(head: nn.Module) -> dict[str, Any]:
    """What `build_head` makes the same head of, for its card."""
    if isinstance(head, CosineHead):
        return {"channels": head.channels, "classes": head.classes, "temperature": head.temperature}
    assert isinstance(head, PrototypeHead)
    return {
        "channels": head.channels, "base": head.base, "novel": head.novel, "background": head.background
    }  # fmt: skip


def prototype_head(options: Mapping[str, Any]) -> PrototypeHead:
    """The head of a base model's card options, its weights to be loaded."""
    return PrototypeHead(**{name: options[name] for name in ("channels", "base", "novel", "background")})


def build_head(options: Mapping[str, Any]) -> CosineHead | PrototypeHead:
    """A head of a card's options, its weights to be loaded."""
    return CosineHead(**options) if "temperature" in options else PrototypeHead(**options)
