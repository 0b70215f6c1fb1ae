"""CamVid as SegNet published it: <subset>/<stem>.png, <subset>annot/<stem>.png, 11 classes and void.

Mask values are 0..10 and 11 for void. Colours are CamVid's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anyshot.data.classes import ClassTable, Colour
from anyshot.data.manifest import Sample
from anyshot.data.options import CamvidData
from anyshot.data.readers import DataSet, existing_root
from anyshot.errors import DataError

SUBSETS: Final = ("train", "val", "test")
VOID: Final = 11
# Name, kind, colour; in id order.
CLASSES: Final[tuple[tuple[str, str, Colour], ...]] = (
    ("sky", "stuff", (128, 128, 128)),
    ("building", "stuff", (128, 0, 0)),
    ("pole", "stuff", (192, 192, 128)),
    ("road", "stuff", (128, 64, 128)),
    ("pavement", "stuff", (0, 0, 192)),
    ("tree", "stuff", (128, 128, 0)),
    ("sign_symbol", "stuff", (192, 128, 128)),
    ("fence", "stuff", (64, 64, 128)),
    ("car", "thing", (64, 0, 128)),
    ("pedestrian", "thing", (64, 64, 0)),
    ("bicyclist", "thing", (0, 128, 192)),
)


def camvid_table() -> ClassTable:
    """The 11 classes, ids 0..10."""
    names, kinds, colours = zip(*CLASSES, strict=True)
    return ClassTable.of(names, kinds=kinds, colours=colours)


def read(options: CamvidData) -> DataSet:
    """Read those of train/, val/ and test/ that exist, each sorted by name; ids are the files' stems.

    Raises DataError when the root or all subsets are missing, or one has no images or no folder of masks.
    """
    root = existing_root(options.root)
    subsets = [subset for subset in SUBSETS if (root / subset).is_dir()]
    if not subsets:
        raise DataError(
            f"{root}: found none of the folders {', '.join(SUBSETS)}; is this SegNet's layout of CamVid?"
        )
    samples = [sample for subset in subsets for sample in _samples(root, subset)]
    return DataSet(samples, camvid_table(), root, labels_from_masks=True, void=frozenset({VOID}))


def _samples(root: Path, subset: str) -> list[Sample]:
    masks = root / f"{subset}annot"
    if not masks.is_dir():
        raise DataError(f"{masks}: no such folder; the masks of {subset}/ belong there, under the same names")
    images = sorted(path for path in (root / subset).glob("*.png") if not path.name.startswith("."))
    if not images:
        raise DataError(f"{root / subset}: no images *.png; fill the folder, or remove it")
    return [Sample(path.stem, path, masks / path.name, subset, ()) for path in images]
