"""What the training stages of RETAB share: build, train, save with a card; and load again, strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from anyshot.data.classes import ClassTable
from anyshot.engine.checkpoints import load_into, load_weights, save_weights
from anyshot.engine.model_folder import model_card
from anyshot.engine.train import TrainingData, TrainingJob, train
from anyshot.errors import WeightsError
from anyshot.options import OptimiserOptions
from anyshot.retab.networks import build_network, parameter_groups


class StageJob(TrainingJob, Protocol):
    """The part of a job that a training stage needs."""

    def output(self, name: str) -> Path: ...

    def provenance(self) -> dict[str, str]: ...


def fit(
    job: StageJob,
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
    mean, std = model.backbone.mean, model.backbone.std  # type: ignore[union-attr]
    weights = job.output("weights")
    summary = train(
        job=job,
        model=model,
        loss=loss,
        dataset=dataset(mean, std),  # type: ignore[arg-type]
        parameter_groups=parameter_groups(model, options),
        options=options,
        state_path=weights.with_name("state.pt"),
        curve_path=job.output("curve"),
    )
    further: dict[str, Any] = {**(inference or {}), **job.provenance()}
    card = model_card(
        system="retab",
        split=split,
        network=network,
        network_options=network_options,
        table=table,
        mean=mean,  # type: ignore[arg-type]
        std=std,  # type: ignore[arg-type]
        classes_digest=table.digest(),
        training=summary,
        **further,
    )
    save_weights(weights, model.state_dict(), card)


def load_network(
    path: Path, *, network: str, table: ClassTable, split: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network in evaluation mode, and its card.

    Raises WeightsError when the file holds another network, other classes or (unless None) another split.
    """
    expect: dict[str, Any] = {"system": "retab", "classes_digest": table.digest()}
    if split is not None:
        expect["split"] = split
    state, card = load_weights(path, expect=expect)
    if card["network"]["name"] != network:
        raise WeightsError(f"{path} holds the network {card['network']['name']}, expected {network}")
    model = build_network(card["network"], load=False)
    load_into(model, state)
    return model.eval(), card
