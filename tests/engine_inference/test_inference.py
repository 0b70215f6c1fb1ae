"""Multi-scale inference: sizes, padding, mirror and tiles, against plain versions written out here."""

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from anyshot.data.transforms import resize_image
from anyshot.engine.inference import (
    multi_scale_logits,
    multi_scale_logits_batch,
    segment_tiled,
    tile_spans,
)

PLAIN = {"scales": [1.0], "flip": False, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "device": "cpu"}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8, smooth enough to survive a resize."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (max(2, height // 8), max(2, width // 8), 3), np.uint8
    )
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def pointwise(batch: Tensor) -> Tensor:
    """Four classes from the pixel's own colour."""
    return torch.cat([batch, -batch.mean(1, keepdim=True)], 1)


def pooled(batch: Tensor) -> Tensor:
    """Stride 8, as networks have it: ceil(size / 8) cells."""
    return F.avg_pool2d(pointwise(batch), 8, 8, ceil_mode=True, count_include_pad=False)


def normalised(image: np.ndarray) -> Tensor:
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return ((values - torch.tensor(PLAIN["mean"]).view(3, 1, 1)) / torch.tensor(PLAIN["std"]).view(3, 1, 1))[
        None
    ]


def test_single_pass_is_the_model_itself() -> None:
    image = picture(37, 21)
    assert torch.allclose(
        multi_scale_logits(pointwise, image, **PLAIN), pointwise(normalised(image))[0], atol=1e-6
    )


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(37, 53), (375, 500), (3, 50), (1, 1)])
def test_matches_the_plain_version_of_all_passes(size: tuple[int, int], resize: str) -> None:
    image, scales = picture(*size), [1.0, 0.5, 1.5]
    passes = []
    for scale in scales:
        height, width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        small = Image.fromarray(image).resize((width, height), getattr(Image.Resampling, resize.upper()))
        for mirror in (False, True):
            batch = normalised(np.asarray(small))
            logits = pooled(batch.flip(3) if mirror else batch)
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            passes.append(logits.flip(3) if mirror else logits)
    expected = torch.cat(passes).mean(0)
    found = multi_scale_logits(pooled, image, **{**PLAIN, "scales": scales, "flip": True}, resize=resize)
    assert found.shape == (4, *size)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)


def test_half_sizes_round_to_even() -> None:
    seen = []

    def model(batch: Tensor) -> Tensor:
        seen.append(tuple(batch.shape[2:]))
        return batch

    multi_scale_logits(model, picture(375, 501), **{**PLAIN, "scales": [1, 0.5, 1.5, 2]})
    assert seen == [(375, 501), (188, 250), (562, 752), (750, 1002)]


def test_padding_is_zero_after_normalisation_and_does_not_move_the_result() -> None:
    image = picture(37, 53)
    seen: list[Tensor] = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch)
        return F.avg_pool2d(batch, 8)

    found = multi_scale_logits(model, image, **PLAIN, size_divisor=16)
    assert seen[0].shape == (1, 3, 48, 64)
    assert torch.equal(seen[0][:, :, :37, :53], normalised(image))
    assert not seen[0][:, :, 37:].any()
    assert not seen[0][:, :, :, 53:].any()
    whole = F.interpolate(F.avg_pool2d(seen[0], 8)[:, :, :5, :7], scale_factor=8, mode="bilinear")
    assert torch.allclose(found, whole[0, :, :37, :53], atol=1e-5)


def test_mirror_with_padding_equals_two_separate_calls() -> None:
    image = picture(37, 53)
    options = {**PLAIN, "size_divisor": 16}
    plain = multi_scale_logits(pooled, image, **options)
    mirrored = multi_scale_logits(pooled, np.ascontiguousarray(image[:, ::-1]), **options).flip(2)
    both = multi_scale_logits(pooled, image, **{**options, "flip": True})
    assert torch.allclose(both, (plain + mirrored) / 2, atol=1e-5)


