"""How RETAB's training stages call the common loop: its networks, its card, its parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from anyshot.data.classes import ClassTable
from anyshot.engine import fitting
from anyshot.engine.train import TrainingData
from anyshot.options import OptimiserOptions
from anyshot.retab.networks import build_network, parameter_groups


def fit(
    job: fitting.StageJob,
    *,
    network: str,
    network_options: Mapping[str, Any],
    table: ClassTable,
    split: str,
    dataset: Callable[[Sequence[float], Sequence[float]], TrainingData],
    loss: Callable[[nn.Module, dict[str, Tensor], int], dict[str, Tensor]],
    options: OptimiserOptions,
    inference: Mapping[str, Any] | None = None,
) -> None:
    """Train a network and write the outputs `weights`, `card` (beside it) and `curve`.

    `dataset` is called with the backbone's mean and std; `inference` holds further entries of the model card.
    """
    model = build_network({"name": network, "options": network_options}, load=True)
    backbone: Any = model.backbone
    fitting.fit(
        job,
        model,
        system="retab",
        network=network,
        network_options=network_options,
        table=table,
        split=split,
        mean=backbone.mean,
        std=backbone.std,
        dataset=dataset(backbone.mean, backbone.std),
        loss=loss,
        parameter_groups=parameter_groups(model, options),
        options=options,
        card=inference,
    )


def load_network(
    path: Path, *, network: str, table: ClassTable, split: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network in evaluation mode, and its card.

    Raises WeightsError when the file holds another network, other classes or (unless None) another split.
    """
    build = partial(build_network, load=False)
    return fitting.load_network(path, system="retab", network=network, build=build, table=table, split=split)
