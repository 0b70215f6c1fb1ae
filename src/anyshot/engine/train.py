"""The training loop of all systems, on Lightning Fabric.

Everything that is random is a pure function of (seed, step): a training that was killed continues from its
state file to the same weights as an uninterrupted one, bit for bit on the CPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from anyshot.engine.checkpoints import load_state, save_state
from anyshot.engine.curve import append_line, cut_curve
from anyshot.engine.devices import peak_mib, start_fabric
from anyshot.engine.sampling import (
    Batch,
    EpochTrainingData,
    Sampling,
    TrainingData,
    part_batches,
    step_seed,
)
from anyshot.engine.schedules import schedule_of
from anyshot.errors import AnyshotError
from anyshot.ops.collectives import all_reduce_sum
from anyshot.options import OptimiserOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Loss", "TrainingData", "TrainingJob", "all_reduce_sum", "train"]

Loss = Callable[[nn.Module, Batch, int], dict[str, Tensor]]
TERMINATED = 143  # exit status after SIGTERM


class TrainingJob(Protocol):
    """What the loop needs of `anyshot.job.Job`."""

    stage: str
    seed: int
    gpus: int
    log: logging.Logger

    @property
    def device(self) -> torch.device: ...

    @property
    def fingerprint(self) -> str: ...

    def remove_after_success(self, path: Path) -> None: ...


def train(
    *,
    job: TrainingJob,
    model: nn.Module,
    loss: Loss,
    dataset: TrainingData | EpochTrainingData,
    parameter_groups: Sequence[Mapping[str, Any]],
    options: OptimiserOptions,
    state_path: Path,
    curve_path: Path,
    devices: int | None = None,
    summed: Sequence[str] = (),
) -> dict[str, float]:
    """Train `model` in place; returns seconds, steps, images_per_second and peak_mib.

    loss(model, batch, step): a dict of scalars; "loss" is minimised, the others are logged. It calls
    `model(...)`, so that precision and gradient averaging apply; outputs are float32.
    parameter_groups: dicts with `params`, and optionally `scale` (factor of the learning rate, 1) and
    `weight_decay` (that of the options). Frozen parameters are left out; every other one must be in one
    group. state_path: where the state is saved every `save_minutes` and at SIGTERM (then exit status 143);
    the same job continues from it. curve_path: JSON lines, one per `log_every` steps. devices: default all
    GPUs of the job. With several devices only the first one returns, the further processes end here; until
    then batch norms that train share their statistics (nets/shared_norm.py).
    summed: entries of a batch, (B, ...) numbers, of which every part gets the sum over the whole batch, all
    parts and devices, divided by parts x devices: a loss that divides by them averages to that of the batch.
    Raises AnyshotError for a loss that is not finite, ConfigError for a batch larger than the training set.
    """
    from anyshot.nets.shared_norm import share_norms  # with all of timm, which not every network needs

    state_path, curve_path = Path(state_path), Path(curve_path)
    fabric = start_fabric(job.device, job.gpus, options, devices)
    sampling = Sampling(
        seed=job.seed,
        length=len(dataset),
        batch_size=options.batch_size,
        parts=options.accumulate,
        world=fabric.world_size,
        rank=fabric.global_rank,
    )
    model.to(fabric.device).train()
    optimiser = _optimiser(model, parameter_groups, options)
    run = _Run(job=job, fabric=fabric, model=model, optimiser=optimiser, loss=loss, options=options,
               sampling=sampling, state_path=state_path, curve_path=curve_path, summed=summed)  # fmt: skip
    with _deferred_sigterm() as terminated, share_norms(model):
        run.resume()
        summary = run.steps(dataset, terminated)
    if fabric.world_size > 1:
        fabric.barrier()
        if fabric.global_rank:
            raise SystemExit(0)  # the stage goes on in the first process alone
    job.remove_after_success(state_path)
    return summary


def _optimiser(
    model: nn.Module, groups: Sequence[Mapping[str, Any]], options: OptimiserOptions
) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters; each group keeps its `scale`."""
    prepared: list[dict[str, Any]] = []
    covered: set[int] = set()
    for group in groups:
        given = group["params"]
        listed = [given] if isinstance(given, Tensor) else list(given)
        params = [parameter for parameter in listed if parameter.requires_grad]
        covered.update(map(id, params))
        if params:
            decay = group.get("weight_decay", options.weight_decay)
            prepared.append(
                {"params": params, "scale": float(group.get("scale", 1.0)), "weight_decay": decay}
            )
    left = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in covered]
    if left:
        raise ValueError(
            f"{len(left)} trainable parameters are in no group: {', '.join(left[:5])}; freeze or add them"
        )
    if not prepared:
        raise ValueError("no trainable parameters")
    if options.optimiser == "adamw":
        return torch.optim.AdamW(prepared, lr=options.learning_rate)
    return torch.optim.SGD(prepared, lr=options.learning_rate, momentum=options.momentum)


