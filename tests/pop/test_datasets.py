"""What POP is trained on: augmented images, pairs, whole images with their features (pop.md 1.6, 1.7, 2.4).

Every pixel of the images says what it is: red is 20 times its id (250 where it is ignored), green its row and
blue its column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anyshot.data.images import write_image, write_mask
from anyshot.data.manifest import Sample
from anyshot.engine.stores import Store, StoreWriter
from anyshot.errors import ArtifactError, DataError
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD
from anyshot.pop.datasets import (
    Augmented,
    BaseDataset,
    CachedPairDataset,
    PairDataset,
    Pairing,
    SupportViews,
    WholeImages,
    support_view,
    view_id,
    whole_image,
    whole_labels,
)
from anyshot.pop.geometry import scaled_size
from anyshot.pop.options import Geometry
from tests.pop.pop_models import BASE, TABLE, fold_tables

HEIGHT, WIDTH = 34, 48  # px
CROP = 40  # px: rows are padded, columns cropped
IDS = (*TABLE.ids, 255)
WITHOUT_NOVEL = {0: 0, 3: 1, 7: 2, 12: 3, 4: 0, 9: 0, 255: 255}  # pop.md 1.6, the rows of base images
WITH_NOVEL = {**WITHOUT_NOVEL, 4: 4, 9: 5}
TABLES = fold_tables()


def ids_of_pixels(number: int = 0) -> np.ndarray:
    """Every id in a patch of its own, (34, 48) uint8; another arrangement for every number."""
    order = np.random.default_rng(number).permutation(np.repeat(IDS, 2)).astype(np.uint8)
    columns = np.repeat(order, -(-WIDTH // len(order)))[:WIDTH]
    return np.stack([np.roll(columns, 3 * (row // 6)) for row in range(HEIGHT)])


def written(folder: Path, name: str, number: int = 0) -> Sample:
    """A sample of this name, its image and mask on the disk."""
    ids = ids_of_pixels(number)
    rows, columns = np.indices(ids.shape)
    red = np.where(ids == 255, 250, ids.astype(int) * 20)
    write_image(folder / f"{name}.png", np.stack([red, rows, columns], axis=-1).astype(np.uint8))
    write_mask(folder / f"{name}_mask.png", ids, TABLE)
    return Sample(name, folder / f"{name}.png", folder / f"{name}_mask.png", "train", ())


def augmented(low: float = 1.0, high: float = 1.0, crop: int = CROP) -> Augmented:
    options = Geometry(crop=crop, scale=[low, high])
    return Augmented(tables=TABLES, options=options, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def decoded(pixels: np.ndarray) -> np.ndarray:
    """8-bit values of normalised pixels (3, H, W)."""
    mean, std = (np.array(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return np.rint((pixels * std + mean) * 255).astype(int)


def told(red: np.ndarray, meaning: dict[int, int]) -> np.ndarray:
    """Labels of red values."""
    lut = np.full(256, -1)
    for number, label in meaning.items():
        lut[250 if number == 255 else 20 * number] = label
    return lut[red]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return written(tmp_path_factory.mktemp("one"), "a")


@pytest.mark.parametrize("novel", [False, True])
def test_image_and_labels_are_mirrored_and_cropped_alike(sample: Sample, novel: bool) -> None:
    made, seen = augmented(), set()
    for seed in range(40):
        pixels, labels = made(sample, novel=novel, rng=np.random.default_rng(seed))
        assert (pixels.shape, pixels.dtype) == ((3, CROP, CROP), np.float32)
        assert (labels.shape, labels.dtype) == ((CROP, CROP), np.uint8)
        assert (pixels[:, HEIGHT:] == 0).all()  # the mean colour
        assert (labels[HEIGHT:] == 255).all()
        red, green, blue = decoded(pixels)[:, :HEIGHT]
        assert (labels[:HEIGHT] == told(red, WITH_NOVEL if novel else WITHOUT_NOVEL)).all()
        assert (green == np.arange(HEIGHT)[:, None]).all()
        steps = np.unique(np.diff(blue, axis=1)).tolist()
        assert steps in ([1], [-1])
        seen.add((steps[0], int(blue.min())))
    assert {step for step, _ in seen} == {1, -1}
    assert {start for _, start in seen} == set(range(WIDTH - CROP + 1))


def test_sizes_lie_in_the_range_of_the_scale(sample: Sample) -> None:
    """Scaled sides round halves up, and the labels are scaled as the image is."""
    made, widths = augmented(0.5, 1.5, crop=96), []
    for seed in range(40):
        pixels, labels = made(sample, novel=True, rng=np.random.default_rng(seed))
        inside = (pixels != 0).all(axis=0)
        height, width = int(inside.any(axis=1).sum()), int(inside.any(axis=0).sum())
        assert inside[:height, :width].all()
        assert inside.sum() == height * width
        factors = np.linspace(0.5, 1.5, 2001)
        assert (height, width) in {scaled_size(HEIGHT, WIDTH, factor) for factor in factors}
        assert (labels[~inside] == 255).all()
        blue = decoded(pixels)[2, :height, :width]
        columns = blue if blue[0, 0] < blue[0, -1] else blue[:, ::-1]
        expected = (np.arange(width) + 0.5) * WIDTH / width - 0.5
        assert np.abs(columns - expected).max() <= 1.2
        wide = labels[:height, :width] if columns is blue else labels[:height, :width][:, ::-1]
        rows = ((np.arange(height) + 0.5) * HEIGHT / height).astype(int)
        source = ((np.arange(width) + 0.5) * WIDTH / width).astype(int)
        assert (wide == told_ids(ids_of_pixels(), WITH_NOVEL)[np.ix_(rows, source)]).all()
        widths.append(width)
    assert min(widths) < 0.65 * WIDTH
    assert max(widths) > 1.35 * WIDTH


def told_ids(ids: np.ndarray, meaning: dict[int, int]) -> np.ndarray:
    return np.vectorize(meaning.get)(ids)


def test_base_training_knows_no_novel_class(sample: Sample) -> None:
    data = BaseDataset(samples=[sample, sample], augmented=augmented())
    assert len(data) == 2
    item = data.item(1, np.random.default_rng(3))
    assert item["image"].dtype == torch.float32
    red = decoded(item["image"].numpy())[0, :HEIGHT]
    assert (item["labels"][:HEIGHT].numpy() == told(red, WITHOUT_NOVEL)).all()
    assert set(item["labels"].unique().tolist()) == {0, 1, 2, 3, 255}


def test_an_image_without_mask_is_named(sample: Sample) -> None:
    bare = Sample("bare", sample.image, None, "train", ())
    with pytest.raises(DataError, match="image bare has no mask"):
        augmented()(bare, novel=False, rng=np.random.default_rng(0))


SUPPORTS = ["s0", "s1", "s2", "s3"]
SHOTS = 2
LISTS = {number: [f"c{number}_{i}" for i in range(6)] + ["s1", "shared"] for number in BASE}


def pairing(seed: int = 5, replay: str = "voc") -> Pairing:
    return Pairing(supports=SUPPORTS, base_lists=LISTS, shots=SHOTS, seed=seed, replay=replay)  # type: ignore[arg-type]


def test_base_images_are_drawn_anew_in_every_epoch() -> None:
    first, again = pairing(), pairing()
    assert len(first) == len(BASE) * SHOTS
    epochs = [first.base_of(epoch) for epoch in range(12)]
    assert epochs[0] != epochs[1]
    assert len({tuple(ids) for ids in epochs}) == 12
    assert again.base_of(7) == epochs[7]  # in a new object, and without the epochs before
    assert first.base_of(0) == epochs[0]
    assert pairing(seed=6).base_of(0) != epochs[0]
    for ids in epochs:
        assert len(set(ids)) == len(ids) == len(first)
        assert not set(ids) & set(SUPPORTS)
        for place, number in enumerate(BASE):
            assert set(ids[place * SHOTS : (place + 1) * SHOTS]) <= set(LISTS[number])
    assert set().union(*epochs) == {one for ids in LISTS.values() for one in ids} - {"s1"}


def test_replay_of_coco_may_show_a_support_image() -> None:
    drawn = {one for epoch in range(20) for one in pairing(replay="coco").base_of(epoch)}
    assert "s1" in drawn


def test_every_base_image_meets_supports_drawn_with_replacement() -> None:
    pairs, met = pairing(), []
    for epoch in range(60):
        for index in range(len(pairs)):
            novel, base = pairs.pair(epoch, index, np.random.default_rng([epoch, index]))
            assert base == pairs.base_of(epoch)[index]
            met.append(novel)
    counts = [met.count(one) for one in SUPPORTS]
    assert sum(counts) == 360
    assert min(counts) > 60  # 90 expected, standard deviation 8
    one_epoch = met[: len(pairs)]
    assert len(set(one_epoch)) < len(one_epoch)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    folder = tmp_path_factory.mktemp("many")
    return {name: written(folder, name, number) for number, name in enumerate(("s0", "s1", "b0", "b1", "b2"))}


def small_pairing() -> Pairing:
    lists = {number: [name] for number, name in zip(BASE, ("b0", "b1", "b2"), strict=True)}
    return Pairing(supports=["s0", "s1"], base_lists=lists, shots=1, seed=0, replay="voc")


def test_pairs_hold_the_novel_image_first(samples: dict[str, Sample]) -> None:
    """All labels of the novel image, none of a novel class of the base image."""
    pairs = small_pairing()
    data = PairDataset(pairing=pairs, samples=samples, augmented=augmented())
    assert len(data) == 3
    for seed in range(6):
        item = data.item_of(seed, seed % 3, np.random.default_rng(seed))
        assert item["image"].shape == (2, 3, CROP, CROP)
        assert (item["labels"].shape, item["labels"].dtype) == ((2, CROP, CROP), torch.uint8)
        assert set(item["labels"][0].unique().tolist()) == {0, 1, 2, 3, 4, 5, 255}
        assert set(item["labels"][1].unique().tolist()) == {0, 1, 2, 3, 255}
        ids = pairs.pair(seed, seed % 3, np.random.default_rng(seed))
        for place, meaning in enumerate((WITH_NOVEL, WITHOUT_NOVEL)):
            red, rows, columns = decoded(item["image"][place].numpy())[:, :HEIGHT]
            assert (item["labels"][place, :HEIGHT].numpy() == told(red, meaning)).all()
            number = list(samples).index(ids[place])
            whole = np.where(ids_of_pixels(number) == 255, 250, ids_of_pixels(number).astype(int) * 20)
            assert (red == whole[rows, columns]).all()  # it is that very image


SQUARE = 36  # px


def encode(square: Tensor) -> Tensor:
    """Features (1, 4, 9, 9) that differ from cell to cell, as any encoder of stride 4."""
    cells = torch.nn.functional.avg_pool2d(square, 4)
    return torch.cat([cells, cells.prod(dim=1, keepdim=True)], dim=1)


def whole(samples: dict[str, Sample], store: Store | None = None, size: int = SQUARE) -> WholeImages:
    return WholeImages(
        samples=samples, tables=TABLES, store=store, encode=encode, size=size, mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(samples: dict[str, Sample], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Features of all samples in float16, as the stage `features` stores them."""
    path = tmp_path_factory.mktemp("store") / "features.h5"
    images = whole(samples)
    with StoreWriter(path, attributes={"size": str(SQUARE)}) as out:
        for name in samples:
            features = images.features(name).numpy()
            out.add(name, range(4), features, height=HEIGHT, width=WIDTH, stride=4, dtype="float16")
    return Store(path)


