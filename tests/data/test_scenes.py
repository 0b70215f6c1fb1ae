"""The generated scenes: deterministic, balanced, labelled as drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anyshot.data.images import read_image, read_mask
from anyshot.data.options import ScenesData
from anyshot.data.scene_objects import OBJECT_NAMES, OBJECTS, SHARED
from anyshot.data.scene_textures import PATTERNS
from anyshot.data.scenes import Scene, make_scene, objects_table, stuff_things_table, write_scenes


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """The first hundred training scenes at full size."""
    return [make_scene("train", number) for number in range(100)]


def test_same_numbers_same_scene_whatever_else_is_made() -> None:
    one, again = make_scene("train", 7, size=96, seed=3), make_scene("train", 7, size=96, seed=3)
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.objects, again.objects)
    for other in (
        make_scene("val", 7, size=96, seed=3),
        make_scene("train", 8, size=96, seed=3),
        make_scene("train", 7, size=96, seed=4),
    ):
        assert not np.array_equal(one.image, other.image)


def test_shapes_and_values(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (160, 160, 3)
        assert scene.image.dtype == np.uint8
        assert set(np.unique(scene.objects).tolist()) <= {*range(21), 255}
        assert set(np.unique(scene.stuff_things).tolist()) <= set(range(26))


def test_both_masks_tell_the_same(scenes: list[Scene]) -> None:
    for scene in scenes:
        inner = scene.objects != 255
        things = scene.stuff_things < 20
        assert np.array_equal(things[inner], scene.objects[inner] > 0)
        assert np.array_equal(scene.stuff_things[inner & things] + 1, scene.objects[inner & things])


def test_contours_surround_every_object_and_are_thin(scenes: list[Scene]) -> None:
    for scene in scenes:
        # Seen across an edge, no ignored run is missing: an object never touches the background directly.
        for before, after in (
            (scene.objects[:, :-1], scene.objects[:, 1:]),
            (scene.objects[:-1], scene.objects[1:]),
        ):
            touching = (before != after) & (before != 255) & (after != 255)
            assert not touching.any()
    assert 0.02 < np.mean([np.mean(scene.objects == 255) for scene in scenes]) < 0.08


def test_classes_are_balanced_and_often_share_an_image(scenes: list[Scene]) -> None:
    labels = [set(np.unique(scene.objects).tolist()) - {0, 255} for scene in scenes]
    count = Counter(label for found in labels for label in found)
    assert set(count) == set(range(1, 21))
    assert max(count.values()) <= 2.5 * min(count.values())
    assert 0.4 < np.mean([len(found) > 1 for found in labels]) < 0.7
    assert all(found for found in labels)


def test_every_label_has_pixels_worth_learning_from(scenes: list[Scene]) -> None:
    sizes = [
        np.sum(scene.objects == label)
        for scene in scenes
        for label in set(np.unique(scene.objects)) - {0, 255}
    ]
    assert min(sizes) >= 20
    assert np.median(sizes) > 1000


def test_all_stuff_occurs(scenes: list[Scene]) -> None:
    assert {value for scene in scenes for value in np.unique(scene.stuff_things).tolist()} == set(range(26))


def test_tables_agree_on_names_and_colours() -> None:
    objects, both = objects_table(), stuff_things_table()
    assert objects.names[1:] == both.names[:20] == OBJECT_NAMES
    assert objects.colours[1:] == both.colours[:20]
    assert both.background_id is None
    assert both.kinds.count("stuff") == 6


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda thing: thing.name)
def test_every_part_has_a_material_and_every_material_a_pattern(thing) -> None:  # type: ignore[no-untyped-def]
    assert {part.material for part in thing.parts} <= set(SHARED) | set(thing.materials)
    assert {material.pattern for material in thing.materials.values()} <= set(PATTERNS)
    assert set(thing.materials) <= {part.material for part in thing.parts}


def test_files_in_voc_layout(tmp_path: Path) -> None:
    write_scenes(tmp_path, ScenesData(size=64, train=2, val=1, seed=5))
    lists = tmp_path / "ImageSets" / "Segmentation"
    assert (lists / "train.txt").read_text() == "train_0000\ntrain_0001\n"
    assert (lists / "val.txt").read_text() == "val_0000\n"
    scene = make_scene("train", 1, size=64, seed=5)
    assert np.array_equal(read_mask(tmp_path / "SegmentationClassAug" / "train_0001.png"), scene.objects)
    assert np.array_equal(read_mask(tmp_path / "StuffThings" / "train_0001.png"), scene.stuff_things)
    difference = read_image(tmp_path / "JPEGImages" / "train_0001.jpg").astype(int) - scene.image
    assert np.abs(difference).mean() < 6


@pytest.mark.slow
def test_processes_change_nothing(tmp_path: Path) -> None:
    source = ScenesData(size=64, train=90, val=20)
    for threads in (1, 2):
        write_scenes(tmp_path / str(threads), source, threads=threads)
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.*"))
    assert len(files) == 3 * 110 + 2
    for path in files:
        assert (tmp_path / "1" / path).read_bytes() == (tmp_path / "2" / path).read_bytes()
