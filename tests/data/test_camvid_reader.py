"""CamVid in SegNet's layout: 11 classes, value 11 is void."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.data.images import write_image
from anyshot.data.options import CamvidData
from anyshot.data.prepare import prepare
from anyshot.data.readers import read
from anyshot.data.readers.camvid import camvid_table
from anyshot.errors import DataError

from .layouts import mask_of, options, picture
from .test_readers import ReaderBattery

MASKS = {
    "train": {"0001TP_b": (0, 3, 11), "0001TP_a": (1, 8)},
    "val": {"0016E5_a": (10, 9)},
    "test": {"Seq05_a": (2, 11)},
}


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    root = tmp_path / "CamVid"
    for subset, frames in MASKS.items():
        (root / f"{subset}annot").mkdir(parents=True)
        for number, (stem, ids) in enumerate(frames.items()):
            write_image(root / subset / f"{stem}.png", picture(seed=number))
            Image.fromarray(mask_of(*ids)).save(root / f"{subset}annot" / f"{stem}.png")
    (root / "train.txt").write_text("/SegNet/CamVid/train/0001TP_a.png\n")
    return root


class TestCamvid(ReaderBattery):
    subsets = ("train", "val", "test")

    @pytest.fixture
    def source(self, camvid: Path) -> CamvidData:
        return CamvidData(root=str(camvid))

    def test_every_file_is_there_and_fits(self, prepared) -> None:  # type: ignore[no-untyped-def]
        for sample in prepared[0].samples():
            assert sample.image.is_file()
            assert np.asarray(Image.open(sample.mask)).max() <= 11

    def test_void_is_no_class(self, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, table, card = prepared
        assert manifest.ids == ["0001TP_a", "0001TP_b", "0016E5_a", "Seq05_a"]
        assert [sample.labels for sample in manifest.samples()] == [(1, 8), (0, 3), (9, 10), (2,)]
        assert card["subsets"]["train"]["images_with_void"] == 1
        assert card["subsets"]["test"]["void_share"] == pytest.approx(1 / 2)
        assert table == camvid_table()

    def test_subsets_may_be_absent_but_not_all(self, camvid: Path) -> None:
        for subset in ("val", "test"):
            (camvid / subset).rename(camvid / f"no {subset}")
        assert len(read("camvid", CamvidData(root=str(camvid))).samples) == 2
        (camvid / "train").rename(camvid / "no train")
        with pytest.raises(DataError, match="none of the folders train, val, test"):
            read("camvid", CamvidData(root=str(camvid)))

    def test_missing_masks_and_empty_folders_are_named(self, camvid: Path, tmp_path: Path) -> None:
        (camvid / "valannot" / "0016E5_a.png").unlink()
        with pytest.raises(DataError, match=r"missing mask: 1.*\n.*valannot/0016E5_a.png"):
            prepare(options(CamvidData(root=str(camvid))), folder=tmp_path)
        (camvid / "val" / "0016E5_a.png").unlink()
        with pytest.raises(DataError, match=r"val: no images"):
            read("camvid", CamvidData(root=str(camvid)))
        (camvid / "trainannot").rename(camvid / "annotations")
        with pytest.raises(DataError, match=r"trainannot: no such folder"):
            read("camvid", CamvidData(root=str(camvid)))


def test_table() -> None:
    table = camvid_table()
    assert ", ".join(table.names) == (
        "sky, building, pole, road, pavement, tree, sign_symbol, fence, car, pedestrian, bicyclist"
    )
    assert table.ids == tuple(range(11))
    assert table.colours[table.index_of[8]] == (64, 0, 128)
    assert len(set(table.colours)) == 11
