"""A tiny stage script for the tests: trains a network with dropout and batch norm, writes its weights."""

import os
import signal
import time

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from anyshot.engine.checkpoints import save_weights
from anyshot.engine.sampling import Batch
from anyshot.engine.train import all_reduce_sum, train
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.options import OptimiserOptions, StageOptions


class Tiny(StageOptions):
    optimiser: OptimiserOptions = Field(default_factory=OptimiserOptions)
    pause: float = 0.0  # s per image
    devices: int = 1
    plain: bool = False  # no dropout, no batch norm; a loss that is normalised over all devices
    kill_at: int = -1  # step at which the process gets SIGKILL
    terminate_at: int = -1  # step at which the process gets SIGTERM
    broken: int = -1  # index of an image that cannot be read


class Noise:
    """Images of noise, (3, 8, 8), and one target each."""

    def __init__(self, pause: float, broken: int) -> None:
        self.pause, self.broken = pause, broken

    def __len__(self) -> int:
        return 23

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        if index == self.broken:
            raise DataError(f"image {index} cannot be read; replace it")
        time.sleep(self.pause)
        image = rng.standard_normal((3, 8, 8), dtype=np.float32) + index / 23
        return {"image": torch.from_numpy(image), "target": torch.tensor(index / 23)}


def network(plain: bool) -> nn.Sequential:
    if plain:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(144, 1))
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 1)
    )


def main(job: Job[Tiny]) -> None:
    options = job.options
    model = network(options.plain)
    killed = job.output("weights").with_name("killed")

    def loss(model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        if step in (options.kill_at, options.terminate_at) and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL if step == options.kill_at else signal.SIGTERM)
        errors = (model(batch["image"])[:, 0] - batch["target"]).square()
        if options.plain:
            weights = batch["target"]  # differ from image to image
            return {"loss": all_reduce_sum((weights * errors).sum()) / all_reduce_sum(weights.sum())}
        return {"loss": errors.mean(), "error": errors.mean().detach()}

    first, rest = model[:3].parameters(), model[3:].parameters()
    groups = [{"params": first}, {"params": rest, "scale": 10, "weight_decay": 0.0}]
    summary = train(
        job=job,
        model=model,
        loss=loss,
        dataset=Noise(options.pause, options.broken),
        parameter_groups=groups,
        options=options.optimiser,
        state_path=job.output("state"),
        curve_path=job.output("curve"),
        devices=options.devices,
    )
    save_weights(job.output("weights"), model.state_dict(), {**job.provenance(), **summary})


if __name__ == "__main__":
    run("test.tiny", Tiny, main)
