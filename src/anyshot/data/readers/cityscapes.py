"""Cityscapes' official layout, fine annotations, subsets `train` and `val`.

    leftImg8bit/<subset>/<city>/<stem>_leftImg8bit.png
    gtFine/<subset>/<city>/<stem>_gtFine_labelIds.png

Masks are used as they are: the class table has their label ids, its order is that of the train ids, and the
labels that are not evaluated are void. The subset `test` has no public masks and is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anyshot.data.cityscapes_labels import VOID_LABELS, cityscapes_table
from anyshot.data.manifest import Sample
from anyshot.data.options import CityscapesData
from anyshot.data.readers import DataSet, existing_root
from anyshot.errors import DataError

SUBSETS: Final = ("train", "val")
IMAGES, IMAGE_END = "leftImg8bit", "_leftImg8bit.png"
MASKS, MASK_END = "gtFine", "_gtFine_labelIds.png"


def read(options: CityscapesData) -> DataSet:
    """Read the folder, sorted by subset, city and stem; ids are the stems, e.g. `bremen_000158_000019`.

    Raises DataError when the root, leftImg8bit/, gtFine/ or both subsets are missing, or one holds no images.
    """
    root = existing_root(options.root)
    for name in (IMAGES, MASKS):
        if not (root / name).is_dir():
            raise DataError(
                f"{root}: no folder {name} here; `root` is the folder with {IMAGES}/ and {MASKS}/"
            )
    subsets = [subset for subset in SUBSETS if (root / IMAGES / subset).is_dir()]
    if not subsets:
        raise DataError(f"{root / IMAGES}: found neither of the folders {', '.join(SUBSETS)}")
    samples = [sample for subset in subsets for sample in _samples(root, subset)]
    return DataSet(samples, cityscapes_table(), root, labels_from_masks=True, void=VOID_LABELS)


def _samples(root: Path, subset: str) -> list[Sample]:
    # The file system lists cities in any order; the manifest's is sorted.
    images = sorted(
        (path for path in (root / IMAGES / subset).glob(f"*/*{IMAGE_END}") if not path.name.startswith(".")),
        key=lambda path: (path.parent.name, path.name),
    )
    if not images:
        raise DataError(
            f"{root / IMAGES / subset}: no images <city>/<stem>{IMAGE_END}; unpack them, or remove the folder"
        )
    found = []
    for image in images:
        stem = image.name.removesuffix(IMAGE_END)
        mask = root / MASKS / subset / image.parent.name / f"{stem}{MASK_END}"
        found.append(Sample(stem, image, mask, subset, ()))
    return found
