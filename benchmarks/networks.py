"""Seconds, operations and memory of the five published networks: forward, and forward with gradients.

    python benchmarks/networks.py [--device cpu|cuda] [--precision 32|bf16] [--threads N] [--runs N] [--small]

RETAB's segmenter with ResNet-38 at 448 px, RAML's DeepLabV3+ at 512, POP's PSPNet at 473, SimFormer's
MaskFormer at 640 and LarvSeg's ViT-B/16 at 512, with the options of `config/paper` and random weights. A
forward pass is of one image in inference mode; training is forward and backward of two images, with the mean
of the output as the loss and without an optimiser's step. Each is measured in a process of its own; memory
is what a pass takes at most beside the network's weights.

Operations are counted by torch on its meta device, where attention is not fused: the fused kernels of CPUs
have no formula there. They are compared with those of `scale_formulas.py`, from which docs/scale.md has its
hours. The sustained TFLOP/s of training (three forward passes per image, as there) are the `--rate` for
`scale_costs.py`. The last line is JSON. Exit status 1 when, in the full form, a formula is off by over 5 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anyshot.config import Config, load, merged
from anyshot.larvseg.networks import LarvSegNet, build_larvseg
from anyshot.pop.networks import build_pop_net
from anyshot.raml.networks import ClosedLogits, build_open_net
from anyshot.retab.networks import build_segmentation
from anyshot.simformer.networks import SimFormer, build_simformer
from benchmarks.measuring import in_own_process, measured, use_threads
from benchmarks.scale_formulas import DEEPLAB, MASKFORMER, PSPNET, RESNET38_SEGMENTER, TRAINING, vit

REPOSITORY = Path(__file__).resolve().parent.parent
ALLOWED = 0.05  # relative difference of counted operations from the formula
IMAGES = {False: 1, True: 2}  # of a pass: forward, training
SMALL_SIDE = 64
Options = dict[str, Any]


class Tokens(nn.Module):
    """LarvSeg's network as its tokens; the classifier stands apart from it."""

    def __init__(self, network: LarvSegNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.tokens(images)


class LogitsOfProposals(nn.Module):
    """SimFormer's class and mask logits, of every layer in training and of the last one otherwise."""

    def __init__(self, network: SimFormer) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        proposals = self.network(images, every_layer=self.training)
        return proposals.class_logits, proposals.mask_logits


def retab(config: Config) -> Options:
    options = config.retab.segmentation
    head = options.model_dump(include={"head_channels", "head_dilation", "skip_channels"})
    return {"backbone": options.backbone.model_dump(), "classes": 21, **head}


def raml(config: Config) -> Options:
    """Split 16_3: 16 known classes, 3 meta channels."""
    options = config.raml.closed_set
    head = options.model_dump(include={"channels", "low_channels", "dropout"})
    return {
        "backbone": options.backbone.model_dump(),
        **head,
        "known": 16,
        "meta": 3,
        "activation": "sigmoid",
    }


def pop(config: Config) -> Options:
    options = config.pop.base
    backbone = options.backbone.model_dump()
    return {
        "backbone": backbone,
        "channels": options.channels,
        "base": 15,
        "novel": 0,
        "background": "residual",
    }


def simformer(config: Config) -> Options:
    options = config.simformer.joint
    backbone, network = options.backbone.model_dump(), options.network.model_dump()
    return {"backbone": backbone, "network": network, "classes": 171, "similarity": None}


def larvseg(config: Config) -> Options:
    options = config.larvseg.attentive
    backbone, neck = options.backbone.model_dump(), options.neck.model_dump()
    return {"backbone": backbone, "neck": neck, "rows": 171, "bank": None}


@dataclass(frozen=True)
class Network:
    """What is measured.

    overlay: file of config/paper; options: the options of a model card, from it; build: the network of
    these, as a module that takes images (B, 3, H, W); side: of a square image in px; formula: multiply-adds
    of a forward pass by `scale_formulas.py`; small: what `--small` changes in the backbone's options.
    """

    title: str
    overlay: str
    options: Callable[[Config], Options]
    build: Callable[[Options], nn.Module]
    side: int
    formula: float
    small: Options

    def model(self, small: bool) -> nn.Module:
        """The network with random weights."""
        path = REPOSITORY / "config" / "paper" / f"{self.overlay}.yaml"
        options = self.options(load(merged([REPOSITORY / "config.yaml", path])))
        options["backbone"] |= {"weights": "none"} | (self.small if small else {})
        return self.build(options)

    def size(self, small: bool) -> int:
        return SMALL_SIDE if small else self.side


SMALL = {"name": "resnet18"}  # no depthwise convolutions: torch counts their gradients too high
NETWORKS = {
    "retab": Network(
        "ResNet-38, segmenter", "retab_voc", retab, build_segmentation, 448,
        RESNET38_SEGMENTER * 448**2, {"width": 0.125},
    ),
    "raml": Network(
        "DeepLabV3+, ResNet-101", "raml_cityscapes", raml,
        lambda options: ClosedLogits(build_open_net(options, load=False)), 512, DEEPLAB * 512**2, SMALL,
    ),
    "pop": Network("PSPNet, ResNet-50", "pop_voc", pop, build_pop_net, 473, PSPNET * 473**2, SMALL),
    "simformer": Network(
        "MaskFormer, ResNet-50", "simformer_cocostuff", simformer,
        lambda options: LogitsOfProposals(build_simformer(options)), 640, MASKFORMER * 640**2, SMALL,
    ),
    "larvseg": Network(
        "ViT-B/16", "larvseg_ade150", larvseg,
        lambda options: Tokens(build_larvseg(options)), 512, vit(512) / 2, {"name": "vit_tiny_patch16_224"},
    ),
}  # fmt: skip


def mean_of(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    """The mean of all entries of an output; of several, the sum of their means."""
    parts = [outputs] if isinstance(outputs, Tensor) else outputs
    return torch.stack([part.float().mean() for part in parts]).sum()


def one_pass(model: nn.Module, images: Tensor, precision: str) -> None:
    """Forward, and backward where the model is in training mode; the gradients are dropped again."""
    mixed = torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    with torch.inference_mode(not model.training), mixed:
        outputs = model(images)
    if model.training:
        mean_of(outputs).backward()
        model.zero_grad()


def operations(model: nn.Module, side: int, *, training: bool) -> float:
    """Floating-point operations of a pass per image of `side` px, as torch counts them; twice its
    multiply-adds. The model lies on the meta device.

    Nothing is computed, so gradients stay enabled without need: torch's counter fails in inference mode.
    """
    model.train(training)
    images = torch.empty(IMAGES[training], 3, side, side, device="meta")
    with FlopCounterMode(display=False) as counter:
        outputs = model(images)
        if training:
            mean_of(outputs).backward()
    return counter.get_total_flops() / len(images)


def timed(
    name: str, training: bool, small: bool, device: str, threads: int, precision: str, runs: int
) -> tuple[float, float]:
    """Seconds per image of the fastest run, and peak MiB beside the weights."""
    use_threads(threads)
    torch.manual_seed(0)
    network = NETWORKS[name]
    side = network.size(small)
    model = network.model(small).to(device).train(training)
    images = torch.rand(IMAGES[training], 3, side, side, device=device)

    def work() -> None:
        one_pass(model, images, precision)
        if device == "cuda":
            torch.cuda.synchronize()

    if device == "cuda":
        work()  # libraries load their kernels and set up workspaces at the first call
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if device == "cuda" else 0
    seconds, peak, _ = measured(work, runs=runs)
    if device == "cuda":
        peak = (torch.cuda.max_memory_allocated() - held) / 2**20
    return seconds / len(images), peak


def row(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Everything about a network; `tflops` are sustained, those of training reckoned as in docs/scale.md."""
    network = NETWORKS[name]
    model, side = network.model(given.small).to("meta"), network.size(given.small)
    forward, training = (operations(model, side, training=mode) for mode in (False, True))
    found: dict[str, Any] = {
        "system": name,
        "network": network.title,
        "side": side,
        "gmac": forward / 2e9,
        "formula_gmac": None if given.small else network.formula / 1e9,
        "counted_to_formula": None if given.small else forward / 2 / network.formula,
        "training_in_passes": training / forward,
    }
    for mode, passes in (("forward", 1), ("training", TRAINING)):
        seconds, peak = in_own_process(
            timed, name, mode == "training", given.small, given.device, given.threads, given.precision,
            given.runs, apart=not given.small,
        )  # fmt: skip
        rate = passes * forward / seconds / 1e12
        found[mode] = {"seconds_per_image": seconds, "tflops": rate, "peak_mib": peak}
    return found


def print_rows(rows: list[dict[str, Any]]) -> None:
    print("| system | network | px | GMAC counted | by formula | ratio | training, in passes"
          " | forward, s per image | TFLOP/s | MiB"
          " | training, s per image | TFLOP/s (`--rate`) | MiB |")  # fmt: skip
    print("|---" * 13 + "|")
    for one in rows:
        known = one["formula_gmac"] is not None
        formula = f"{one['formula_gmac']:.1f} | {one['counted_to_formula']:.3f}" if known else "- | -"
        cells = [f"{one[mode]['seconds_per_image']:.4g} | {one[mode]['tflops']:.3g} |"
                 f" {one[mode]['peak_mib']:,.0f}" for mode in ("forward", "training")]  # fmt: skip
        print(f"| {one['system']} | {one['network']} | {one['side']} | {one['gmac']:.4g} | {formula} |"
              f" {one['training_in_passes']:.2f} | {' | '.join(cells)} |")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="bf16: by autocast")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="the fastest counts")
    parser.add_argument("--small", action="store_true", help="tiny inputs and backbones: see that it runs")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here; use --device cpu")
    rows = [row(name, given) for name in NETWORKS]
    print_rows(rows)
    wrong = [one for one in rows if not given.small and abs(one["counted_to_formula"] - 1) > ALLOWED]
    for one in wrong:
        print(f"FAILED: {one['system']}: counted {one['counted_to_formula']:.3f} times the formula")
    settings = {key: getattr(given, key) for key in ("small", "device", "threads", "precision", "runs")}
    name = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    print(json.dumps({"benchmark": "networks", **settings, "device_name": name, "items": rows}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
