"""Fully connected CRF (Krähenbühl and Koltun 2011) through pydensecrf, over processes (retab.md 2.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from anyshot.errors import AnyshotError
from anyshot.processes import worker_pool

Item = TypeVar("Item")
Result = TypeVar("Result")
FLOOR = 1e-5  # smallest probability of the unary term


@dataclass(frozen=True, kw_only=True)
class CrfParameters:
    """Two Potts kernels: Gaussian (smoothness) and bilateral (appearance). Widths in px and 8-bit levels."""

    steps: int = 10
    gaussian_sxy: float = 3.0
    gaussian_weight: float = 3.0
    bilateral_sxy: float = 80.0
    bilateral_srgb: float = 13.0
    bilateral_weight: float = 10.0


class DenseCrf:
    """One image's CRF: the filter lattice is built once and serves several unary terms of `channels` labels.

    Raises AnyshotError when pydensecrf is not installed, ValueError for an image that is not uint8 (H, W, 3).
    """

    def __init__(self, image: np.ndarray, *, channels: int, parameters: CrfParameters) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"a CRF needs an image uint8 (H, W, 3), found {image.dtype} {image.shape}")
        self.shape = image.shape[:2]
        self.parameters = parameters
        height, width = self.shape
        self._crf = _dense_crf()(width, height, channels)
        if parameters.gaussian_weight:
            self._crf.addPairwiseGaussian(sxy=parameters.gaussian_sxy, compat=parameters.gaussian_weight)
        if parameters.bilateral_weight:
            self._crf.addPairwiseBilateral(
                sxy=parameters.bilateral_sxy,
                srgb=parameters.bilateral_srgb,
                rgbim=np.ascontiguousarray(image),
                compat=parameters.bilateral_weight,
            )

    def infer(self, probabilities: np.ndarray) -> np.ndarray:
        """Marginals float32 (K, H, W), summing to 1, for probabilities (K, H, W) that need not be
        normalised."""
        unary = -np.log(np.clip(probabilities, FLOOR, 1.0)).astype(np.float32)
        self._crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(len(unary), -1)))
        marginals = np.array(self._crf.inference(self.parameters.steps), dtype=np.float32)
        return marginals.reshape(len(unary), *self.shape)


def _dense_crf() -> Any:
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise AnyshotError(
            f"pydensecrf cannot be imported ({error}): install `pydensecrf2` (its maintained build,"
            " same import name;"
            " Python 3.11 or 3.12, needs a C++ compiler), or switch the CRF off in the configuration"
        ) from error
    return DenseCRF2D


def background_and_cam(cams: np.ndarray, *, alpha: float) -> np.ndarray:
    """Scores (K+1, H, W): background (1 - max cam) ** alpha first, then the K CAMs in [0, 1] (retab.md 2.5).

    With no CAM (K = 0) the background is 1 everywhere.
    """
    if len(cams) == 0:
        return np.ones((1, *cams.shape[1:]), dtype=np.float32)
    background = (1.0 - cams.max(axis=0, keepdims=True)) ** alpha
    return np.concatenate([background, cams]).astype(np.float32)


def confident_labels(
    image: np.ndarray, cams: np.ndarray, *, alphas: Iterable[float], parameters: CrfParameters
) -> list[np.ndarray]:
    """CRF marginals (K+1, H, W) of one image for several background powers, one lattice for all."""
    channels = len(cams) + 1
    if channels == 1:
        return [np.ones((1, *image.shape[:2]), dtype=np.float32) for _ in alphas]
    crf = DenseCrf(image, channels=channels, parameters=parameters)
    return [crf.infer(background_and_cam(cams, alpha=alpha)) for alpha in alphas]


def map_processes(
    work: Callable[[Item], Result], items: Iterable[Item], *, processes: int
) -> Iterator[Result]:
    """Results of `work` in the order of `items`, from `processes` worker processes (1 = in this process).

    At most 4 items per process wait at a time, so results larger than memory can stream through.
    """
    if processes <= 1:
        yield from map(work, items)
        return
    with worker_pool(processes, start="forkserver") as pool:
        stream = iter(items)
        waiting = [pool.submit(work, item) for item in islice(stream, 4 * processes)]
        while waiting:
            yield waiting.pop(0).result()
            waiting.extend(pool.submit(work, item) for item in islice(stream, 1))
