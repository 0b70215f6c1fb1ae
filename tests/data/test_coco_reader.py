"""COCO's layout: the rasteriser and its recipes (golden case G10 of pop.md), lists, resuming, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from anyshot.config_errors import describe
from anyshot.data import coco_masks
from anyshot.data.classes import ClassTable, voc_colour
from anyshot.data.coco_masks import Shape, decode_runs, draw_mask, parse_instances
from anyshot.data.images import read_mask, write_image
from anyshot.data.options import CocoData, Prepare
from anyshot.data.prepare import prepare, sha256_of_ids
from anyshot.data.readers import read
from anyshot.errors import ArtifactError, DataError

from .layouts import options, picture
from .test_readers import ReaderBattery

BOX = [1, 1, 5.9, 1, 5.9, 4.9, 1, 4.9]
PARTS = [[4, 3, 7, 3, 7, 6, 4, 6], [0, 6, 2, 6, 2, 7, 0, 7]]
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 90, "name": "hair drier"}, {"id": 7, "name": "tv"}]
ALL = "00000000 01111100 01111100 01112222 01112222 00002222 22202222 22200000"
FIRST = "00000000 01111100 01111100 01112222 01112222 00002222 00002222 00000000"
GOLDEN = {
    "all_polygons_crowd_background": ALL,
    "first_polygon_crowd_background": FIRST,
    "all_polygons_crowd_ignore": ALL,
    "first_polygon_crowd_ignore": FIRST,
}


def rows(mask: np.ndarray) -> str:
    """A mask as text, a row per word; i = ignored."""
    return " ".join("".join("i" if value == 255 else str(value) for value in row) for row in mask)


def note(image: int, category: int, outline: Any, crowd: int = 0) -> dict[str, Any]:
    return {
        "id": 1, "image_id": image, "category_id": category, "segmentation": outline, "iscrowd": crowd
    }  # fmt: skip


def runs(region: np.ndarray) -> dict[str, Any]:
    """A region as uncompressed RLE, counted pixel by pixel."""
    counts, inside = [0], False
    for pixel in region.T.ravel():
        if bool(pixel) != inside:
            counts.append(0)
            inside = not inside
        counts[-1] += 1
    return {"counts": counts, "size": list(region.shape)}


def shapes(tmp_path: Path, *notes: dict[str, Any]) -> list[Shape]:
    """The annotations of an 8 x 8 image, through a file."""
    images = [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}]
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": CATEGORIES}))
    return parse_instances(path).shapes["a"]


@pytest.mark.parametrize("recipe", GOLDEN)
def test_g10_rasteriser(tmp_path: Path, recipe: Any) -> None:
    objects = shapes(tmp_path, note(1, 1, [BOX]), note(1, 90, PARTS))
    assert rows(draw_mask(8, 8, objects, recipe)) == GOLDEN[recipe]


@pytest.mark.parametrize("recipe", GOLDEN)
def test_g10_with_a_crowd(tmp_path: Path, recipe: Any) -> None:
    region = np.zeros((8, 8), dtype=bool)
    region[:, 6:] = True
    box, parts, crowd = shapes(
        tmp_path, note(1, 1, [BOX]), note(1, 90, PARTS), note(1, 7, runs(region), crowd=1)
    )
    without = draw_mask(8, 8, [box, parts], recipe)
    last = draw_mask(8, 8, [box, parts, crowd], recipe)
    first = draw_mask(8, 8, [crowd, box, parts], recipe)
    if recipe.endswith("crowd_background"):
        assert rows(last) == rows(first) == GOLDEN[recipe]
    else:
        # The JSON's order decides, as for all else.
        assert (last == np.where(region, 255, without)).all()
        assert (first == np.where(region & (without == 0), 255, without)).all()


def test_recipes_are_those_of_the_options() -> None:
    recipe = CocoData.model_json_schema()["properties"]["recipe"]
    assert recipe["enum"] == list(GOLDEN)
    assert recipe["default"] == "all_polygons_crowd_background"


def test_runs_go_down_the_columns() -> None:
    region = np.random.default_rng(0).random((5, 7)) < 0.4
    counts = np.array(runs(region)["counts"])
    assert (decode_runs(counts, 5, 7) == region).all()
    assert decode_runs(np.array([1, 2, 3]), 3, 2).tolist() == [[False, False], [True, False], [True, False]]


@pytest.mark.parametrize(
    ("polygon", "expected"),
    [
        # Both ends of -0.9 .. 1.9 are cut toward zero.
        ([-0.9, -0.9, 1.9, -0.9, 1.9, 1.9, -0.9, 1.9], "11000000 11000000" + " 00000000" * 6),
        ([6, 6, 99, 6, 99, 99, 6, 99], "00000000 " * 6 + "00000011 00000011"),
    ],
)
def test_points_left_of_zero_and_outside(tmp_path: Path, polygon: list[float], expected: str) -> None:
    mask = draw_mask(8, 8, shapes(tmp_path, note(1, 1, [polygon])), "all_polygons_crowd_background")
    assert rows(mask) == expected


def write_coco(root: Path, per_subset: int = 3) -> None:
    """train: 1 with a box, 2 with crowd only, 3 with an object of two parts and a crowd, 4 empty; val alike.

    Stems count down, so the order of the JSON is not that of the names.
    """
    region = np.zeros((24, 32), dtype=bool)
    region[:, 20:] = True
    for number, subset in enumerate(("train", "val")):
        images, notes = [], []
        for image in range(1, per_subset + 2):
            name = f"COCO_{subset}2014_{100 - image:012d}.jpg"
            write_image(root / f"{subset}2014" / name, picture(seed=image))
            ids = 10 * number + image
            images.append({"id": ids, "file_name": name, "height": 24, "width": 32, "license": 3})
            if image % 4 == 2:
                notes.append(note(ids, 7, runs(region), crowd=1))
            elif image % 4 == 3:
                notes += [note(ids, 90, PARTS), note(ids, 7, runs(region), crowd=1)]
            elif image % 4 == 1:
                notes.append(note(ids, 1, [BOX]))
        content = {"info": {"year": 2014}, "images": images, "annotations": notes, "categories": CATEGORIES}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{subset}2014.json").write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    write_coco(root)
    return root


class TestCoco(ReaderBattery):
    @pytest.fixture
    def source(self, coco: Path) -> CocoData:
        return CocoData(root=str(coco))

    def test_images_with_objects_in_the_order_of_the_json(self, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, table, card = prepared
        assert manifest.ids == [
            f"COCO_{subset}2014_{number:012d}" for subset in ("train", "val") for number in (99, 97)
        ]
        assert [sample.labels for sample in manifest.samples()] == [(1,), (2,)] * 2
        assert table == ClassTable.of(("background", "cat", "hair drier", "tv"))
        assert table.kinds == ("background", "thing", "thing", "thing")
        assert table.colours[3] == voc_colour(3)
        assert card["subsets"]["train"]["images_with_void"] == 0
        assert (card["source"]["recipe"], card["source"]["recipe_version"]) == (
            "all_polygons_crowd_background",
            1,
        )

    def test_masks_are_palette_files_of_ids(self, prepared) -> None:  # type: ignore[no-untyped-def]
        mask = read_mask(prepared[0].samples()[1].mask)
        assert mask.dtype == np.uint8
        assert rows(mask[:8, :8]) == "00000000 00000000 00000000 00002222 00002222 00002222 22202222 22200000"

    def test_crowds_may_be_ignored(self, coco: Path, tmp_path: Path) -> None:
        source = CocoData(root=str(coco), recipe="all_polygons_crowd_ignore")
        manifest, _, card = prepare(options(source), folder=tmp_path / "out")
        assert len(manifest) == 4
        assert card["subsets"]["train"]["images_with_void"] == 1
        mask = read_mask(manifest.samples()[1].mask)  # type: ignore[arg-type]
        assert (mask[:, 20:] == 255).all()
        assert int((mask[:, :20] == 255).sum()) == 0

    def test_recipes_have_folders_of_their_own(self, coco: Path, tmp_path: Path) -> None:
        for recipe in GOLDEN:
            source = CocoData.model_validate({"root": str(coco), "recipe": recipe})
            mask = prepare(options(source), folder=tmp_path)[0].samples()[1].mask
            assert mask is not None
            assert mask.is_relative_to(tmp_path / "masks" / f"{recipe}_v1")
            assert (read_mask(mask)[6, 0] == 2) == recipe.startswith("all")


def listed(coco: Path, tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "train.txt").write_text(text)
    source = CocoData(root=str(coco), subsets=["train"], lists={"train": str(tmp_path / "train.txt")})
    manifest, _, card = prepare(options(source), folder=tmp_path / "out")
    assert card["subsets"]["train"]["sha256_of_ids"] == sha256_of_ids(manifest.ids)
    return manifest.ids


def test_lists_give_ids_and_their_order(coco: Path, tmp_path: Path) -> None:
    stems = [f"COCO_train2014_{number:012d}" for number in (97, 99)]
    assert listed(coco, tmp_path, "".join(f"{stem}\n" for stem in stems)) == stems
    paths = [f"train2014/{stem}.jpg annotations/train2014/{stem}.png\n" for stem in stems]
    assert listed(coco, tmp_path, "".join(paths)) == stems
    assert listed(coco, tmp_path, f"/train2014/{stems[1]}.jpg /masks/{stems[1]}.png") == stems[1:]


def test_bad_lists_are_named(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train.txt: 1 of 2 ids are not in instances_train2014.json, e.g. 'x'"
    ):
        listed(coco, tmp_path, "COCO_train2014_000000000099\nx\n")
    with pytest.raises(DataError, match="listed more than once"):
        listed(coco, tmp_path, "COCO_train2014_000000000099\n" * 2)
    # An image whose only annotation is a crowd, and one without any: no mask is written for them.
    for number in (98, 96):
        with pytest.raises(DataError, match=rf"no labels: 1.*\n.*0{number}.jpg: not one class"):
            listed(coco, tmp_path, f"COCO_train2014_000000000099\nCOCO_train2014_{number:012d}\n")
    with pytest.raises(DataError, match=r"no.txt: no such image list"):
        prepare(options(CocoData(root=str(coco), lists={"val": "no.txt"})), folder=tmp_path)


def test_a_mask_that_exists_is_not_drawn_again(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = options(CocoData(root=str(coco)))
    manifest, *_ = prepare(source, folder=tmp_path)
    masks = [sample.mask for sample in manifest.samples() if sample.mask is not None]
    drawn = [mask.read_bytes() for mask in masks]
    parsed: list[Path] = []
    parse = parse_instances
    monkeypatch.setattr(coco_masks, "parse_instances", lambda path: parsed.append(path) or parse(path))
    times = [mask.stat().st_mtime_ns for mask in masks]
    assert prepare(source, folder=tmp_path)[0].samples() == manifest.samples()
    assert not parsed, "where all masks are there, not even the JSON is parsed"
    masks[2].unlink()
    prepare(source, folder=tmp_path)
    assert [path.name for path in parsed] == ["instances_val2014.json"]
    assert [mask.stat().st_mtime_ns == time for mask, time in zip(masks, times, strict=True)] == [
        True, True, False, True
    ]  # fmt: skip
    assert [mask.read_bytes() for mask in masks] == drawn


def test_other_annotations_do_not_meet_old_masks(coco: Path, tmp_path: Path) -> None:
    source = options(CocoData(root=str(coco), subsets=["train"]))
    before = prepare(source, folder=tmp_path)[0]
    path = coco / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    content["annotations"] = [{**entry, "category_id": 7} for entry in content["annotations"]]
    path.write_text(json.dumps(content))
    after = prepare(source, folder=tmp_path)[0]
    assert [sample.labels for sample in before.samples()] == [(1,), (2,)]
    assert [sample.labels for sample in after.samples()] == [(3,), (3,)]


def test_processes_draw_the_same(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    write_coco(root, per_subset=803)  # 402 images with objects: two processes
    source = CocoData(root=str(root), subsets=["val"], decode=False)
    one = prepare(options(source), folder=tmp_path / "one", threads=1)
    two = prepare(options(source), folder=tmp_path / "two", threads=2)
    assert one[2] == two[2]
    for mine, theirs in zip(one[0].samples(), two[0].samples(), strict=True):
        assert mine.mask is not None
        assert theirs.mask is not None
        assert mine.mask.read_bytes() == theirs.mask.read_bytes()


def test_names_and_folders_may_differ(coco: Path, tmp_path: Path) -> None:
    (coco / "images").mkdir()
    (coco / "train2014").rename(coco / "images" / "train2014")
    (coco / "val2014").rename(coco / "test pictures")
    (coco / "annotations" / "instances_val2014.json").rename(coco / "test.json")
    source = CocoData(
        root=str(coco),
        subsets=["test", "train"],
        annotations={"test": "test.json"},
        images={"test": "test pictures"},
    )
    manifest, _, _ = prepare(options(source), folder=tmp_path)
    assert manifest.counts() == {"test": 2, "train": 2}


def test_stems_of_two_subsets_get_their_names(coco: Path, tmp_path: Path) -> None:
    source = CocoData(
        root=str(coco),
        annotations={"val": "annotations/instances_train2014.json"},
        images={"val": "train2014"},
    )
    ids = prepare(options(source), folder=tmp_path)[0].ids
    assert ids[0] == "train_COCO_train2014_000000000099"
    assert ids[2] == "val_COCO_train2014_000000000099"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [note(1, 91, [BOX])]}, "category 91, which is not among the 3 categories"),
        ({"annotations": [note(5, 1, [BOX])]}, "belongs to image 5, which is not in the list"),
        ({"annotations": [note(1, 1, [[1, 2, 3]])]}, r"annotation 1 of image 1: a polygon is not a list of"),
        ({"annotations": [note(1, 1, [[]])]}, "a polygon is not a list of pairs"),
        ({"annotations": [note(1, 1, [[1, 2, float("nan"), 3]])]}, "a polygon is not a list of pairs"),
        ({"annotations": [note(1, 1, [["a", 2]])]}, "not an instances JSON"),
        ({"annotations": [note(1, 1, {"counts": "abc", "size": [8, 8]}, 1)]}, "compressed text"),
        ({"annotations": [note(1, 1, {"counts": [60, 3], "size": [8, 8]}, 1)]}, "covers 63 px of"),
        ({"annotations": [note(1, 1, {"counts": [64], "size": [4, 16]}, 1)]}, "the image has"),
        ({"annotations": [{"image_id": 1, "caption": "a cat"}]}, "not an instances JSON"),
        ({"categories": [*CATEGORIES, {"id": 1, "name": "dog"}]}, "occurs more than once"),
        ({"categories": [{"id": n, "name": f"c{n}"} for n in range(255)]}, "255 categories; 1 to 254 fit"),
        ({"categories": []}, "0 categories"),
        ({"images": None}, "not an instances JSON"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    images = [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}]
    content = {"images": images, "annotations": [], "categories": CATEGORIES, **change}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as raised:
        parse_instances(tmp_path / "x.json")
    assert "x.json" in str(raised.value)


def test_no_json_two_files_of_one_stem_and_missing_parts_are_named(coco: Path, tmp_path: Path) -> None:
    path = coco / "annotations" / "instances_val2014.json"
    content = json.loads(path.read_text())
    for broken, message in (("{", "not an instances JSON"), ("[]", "not an instances JSON")):
        path.write_text(broken)
        with pytest.raises(DataError, match=message):
            prepare(options(CocoData(root=str(coco))), folder=tmp_path)
    content["images"][1]["file_name"] = f"other/{content['images'][0]['file_name']}"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="the same name but for folder"):
        prepare(options(CocoData(root=str(coco))), folder=tmp_path)
    content["images"][1]["file_name"] = "b.jpg"
    content["categories"] = content["categories"][::-1]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="its categories are not those of the subset 'train'"):
        prepare(options(CocoData(root=str(coco))), folder=tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"instances_val2014.json: no such annotation file"):
        prepare(options(CocoData(root=str(coco))), folder=tmp_path)
    (coco / "train2014").rename(coco / "train2017")
    with pytest.raises(DataError, match=r"train2014 or .*images/train2014: no such folder of images"):
        prepare(options(CocoData(root=str(coco), subsets=["train"])), folder=tmp_path)
    with pytest.raises(DataError, match="nowhere does not exist"):
        prepare(options(CocoData(root=str(coco / "nowhere"))), folder=tmp_path)
    with pytest.raises(DataError, match="needs the folder"):
        read("coco", CocoData(root=str(coco)))


def test_options() -> None:
    source = {"reader": "coco", "root": "x"}
    made = Prepare.model_validate({"name": "x", "source": source})
    assert made.source == CocoData(root="x")
    assert '"recipe": "all_polygons_crowd_background", "recipe_version": 1' in made.canonical()
    assert Prepare.parse(made.canonical()) == made
    assert describe(CocoData.model_json_schema()["properties"]["recipe_version"], {}) == "1"
    for wrong, message in (
        ({"subsets": ["train", "train"]}, "every entry once"),
        ({"lists": {"test": "x.txt"}}, "'test' is not among `subsets`, which are train, val"),
        ({"recipe": "no_crowd"}, "all_polygons_crowd_background"),
        ({"recipe_version": 2}, "Input should be 1"),
    ):
        with pytest.raises(ValidationError, match=message):
            CocoData.model_validate({"root": "x", **wrong})
    later = made.canonical().replace('"revision": 1', '"revision": 2')
    with pytest.raises(ArtifactError, match="revision 2"):
        Prepare.parse(later)
