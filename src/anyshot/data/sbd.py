"""SegmentationClassAug: the masks of SBD (MATLAB files) beside those of PASCAL VOC, and the list trainaug.

VOC's own masks take precedence where both exist; nothing of VOC's val is in trainaug.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy.io
from numpy.typing import NDArray

from anyshot.data.files import write_bytes
from anyshot.data.images import read_mask, write_mask
from anyshot.data.readers.voc import read_id_list, voc_table
from anyshot.errors import DataError

TRAINAUG_COUNT: Final = 10_582
MASKS: Final = "SegmentationClassAug"

Progress = Callable[[Iterable[str], int], Iterable[str]]


def read_sbd_mask(path: Path) -> NDArray[np.uint8]:
    """The class ids (H, W) of SBD's cls/<id>.mat. Raises DataError when it is not such a file."""
    try:
        content: Any = scipy.io.loadmat(str(path), squeeze_me=True, struct_as_record=False)
        mask = np.asarray(content["GTcls"].Segmentation)
    except FileNotFoundError:
        raise DataError(f"{path}: no such SBD mask") from None
    except (KeyError, AttributeError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise DataError(
            f"{path}: not an SBD mask, a MATLAB file with GTcls.Segmentation ({error})"
        ) from error
    table = voc_table()
    if mask.ndim != 2 or not np.isin(mask, [*table.ids, table.ignore]).all():
        raise DataError(
            f"{path}: expected ids 0..20 and 255 in a plane, found {np.unique(mask)[:10]}, {mask.shape}"
        )
    return mask.astype(np.uint8)


def write_trainaug(
    voc: Path, sbd: Path, *, expected: int | None = TRAINAUG_COUNT, progress: Progress | None = None
) -> int:
    """Write SegmentationClassAug/ and ImageSets/Segmentation/trainaug.txt into a VOC folder.

    Args:
        voc: VOCdevkit/VOC2012.
        sbd: benchmark_RELEASE/dataset, with cls/, train.txt, val.txt.
        expected: the length trainaug must have; None for any.
        progress: wraps the iterable of ids, given also their number.

    Returns:
        the number of ids in trainaug: VOC's train in its order, then the rest, sorted.

    Raises:
        DataError: a list or mask is missing or broken, or trainaug has another length.
    """
    lists = voc / "ImageSets" / "Segmentation"
    train, val = read_id_list(lists / "train.txt"), read_id_list(lists / "val.txt")
    from_sbd = {number for name in ("train", "val") for number in read_id_list(sbd / f"{name}.txt")}
    extra = sorted(from_sbd - set(train) - set(val))
    trainaug = [*train, *extra]
    if expected is not None and len(trainaug) != expected:
        raise DataError(
            f"{sbd}: trainaug has {len(trainaug)} ids, expected {expected}; is this SBD's own release?"
        )
    read_by_id = dict.fromkeys([*train, *val], partial(_voc_mask, voc)) | dict.fromkeys(
        extra, partial(_sbd_mask, sbd)
    )
    wrap = progress if progress is not None else lambda ids, total: ids
    for number in wrap(list(read_by_id), len(read_by_id)):
        write_mask(voc / MASKS / f"{number}.png", read_by_id[number](number), voc_table())
    # The list comes last: where it exists, all masks do.
    write_bytes(lists / "trainaug.txt", "".join(f"{number}\n" for number in trainaug).encode())
    return len(trainaug)


def _voc_mask(voc: Path, number: str) -> NDArray[Any]:
    return read_mask(voc / "SegmentationClass" / f"{number}.png")


def _sbd_mask(sbd: Path, number: str) -> NDArray[Any]:
    return read_sbd_mask(sbd / "cls" / f"{number}.mat")
