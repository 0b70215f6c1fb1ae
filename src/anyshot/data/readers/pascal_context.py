"""PASCAL-Context, 59 or 459 classes, subsets `train` and `val`.

As FC-CLIP's and other open-vocabulary data sets have it (`pascal_ctx_d2`); masks are used as they are:

    images/{training,validation}/<id>.jpg
    annotations_ctx59/{training,validation}/<id>.png     8-bit, 0..58, 255 ignored
    annotations_ctx459/{training,validation}/<id>.tif    16-bit, 0..458, 65535 ignored

Or as mmsegmentation converts it, 59 classes only, beside the images of VOC 2010:

    JPEGImages/<id>.jpg      ImageSets/SegmentationContext/{train,val}.txt
    SegmentationClassContext/<id>.png                    8-bit, 1..59, 0 and 255 ignored

Classes are in the order of the alphabet in both. What is none of the 59 is ignored, not a class of its own
(larvseg.md 4). The official code reads 459's masks as 8-bit, so they wrap modulo 256 (larvseg.md 6, item 15).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anyshot.data.class_lists import shipped_list
from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Sample
from anyshot.data.mask_folders import paired_samples
from anyshot.data.options import PascalContextData
from anyshot.data.readers import DataSet, Problem, existing_root
from anyshot.data.readers.voc import read_id_list
from anyshot.errors import DataError

PARENTS: Final = ("", "pascal_ctx_d2", "VOC2010", "VOCdevkit/VOC2010")
MASKS: Final = {59: "annotations_ctx59", 459: "annotations_ctx459"}
SUFFIXES: Final = {59: (".png",), 459: (".tif", ".tiff")}
SUBSETS: Final = {"train": "training", "val": "validation"}
CONTEXT: Final = "SegmentationClassContext"
LISTS: Final = "ImageSets/SegmentationContext"
VOID: Final = 0  # in mmsegmentation's masks


def read(options: PascalContextData) -> DataSet:
    """Read the folder; ids are those of VOC 2010, e.g. `2008_000002`.

    The first layout comes first where both exist. Subsets that are absent are left out, and so are images
    whose masks are void everywhere. All classes are of the kind `thing`. Raises DataError when the root, both
    layouts or all images of a subset are missing.
    """
    top = existing_root(options.root)
    names = shipped_list(f"pascal_context{options.classes}").names
    candidates = [top / parent for parent in PARENTS]
    paired = next((root for root in candidates if _folders(root, options.classes)), None)
    if paired is not None:
        samples, problems = _paired(paired, options.classes)
        return _data_set(samples, ClassTable.of(names), paired, problems)
    listed = next((root for root in candidates if options.classes == 59 and _lists(root)), None)
    if listed is not None:
        table = ClassTable.of(names, ids=range(1, len(names) + 1))
        return _data_set(_listed(listed), table, listed, [], void=frozenset({VOID}))
    also = f", nor {CONTEXT}/ and {LISTS}/train.txt or val.txt" if options.classes == 59 else ""
    raise DataError(
        f"{top}: found no subset training/ or validation/ in images/ and {MASKS[options.classes]}/"
        f" alike{also}; `root` is the folder that holds them, and `classes` says which masks: 59 or 459"
    )


def _data_set(
    samples: list[Sample],
    table: ClassTable,
    root: Path,
    problems: list[Problem],
    *,
    void: frozenset[int] = frozenset(),
) -> DataSet:
    return DataSet(
        samples,
        table,
        root,
        labels_from_masks=True,
        problems=tuple(problems),
        void=void,
        known_void=frozenset(),  # none is known from the specification: any is left out with a warning
    )


def _folders(root: Path, classes: int) -> dict[str, str]:
    """The folder of every subset that images and masks both have."""
    both = (root / "images", root / MASKS[classes])
    return {
        subset: name for subset, name in SUBSETS.items() if all((folder / name).is_dir() for folder in both)
    }


def _paired(root: Path, classes: int) -> tuple[list[Sample], list[Problem]]:
    samples: list[Sample] = []
    problems: list[Problem] = []
    for subset, name in _folders(root, classes).items():
        found, unpaired = paired_samples(
            root / "images" / name, root / MASKS[classes] / name, subset, mask_suffixes=SUFFIXES[classes]
        )
        samples += found
        problems += unpaired
    return samples, problems


def _lists(root: Path) -> dict[str, Path]:
    """The list file of every subset that has one; none without masks."""
    files = {subset: root / LISTS / f"{subset}.txt" for subset in SUBSETS}
    return {s: path for s, path in files.items() if path.is_file() and (root / CONTEXT).is_dir()}


def _listed(root: Path) -> list[Sample]:
    """The listed images, in the order of the lists. A missing file is reported when the sample is checked."""
    return [
        Sample(one, root / "JPEGImages" / f"{one}.jpg", root / CONTEXT / f"{one}.png", subset, ())
        for subset, path in _lists(root).items()
        for one in read_id_list(path)
    ]
