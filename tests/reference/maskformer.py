"""MaskFormer's heads in the words of the specification (simformer.md 2.1): one image, one attention head at a
time, without dropout. Weights are those of `anyshot.nets.maskformer`, taken one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyshot.nets.maskformer import MaskFormer


def sine_code(height: int, width: int, channels: int) -> Tensor:
    """(channels, height, width), float64, number by number."""
    axis = channels // 2
    code = torch.zeros(channels, height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            places = ((row + 1) / (height + 1e-6), (column + 1) / (width + 1e-6))
            for half, place in enumerate(places):
                for k in range(axis // 2):
                    argument = place * 2 * math.pi / 10000 ** (2 * k / axis)
                    code[half * axis + 2 * k, row, column] = math.sin(argument)
                    code[half * axis + 2 * k + 1, row, column] = math.cos(argument)
    return code


def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """32 groups of channels, each normalised over its channels and cells: (C, h, w)."""
    parts = []
    for group in x.chunk(32):
        parts.append((group - group.mean()) / (group.var(unbiased=False) + 1e-5).sqrt())
    return torch.cat(parts) * norm.weight[:, None, None] + norm.bias[:, None, None]


def conv(x: Tensor, layer: nn.Conv2d) -> Tensor:
    return F.conv2d(x[None], layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)[0]


def up_nearest(x: Tensor, height: int, width: int) -> Tensor:
    rows = [row * x.shape[1] // height for row in range(height)]
    columns = [column * x.shape[2] // width for column in range(width)]
    return x[:, rows][:, :, columns]


def pixel_embeddings(model: MaskFormer, maps: Sequence[Tensor]) -> Tensor:
    """y5 = ReLU GN conv3x3 res5; y_i = ReLU GN conv3x3(GN conv1x1 res_i + up y_{i+1}); E = conv3x3 y2."""
    decoder = model.pixel_decoder
    y = F.relu(group_norm(conv(maps[-1], decoder.stem[0]), decoder.stem[1]))  # type: ignore[arg-type]
    for index in range(len(maps) - 2, -1, -1):
        (one, one_norm), (three, three_norm) = decoder.lateral[index], decoder.output[index]  # type: ignore[misc]
        lateral = group_norm(conv(maps[index], one), one_norm)
        y = F.relu(group_norm(conv(lateral + up_nearest(y, *lateral.shape[1:]), three), three_norm))
    return conv(y, decoder.embed)


def attention(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(Q, W), (N, W), (N, W) -> (Q, W): softmax(q k / sqrt(d)) v of every head, side by side, and a layer."""
    weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)  # q first
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
    size = q.shape[1] // layer.num_heads
    found = []
    for head in range(layer.num_heads):
        part = slice(head * size, (head + 1) * size)
        chances = (q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(dim=1)
        found.append(chances @ v[:, part])
    return torch.cat(found, dim=1) @ layer.out_proj.weight.T + layer.out_proj.bias


def layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    mean, variance = x.mean(dim=1, keepdim=True), x.var(dim=1, unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias


def proposals(model: MaskFormer, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Class logits (L, Q, K + 1) and mask logits (L, Q, h, w) of one image's maps, finest first."""
    predictor = model.predictor
    memory = conv(maps[-1], predictor.memory)
    code = sine_code(*memory.shape[1:], len(memory)).to(memory.dtype)
    keys, values = (x.flatten(1).T for x in (memory + code, memory))
    queries = predictor.queries.weight
    pixels = pixel_embeddings(model, maps)
    x = torch.zeros_like(queries)
    classes, masks = [], []
    for layer in predictor.layers:
        first, second, third = layer.norms  # type: ignore[misc]
        x = layer_norm(x + attention(layer.self_attention, x + queries, x + queries, x), first)  # type: ignore[arg-type]
        x = layer_norm(x + attention(layer.cross_attention, x + queries, keys, values), second)  # type: ignore[arg-type]
        x = layer_norm(x + layer.contract(F.relu(layer.expand(x))), third)  # type: ignore[operator]
        read = layer_norm(x, predictor.norm)
        classes.append(predictor.classify(read))
        masks.append(torch.einsum("qc,chw->qhw", predictor.mask_embed(read), pixels))
    return torch.stack(classes), torch.stack(masks)
