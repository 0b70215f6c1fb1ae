"""The work of `anyshot predict`: read, segment, write, image after image."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anyshot
from anyshot.commands.overlay import overlay
from anyshot.commands.predict import class_names
from anyshot.commands.prediction_files import Prediction, open_output
from anyshot.commands.segmenters import Segmenter, WithVocabulary, load
from anyshot.commands.terminal import log, progress
from anyshot.data.images import read_image, read_mask, write_image, write_mask
from anyshot.engine.artifacts import write_failure
from anyshot.engine.model_folder import CLASSES_FILE
from anyshot.engine.stores import Store, StoreWriter
from anyshot.errors import ConfigError, DataError

READERS = 2  # threads that decode images ahead of the network
IMAGES_PER_STORE = (
    200  # a store is written whole: an interrupted run loses the scores of at most so many images
)
MOST_SCORES = 2_000_000_000  # classes times px for --scores, 8 GB of float32
SMALLEST_TILE = 128  # px; the last attempt when the device runs out of memory


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line says; `infer` holds scales, flip, crf, tile, None where the model decides."""

    model: Path
    output: Path
    device: str | None = None
    scores: bool = False
    classes: Sequence[str] | None = None
    force: bool = False
    batch: int = 1
    threads: int | None = None
    infer: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """How many images were predicted and skipped, and one line for each that failed."""

    done: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)


def predict(planned: Sequence[Prediction], settings: Settings) -> Outcome:
    """Predict all images; unreadable ones are named in the outcome and do not stop the others.

    Raises AnyshotError for a broken model, an unknown class or device, or an output that cannot be written.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    model = load(settings.model, device).with_infer(**settings.infer)
    kept = kept_ids(model, settings.classes)
    if settings.scores:
        _check_scored(model, kept)
    open_output(settings.output, _record(model, kept, settings), force=settings.force)
    try:
        model.table.write(settings.output / CLASSES_FILE)
    except OSError as error:
        raise write_failure(settings.output / CLASSES_FILE, error) from error
    outcome = Outcome()
    stored = _stored_ids(settings)
    waiting = [one for one in planned if settings.force or not _is_done(one, stored, settings)]
    outcome.skipped = len(planned) - len(waiting)
    log.info("%d images to do, %d done before, on %s", len(waiting), outcome.skipped, device)
    with Worker(model=model, kept=kept, settings=settings, outcome=outcome) as worker:
        for _ in progress("predict", worker.work(waiting), total=len(waiting)):
            pass
    return outcome


def _check_scored(model: Segmenter, kept: frozenset[int]) -> None:
    """Say which classes have no probabilities. Raises ConfigError when none of the kept ones has any."""
    without = [model.table.name_of(number) for number in sorted(kept - {*model.scored_ids})]
    if len(without) == len(kept):
        raise ConfigError(
            f"--scores: {', '.join(without)} is found by regions and has no probability per pixel; leave out"
            " --scores, or name known classes in --classes"
        )
    if without:
        log.warning("--scores holds known classes only: %s have no probability per pixel", ", ".join(without))


def choose_device(name: str | None) -> torch.device:
    """The device to use; a GPU when there is one and nothing is asked. Raises ConfigError."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: expected cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: torch sees {torch.cuda.device_count()} GPUs here; use --device cpu"
        )
    return device


def kept_ids(model: Segmenter, classes: Sequence[str] | None) -> frozenset[int]:
    """Ids that may appear in the results: all, or those of `--classes`. Raises ConfigError."""
    if classes is None:
        return frozenset(model.table.ids)
    if isinstance(model, WithVocabulary):
        return frozenset(model.ids_of(class_names(classes, model.words)))
    return frozenset(model.table.ids_of(class_names(classes, model.table.names)))


def _record(model: Segmenter, kept: frozenset[int], settings: Settings) -> dict[str, Any]:
    """What decides the masks: a folder with another record is not continued."""
    card = model.card.model_dump(mode="json")
    weights = card.get("weights_sha256", str(settings.model.resolve()))
    classes = None if settings.classes is None else sorted(map(model.table.name_of, kept))
    return {"model": weights, "classes": classes, "anyshot": anyshot.__version__, **model.record()}


def _stores(settings: Settings) -> list[Path]:
    return sorted(settings.output.glob("scores_*.h5"))


def _stored_ids(settings: Settings) -> set[str]:
    """Ids whose scores are there. With --force the stores are removed: they are written anew."""
    if not settings.scores:
        return set()
    if settings.force:
        for path in _stores(settings):
            path.unlink()
    return set(Store(_stores(settings)).ids)


def _is_done(one: Prediction, stored: set[str], settings: Settings) -> bool:
    pictured = one.overlay is None or one.overlay.exists()
    return one.mask.exists() and pictured and (not settings.scores or one.id in stored)