@pytest.mark.parametrize("tile", [4, 7, 32, 50, 64])
@pytest.mark.parametrize("size", [(100, 131), (65, 1), (3, 501), (64, 64)])
def test_tiles_give_what_the_whole_image_gives(size: tuple[int, int], tile: int) -> None:
    image = picture(*size)
    whole = multi_scale_logits(pointwise, image, **{**PLAIN, "flip": True})
    tiled = multi_scale_logits(pointwise, image, **{**PLAIN, "flip": True}, tile=tile)
    assert torch.allclose(whole, tiled, atol=1e-5)


def test_striped_argmax_is_the_argmax_of_the_tiled_logits() -> None:
    image = picture(203, 317)
    options = {**PLAIN, "scales": [1.0, 0.5], "flip": True}
    logits = multi_scale_logits(pooled, image, **options, tile=64)
    labels = segment_tiled(pooled, image, **options, tile=64)
    assert labels.dtype == np.uint8
    assert labels.shape == (203, 317)
    assert (labels == logits.argmax(0).numpy()).mean() > 0.9999  # ties may round apart


def test_more_than_256_classes_come_as_uint16() -> None:
    def model(batch: Tensor) -> Tensor:
        logits = torch.zeros(len(batch), 300, *batch.shape[2:])
        logits[:, 299] = 1
        return logits

    labels = segment_tiled(model, picture(40, 40), **PLAIN, tile=32)
    assert labels.dtype == np.uint16
    assert (labels == 299).all()


def test_memory_of_a_large_image_is_far_below_its_scores() -> None:
    held = {"most": 0}
    real = torch.zeros

    def counting(*size: int) -> Tensor:
        held["most"] = max(held["most"], int(np.prod(size)))
        return real(*size)

    image = np.zeros((3000, 700, 3), np.uint8)
    tracemalloc.start()
    try:
        torch.zeros = counting  # type: ignore[assignment]
        segment_tiled(pooled, image, **PLAIN, tile=256)
    finally:
        torch.zeros = real  # type: ignore[assignment]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 0 < held["most"] <= 4 * 128 * 700  # (C, overlap rows, W)
    assert peak < 3 * image.nbytes


@pytest.mark.parametrize(
    ("length", "tile"), [(1, 8), (64, 64), (65, 64), (1000, 64), (999, 100), (37, 7), (2049, 512), (9, 4)]
)
def test_spans_cover_every_pixel_with_shares_that_sum_to_one(length: int, tile: int) -> None:
    total = np.zeros(length)
    spans = tile_spans(length, tile)
    for span, following in zip(spans, [*spans[1:], None], strict=True):
        assert 0 < span.stop - span.start <= tile
        assert following is None or span.stop - following.start >= tile // 4
        assert span.settled == (following.start if following else length)
        assert (span.weights > 0).all()
        total[span.start : span.stop] += span.weights
    assert np.allclose(total, 1, atol=1e-6)


def test_impossible_arguments_are_named() -> None:
    image = picture(8, 8)
    with pytest.raises(ValueError, match="scales"):
        multi_scale_logits(pointwise, image, **{**PLAIN, "scales": []})
    with pytest.raises(ValueError, match="uint8"):
        multi_scale_logits(pointwise, image.astype(float), **PLAIN)
    with pytest.raises(ValueError, match="tile"):
        multi_scale_logits(pointwise, image, **PLAIN, tile=3)
    with pytest.raises(ValueError, match="B, C"):
        multi_scale_logits(lambda batch: batch[0], image, **PLAIN)


def test_resize_to_the_same_size_is_the_image_itself() -> None:
    image = picture(9, 5)
    assert resize_image(image, 9, 5) is image


def test_a_batch_gives_what_single_images_give() -> None:
    images = [picture(37, 53, seed) for seed in range(3)]
    options = {**PLAIN, "scales": [1.0, 0.5], "flip": True, "size_divisor": 16}
    together = multi_scale_logits_batch(pooled, images, **options)
    for image, logits in zip(images, together, strict=True):
        assert torch.allclose(multi_scale_logits(pooled, image, **options), logits, atol=1e-5)
    with pytest.raises(ValueError, match="one size"):
        multi_scale_logits_batch(pooled, [picture(8, 8), picture(8, 9)], **options)