@contextlib.contextmanager
def _deferred_sigterm() -> Iterator[threading.Event]:
    """Note the first SIGTERM instead of ending; the second one ends at once."""
    event = threading.Event()

    def note(signum: int, frame: object) -> None:
        if event.is_set():
            raise SystemExit(TERMINATED)
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclasses.dataclass(kw_only=True)
class _Run:
    """One training under way."""

    job: TrainingJob
    fabric: Fabric
    model: nn.Module  # as given; `_wrapped` is what the loss calls
    optimiser: torch.optim.Optimizer
    loss: Loss
    options: OptimiserOptions
    sampling: Sampling
    state_path: Path
    curve_path: Path
    summed: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.first = self.done = 0  # updates before this process, and by now
        self.seconds_before = 0.0  # in earlier processes
        self.begin = self.saved = self.logged = time.monotonic()
        self.steps_since_log = 0
        self.sums: dict[str, float] = {}  # of the loss parts since the last line of the curve
        self.count = 0
        self.total = self.sampling.total_steps(self.options.epochs, self.options.max_steps)
        self.multiplier = schedule_of(self.options)

    # --- state ---

    def _trained(self) -> dict[str, Tensor]:
        """Trainable parameters and buffers; frozen parameters come from the model's maker."""
        frozen = {n for n, p in self.model.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in frozen}

    def resume(self) -> None:
        """Continue from the state file where it fits, and cut the curve to the steps that are kept."""
        state = load_state(self.state_path, self.job.fingerprint)
        if state is not None and not self._fits(state):
            self.job.log.info(
                "ignoring the training state %s: it belongs to another network", self.state_path
            )
            state = None
        if state is not None:
            self.optimiser.load_state_dict(state["optimiser"])
            self.model.load_state_dict(state["model"], strict=False)
            self.fabric.strategy.precision.load_state_dict(state["precision"])
            self.first = self.done = state["step"]
            self.seconds_before = state["seconds"]
            self.sums, self.count = dict(state["sums"]), state["count"]
            self.job.log.info("%s: continuing at step %d of %d", self.job.stage, self.first, self.total)
        if self.fabric.global_rank == 0:
            cut_curve(self.curve_path, self.first)
        self.wrapped, self.stepper = self.fabric.setup(self.model, self.optimiser)

    def _fits(self, state: Mapping[str, Any]) -> bool:
        shapes = {name: tensor.shape for name, tensor in self._trained().items()}
        groups = [len(group["params"]) for group in self.optimiser.param_groups]
        return (
            state["total"] == self.total
            and shapes == {name: tensor.shape for name, tensor in state["model"].items()}
            and groups == [len(group["params"]) for group in state["optimiser"]["param_groups"]]
        )

    def save(self) -> None:
        """Save the state after the updates that are done (first process only)."""
        self.saved = time.monotonic()
        if self.fabric.global_rank:
            return
        save_state(
            self.state_path,
            {
                "fingerprint": self.job.fingerprint,
                "step": self.done,
                "total": self.total,
                "model": self._trained(),
                "optimiser": self.optimiser.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "seconds": self._seconds(),
                "sums": self.sums,
                "count": self.count,
            },
        )

    # --- steps ---

    def steps(
        self, dataset: TrainingData | EpochTrainingData, terminated: threading.Event
    ) -> dict[str, float]:
        """Run the updates that are left."""
        on_gpu = self.fabric.device.type == "cuda"
        batches = part_batches(dataset, self.sampling, first=self.first, total=self.total,
                               workers=self.options.workers, pin_memory=on_gpu)  # fmt: skip
        self.begin = self.saved = self.logged = time.monotonic()
        show = sys.stderr.isatty() and self.fabric.global_rank == 0
        with (
            contextlib.closing(batches),
            tqdm(total=self.total, initial=self.first, unit="step", desc=self.job.stage, disable=not show,
                 dynamic_ncols=True) as bar,
        ):  # fmt: skip
            for step in range(self.first, self.total):
                self._step(step, batches)
                self.done = step + 1
                bar.update()
                if self.done % self.options.log_every == 0 or self.done == self.total:
                    self._log(bar)
                if terminated.is_set():
                    break
                if time.monotonic() - self.saved >= 60 * self.options.save_minutes:
                    self.save()
        if terminated.is_set():
            self.save()
            self.job.log.warning("%s: SIGTERM, state saved at step %d", self.job.stage, self.done)
            raise SystemExit(TERMINATED)
        seconds = self._seconds()
        images = self.total * self.options.batch_size
        return {
            "seconds": seconds,
            "steps": self.total,
            "images_per_second": images / seconds if seconds > 0 else 0.0,
            "peak_mib": peak_mib(self.fabric.device),
        }

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.begin

    def _step(self, step: int, batches: Iterator[Batch]) -> None:
        """One update: forward and backward over the parts of the batch, then the optimiser."""
        multiplier = self.multiplier(step, self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.learning_rate * group["scale"] * multiplier
        self.optimiser.zero_grad(set_to_none=True)
        parts = self.options.accumulate
        values: dict[str, Tensor] = {}
        loaded = self._share([next(batches) for _ in range(parts)]) if self.summed else None
        for part in range(parts):
            batch = loaded[part] if loaded else next(batches)
            if self.fabric.device.type != "cpu":
                batch = self.fabric.to_device(batch)
            torch.manual_seed(step_seed(self.job.seed, step, self.fabric.global_rank, part))
            with self.fabric.no_backward_sync(self.wrapped, enabled=part + 1 < parts):
                terms = self.loss(self.wrapped, batch, step)
                self.fabric.backward(terms["loss"] / parts if parts > 1 else terms["loss"])
            for name, value in terms.items():
                values[name] = values.get(name, 0) + value.detach().float() / parts
        self._note(step, values)
        if self.options.gradient_clip is not None:
            self.fabric.clip_gradients(
                self.wrapped, self.stepper, max_norm=self.options.gradient_clip, error_if_nonfinite=False
            )
        self.stepper.step()

    def _share(self, parts: list[Batch]) -> list[Batch]:
        """Put the mean over parts and devices of the summed entries into every part."""
        for name in self.summed:
            total = torch.stack([part[name].sum(dim=0) for part in parts]).sum(dim=0).float()
            total = all_reduce_sum(total.to(self.fabric.device)) / (len(parts) * self.fabric.world_size)
            for part in parts:
                part[name] = total
        return parts

    def _note(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Add the loss parts to the sums, with one transfer. Raises AnyshotError when one is not finite."""
        numbers = dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
        if not all(map(math.isfinite, numbers.values())):
            parts = ", ".join(f"{name} {number:g}" for name, number in numbers.items())
            raise AnyshotError(
                f"the loss is not finite at step {step + 1} of {self.total}: {parts}. Lower `learning_rate`,"
                " set `gradient_clip`, or set `precision: 32-true`"
            )
        for name, number in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + number
        self.count += 1
        self.steps_since_log += 1

    # --- log ---

    def _log(self, bar: tqdm) -> None:
        """Write one line of the curve: means since the line before."""
        done = self.done
        means = {name: value / self.count for name, value in self.sums.items()}
        if self.fabric.world_size > 1:
            reduced = self.fabric.all_reduce(torch.tensor(list(means.values()), device=self.fabric.device))
            means = dict(zip(means, cast(Tensor, reduced).tolist(), strict=True))
        now = time.monotonic()
        per_step = (now - self.logged) / self.steps_since_log
        self.logged, self.steps_since_log, self.sums, self.count = now, 0, {}, 0
        if self.fabric.global_rank:
            return
        line = {
            "step": done,
            "steps": self.total,
            "epoch": (done - 1) // self.sampling.steps_per_epoch,
            **means,
            "learning_rate": self.options.learning_rate * self.multiplier(done - 1, self.total),
            "images_per_second": self.options.batch_size / max(per_step, 1e-9),
            "milliseconds_per_step": 1000 * per_step,
            "peak_mib": peak_mib(self.fabric.device),
            "eta_seconds": per_step * (self.total - done),
        }
        append_line(self.curve_path, line)
        if not bar.disable:
            bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()}, refresh=False)
            return
        parts = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
        self.job.log.info(
            "%s: step %d/%d (%.0f%%), %s, %.1f images/s, %.0f s left",
            self.job.stage, done, self.total, 100 * done / self.total, parts, line["images_per_second"],
            line["eta_seconds"],
        )  # fmt: skip
