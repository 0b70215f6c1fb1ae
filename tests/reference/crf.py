"""Mean field of the fully connected CRF with exact kernels, O(n^2) (retab.md 2.5)."""

from __future__ import annotations

import numpy as np


def kernel(features: np.ndarray) -> np.ndarray:
    """exp(-|f_i - f_j|^2 / 2) of features (n, d), symmetrically normalised by its row sums, (n, n)."""
    distance = ((features[:, None, :] - features[None, :, :]) ** 2).sum(axis=2)
    weights = np.exp(-distance / 2)
    scale = 1 / np.sqrt(weights.sum(axis=1))
    return scale[:, None] * weights * scale[None, :]


def mean_field(
    image: np.ndarray,
    probabilities: np.ndarray,
    *,
    steps: int,
    gaussian_sxy: float = 3.0,
    gaussian_weight: float = 3.0,
    bilateral_sxy: float = 80.0,
    bilateral_srgb: float = 13.0,
    bilateral_weight: float = 10.0,
) -> np.ndarray:
    """Marginals (K, H, W): Q <- softmax(-U + sum_m w_m k_m Q), from Q = softmax(-U). As in the published
    implementation a pixel also sends to itself."""
    height, width = image.shape[:2]
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    position = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
    colour = image.reshape(-1, 3).astype(np.float64)
    smooth = kernel(position / gaussian_sxy)
    appearance = kernel(np.concatenate([position / bilateral_sxy, colour / bilateral_srgb], axis=1))
    pairwise = gaussian_weight * smooth + bilateral_weight * appearance

    log_probability = np.log(np.clip(probabilities.reshape(len(probabilities), -1), 1e-5, 1.0))
    marginals = _softmax(log_probability)
    for _ in range(steps):
        marginals = _softmax(log_probability + marginals @ pairwise)
    return marginals.reshape(-1, height, width)


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponential = np.exp(scores - scores.max(axis=0))
    return exponential / exponential.sum(axis=0)
