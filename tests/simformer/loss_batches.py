"""Random proposals and targets for the tests of the losses."""

from __future__ import annotations

import torch
from torch import Tensor

from anyshot.nets.maskformer import Proposals
from anyshot.simformer.similarity import BalanceWindow, Norm, SimilarityNet
from anyshot.simformer.targets import Targets

CLASSES, NOVEL = 6, torch.tensor([False] * 4 + [True] * 2)
LAYERS, QUERIES, CHANNELS, CELLS = 2, 8, 6, 8


def label_maps(images: int, generator: torch.Generator) -> Tensor:
    """(images, 32, 32) uint8: patches of the base classes and 255."""
    patches = torch.randint(0, 5, (images, CELLS, CELLS), generator=generator)
    patches[patches == 4] = 255
    return patches.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2).to(torch.uint8)


def random_batch(
    seed: int = 0, images: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Proposals, Targets]:
    """Pairs whose images have one novel class in common and every other one another; the right quarter is
    padding."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    labels = label_maps(images, generator)
    labels[:, :, 24:] = 255
    novel = torch.zeros(images, CLASSES, dtype=torch.bool)
    novel[:, 4] = True
    novel[::2, 5] = True
    pad = torch.zeros_like(labels, dtype=torch.bool)
    pad[:, :, 24:] = True
    proposals = Proposals(
        normal(LAYERS, images, QUERIES, CLASSES + 1),
        normal(LAYERS, images, QUERIES, CELLS, CELLS),
        normal(images, CHANNELS, CELLS, CELLS),
    )
    return proposals, Targets(labels=labels, novel=novel, pad=pad)


def image_part(proposals: Proposals, targets: Targets, part: slice) -> tuple[Proposals, Targets]:
    """Some images of a batch."""
    cut = Proposals(proposals.class_logits[:, part], proposals.mask_logits[:, part], proposals.pixels[part])
    return cut, Targets(labels=targets.labels[part], novel=targets.novel[part], pad=targets.pad[part])


def slopes(loss: Tensor, inputs: list[Tensor]) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True))


def network(norm: Norm = "batch") -> tuple[SimilarityNet, BalanceWindow]:
    """Always the same one, double precision, and its window."""
    torch.manual_seed(0)
    return SimilarityNet(width=CHANNELS, norm=norm).double(), BalanceWindow()