def test_cached_pairs_are_the_whole_images(samples: dict[str, Sample], store: Store) -> None:
    """Up to float16, and with the store's size whatever the options say."""
    pairs, plain, stored = small_pairing(), whole(samples), whole(samples, store, size=999)
    data = CachedPairDataset(pairing=pairs, images=stored)
    assert len(data) == 3
    for seed in range(6):
        ids = pairs.pair(seed, seed % 3, np.random.default_rng(seed))
        item = data.item_of(seed, seed % 3, np.random.default_rng(seed))
        assert item["features"].dtype == torch.float32
        features = torch.stack([plain.features(one) for one in ids])
        torch.testing.assert_close(item["features"], features, rtol=2**-11, atol=1e-6)
        assert not torch.equal(features[0], features[1])
        for place, (name, meaning) in enumerate(zip(ids, (WITH_NOVEL, WITHOUT_NOVEL), strict=True)):
            number = list(samples).index(name)
            labels = whole_labels(told_ids(ids_of_pixels(number), meaning).astype(np.uint8), SQUARE)
            assert (item["labels"][place].numpy() == labels).all()


def test_whole_images_have_a_longer_side_of_the_size(samples: dict[str, Sample]) -> None:
    """48 x 34 px in a square of 96: each pixel of the mask twice, the rest mean colour and 255."""
    labels = whole_labels(ids_of_pixels(), 96)
    assert (labels[:68] == ids_of_pixels().repeat(2, axis=0).repeat(2, axis=1)).all()
    assert (labels[68:] == 255).all()
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    pixels, size = whole_image(image, 96, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert (pixels.shape, size) == ((3, 96, 96), (68, 96))
    assert (decoded(pixels.numpy())[:, :68] == 200).all()
    assert (pixels[:, 68:] == 0).all()
    assert whole(samples).labels("s0", novel=True).max() == 255
    assert not np.isin(whole(samples).labels("s0", novel=False), (4, 5)).any()


NAMES = ("s0", "s1")


@pytest.fixture
def views(samples: dict[str, Sample], tmp_path: Path) -> Callable[..., SupportViews]:
    """Views of two images out of a store such as the stage `views` writes, in float32."""

    def make(
        given: dict[str, Sample] = samples, *, count: int = 3, seed: int = 1, names: tuple[str, ...] = NAMES
    ) -> SupportViews:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.h5"
        made = augmented(0.7, 1.0, crop=SQUARE)
        with StoreWriter(path, attributes={"size": str(SQUARE), "views": str(count)}) as out:
            for place, name in enumerate(names):
                for view in range(count):
                    pixels, labels = support_view(made, given[name], place=place, view=view, seed=seed)
                    features = encode(torch.from_numpy(pixels)[None])[0].numpy()
                    out.add(
                        view_id(name, view), range(4), features, height=SQUARE, width=SQUARE,
                        extra={"labels": labels},
                    )  # fmt: skip
        return SupportViews(Store(path), supports=NAMES, size=SQUARE)

    return make


def drawn(found: SupportViews, name: str) -> dict[bytes, dict[str, Tensor]]:
    """All views of an image that many draws give, by their features."""
    many = [found.view(name, np.random.default_rng(seed)) for seed in range(40)]
    return {one["features"].numpy().tobytes(): one for one in many}


def test_so_many_views_of_every_support_and_the_same_again(
    samples: dict[str, Sample], views: Callable[..., SupportViews]
) -> None:
    first, again, other = views(), views(), views(seed=2)
    for name in NAMES:
        assert len(drawn(first, name)) == 3
        assert drawn(first, name).keys() == drawn(again, name).keys()
        assert not drawn(first, name).keys() & drawn(other, name).keys()
        assert drawn(views(count=1), name).keys() < drawn(first, name).keys()
        for view in drawn(first, name).values():
            assert (view["features"].shape, view["features"].dtype) == ((4, 9, 9), torch.float32)
            assert (view["labels"].shape, view["labels"].dtype) == ((SQUARE, SQUARE), torch.uint8)
            assert set(view["labels"].unique().tolist()) & {4, 5}
    twins = {"s0": samples["s0"], "s1": replace(samples["s0"], id="s1")}
    assert not drawn(views(twins), "s0").keys() & drawn(views(twins), "s1").keys()


def test_a_support_without_all_its_views_is_an_error(views: Callable[..., SupportViews]) -> None:
    with pytest.raises(ArtifactError, match=r"0\.h5 has no view s1@0: run pop_views again"):
        views(names=("s0",))
    with pytest.raises(ArtifactError, match=f"has views of {SQUARE} px, 160 px are needed"):
        SupportViews(views().store, supports=NAMES, size=160)


def test_views_stand_for_the_novel_image_of_a_pair(
    samples: dict[str, Sample], store: Store, views: Callable[..., SupportViews]
) -> None:
    pairs, images = small_pairing(), whole(samples, store)
    data = CachedPairDataset(pairing=pairs, images=images, views=views())
    for seed in range(6):
        novel, base = pairs.pair(seed, seed % 3, np.random.default_rng(seed))
        item = data.item_of(seed, seed % 3, np.random.default_rng(seed))
        known = drawn(views(), novel)[item["features"][0].numpy().tobytes()]
        assert torch.equal(item["labels"][0], known["labels"])
        assert torch.equal(item["features"][1], images.features(base))
        assert not set(item["labels"][1].unique().tolist()) & {4, 5}
