"""Images of every kind become uint8 RGB; masks stay ids."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.data.classes import ClassTable
from anyshot.data.images import image_size, read_image, read_mask, write_image, write_mask
from anyshot.data.readers.voc import voc_table
from anyshot.errors import DataError

RED = (200, 30, 40)


def solid(mode: str, colour: object, size: tuple[int, int] = (32, 24)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


def test_grayscale_jpeg_becomes_three_equal_channels(tmp_path: Path) -> None:
    solid("L", 90).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (24, 32, 3)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert (image == 90).all()


def test_cmyk_jpeg_is_converted(tmp_path: Path) -> None:
    solid("RGB", RED).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - RED).max() <= 6


def test_sixteen_bit_png_loses_its_low_byte(tmp_path: Path) -> None:
    values = np.full((24, 32), 0x80FF, dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 0x80).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    solid("RGB", (255, 255, 255)).convert(mode).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 255).all()


def test_exif_rotation_is_applied_to_pixels_and_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    picture = solid("RGB", (0, 0, 0))
    picture.paste((255, 255, 255), (0, 0, 32, 8))  # white on top
    picture.save(tmp_path / "a.jpg", exif=exif)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (32, 24, 3)
    assert image_size(tmp_path / "a.jpg") == (32, 24)
    assert image[:, -4:].mean() > 240
    assert image[:, :12].mean() < 15


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_truncated_and_foreign_files_are_named(tmp_path: Path, read: object) -> None:
    write_mask(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 20, (64, 64)), voc_table())
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("cut.png", "text.png", "absent.png"):
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)  # type: ignore[operator]


def test_palette_masks_are_read_as_ids(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 15, 255]], dtype=np.uint8)
    write_mask(tmp_path / "a.png", mask, voc_table())
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 1, 15, 255]]
    assert (read_image(tmp_path / "a.png")[0, 2] == (192, 128, 128)).all()


def test_sixteen_bit_masks_keep_their_ids(tmp_path: Path) -> None:
    table = ClassTable.of(("a", "b"), ids=(0, 846))
    mask = np.array([[0, 846, 65535]])
    write_mask(tmp_path / "a.png", mask, table)
    found = read_mask(tmp_path / "a.png")
    assert found.dtype == np.uint16
    assert found.tolist() == mask.tolist()
    Image.fromarray(mask.astype(np.uint16)).save(tmp_path / "a.tif")
    assert read_mask(tmp_path / "a.tif").tolist() == mask.tolist()


def test_masks_saved_through_colour_are_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.array([[0, 1, 15]]), voc_table())
    Image.open(tmp_path / "a.png").convert("RGB").save(tmp_path / "b.png")
    with pytest.raises(DataError, match="saved through colour"):
        read_mask(tmp_path / "b.png")
    solid("L", 3).save(tmp_path / "c.jpg")
    with pytest.raises(DataError, match="JPEG mask"):
        read_mask(tmp_path / "c.jpg")


def test_writing_refuses_values_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        write_mask(tmp_path / "a.png", np.array([[300]]), voc_table())
    with pytest.raises(ValueError, match="shape"):
        write_mask(tmp_path / "a.png", np.zeros((2, 2, 3)), voc_table())
    assert not list(tmp_path.iterdir())


def test_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_image(tmp_path / "a.png", np.ones((4, 4, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (read_image(tmp_path / "a.png") == 0).all()
