"""Pairing a folder of images with a folder of masks by their relative paths, without the suffix."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anyshot.data.manifest import Sample
from anyshot.data.readers import IMAGE_SUFFIXES, Problem
from anyshot.errors import DataError

MASK_SUFFIXES: Final = (".png",)


def paired_samples(
    images: Path, masks: Path, subset: str, *, mask_suffixes: tuple[str, ...] = MASK_SUFFIXES
) -> tuple[list[Sample], list[Problem]]:
    """The images that have a mask, sorted by relative stem, which is their id, and files without a partner.

    Raises DataError when there are no images.
    """
    found, problems = _by_stem(images, IMAGE_SUFFIXES, "image")
    if not found:
        raise DataError(f"{images}: the subset is empty (no image files); unpack it, or remove the folder")
    with_mask, more = _by_stem(masks, mask_suffixes, "mask")
    problems += more
    samples = [Sample(stem, found[stem], with_mask[stem], subset, ()) for stem in found if stem in with_mask]
    for stem in (stem for stem in found if stem not in with_mask):
        expected = f"{masks / stem}{mask_suffixes[0]}"
        message = f"{found[stem]}: no mask, expected {expected}; add it, or remove the image"
        problems.append(Problem(stem, "missing mask", message))
    for stem in (stem for stem in with_mask if stem not in found):
        message = f"{with_mask[stem]}: no image, expected {images / stem}.jpg; add it, or remove the mask"
        problems.append(Problem(stem, "missing image", message))
    return samples, problems


def _by_stem(folder: Path, suffixes: tuple[str, ...], what: str) -> tuple[dict[str, Path], list[Problem]]:
    """Files by relative stem, sorted, none of them hidden; a second file of the same stem is a problem."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    found: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            message = f"{path}: another {what} has the same name but a suffix"
            problems.append(Problem(stem, f"two {what}s", message))
        found.setdefault(stem, path)
    return dict(sorted(found.items())), problems
