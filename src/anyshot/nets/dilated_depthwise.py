"""Dilated depthwise convolutions that train fast on a CPU.

torch computes the gradients of a depthwise convolution on CPUs with one thread, and several times slower when
it is dilated, as the last stages of a backbone at output stride 8 or 16 are. Here they are sums of shifted
products, k x k of each, over memory in which channels are innermost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _ShiftedProducts(torch.autograd.Function):
    """y[b, c, i, j] = sum over u, v of w[c, u, v] x[b, c, i + d u - p, j + d v - p]; x is 0 outside."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
        padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, *[padding] * 4))
        taps = weight.flatten(1).T.contiguous()  # (k k, C)
        size = [side - dilation * (weight.shape[-1] - 1) for side in padded.shape[1:3]]
        ctx.save_for_backward(padded, taps)
        ctx.geometry = (weight.shape, padding, dilation, size)
        shifts = _shifts(weight.shape[-1], dilation, size)
        found = padded[next(shifts)] * taps[0]
        for tap, shift in zip(taps[1:], shifts, strict=True):
            found.addcmul_(padded[shift], tap)
        return found.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        padded, taps = ctx.saved_tensors
        shape, padding, dilation, size = ctx.geometry
        of_output = gradients[0].permute(0, 2, 3, 1).contiguous()
        of_padded = torch.zeros_like(padded) if ctx.needs_input_grad[0] else None
        of_taps = torch.empty_like(taps) if ctx.needs_input_grad[1] else None
        for number, shift in enumerate(_shifts(shape[-1], dilation, size)):
            if of_padded is not None:
                of_padded[shift].addcmul_(of_output, taps[number])
            if of_taps is not None:
                of_taps[number] = (padded[shift] * of_output).sum(dim=(0, 1, 2))
        if of_padded is not None:
            height, width = padded.shape[1] - 2 * padding, padded.shape[2] - 2 * padding
            of_padded = of_padded[:, padding : padding + height, padding : padding + width].permute(
                0, 3, 1, 2
            )
        return of_padded, None if of_taps is None else of_taps.T.reshape(shape), None, None


def _shifts(kernel: int, dilation: int, size: list[int]) -> Iterator[tuple[slice, slice, slice]]:
    """Where in the padded images the values lie that each tap is multiplied with, row by row."""
    for row in range(0, kernel * dilation, dilation):
        for column in range(0, kernel * dilation, dilation):
            yield slice(None), slice(row, row + size[0]), slice(column, column + size[1])


class DilatedDepthwise(nn.Conv2d):
    """A depthwise convolution of stride 1 without bias, in shifted products while it is trained on a CPU.

    Equal to nn.Conv2d up to rounding. In inference, on GPUs and for exports it is nn.Conv2d.
    """

    def forward(self, images: Tensor) -> Tensor:
        trained = torch.is_grad_enabled() and (images.requires_grad or self.weight.requires_grad)
        if not trained or images.device.type != "cpu" or images.dtype != self.weight.dtype:
            return super().forward(images)
        padding, dilation = self.padding[0], self.dilation[0]
        assert isinstance(padding, int)
        found = _ShiftedProducts.apply(images, self.weight, padding, dilation)
        assert isinstance(found, Tensor)
        return found


def is_dilated_depthwise(module: nn.Module) -> bool:
    """Whether a module is a convolution that `DilatedDepthwise` can stand for."""
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels
        and module.bias is None
        and module.stride == (1, 1)
        and module.dilation[0] == module.dilation[1] > 1
        and module.kernel_size[0] == module.kernel_size[1]
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and module.padding[0] == module.padding[1]
    )


def train_fast(body: nn.Module) -> None:
    """Replace the dilated depthwise convolutions of a network; parameters and their names stay."""
    for name, module in list(body.named_modules()):
        if is_dilated_depthwise(module):
            assert isinstance(module, nn.Conv2d)
            made = DilatedDepthwise(
                module.in_channels, module.out_channels, module.kernel_size[0], padding=module.padding[0],
                dilation=module.dilation[0], groups=module.groups, bias=False, device="meta",
            )  # fmt: skip
            made.weight = module.weight
            body.set_submodule(name, made.train(module.training))