class Worker:
    """Reads images ahead, segments them, writes the results; use as a context manager."""

    def __init__(
        self, *, model: Segmenter, kept: frozenset[int], settings: Settings, outcome: Outcome
    ) -> None:
        self.model = model
        self.kept = kept
        self.settings = settings
        self.outcome = outcome
        self._told_no_crf = False
        self._stored = 0
        self._store: StoreWriter | None = None
        self._stores = ExitStack()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stores.__exit__(*error)

    def work(self, planned: Sequence[Prediction]) -> Iterator[Prediction]:
        """Do the images; yields each when it is done or has failed."""
        same_size: dict[tuple[int, ...], list[tuple[Prediction, np.ndarray]]] = {}
        for one, image in self._read_ahead(planned):
            if image is None:
                yield one
                continue
            group = same_size.setdefault(image.shape, [])
            group.append((one, image))
            # Images that wait for others of their size are bounded: the largest group goes when many wait.
            waiting = sum(map(len, same_size.values()))
            if len(group) >= self.settings.batch or waiting >= 4 * self.settings.batch:
                shape = max(same_size, key=lambda size: len(same_size[size]))
                yield from self._finish(same_size.pop(shape))
        for group in same_size.values():
            yield from self._finish(group)

    def _read_ahead(self, planned: Iterable[Prediction]) -> Iterator[tuple[Prediction, np.ndarray | None]]:
        """Images in order, decoded by threads; None in place of one that failed or needs no network."""
        with ThreadPoolExecutor(READERS) as pool:
            reading: deque[tuple[Prediction, Future[np.ndarray]]] = deque()
            stream = iter(planned)
            while True:
                while len(reading) < READERS + 1 and (one := next(stream, None)) is not None:
                    reading.append((one, pool.submit(read_image, one.image)))
                if not reading:
                    return
                one, future = reading.popleft()
                try:
                    image: np.ndarray | None = future.result()
                except DataError as error:
                    self.outcome.failures.append(str(error))
                    image = None
                if image is not None and self._only_overlay_missing(one):
                    self._picture(one, image, read_mask(one.mask))
                    self.outcome.done += 1
                    image = None
                yield one, image

    def _only_overlay_missing(self, one: Prediction) -> bool:
        return not self.settings.force and not self.settings.scores and one.mask.exists()

    def _finish(self, group: list[tuple[Prediction, np.ndarray]]) -> Iterator[Prediction]:
        """Segment and write images of one size."""
        images = [image for _, image in group]
        try:
            results = self._segment(images)
        except DataError as error:
            self.outcome.failures += [f"{one.image}: {error}" for one, _ in group]
            yield from (one for one, _ in group)
            return
        for (one, image), (ids, scores) in zip(group, results, strict=True):
            if scores is not None:
                self._add_scores(one.id, scores)
            self._write(one, image, self._restricted(ids))
            self.outcome.done += 1
            yield one

    def _segment(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Class ids (H, W) and, when asked for, probabilities (C, H, W) of images of one size.

        When the device runs out of memory the images go one by one, then in ever smaller tiles.
        """
        model = self.model
        while True:
            try:
                return self._segment_with(model, images)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
            if len(images) > 1:
                return [self._segment([image])[0] for image in images]
            tile = (model.tile_for(images[0]) or max(images[0].shape[:2])) // 2 // 32 * 32
            if tile < SMALLEST_TILE:
                raise DataError("the device has too little memory even for small tiles; use --device cpu")
            log.warning("out of memory on %s: trying again in tiles of %d px", model.device, tile)
            model = model.with_infer(tile=tile)

    def _segment_with(
        self, model: Segmenter, images: Sequence[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        tiled = model.tile_for(images[0]) is not None
        if tiled and model.card.infer.crf is not False and not self._told_no_crf:
            log.warning("images that go in tiles get no CRF, e.g. one of %s px", images[0].shape[:2])
            self._told_no_crf = True
        pixels = images[0].shape[0] * images[0].shape[1]
        if self.settings.scores and len(model.scored_ids) * pixels > MOST_SCORES:
            raise DataError(
                f"too large for --scores ({images[0].shape[:2]} px, {len(model.scored_ids)} classes)"
            )
        return model.predict(images, scores=self.settings.scores)

    def _restricted(self, ids: np.ndarray) -> np.ndarray:
        """`ids` with every class that was not asked for made background, or ignored where there is none."""
        table = self.model.table
        if len(self.kept) == len(table):
            return ids
        fill = table.ignore if table.background_id is None else table.background_id
        lookup = np.full(65536, fill, dtype=ids.dtype)
        lookup[list(self.kept)] = list(self.kept)
        return lookup[ids]

    def _add_scores(self, id: str, scores: np.ndarray) -> None:
        """Add the kept classes to the open store; a new store is begun every so many images."""
        if self._store is None or self._stored >= IMAGES_PER_STORE:
            self._stores.close()
            taken = {path.name for path in _stores(self.settings)}
            number = next(n for n in range(1, len(taken) + 2) if f"scores_{n:04d}.h5" not in taken)
            attributes = {
                "stage": "predict",
                "model": str(self.settings.model),
                "anyshot": anyshot.__version__,
            }
            path = self.settings.output / f"scores_{number:04d}.h5"
            self._store = self._stores.enter_context(StoreWriter(path, attributes=attributes))
            self._stored = 0
        scored = self.model.scored_ids
        rows = [row for row, number in enumerate(scored) if number in self.kept]
        classes = np.asarray(scored, np.uint16)[rows]
        height, width = scores.shape[1:]
        self._store.add(id, classes, scores[rows], height=height, width=width, dtype=np.float16)
        self._stored += 1

    def _write(self, one: Prediction, image: np.ndarray, ids: np.ndarray) -> None:
        try:
            write_mask(one.mask, ids, self.model.table)
        except OSError as error:
            raise write_failure(one.mask, error) from error
        self._picture(one, image, ids)

    def _picture(self, one: Prediction, image: np.ndarray, ids: np.ndarray) -> None:
        if one.overlay is None:
            return
        try:
            write_image(one.overlay, overlay(image, ids, self.model.table))
        except OSError as error:
            raise write_failure(one.overlay, error) from error
