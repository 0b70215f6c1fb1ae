"""Generated scenes, read back from the folder in VOC layout that the prepare stage wrote them to."""

from __future__ import annotations

from pathlib import Path

from anyshot.data.options import ScenesData
from anyshot.data.readers import DataSet, existing_root
from anyshot.data.readers.voc import read_layout
from anyshot.data.scenes import objects_table, stuff_things_table
from anyshot.errors import DataError


def read(options: ScenesData, folder: Path | None) -> DataSet:
    """Read generated scenes with the masks asked for. Raises DataError when they have not been written."""
    if folder is None:
        raise DataError("scenes are generated: the reader needs the folder they were written to")
    with_stuff = options.masks == "stuff_things"
    table = stuff_things_table() if with_stuff else objects_table()
    masks = "StuffThings" if with_stuff else "SegmentationClassAug"
    return read_layout(existing_root(folder), table, sbd=False, labels="mask", masks=masks)
