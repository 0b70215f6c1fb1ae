"""ADE20K with 847 classes (release 2021_17_01), subsets `train` (25,574 images) and `val` (2,000).

    images_detectron2/{training,validation}/<stem>.jpg
    annotations_detectron2/{training,validation}/<stem>.tif

This is what MaskFormer's conversion of the release makes. Masks are 16-bit TIFF with the class index, 0..846,
and 65535 for ignored pixels (larvseg.md 1.2; the official code reads them as signed: there ignored is -1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anyshot.data.class_lists import ClassList, read_class_list, shipped_list
from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Sample
from anyshot.data.mask_folders import paired_samples
from anyshot.data.options import Ade20kFullData
from anyshot.data.readers import DataSet, Problem, existing_root
from anyshot.errors import DataError

IMAGES: Final = "images_detectron2"
MASKS: Final = "annotations_detectron2"
SUBSETS: Final = {"train": "training", "val": "validation"}
RELEASE: Final = "ADE20K_2021_17_01"
CLASSES: Final = 847
MASK_SUFFIXES: Final = (".tif", ".tiff")


def read(options: Ade20kFullData) -> DataSet:
    """Read the subsets that are there, each sorted by name; ids are the stems, e.g. `ADE_train_00000001`.

    All classes are of the kind `thing`: the release does not tell stuff from things. Images whose masks are
    void everywhere are left out. Raises DataError when the root, both subsets or a class list are missing,
    the list has not 847 classes, or a subset has no images.
    """
    root = existing_root(options.root)
    root = root / RELEASE if (root / RELEASE).is_dir() else root
    folders = {
        subset: name
        for subset, name in SUBSETS.items()
        if (root / IMAGES / name).is_dir() and (root / MASKS / name).is_dir()
    }
    if not folders:
        raise DataError(
            f"{root}: found no subset training/ or validation/ in {IMAGES}/ and {MASKS}/ alike; `root` is the"
            f" folder {RELEASE} after MaskFormer's prepare_ade20k_full_sem_seg.py"
        )
    samples: list[Sample] = []
    problems: list[Problem] = []
    for subset, name in folders.items():
        found, unpaired = paired_samples(
            root / IMAGES / name, root / MASKS / name, subset, mask_suffixes=MASK_SUFFIXES
        )
        samples += found
        problems += unpaired
    return DataSet(
        samples,
        ClassTable.of(_class_list(options, root).names),
        root,
        labels_from_masks=True,
        problems=tuple(problems),
        known_void=frozenset(),  # none is known from the specification: any is left out with a warning
    )


def _class_list(options: Ade20kFullData, root: Path) -> ClassList:
    if options.classes is None:
        return shipped_list("ade847")
    return read_class_list(root / Path(options.classes).expanduser(), classes=CLASSES)
