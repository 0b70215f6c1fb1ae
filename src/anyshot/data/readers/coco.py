"""COCO's layout: an instances JSON and a folder of images per subset. Masks are drawn by the prepare stage.

    annotations/instances_<subset><year>.json
    <subset><year>/<file_name of the JSON>          or images/<subset><year>/...

Ids are the images' stems, e.g. `COCO_train2014_000000000009`. A subset has the ids of its list file, in the
file's order, which the few-shot selection depends on (pop.md 1.3); without a list, the images that have an
object, in the order of the JSON. Classes are 0 background and 1..n, the categories in the JSON's order.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Final

from anyshot.data.coco_masks import AnnotationFile, CocoImage, category_table, draw_masks
from anyshot.data.manifest import Sample
from anyshot.data.options import CocoData
from anyshot.data.readers import DataSet, existing_root
from anyshot.data.readers.voc import read_id_list
from anyshot.errors import DataError

log: Final = logging.getLogger("anyshot")


def write_masks(folder: Path, options: CocoData, *, threads: int = 1) -> None:
    """Draw the masks that `folder` does not hold yet, in `threads` processes.

    A mask file that exists is complete, so an interrupted run goes on where it was. Raises DataError when
    annotations or lists are missing or broken.
    """
    for subset in options.subsets:
        file = _annotations(options, subset, folder)
        target = file.masks(subset, options.recipe, options.recipe_version)
        there = {path.name for path in target.glob("*.png")}
        missing = [
            image
            for image in _images(options, subset, file)
            if image.objects and f"{image.stem}.png" not in there
        ]
        if missing:
            log.info("drawing %d masks of %s (%s)", len(missing), subset, options.recipe)
            draw_masks(file.content, missing, options.recipe, target, threads=threads)


def read(options: CocoData, folder: Path | None) -> DataSet:
    """Read the subsets with the masks that `write_masks` has drawn into `folder`.

    A listed image without an object has no mask (pop.md 1.3), which the check of samples reports. Stems that
    subsets have in common get the subset's name in front. Raises DataError when the root, a JSON, a list or a
    folder of images is missing, a list names unknown images, or the subsets differ in their categories.
    """
    if folder is None:
        raise DataError("COCO's masks are drawn: the reader needs the folder they were written to")
    root = existing_root(options.root)
    categories: tuple[str, ...] = ()
    found: list[tuple[str, CocoImage, Path, Path]] = []
    for subset in options.subsets:
        file = _annotations(options, subset, folder)
        images = _image_folder(options, subset, root)
        masks = file.masks(subset, options.recipe, options.recipe_version)
        found += [(subset, image, images, masks) for image in _images(options, subset, file)]
        if categories and file.summary[0] != categories:
            raise DataError(
                f"{file.path}: its categories are not those of the subset {options.subsets[0]!r}, in the same"
                " order; use annotations of one data set"
            )
        categories = file.summary[0]
    stems = Counter(image.stem for _, image, _, _ in found)
    samples = [
        Sample(
            image.stem if stems[image.stem] == 1 else f"{subset}_{image.stem}",
            images / image.file_name,
            masks / f"{image.stem}.png" if image.objects else None,
            subset,
            (),
        )
        for subset, image, images, masks in found
    ]
    return DataSet(samples, category_table(categories), root, labels_from_masks=True)


def _annotations(options: CocoData, subset: str, folder: Path) -> AnnotationFile:
    default = f"annotations/instances_{subset}{options.year}.json"
    path = existing_root(options.root) / Path(options.annotations.get(subset, default)).expanduser()
    return AnnotationFile(path, folder)


def _image_folder(options: CocoData, subset: str, root: Path) -> Path:
    name = f"{subset}{options.year}"
    given = options.images.get(subset)
    candidates = [root / Path(given).expanduser()] if given else [root / name, root / "images" / name]
    found = next((path for path in candidates if path.is_dir()), None)
    if found is None:
        raise DataError(
            f"{' or '.join(str(path) for path in candidates)}: no such folder of images; unpack them there,"
            f" or name the folder under `images` (`{subset}: ...`)"
        )
    return found


def _images(options: CocoData, subset: str, file: AnnotationFile) -> list[CocoImage]:
    """The images of a subset, in the order of its list or of the JSON."""
    images = file.summary[1]
    if subset not in options.lists:
        return [image for image in images if image.objects]
    path = existing_root(options.root) / Path(options.lists[subset]).expanduser()
    by_stem = {image.stem: image for image in images}
    listed = read_id_list(path)
    unknown = [stem for stem in listed if stem not in by_stem]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} of {len(listed)} ids are not in {file.path.name}, e.g. {unknown[0]!r};"
            f" ids are file names without suffix such as {next(iter(by_stem), '')!r}, or lines `image mask`"
        )
    return [by_stem[stem] for stem in listed]
