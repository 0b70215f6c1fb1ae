"""How SimFormer's training stages call the common loop: network, crops, loss, card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anyshot.engine import fitting
from anyshot.engine.parameter_groups import parameter_groups
from anyshot.engine.train import TrainingData
from anyshot.simformer.datasets import Crops
from anyshot.simformer.learning import SUMMED, training_loss
from anyshot.simformer.networks import NETWORK, UNDECAYED, build_simformer
from anyshot.simformer.options import Joint, PairLosses, Retrain, SetLosses
from anyshot.simformer.tables import WeakTables


def fit(
    job: fitting.StageJob,
    *,
    options: Joint | Retrain,
    tables: WeakTables,
    of_set: SetLosses,
    of_pairs: PairLosses | None,
    dataset: Callable[[Crops], TrainingData],
    variant: str,
    **card: Any,
) -> None:
    """Train a network and write the outputs `weights`, `card` (beside it) and `curve`.

    of_set, of_pairs: the losses; without those of pairs the network has no SimNet, and an item of the data is
    one image. `dataset` is called with what makes crops normalised as the backbone wants them; `card` holds
    further entries of the model card.
    """
    similarity = None
    if of_pairs is not None:
        similarity = {"depth": of_pairs.depth, "norm": of_pairs.norm, "window": of_pairs.window}
    network = {
        "backbone": options.backbone.model_dump(),
        "classes": len(tables.table),
        "network": options.network.model_dump(),
        "similarity": similarity,
    }
    model = build_simformer(network, load=True)
    backbone = model.maskformer.backbone
    novel = torch.from_numpy(tables.is_novel)

    def loss(wrapped: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return training_loss(
            model,
            wrapped,
            batch,
            matching=options.matching,
            of_set=of_set,
            of_pairs=of_pairs,
            novel=novel.to(batch["image"].device),
        )

    fitting.fit(
        job,
        model,
        system="simformer",
        network=NETWORK,
        network_options=network,
        table=tables.table,
        split=options.dataset.split,
        mean=backbone.mean,
        std=backbone.std,
        dataset=dataset(Crops(options.augmentation, mean=backbone.mean, std=backbone.std)),
        loss=loss,
        parameter_groups=parameter_groups(model, options.optimiser, undecayed=UNDECAYED),
        options=options.optimiser,
        summed=SUMMED,
        card={
            "variant": variant,
            "novel": list(options.dataset.novel),
            "input_size": options.augmentation.crop,
            "longest": options.augmentation.longest,
            **card,
        },
    )
