"""Real data beside the checkout, where there is any: counts, formats, no problems found."""

from __future__ import annotations

from pathlib import Path

import pytest

from anyshot.data.options import DataOptions, FolderData, ImagenetData, VocData
from anyshot.data.prepare import prepare
from anyshot.data.splits import base_novel_split, novel_class_names, split_names

from .layouts import options

EXPECTED = {
    "voc256": ({"train": 939, "val": 305}, 21),
    "camvid320": ({"train": 367, "val": 101}, 11),
    "msrc21": ({"train": 354, "val": 119}, 23),
    "imagenet_samples160": ({"train": 1000}, 1000),
}


def source(name: str, root: Path) -> DataOptions:
    """The options that read one of the sets."""
    if name == "voc256":
        return VocData(root=str(root))
    return ImagenetData(root=str(root)) if name.startswith("imagenet") else FolderData(root=str(root))


@pytest.mark.parametrize("name", EXPECTED)
def test_counts_and_no_problems(shared_data: Path, tmp_path: Path, name: str) -> None:
    if not (shared_data / name).is_dir():
        pytest.skip(f"{name} is not there")
    manifest, table, card = prepare(options(source(name, shared_data / name)), folder=tmp_path)
    assert (manifest.counts(), len(table)) == EXPECTED[name]
    assert card["problems"]["count"] == 0
    if name == "voc256":
        assert card["subsets"]["train"]["images_with_void"] == 687
        samples = manifest.samples(["train"])
        for fold in split_names("pascal_5i"):
            novel_ids = table.ids_of(novel_class_names("pascal_5i", fold))
            by_mask = base_novel_split(samples, novel_ids)
            assert by_mask == base_novel_split(samples, novel_ids, rule="labels")
            assert min(map(len, by_mask)) > 100
