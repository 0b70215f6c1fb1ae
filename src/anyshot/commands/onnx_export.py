"""Writing and checking the ONNX graph of a segmenter."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyshot.engine.artifacts import atomic_path
from anyshot.engine.inference import upsample_logits
from anyshot.engine.model_folder import SegmentationModel
from anyshot.errors import AnyshotError

OPSET = 18


class ExportedSegmenter(nn.Module):
    """Image (1, 3, H, W) float32 RGB in [0, 255] -> logits (1, C, H, W)."""

    def __init__(
        self, *, network: nn.Module, mean: Sequence[float], std: Sequence[float], size_divisor: int
    ) -> None:
        super().__init__()
        self.network = network
        self.size_divisor = size_divisor
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        x = (image / 255 - self.mean) / self.std
        right, bottom = -width % self.size_divisor, -height % self.size_divisor
        size, padded = (height, width), (height + bottom, width + right)
        logits = self.network(F.pad(x, (0, right, 0, bottom)))
        return upsample_logits(logits, size=size, padded=padded, target=size)


def export_onnx(model: SegmentationModel, path: Path, *, size: tuple[int, int], tolerance: float) -> float:
    """Write `model` (on the CPU) as an ONNX graph for images of `size` (height, width) px, and check it.

    Returns the largest absolute difference of a logit between onnxruntime and torch on a random image.
    Raises AnyshotError, and writes nothing, when it is above `tolerance` or the network cannot be exported.
    """
    given = model.card.input
    segmenter = ExportedSegmenter(
        network=model.network, mean=given.mean, std=given.std, size_divisor=given.size_divisor
    ).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, *size)).astype(np.float32)
    image = torch.from_numpy(pixels)
    with atomic_path(path) as temporary:
        _write(segmenter, image, temporary)
        _add_metadata(model, temporary)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        found = session.run(["logits"], {"image": pixels})[0]
        with torch.no_grad():
            expected = segmenter(image).numpy()
        difference = float(np.abs(found - expected).max())
        if not difference <= tolerance:
            raise AnyshotError(
                f"the exported graph differs from ours by {difference:.2e} in a logit, above {tolerance:.0e};"
                " nothing was written. Please report the network and the versions of torch and onnxruntime"
            )
    return difference


def _write(segmenter: nn.Module, image: Tensor, path: Path) -> None:
    exporting = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    before = [one.level for one in exporting]
    for one in exporting:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                segmenter,
                (image,),
                input_names=["image"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert program is not None  # which it is only with dynamo=False
            program.save(str(path), external_data=False)
    except torch.onnx.OnnxExporterError as error:
        raise AnyshotError(f"this network cannot be exported: {str(error).splitlines()[0]}") from error
    finally:
        for one, level in zip(exporting, before, strict=True):
            one.setLevel(level)


def _add_metadata(model: SegmentationModel, path: Path) -> None:
    graph = onnx.load(str(path))
    classes = [row.model_dump(mode="json") for row in model.card.classes]
    entries = {
        "classes": json.dumps(classes, ensure_ascii=False),
        "system": model.card.system,
        "split": model.card.split or "",
    }
    onnx.helper.set_model_props(graph, entries)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
