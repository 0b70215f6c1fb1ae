"""The heads of POP: prototypes, their classifiers, and the logits they give (pop.md 2.1, 2.2)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from anyshot.ops.precision import full, without_autocast
from anyshot.ops.projections import (
    foreground_logits,
    pointwise,
    projections,
    residual,
    two_slopes,
    unit_prototypes,
)

Background = Literal["residual", "feature"]


class PixelMlp(nn.Sequential):
    """f: 1x1 convolutions C -> C, C -> C, C -> 1 with ReLU between, of single cells or vectors (pop.md 2.1).

    None has a bias, and none may get one: only so is f positively homogeneous, f(t x) = t f(x) for t >= 0,
    on which `PrototypeHead` rests. Parameters are named 0.weight, 2.weight, 4.weight as in the released
    checkpoints.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, 1, 1, bias=False),
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Maps (B, C, h, w) -> (B, 1, h, w), or vectors (N, C) -> (N, 1); at least float32."""
        for layer in self:
            cells = (
                pointwise(layer.weight[:, :, 0, 0], cells) if isinstance(layer, nn.Conv2d) else layer(cells)
            )
        return cells


class BasePart(NamedTuple):
    """What the base prototypes make of features: constant for an image once they are frozen (5.3 item 4)."""

    logits: Tensor  # (B, Kb, h, w), base classes only
    rest: Tensor  # (B, C, h, w), what is left for background and novel classes: q - sum over base of a_k s_k


class PrototypeHead(nn.Module):
    """Logits of background, base and novel classes from projections onto class prototypes (pop.md 2.2).

    A class's logit is f of the feature's projection onto its prototype, that of the background f of what all
    projections leave over. With novel classes (stage 2) a second classifier g, here `classifier_n`, takes
    the place of f for them and for the background.

    `base_emb` (Kb, C) and `novel_emb` (Kn, C) start with orthonormal rows (where C is not smaller than K).

    Args:
        channels: C, channels of the features.
        base: Kb, number of base classes without background, 1 or more.
        novel: Kn, number of novel classes; 0 in stage 1.
        background: `residual`, or, as an ablation, `feature`: background is classified by the whole feature.

    Raises:
        ValueError: no base class, or a negative number of novel ones.
    """

    def __init__(
        self, *, channels: int, base: int, novel: int = 0, background: Background = "residual"
    ) -> None:
        super().__init__()
        if base < 1 or novel < 0:
            raise ValueError(f"{base} base and {novel} novel classes: at least 1 and 0 are needed")
        self.channels, self.base, self.novel = channels, base, novel
        self.background: Background = background
        self.base_emb = nn.Parameter(nn.init.orthogonal_(torch.empty(base, channels)))
        self.classifier = PixelMlp(channels=channels)
        if novel:
            self.novel_emb = nn.Parameter(nn.init.orthogonal_(torch.empty(novel, channels)))
            self.classifier_n = PixelMlp(channels=channels)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, 1 + Kb + Kn, h, w) in the order background, base, novel; float32, or float64 if the
        features (B, C, h, w) are."""
        part = self.base_part(features)
        if not self.novel:
            return torch.cat([self.classifier(part.rest), part.logits], dim=1)
        background, novel = self.novel_part(features, part.rest)
        return torch.cat([background, part.logits, novel], dim=1)

    def base_part(self, features: Tensor) -> BasePart:
        """The share of the base prototypes and f, of features (B, C, h, w)."""
        with without_autocast(features):
            units = unit_prototypes(self.base_emb)
            a = projections(features, units)
            logits = foreground_logits(a, *two_slopes(self.classifier, units))
            rest = residual(features, units, a) if self.background == "residual" else full(features)
        return BasePart(logits, rest)

    def novel_part(self, features: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the background (B, 1, h, w) and of the novel classes (B, Kn, h, w), both by g.

        features: q (B, C, h, w); rest: `BasePart.rest` of the same features. Novel projections are those of
        the whole feature, and both sums are subtracted for the background. Needs novel classes.
        """
        with without_autocast(features):
            units = unit_prototypes(self.novel_emb)
            a = projections(features, units)
            novel = foreground_logits(a, *two_slopes(self.classifier_n, units))
            rest = residual(rest, units, a) if self.background == "residual" else rest
        return self.classifier_n(rest), novel

    def with_novel(self, count: int, *, generator: torch.Generator | None = None) -> PrototypeHead:
        """A head for stage 2: copies of the base prototypes and f, g equal to f, `count` new prototypes.

        generator: on the CPU; it draws the new prototypes (without one, torch's own does). Orthonormal among
        themselves, not to the base prototypes (pop.md 2.1). The new head lies where this one does.

        Raises:
            ValueError: the head has novel classes already, or `count` is less than 1.
        """
        if self.novel or count < 1:
            raise ValueError(
                f"{count} novel classes for a head that has {self.novel}: a head without any gets 1 or more"
            )
        with torch.device("meta"):  # leaves torch's generator as it is
            head = PrototypeHead(
                channels=self.channels, base=self.base, novel=count, background=self.background
            )
        head = head.to_empty(device=self.base_emb.device).to(self.base_emb.dtype)
        drawn = nn.init.orthogonal_(torch.empty(count, self.channels), generator=generator)
        own = self.state_dict()
        copied = {name.replace("classifier.", "classifier_n."): value for name, value in own.items()
                  if name.startswith("classifier.")}  # fmt: skip
        head.load_state_dict({**own, **copied, "novel_emb": drawn})
        return head

    def freeze_base(self) -> None:
        """Take base prototypes and f out of training, as in stage 2."""
        self.base_emb.requires_grad_(False)
        self.classifier.requires_grad_(False)
