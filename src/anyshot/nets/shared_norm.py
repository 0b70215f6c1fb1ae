"""Batch norms whose statistics are those of the whole batch when several devices share it.

torch's own nn.SyncBatchNorm does the same on GPUs only; this one also works on CPUs (gloo).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from anyshot.errors import ConfigError
from anyshot.ops.collectives import all_gather, device_count


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) w + b with the statistics of all devices, on which gradients depend too.

    Of x only x itself is kept for the backward pass. Gradients of w and b are those of the own share: the
    training loop averages gradients over the devices.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: Tensor,
        eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(inputs, weight, mean, (var + eps).rsqrt(), count)
        return functional.batch_norm(inputs, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, scale, count = ctx.saved_tensors
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(inputs.ndim)]
        of_output = gradients[0].to(mean.dtype)
        normal = (inputs.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        own = torch.stack([of_output.sum(dim=axes), (of_output * normal).sum(dim=axes)])
        of_inputs = None
        if ctx.needs_input_grad[0]:
            shift, slope = all_gather(own).sum(dim=0) / count
            of_inputs = of_output - shift.view(shape) - normal.mul_(slope.view(shape))
            of_inputs = of_inputs.mul_((weight * scale).view(shape)).to(inputs.dtype)
        return of_inputs, own[1].to(weight.dtype), own[0].to(weight.dtype), None, None, None, None


class SharedNorm(_BatchNorm):
    """A batch norm that, in training on several devices, normalises by the batch of all of them.

    In everything else, names of parameters and running statistics included, it is the batch norm it was.
    `share_norms` turns a network's norms into these and back.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C) or (N, C, ...) -> the same shape; N, from 1, may differ between devices.

        Statistics are computed in float32. Every device must come by as often as the others.
        """
        if not self.training or device_count() == 1:
            return super().forward(inputs)
        self._check_input_dim(inputs)
        assert self.running_mean is not None  # `share_norms` takes no others
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, var, count = batch_statistics(inputs.detach())
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), share)
        ones, zeros = torch.ones_like(mean), torch.zeros_like(mean)
        weight = ones if self.weight is None else self.weight.to(mean.dtype)
        bias = zeros if self.bias is None else self.bias.to(mean.dtype)
        return self._activated(_Normalised.apply(inputs, weight, bias, mean, var, count, self.eps))

    def _activated(self, outputs: Tensor) -> Tensor:
        return outputs


class SharedNorm1d(SharedNorm, nn.BatchNorm1d):
    """Over the batch, and over positions where there are some."""


class SharedNorm2d(SharedNorm, nn.BatchNorm2d):
    """Over the batch and the cells of maps."""


class SharedNormAct2d(SharedNorm, BatchNormAct2d):
    """timm's norm that is followed by an activation of its own."""

    def _activated(self, outputs: Tensor) -> Tensor:
        found: Tensor = self.act(self.drop(outputs))
        return found


SHARED: dict[type[nn.Module], type[SharedNorm]] = {
    nn.BatchNorm1d: SharedNorm1d, nn.BatchNorm2d: SharedNorm2d, BatchNormAct2d: SharedNormAct2d
}  # fmt: skip


@contextmanager
def share_norms(model: nn.Module) -> Iterator[None]:
    """While it lasts, the batch norms of `model` that train take their statistics over all devices.

    Those in evaluation mode now (frozen ones) stay as they are, and so do those inside a module with an
    attribute `normalised_alone` that is true: they normalise parts of a batch one by one.
    On one device nothing changes.

    Raises:
        ConfigError: a batch norm of a kind that is not known here.
    """
    kinds: dict[nn.Module, type[nn.Module]] = {}
    if device_count() > 1:
        kinds = {norm: type(norm) for norm in _training_norms(model)}
    unknown = sorted({kind.__name__ for kind in kinds.values() if kind not in SHARED})
    if unknown:
        raise ConfigError(
            f"the network has batch norms that cannot be shared by several devices: {', '.join(unknown)};"
            f" known are {', '.join(kind.__name__ for kind in SHARED)}. Give the stage one GPU (`gpus`), set"
            " `freeze_norm: true`, or choose another backbone"
        )
    for norm, kind in kinds.items():
        norm.__class__ = SHARED[kind]  # in place, so that whoever holds the module keeps it
    try:
        yield
    finally:
        for norm, kind in kinds.items():
            norm.__class__ = kind


def batch_statistics(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C,) of the values of all devices, and their number () by which both are divided.

    The devices' own are put together as sum_d n_d (var_d + (mean_d - mean)^2) / n, which loses no digits
    where a mean is large beside its deviation.
    """
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    own = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    var, mean = torch.var_mean(own, dim=axes, correction=0)
    size = own.new_tensor([inputs.numel() // inputs.shape[1]])
    rows = all_gather(torch.cat([size, mean, var]))
    counts, means, variances = rows.split([1, len(mean), len(mean)], dim=1)
    count = counts.sum()
    shares = counts / count
    mean = (shares * means).sum(dim=0)
    return mean, (shares * (variances + (means - mean).square())).sum(dim=0), count


def _training_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    """Batch norms that train and track, once each."""
    if getattr(module, "normalised_alone", False):
        return
    if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
        yield module
    for child in module.children():
        yield from _training_norms(child)
