"""Which images `anyshot predict` reads and which files it writes; no torch here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyshot.data.readers import IMAGE_SUFFIXES, images_in
from anyshot.errors import ArtifactError, ConfigError, DataError

RECORD = "predict.json"


@dataclass(frozen=True)
class Prediction:
    """One image and the files made of it; a file that was not asked for is None."""

    image: Path
    mask: Path
    overlay: Path | None

    @property
    def id(self) -> str:
        """The image's name without its suffix."""
        return self.image.stem


def find_images(given: Sequence[Path]) -> list[Path]:
    """The image files named by `given` (files, and folders whose image files are taken), each once, in order.

    Raises DataError for a path that does not exist or when there is no image at all.
    """
    found: dict[Path, Path] = {}
    for path in given:
        if path.is_dir():
            listed = images_in(path)
        elif path.is_file():
            listed = [path]
        else:
            raise DataError(f"--images {path} does not exist (seen from {Path.cwd()}); correct the path")
        for image in listed:
            found.setdefault(image.resolve(), image)
    if not found:
        folders = ", ".join(str(path) for path in given)
        inside = sum(1 for path in given for entry in path.iterdir() if entry.is_dir())
        hint = f"; it has {inside} folders, name them one by one" if inside else ""
        raise DataError(f"no images in {folders}: files with {', '.join(IMAGE_SUFFIXES)} are taken{hint}")
    return list(found.values())


def plan(images: Iterable[Path], output: Path, *, overlay: bool) -> list[Prediction]:
    """What is written for each image. Raises DataError when two files would have one name."""
    planned: dict[str, Prediction] = {}
    for image in images:
        stem = image.stem
        picture = output / f"{stem}.overlay.jpg" if overlay else None
        prediction = Prediction(image=image, mask=output / f"{stem}.png", overlay=picture)
        if stem in planned:
            raise DataError(
                f"{planned[stem].image} and {image} would both be written to {prediction.mask}:"
                " rename one of them, or predict them into two folders"
            )
        planned[stem] = prediction
    inputs = {prediction.image.resolve() for prediction in planned.values()}
    for prediction in planned.values():
        for written in (prediction.mask, prediction.overlay):
            if written is not None and written.resolve() in inputs:
                raise DataError(
                    f"{written} is one of the images and would be overwritten: choose another --output"
                )
    return list(planned.values())


def open_output(folder: Path, record: dict[str, Any], *, force: bool) -> None:
    """Make the output folder and note in it what its files are made with.

    Raises ArtifactError when it cannot be written, ConfigError when it holds predictions of another model or
    of other settings, unless `force`.
    """
    path = folder / RECORD
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else record
        differ = sorted(key for key in {*before, *record} if before.get(key) != record.get(key))
        if differ and not force:
            raise ConfigError(
                f"{folder} holds predictions made with other settings ({', '.join(differ)} differ;"
                f" see {path}): choose another --output, or --force to make them again"
            )
        path.write_text(
            json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise ArtifactError(
            f"cannot write to --output {folder}: {error.strerror or error}; choose another"
        ) from error
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it to go on") from error
