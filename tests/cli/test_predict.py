"""`anyshot predict` from the command line's words to the files, with images of every kind."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyshot.cli import main
from anyshot.commands import prediction
from anyshot.commands.overlay import overlay
from anyshot.data.classes import ClassTable
from anyshot.data.images import read_image, read_mask
from anyshot.engine.model_folder import SegmentationModel
from anyshot.engine.stores import Store


def predict(model: Path, images: Path | list[Path], output: Path, *more: str) -> int:
    listed = [images] if isinstance(images, Path) else images
    words = ["predict", "--model", str(model), "--images", *map(str, listed), "--output", str(output), *more]
    return main(words)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return tmp_path / "masks"


def test_a_folder_of_images(model_folder: Path, photos: Path, masks: Path, table: ClassTable) -> None:
    assert predict(model_folder, photos, masks) == 0
    assert ClassTable.read(masks / "classes.csv") == table
    model = prediction.load(model_folder, "cpu")
    for image in photos.iterdir():
        mask = read_mask(masks / f"{image.stem}.png")
        assert np.array_equal(mask, model.segment(read_image(image)))
    with Image.open(masks / "photo0.png") as written:
        assert written.mode == "P"
        assert written.getpalette()[9:12] == list(table.colours[1])  # id 3, cat
    assert sorted(path.name for path in masks.iterdir()) == [
        "classes.csv", "photo0.png", "photo1.png", "photo2.png", "predict.json"
    ]  # fmt: skip


def test_batches_and_threads_change_nothing(model_folder: Path, photos: Path, tmp_path: Path) -> None:
    for number in range(3, 9):
        shutil.copy(photos / f"photo{number % 3}.png", photos / f"photo{number}.png")
    assert predict(model_folder, photos, tmp_path / "one") == 0
    assert predict(model_folder, photos, tmp_path / "many", "--batch", "3", "--threads", "1") == 0
    for number in range(9):
        one, many = (read_mask(tmp_path / name / f"photo{number}.png") for name in ("one", "many"))
        assert (one == many).mean() > 0.999  # sums in another order may turn a tie


def odd_images(folder: Path) -> None:
    """One image of every kind that people have."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (33, 47, 3), np.uint8)
    Image.fromarray(colour[:1, :1]).save(folder / "one_pixel.png")
    Image.fromarray(rng.integers(0, 256, (3, 501, 3), np.uint8)).save(folder / "flat.png")
    Image.fromarray(rng.integers(0, 256, (501, 2, 3), np.uint8)).save(folder / "tall.png")
    Image.fromarray(colour[..., 0]).save(folder / "gray.jpg")
    Image.fromarray(colour).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(colour).convert("P").save(folder / "palette.png")
    Image.fromarray(np.dstack([colour, colour[..., :1]])).save(folder / "alpha.png")
    Image.fromarray(colour[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(colour).save(folder / "Grüße aus Köln.v2.TIFF")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(colour).save(folder / "turned.jpg", exif=exif)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_text("not an image")


def test_odd_images(model_folder: Path, tmp_path: Path, masks: Path) -> None:
    odd_images(tmp_path / "odd")
    assert predict(model_folder, tmp_path / "odd", masks, "--overlay", "--crf") == 0
    sizes = {path.stem: read_mask(path).shape for path in masks.glob("*.png")}
    assert sizes == {
        "one_pixel": (1, 1),
        "flat": (3, 501),
        "tall": (501, 2),
        "turned": (47, 33),
        **dict.fromkeys(["gray", "cmyk", "palette", "alpha", "sixteen", "Grüße aus Köln.v2"], (33, 47)),
    }
    for stem in sizes:
        height, width = read_image(masks / f"{stem}.overlay.jpg").shape[:2]
        assert width >= 160
        assert height > 0


def test_unreadable_images_are_named_and_the_others_are_done(
    model_folder: Path, photos: Path, masks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "photo0.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "empty.jpg").write_bytes(b"")
    assert predict(model_folder, photos, masks) == 1
    said = capsys.readouterr()
    assert "3 images predicted" in said.out
    assert "2 images failed" in said.err
    assert "cut.png" in said.err
    assert "empty.jpg" in said.err
    assert "Traceback" not in said.err
    assert len(list(masks.glob("*.png"))) == 3
    shutil.copy(photos / "photo1.png", photos / "cut.png")
    (photos / "empty.jpg").unlink()
    assert predict(model_folder, photos, masks) == 0
    assert "1 images predicted, 3 were done before" in capsys.readouterr().out


def test_resume_and_force(
    model_folder: Path, photos: Path, masks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(model_folder, photos, masks)
    before = {path: path.stat().st_mtime_ns for path in masks.glob("*.png")}
    (masks / "photo1.png").unlink()
    capsys.readouterr()
    assert predict(model_folder, photos, masks) == 0
    assert "1 images predicted, 2 were done before" in capsys.readouterr().out
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"photo1.png"}
    assert predict(model_folder, photos, masks, "--force") == 0
    assert "3 images predicted, 0 were done before" in capsys.readouterr().out


def test_missing_overlays_are_made_without_the_network(
    model_folder: Path, photos: Path, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(model_folder, photos, masks)

    def refuse(*_: object) -> None:
        raise AssertionError("the masks are there")

    monkeypatch.setattr(SegmentationModel, "segment_batch", refuse)
    assert predict(model_folder, photos, masks, "--overlay") == 0
    assert len(list(masks.glob("*.overlay.jpg"))) == 3


def test_a_folder_made_with_other_settings_is_not_continued(
    model_folder: Path, photos: Path, masks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(model_folder, photos, masks)
    assert predict(model_folder, photos, masks, "--scales", "1") == 1
    assert "other settings (infer differ" in capsys.readouterr().err
    assert predict(model_folder, photos, masks, "--scales", "1", "--force") == 0
    assert json.loads((masks / "predict.json").read_text())["infer"]["scales"] == [1.0]


def test_classes(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model_folder, photos, tmp_path / "all") == 0
    assert (
        predict(model_folder, photos, tmp_path / "some", "--classes", "dog,cat", "--classes", "tree, fir")
        == 0
    )
    assert predict(model_folder, photos, tmp_path / "dogs", "--classes", "dog") == 0
    for path in (tmp_path / "all").glob("*.png"):
        full = read_mask(path)
        assert np.array_equal(read_mask(tmp_path / "some" / path.name), full)
        assert np.array_equal(read_mask(tmp_path / "dogs" / path.name), np.where(full == 7, 7, 0))
    assert predict(model_folder, photos, tmp_path / "no", "--classes", "dgo") == 1
    assert "did you mean dog?" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_classes_of_a_model_without_background_become_ignored(
    make_model: Callable[..., Path], photos: Path, masks: Path
) -> None:
    model = make_model(ClassTable.of(["sky", "sea"], ids=[4, 8]))
    assert predict(model, photos, masks, "--classes", "sea") == 0
    found = np.unique(np.concatenate([read_mask(path).ravel() for path in masks.glob("*.png")]))
    assert list(found) == [8, 255]


def test_scores(model_folder: Path, photos: Path, masks: Path, table: ClassTable) -> None:
    assert predict(model_folder, photos, masks, "--scores") == 0
    store = Store(sorted(masks.glob("scores_*.h5")))
    assert sorted(store.ids) == ["photo0", "photo1", "photo2"]
    for stem in store.ids:
        found = store[stem]
        assert list(found.classes) == list(table.ids)
        assert found.scores.shape[1:] == (found.height, found.width) == read_mask(masks / f"{stem}.png").shape
        assert np.allclose(found.scores.astype(np.float32).sum(axis=0), 1, atol=5e-3)
    shutil.copy(photos / "photo0.png", photos / "photo3.png")
    assert predict(model_folder, photos, masks, "--scores") == 0
    assert len(Store(sorted(masks.glob("scores_*.h5")))) == 4
    assert predict(model_folder, photos, masks, "--scores", "--force") == 0
    assert len(Store(sorted(masks.glob("scores_*.h5")))) == 4


def test_scores_of_chosen_classes_only(model_folder: Path, photos: Path, masks: Path) -> None:
    assert predict(model_folder, photos, masks, "--scores", "--classes", "dog") == 0
    assert list(Store(sorted(masks.glob("scores_*.h5")))["photo0"].classes) == [7]


def test_large_images_go_in_tiles(
    model_folder: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    large = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(large).resize((300, 400), Image.Resampling.BICUBIC).save(photos / "large.png")
    assert predict(model_folder, photos, tmp_path / "whole") == 0
    whole = read_mask(tmp_path / "whole" / "large.png")
    assert predict(model_folder, photos, tmp_path / "asked", "--tile", "256") == 0
    assert (read_mask(tmp_path / "asked" / "large.png") == whole).mean() > 0.95
    monkeypatch.setattr("anyshot.engine.model_folder.WHOLE_PIXELS", 50_000)
    monkeypatch.setattr("anyshot.engine.model_folder.TILE", 256)
    assert predict(model_folder, photos, tmp_path / "alone", "--crf", "--scores") == 0
    assert "get no CRF" in capsys.readouterr().err
    assert np.array_equal(
        read_mask(tmp_path / "alone" / "large.png"), read_mask(tmp_path / "asked" / "large.png")
    )


def test_out_of_memory_leads_to_smaller_tiles(
    model_folder: Path, tmp_path: Path, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((700, 300, 3), np.uint8)).save(photo)
    real = SegmentationModel.tile_for
    tiles = []

    def scarce(model: SegmentationModel, images: list[np.ndarray]) -> object:
        tiles.append(real(model, images[0]))
        if (tiles[-1] or 999) > 200:
            raise torch.OutOfMemoryError
        return [(model.segment(images[0]), None)]

    monkeypatch.setattr(prediction.Worker, "_segment_with", lambda self, model, images: scarce(model, images))
    assert predict(model_folder, photo, masks) == 0
    assert tiles == [None, 320, 160]


def test_what_stops_the_command(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def message(*words: object) -> str:
        assert predict(*words) == 1  # type: ignore[arg-type]
        said = capsys.readouterr().err
        assert said.startswith("anyshot predict: ")
        assert "Traceback" not in said
        return said

    output = tmp_path / "out"
    assert "does not exist" in message(model_folder, tmp_path / "nowhere", output)
    empty = tmp_path / "empty"
    (empty / "inner").mkdir(parents=True)
    assert re.search(r"no images in .*\.jpg.*1 folders", message(model_folder, empty, output))
    assert "does not exist" in message(tmp_path / "no_model", photos, output)
    (photos / "photo0.jpg").write_bytes(b"")
    assert "photo0.jpg and" in message(model_folder, photos, output)
    (photos / "photo0.jpg").unlink()
    assert "is one of the images" in message(model_folder, photos, photos)
    (tmp_path / "file").write_text("")
    assert "cannot write" in message(model_folder, photos, tmp_path / "file" / "masks")
    assert "--device" in message(model_folder, photos, output, "--device", "tpu")
    assert "GPUs" in message(model_folder, photos, output, "--device", "cuda:99")
    assert not output.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(
    model_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert predict(model_folder, photos, locked) == 1
    assert "cannot write" in capsys.readouterr().err


def test_the_same_image_named_twice_is_one_image(model_folder: Path, photos: Path, masks: Path) -> None:
    assert predict(model_folder, [photos, photos / "photo0.png"], masks) == 0
    assert len(list(masks.glob("*.png"))) == 3


def test_the_overlay_shows_the_classes_and_leaves_the_background(table: ClassTable) -> None:
    image = np.full((100, 200, 3), 100, np.uint8)
    ids = np.zeros((100, 200), np.uint8)
    ids[20:60, 30:90] = 3
    ids[70:90, 30:90] = 255
    picture = overlay(image, ids, table)
    assert picture.shape[1] == 200
    assert picture.shape[0] > 100
    assert (picture[5, 5] == 100).all()
    assert (picture[80, 60] == 100).all()
    assert np.allclose(picture[40, 60], 100 * 0.45 + np.array(table.colours[1]) * 0.55, atol=1)
    assert (picture[20, 60] == 255).all()
    legend = picture[100:].reshape(-1, 3)
    assert (legend == table.colours[1]).all(axis=1).any()
    huge = overlay(np.zeros((5000, 300, 3), np.uint8), np.zeros((5000, 300), np.uint16), table)
    assert huge.shape[0] < 2100
