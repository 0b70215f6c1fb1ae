"""Novel classes learnt in several sessions on one frozen base model (pop.md 6.5).

Every session has its prototypes and its classifier g, which start from what is there and leave it as it is.
A class is classified by the g of its own session; all projections are subtracted for the background, which
belongs to the g of the newest session.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anyshot.ops.precision import without_autocast
from anyshot.ops.projections import foreground_logits, projections, residual, two_slopes, unit_prototypes
from anyshot.pop.head import BasePart, PixelMlp, PrototypeHead


def session_part(features: Tensor, rest: Tensor, units: Tensor, classifier: PixelMlp) -> BasePart:
    """Logits of a session's classes by its g, and what their projections leave of `rest`.

    features: q (B, C, h, w), which is projected; rest: what earlier classes have left of it; units: unit
    prototypes (K, C).
    """
    with without_autocast(features):
        a = projections(features, units)
        return BasePart(foreground_logits(a, *two_slopes(classifier, units)), residual(rest, units, a))


class Session(nn.Module):
    """Classes that were learnt together: their unit prototypes (K, C), and g."""

    units: Tensor

    def __init__(self, *, units: Tensor, classifier: PixelMlp) -> None:
        super().__init__()
        self.register_buffer("units", units)
        self.classifier = classifier


class SessionHead(nn.Module):
    """Logits of background, base classes, and the novel classes of all sessions.

    With one session it computes what a `PrototypeHead` with these prototypes and this g does, bit for bit.

    Args:
        base: the model's own head; novel classes that it brings along are its first session.
        sessions: further ones, the oldest first.

    Raises:
        ValueError: the head classifies the background by the whole feature.
    """

    def __init__(self, *, base: PrototypeHead, sessions: Sequence[Session]) -> None:
        super().__init__()
        if base.background != "residual":
            raise ValueError("sessions need a head whose background is what the projections leave")
        own = []
        if base.novel:
            units = unit_prototypes(base.novel_emb.detach())
            own = [Session(units=units, classifier=base.classifier_n)]
        self.base = base
        self.sessions = nn.ModuleList([*own, *sessions])

    @property
    def background(self) -> PixelMlp:
        """The classifier of the background: that of the newest session, f without any."""
        sessions = self._sessions()
        return sessions[-1].classifier if sessions else self.base.classifier

    @property
    def units(self) -> Tensor:
        """Unit prototypes of all classes, base and then session by session (K, C)."""
        return torch.cat([unit_prototypes(self.base.base_emb), *(one.units for one in self._sessions())])

    def _sessions(self) -> list[Session]:
        return [one for one in self.sessions if isinstance(one, Session)]

    def parts(self, features: Tensor) -> BasePart:
        """Logits of all classes without the background (B, K, h, w), and what they leave (B, C, h, w)."""
        logits, rest = self.base.base_part(features)
        found = [logits]
        for one in self._sessions():
            logits, rest = session_part(features, rest, one.units, one.classifier)
            found.append(logits)
        return BasePart(torch.cat(found, dim=1), rest)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, 1 + K, h, w) of features (B, C, h, w): background, base, then session by session."""
        logits, rest = self.parts(features)
        return torch.cat([self.background(rest), logits], dim=1)
