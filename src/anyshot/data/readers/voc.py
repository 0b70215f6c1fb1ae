"""PASCAL VOC layout: ImageSets/Segmentation/*.txt, JPEGImages, SegmentationClass[Aug], Annotations.

Subsets are disjoint: `train` (VOC's own list), `train_sbd` (the rest of trainaug), `val`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Sample
from anyshot.data.options import VocData
from anyshot.data.readers import DataSet, Problem, existing_root
from anyshot.errors import DataError

CLASS_NAMES: Final = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
TRAINAUG_LISTS: Final = ("trainaug.txt", "train_aug.txt")


def voc_table() -> ClassTable:
    """The 21 classes of PASCAL VOC, background first, in VOC's colours."""
    return ClassTable.of(CLASS_NAMES)


def read(options: VocData) -> DataSet:
    """Read a VOC-like folder. Raises DataError when its lists, images or masks are missing."""
    root = _layout_root(existing_root(options.root), options.year)
    return read_layout(root, voc_table(), sbd=options.sbd, labels=options.labels)


def read_layout(
    root: Path, table: ClassTable, *, sbd: bool | None, labels: str | None, masks: str | None = None
) -> DataSet:
    """Read a folder in VOC layout with any class table; `masks` names the folder of the masks."""
    mask_folder = root / masks if masks else _mask_folder(root)
    source = labels or ("xml" if (root / "Annotations").is_dir() else "mask")
    if source == "xml" and not (root / "Annotations").is_dir():
        raise DataError(
            f"{root}: labels: xml needs the folder Annotations; set labels: mask to use the masks"
        )
    suffixes = _image_suffixes(root / "JPEGImages")
    samples: list[Sample] = []
    problems: list[Problem] = []
    for subset, ids in _subsets(root, sbd).items():
        for sample_id in ids:
            classes: tuple[int, ...] = ()
            if source == "xml":
                try:
                    classes = labels_of_annotation(root / "Annotations" / f"{sample_id}.xml", table)
                except DataError as error:
                    problems.append(Problem(sample_id, "annotation", str(error)))
            image = root / "JPEGImages" / f"{sample_id}{suffixes.get(sample_id, '.jpg')}"
            samples.append(Sample(sample_id, image, mask_folder / f"{sample_id}.png", subset, classes))
    return DataSet(samples, table, root, labels_from_masks=source == "mask", problems=tuple(problems))


def labels_of_annotation(path: Path, table: ClassTable) -> tuple[int, ...]:
    """The classes of all boxes of an annotation, difficult ones included. Raises DataError."""
    try:
        names = {node.text or "" for node in ET.parse(path).iterfind("object/name")}
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation") from None
    except ET.ParseError as error:
        raise DataError(f"{path}: not an XML file ({error})") from error
    known = dict(zip(table.names, table.ids, strict=True))
    unknown = sorted(names - known.keys())
    if unknown:
        raise DataError(f"{path}: class {unknown[0]!r} is not in the class table")
    return tuple(sorted(known[name] for name in names))


def read_id_list(path: Path) -> list[str]:
    """The ids of a list file: one per line, bare or as image path (with the mask's path behind it).

    Raises DataError when the file is missing or an id occurs twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such image list") from None
    ids = [_id_of(line.strip()) for line in lines if line.strip()]
    if len(set(ids)) < len(ids):
        repeated = next(number for number in ids if ids.count(number) > 1)
        raise DataError(f"{path}: the id {repeated!r} is listed more than once")
    return ids


def _id_of(line: str) -> str:
    # Ids may hold blanks, so a line is only cut where it names an image file and a mask file.
    first = line.split(" /")[0]
    return Path(first).stem if "/" in first else first


def _layout_root(root: Path, year: int) -> Path:
    candidates = (root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}")
    found = next((path for path in candidates if (path / "ImageSets" / "Segmentation").is_dir()), None)
    if found is None:
        raise DataError(
            f"{root}: no ImageSets/Segmentation here nor in VOCdevkit/VOC{year}; is this VOC's layout?"
        )
    return found


def _mask_folder(root: Path) -> Path:
    for name in ("SegmentationClassAug", "SegmentationClass"):
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root}: found neither SegmentationClassAug nor SegmentationClass")


def _subsets(root: Path, sbd: bool | None) -> dict[str, list[str]]:
    """Ids by subset. `train_sbd` is what the list trainaug has beyond train; nothing of val may be in it."""
    lists = root / "ImageSets" / "Segmentation"
    train, val = read_id_list(lists / "train.txt"), read_id_list(lists / "val.txt")
    subsets = {"train": train, "val": val}
    augmented = next((lists / name for name in TRAINAUG_LISTS if (lists / name).is_file()), None)
    if sbd and augmented is None:
        raise DataError(
            f"{lists}: sbd: true needs one of {', '.join(TRAINAUG_LISTS)}; the download rule makes it"
        )
    if augmented is not None and sbd is not False:
        rest = [number for number in read_id_list(augmented) if number not in set(train)]
        subsets = {"train": train, "train_sbd": rest, "val": val}
    shared = sorted(set(val) & {number for name, ids in subsets.items() if name != "val" for number in ids})
    if shared:
        raise DataError(f"{lists}: {len(shared)} ids are in a training list and in val.txt, e.g. {shared[0]}")
    return subsets


def _image_suffixes(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images")
    return {path.stem: path.suffix for path in folder.iterdir()}
