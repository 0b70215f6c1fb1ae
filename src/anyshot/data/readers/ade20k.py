"""ADE20K as the scene parsing challenge published it (SceneParse150), subsets `train` and `val`.

    images/{training,validation}/<stem>.jpg      annotations/{training,validation}/<stem>.png
    images/{training,validation}/<stem>.jpg      annotations_detectron2/{training,validation}/<stem>.png
    images_detectron2/{train,test}/<stem>.jpg    annotations_detectron2/{train,test}/<stem>.png

Published masks (annotations/) hold 0 for void and 1..150, converted ones (annotations_detectron2/) 0..149 and
255 for void; both are used as they are. Published ones come first where both exist.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anyshot.data.ade20k_labels import VOID, ade20k_table
from anyshot.data.manifest import Sample
from anyshot.data.mask_folders import paired_samples
from anyshot.data.options import Ade20kData
from anyshot.data.readers import DataSet, Problem, existing_root
from anyshot.errors import DataError

PUBLISHED: Final = "annotations"
# Folder of images, folder of masks.
LAYOUTS: Final = (
    ("images", PUBLISHED),
    ("images_detectron2", "annotations_detectron2"),
    ("images", "annotations_detectron2"),
)
# What the folder of a subset may be called; the release calls validation images `test`.
SUBSETS: Final = {"train": ("training", "train"), "val": ("validation", "val", "test")}
ARCHIVE: Final = "ADEChallengeData2016"
# Training images whose masks are entirely void (simformer.md 1.2).
KNOWN_VOID: Final = frozenset(
    f"ADE_train_{number:08d}"
    for number in (
        5149, 5150, 5152, 5333, 5905, 6510, 13298, 14634, 14636, 14884, 15320, 15330, 15928, 19385, 19743,
        19873,
    )
)  # fmt: skip


def read(options: Ade20kData) -> DataSet:
    """Read the folder, each subset sorted by name; ids are the stems, e.g. `ADE_train_00000001`.

    Images whose masks are void everywhere are left out. Raises DataError when the root or all layouts are
    missing, or a subset has no images.
    """
    root = existing_root(options.root)
    root = root / ARCHIVE if (root / ARCHIVE).is_dir() else root
    layout = next((layout for layout in LAYOUTS if _subsets(root, *layout)), None)
    if layout is None:
        raise DataError(
            f"{root}: found no subset training/ or validation/ in images/ and annotations/ alike, nor in"
            " annotations_detectron2/; `root` is the folder with images/ and annotations/ of"
            f" {ARCHIVE}.zip"
        )
    samples: list[Sample] = []
    problems: list[Problem] = []
    for subset, folder in _subsets(root, *layout).items():
        found, unpaired = paired_samples(root / layout[0] / folder, root / layout[1] / folder, subset)
        samples += found
        problems += unpaired
    published = layout[1] == PUBLISHED
    return DataSet(
        samples,
        ade20k_table(first=1 if published else 0),
        root,
        labels_from_masks=True,
        problems=tuple(problems),
        void=frozenset({VOID}) if published else frozenset(),
        known_void=KNOWN_VOID,
    )


def _subsets(root: Path, images: str, masks: str) -> dict[str, str]:
    """The name of the folder of every subset that images and masks both have."""
    found = {}
    for subset, names in SUBSETS.items():
        both = [n for n in names if (root / images / n).is_dir() and (root / masks / n).is_dir()]
        if both:
            found[subset] = both[0]
    return found
