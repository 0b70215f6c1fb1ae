"""Depthwise convolutions that train fast on a CPU.

torch computes the gradients of a dilated depthwise convolution on CPUs many times slower than the convolution
itself, and also those of an undilated one where channels are not innermost in memory. Both gradients are
depthwise convolutions, too, and oneDNN has fast ones: that of the images convolves the output's gradient with
the mirrored kernel; that of the weights convolves every channel of every image with its own output's
gradient, at the kernel's dilation as stride.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class _Depthwise(torch.autograd.Function):
    """y[b, c, i, j] = bias[c] + sum over u, v of w[c, u, v] x[b, c, i + d u - p, j + d v - p], 0 outside.

    dx is dy convolved with w mirrored, padded by d (k - 1) - p. dw[c, u, v] is the sum over b, i, j of
    dy[b, c, i, j] x[b, c, i + d u - p, j + d v - p]: x convolved with dy as kernel, stride d, padding p.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: int, dilation: int
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return functional.conv2d(images, weight, bias, 1, padding, dilation, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_output, of_images, of_weight, of_bias = gradients[0].to(images.dtype), None, None, None
        channels, _, kernel, _ = weight.shape
        if ctx.needs_input_grad[0]:
            padding = ctx.dilation * (kernel - 1) - ctx.padding
            of_images = functional.conv2d(
                of_output, weight.flip(2, 3), None, 1, padding, ctx.dilation, groups=channels
            )
        if ctx.needs_input_grad[1]:
            rows = images.reshape(1, -1, *images.shape[2:])  # every channel of every image on its own
            kernels = of_output.reshape(-1, 1, *of_output.shape[2:])
            found = functional.conv2d(rows, kernels, None, ctx.dilation, ctx.padding, groups=len(kernels))
            of_weight = found.view(-1, channels, 1, kernel, kernel).sum(dim=0)
        if ctx.needs_input_grad[2]:
            of_bias = of_output.sum(dim=(0, 2, 3))
        return of_images, of_weight, of_bias, None, None


class Depthwise(nn.Conv2d):
    """A depthwise convolution of stride 1 with gradients of its own where torch's are slow: on a CPU, dilated
    or with channels that are not innermost in memory.

    Equal to nn.Conv2d up to rounding. In inference, on GPUs and for exports it is nn.Conv2d.
    """

    def forward(self, images: Tensor) -> Tensor:
        trained = torch.is_grad_enabled() and (images.requires_grad or self.weight.requires_grad)
        if not trained or images.device.type != "cpu" or images.dtype != self.weight.dtype:
            return super().forward(images)
        padding, dilation = self.padding[0], self.dilation[0]
        if dilation == 1 and images.is_contiguous(memory_format=torch.channels_last):
            return super().forward(images)  # torch's own gradients are the faster ones then
        assert isinstance(padding, int)
        found = _Depthwise.apply(images, self.weight, self.bias, padding, dilation)
        assert isinstance(found, Tensor)
        return found


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a convolution that `Depthwise` can stand for."""
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels > 1
        and module.stride == (1, 1)
        and module.dilation[0] == module.dilation[1]
        and module.kernel_size[0] == module.kernel_size[1]
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and module.padding[0] == module.padding[1] <= module.dilation[0] * (module.kernel_size[0] - 1)
    )


def train_fast(body: nn.Module) -> None:
    """Replace the depthwise convolutions of stride 1 of a network; parameters and their names stay."""
    for name, module in list(body.named_modules()):
        if is_depthwise(module):
            assert isinstance(module, nn.Conv2d)
            made = Depthwise(
                module.in_channels, module.out_channels, module.kernel_size[0], padding=module.padding[0],
                dilation=module.dilation[0], groups=module.groups, bias=module.bias is not None,
                device="meta",
            )  # fmt: skip
            made.weight, made.bias = module.weight, module.bias
            body.set_submodule(name, made.train(module.training))
