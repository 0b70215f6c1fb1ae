"""What the training stages of all systems share: train, save with a card; and load again, strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from anyshot.data.classes import ClassTable
from anyshot.engine.checkpoints import load_into, load_weights, save_weights
from anyshot.engine.model_folder import model_card
from anyshot.engine.sampling import EpochTrainingData, TrainingData
from anyshot.engine.train import Loss, TrainingJob, train
from anyshot.errors import WeightsError
from anyshot.options import OptimiserOptions

BuildNetwork = Callable[[Mapping[str, Any]], nn.Module]


class StageJob(TrainingJob, Protocol):
    """The part of a job that a training stage needs."""

    def output(self, name: str) -> Path: ...

    def provenance(self) -> dict[str, str]: ...


def fit(
    job: StageJob,
    model: nn.Module,
    *,
    system: str,
    network: str,
    network_options: Mapping[str, Any],
    table: ClassTable,
    split: str,
    mean: Sequence[float],
    std: Sequence[float],
    dataset: TrainingData | EpochTrainingData,
    loss: Loss,
    parameter_groups: Sequence[Mapping[str, Any]],
    options: OptimiserOptions,
    card: Mapping[str, Any] | None = None,
    finish: Callable[[nn.Module], None] | None = None,
    summed: Sequence[str] = (),
) -> None:
    """Train a network and write the outputs `weights`, its card (beside it) and `curve`.

    `network` and `network_options` are what the model is built from again, `mean` and `std` those of RGB in
    [0, 1]; `card` holds further entries of the model card. `finish` is called with the trained model before
    it is saved; `summed` are entries of a batch that every part of it needs the total of (see `train`).
    """
    weights = job.output("weights")
    summary = train(
        job=job,
        model=model,
        loss=loss,
        dataset=dataset,
        parameter_groups=parameter_groups,
        options=options,
        state_path=weights.with_name("state.pt"),
        curve_path=job.output("curve"),
        summed=summed,
    )
    if finish is not None:
        finish(model)
    further: dict[str, Any] = {**(card or {}), **job.provenance()}
    content = model_card(
        system=system,
        split=split,
        network=network,
        network_options=network_options,
        table=table,
        mean=mean,
        std=std,
        training=summary,
        **further,
    )
    save_weights(weights, model.state_dict(), content)


def load_network(
    path: Path,
    *,
    system: str,
    network: str,
    build: BuildNetwork,
    table: ClassTable,
    split: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network in evaluation mode, and its card.

    Raises WeightsError when the file holds another network, other classes or (unless None) another split.
    """
    expect: dict[str, Any] = {"system": system, "classes_digest": table.digest()}
    if split is not None:
        expect["split"] = split
    state, card = load_weights(path, expect=expect)
    if card["network"]["name"] != network:
        raise WeightsError(f"{path} holds the network {card['network']['name']}, expected {network}")
    model = build(card["network"])
    load_into(model, state)
    return model.eval(), card
