"""One more class for a trained model, from images and masks alone: stage 2 without the base images (pop.md
2.4, 6.5)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anyshot.engine.novel_folder import SupportImage
from anyshot.engine.sampling import Batch
from anyshot.engine.train import TrainingJob, train
from anyshot.errors import ConfigError, DataError
from anyshot.ops.projections import novel_orthogonality, unit_prototypes
from anyshot.ops.upsampled import upsampled_argmax, upsampled_cross_entropy
from anyshot.pop.datasets import whole_labels
from anyshot.pop.head import PixelMlp
from anyshot.pop.open_model import PopModel
from anyshot.pop.options import NovelOptimiser, NovelUpdate
from anyshot.pop.sessions import SessionHead, session_part
from anyshot.pop.tables import IGNORE

VIEWS = 2  # of an image: as it is, and mirrored


class View(NamedTuple):
    """A support image as the network sees it."""

    features: Tensor  # q (C, h, w), on the CPU
    labels: Tensor  # uint8 (size, size): 0 background, 1.. known classes, the new class last, 255 ignored


class Views:
    """The views of all support images as a training set."""

    def __init__(self, views: Iterable[View]) -> None:
        self.views = list(views)

    def __len__(self) -> int:
        return len(self.views)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`features` (C, h, w) and `labels` (size, size)."""
        return self.views[index]._asdict()


class NewClass(nn.Module):
    """A class to be learnt on top of frozen ones; its g starts as the classifier of the background so far.

    generator: draws the prototype's direction, on the CPU.
    """

    def __init__(self, *, known: SessionHead, generator: torch.Generator) -> None:
        super().__init__()
        channels = known.base.channels
        self.known = known.requires_grad_(False)
        drawn = nn.init.orthogonal_(torch.empty(1, channels), generator=generator)
        self.prototype = nn.Parameter(drawn.to(known.units.device))
        self.classifier: PixelMlp = copy.deepcopy(known.background).requires_grad_(True)

    @property
    def unit(self) -> Tensor:
        """The unit prototype (1, C)."""
        return unit_prototypes(self.prototype)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, 1 + K + 1, h, w) of features (B, C, h, w), the new class last."""
        with torch.no_grad():
            logits, rest = self.known.parts(features)
        own = session_part(features, rest, self.unit, self.classifier)
        return torch.cat([self.classifier(own.rest), logits, own.logits], dim=1)


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A class that was learnt: its unit prototype (C,), g, and how it does on its own support images."""

    prototype: Tensor
    classifier: PixelMlp
    found: float  # share of the class's pixels that it gets
    precision: float  # share of its pixels that are the class's; 0 if it has none
    overlap: float  # largest |cosine| with another prototype


@torch.inference_mode()
def views_of(model: PopModel, known: SessionHead, supports: Iterable[SupportImage]) -> list[View]:
    """Every support image, as it is and mirrored, with labels for all its pixels.

    Pixels of the class are the new class, ignored ones stay ignored, and all others are what the model takes
    them for. Raises DataError for an image that is too large for its class to be seen, ConfigError for too
    many classes.
    """
    number = 1 + len(known.units)
    if number >= IGNORE:
        raise ConfigError(f"the model has {number} classes, more than {IGNORE} do not fit 8-bit labels")
    views = []
    for one in supports:
        given = np.where(one.chosen, 1, np.where(one.ignored, IGNORE, 0)).astype(np.uint8)
        for step in (1, -1):
            image, mask = (np.ascontiguousarray(array[:, ::step]) for array in (one.image, given))
            square = torch.from_numpy(whole_labels(mask, model.facts.size))
            if not (square == 1).any():
                raise DataError(
                    f"{one.what}: nothing is left of the class when the image is scaled to"
                    f" {model.facts.size} px; cut out a part of the image in which the class is larger"
                )
            features = model.features([image])
            seen = upsampled_argmax(known(features), *square.shape, align_corners=True)[0].cpu()
            labels = torch.where(square == 0, seen, torch.where(square == 1, number, IGNORE))
            views.append(View(features[0].cpu(), labels.to(torch.uint8)))
    return views


def learn_class(
    model: PopModel,
    known: SessionHead,
    supports: Iterable[SupportImage],
    *,
    job: TrainingJob,
    steps: int,
    folder: Path,
) -> Learnt:
    """Learn a prototype and its g with the losses of stage 2 (pop.md 2.4): cross entropy, and |cosine| with
    all other prototypes.

    The network and all classes that are there stay as they are. job: its seed decides the draws, its log is
    told of the progress; folder: an empty one, for the state of the training.
    """
    data = Views(views_of(model, known, supports))
    new = NewClass(known=known, generator=torch.Generator().manual_seed(job.seed))
    weight = NovelUpdate().orthogonality_weight

    def loss(wrapped: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        entropy = upsampled_cross_entropy(wrapped(batch["features"]), batch["labels"], align_corners=True)
        overlap = novel_orthogonality(new.prototype, known.units)
        total = entropy + weight * overlap
        return {"loss": total, "cross_entropy": entropy.detach(), "orthogonality": overlap.detach()}

    if steps:
        train(
            job=job,
            model=new,
            loss=loss,
            dataset=data,
            parameter_groups=[{"params": [new.prototype, *new.classifier.parameters()]}],
            options=_optimiser(steps, len(data)),
            state_path=folder / "state.pt",
            curve_path=folder / "train.jsonl",
        )
    return _judged(new.requires_grad_(False).eval(), data.views)


def _optimiser(steps: int, views: int) -> NovelOptimiser:
    """As in stage 2, for a number of steps instead of epochs."""
    return NovelOptimiser(
        epochs=math.ceil(steps * VIEWS / views) + 1,
        max_steps=steps,
        batch_size=VIEWS,
        precision="32-true",
        workers=0,
        log_every=max(1, steps // 10),
    )


@torch.inference_mode()
def _judged(new: NewClass, views: Iterable[View]) -> Learnt:
    right = given = taken = 0
    device = new.prototype.device
    number = 1 + len(new.known.units)
    for features, labels in views:
        seen = upsampled_argmax(new(features[None].to(device)), *labels.shape, align_corners=True)[0].cpu()
        claimed, true = (seen == number) & (labels != IGNORE), labels == number
        right += int((claimed & true).sum())
        given += int(true.sum())
        taken += int(claimed.sum())
    return Learnt(
        prototype=new.unit[0].cpu(),
        classifier=new.classifier.cpu(),
        found=right / max(given, 1),
        precision=right / max(taken, 1),
        overlap=float((new.known.units @ new.unit[0]).abs().max()),
    )
