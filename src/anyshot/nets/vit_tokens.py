"""A vision transformer as a backbone with one map: the tokens of its last layer (larvseg.md 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from anyshot.errors import ConfigError, WeightsError
from anyshot.nets.contract import Backbone


def is_vision_transformer(name: str) -> bool:
    """Whether timm builds the network of this name as a plain vision transformer."""
    return timm.is_model(name) and timm.model_entrypoint(name).__module__.endswith(".vision_transformer")


class VitTokens(Backbone):
    """Tokens (B, D, h, w) after the last block and the final norm; the class token takes part and is dropped.

    Args:
        body: timm's transformer, made with `dynamic_img_size=True`.
        grid: cells per side of the position table; the one of `body` is resampled to it once, and from it to
            the grid of every other input, bicubic (align_corners False) and without antialias.
        mean, std: normalisation of images in [0, 1].

    Images whose sides are no multiple of the patch are padded with zeros right and below; the tokens that
    stand for padding alone are part of the map.
    """

    def __init__(
        self, *, body: VisionTransformer, grid: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        patch = int(body.patch_embed.patch_size[0])
        super().__init__(channels=[body.embed_dim], reductions=[patch], mean=mean, std=std)
        self.body, self.grid = body, grid
        if body.pos_embed is not None:
            source = tuple(int(side) for side in body.patch_embed.grid_size)
            table = self._resampled(body.pos_embed.detach(), (source[0], source[1]), (grid, grid))
            body.pos_embed = nn.Parameter(table)

    @property
    def _prefix(self) -> int:
        """Entries of the position table that belong to no cell."""
        return 0 if self.body.no_embed_class else self.body.num_prefix_tokens

    def _resampled(self, table: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
        """A position table (1, prefix + n, D) for another grid; entries without a cell stay."""
        if source == target:
            return table
        prefix, cells = table[:, : self._prefix], table[:, self._prefix :]
        cells = cells.transpose(1, 2).unflatten(2, source)
        cells = functional.interpolate(cells, size=target, mode="bicubic", align_corners=False)
        return torch.cat([prefix, cells.flatten(2).transpose(1, 2)], dim=1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """One map (B, D, h, w) of images (B, 3, H, W), h = ceil(H / patch)."""
        patch = self.reductions[0]
        height, width = images.shape[-2:]
        images = functional.pad(images, (0, -width % patch, 0, -height % patch))
        cells = self.body.patch_embed(images)  # (B, h, w, D)
        grid = (cells.shape[1], cells.shape[2])
        tokens = self._with_positions(cells.flatten(1, 2), grid)
        tokens = self.body.norm_pre(self.body.patch_drop(tokens))
        tokens = self.body.norm(self.body.blocks(tokens))
        tokens = tokens[:, self.body.num_prefix_tokens :]
        return [tokens.transpose(1, 2).unflatten(2, grid)]

    def _with_positions(self, cells: Tensor, grid: tuple[int, int]) -> Tensor:
        """Cells (B, n, D) with their positions, behind the class token and what else there is."""
        body = self.body
        table: Tensor | None = None
        if body.pos_embed is not None:
            table = self._resampled(body.pos_embed, (self.grid, self.grid), grid)
        if table is not None and body.no_embed_class:
            cells = cells + table
        first = [
            one.expand(len(cells), -1, -1) for one in (body.cls_token, body.reg_token) if one is not None
        ]
        tokens = torch.cat([*first, cells], dim=1)
        if table is not None and not body.no_embed_class:
            tokens = tokens + table
        return body.pos_drop(tokens)

    def stages(self) -> list[list[nn.Module]]:
        """The embedding of patches, then the blocks one by one; the final norm belongs to the last."""
        body = self.body
        first: list[nn.Module] = [body, *body.patch_embed.modules(), *body.norm_pre.modules()]
        blocks = [list(block.modules()) for block in body.blocks]
        blocks[-1] += body.norm.modules()
        return [first, *blocks]


def build_vit(
    name: str,
    *,
    weights: str,
    grid: int,
    drop_path: float,
    statistics: tuple[Sequence[float], Sequence[float]] | None,
    load: bool,
) -> VitTokens:
    """A transformer by timm's name.

    weights: `none`, `timm`, or the file of the published augreg weights (.npz). statistics: mean and
    deviation of the input; None: those of timm's card. Raises ConfigError for a network without tokens,
    WeightsError for weights that are missing or broken.
    """
    arguments: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True, "drop_path_rate": drop_path}
    try:
        body = timm.create_model(name, pretrained=load and weights == "timm", **arguments)
    except Exception as error:  # timm's hub raises errors of several libraries when it is offline
        if load and weights == "timm":
            raise WeightsError(
                f"timm's weights of {name} could not be had ({type(error).__name__}: {error}): connect to its"
                " hub, or give the .npz file as `weights`, or `none`"
            ) from error
        raise ConfigError(f"timm cannot build {name} for any image size ({error})") from error
    assert isinstance(body, VisionTransformer)
    if load and weights not in ("none", "timm"):
        _fill(body, weights)
    card = timm.get_pretrained_cfg(name)
    mean, std = (card.mean, card.std) if statistics is None and card is not None else (statistics or _HALF)
    return VitTokens(body=body, grid=grid, mean=mean, std=std)


_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _fill(body: VisionTransformer, weights: str) -> None:
    """Fill the transformer from an .npz file of the published kind."""
    if not weights.endswith(".npz"):
        raise WeightsError(
            f"weights `{weights}`: a vision transformer takes `none`, `timm`, or the published .npz file"
        )
    try:
        body.load_pretrained(weights)
    except Exception as error:  # numpy, zip and shape errors of any kind
        raise WeightsError(f"{weights} cannot be read as weights of this transformer: {error}") from error
