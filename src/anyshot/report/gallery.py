"""Pictures of single images: photograph, truth and what every stage made of it, side by side.

Arrays only, no paths: photographs are uint8 (H, W, 3) RGB, masks (H, W) class ids, heat maps float (H, W)
in [0, 1].
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import matplotlib as mpl
import numpy as np
from PIL import Image

from anyshot.data.classes import ClassTable
from anyshot.ops.resample import upsample_grid
from anyshot.page_options import Report
from anyshot.report.blocks import Colour, Legend, css_colour, data_uri

VOID_IDS = (255, 65535)
_WHITE, _STRIPE, _UNKNOWN = (255, 255, 255), (190, 190, 190), (255, 0, 255)
_RIM = (30, 30, 30)  # around a region


class Scores(Protocol):
    """What is used of `engine.stores.ScoreMap`: scores (k, h, w) of `classes` (k,), `stride` px per cell."""

    @property
    def classes(self) -> np.ndarray: ...
    @property
    def scores(self) -> np.ndarray: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def stride(self) -> int: ...


def full_size_scores(scored: Scores) -> np.ndarray:
    """Scores at the image's size, float32 (k, height, width): bilinear, half-pixel centres, cropped."""
    return upsample_grid(scored.scores, stride=scored.stride, height=scored.height, width=scored.width)


def winning_ids(scored: Scores) -> np.ndarray:
    """The id of the highest score per pixel, (height, width); ties go to the first class of the map."""
    return np.asarray(scored.classes)[full_size_scores(scored).argmax(axis=0)]


def strongest_score(scored: Scores) -> np.ndarray:
    """The highest score of any class per pixel, float32 (height, width); zero where the map has no class."""
    maps = full_size_scores(scored)
    return maps.max(axis=0) if len(maps) else np.zeros((scored.height, scored.width), np.float32)


@dataclass(frozen=True)
class Painter:
    """Draws pictures of at most `side` px: photographs as JPEG of `quality`, masks as PNG in `colours`."""

    colours: Mapping[int, Colour]
    names: Mapping[int, str]
    roles: Mapping[int, str]
    side: int = 240
    quality: int = 82

    @classmethod
    def of(cls, table: ClassTable, roles: Mapping[int, str], options: Report) -> Painter:
        """A painter in the colours of a class table, at the report's size and quality."""
        return cls(
            colours=dict(zip(table.ids, table.colours, strict=True)),
            names=dict(zip(table.ids, table.names, strict=True)),
            roles=roles,
            side=options.image_side,
            quality=options.jpeg_quality,
        )

    def _size(self, height: int, width: int) -> tuple[int, int]:
        scale = min(1.0, self.side / max(height, width))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def photograph(self, image: np.ndarray) -> str:
        """The photograph itself, (H, W, 3) uint8, as a `data:` address."""
        return self._jpeg(self._shrink(image))

    def heat(self, image: np.ndarray, scores: np.ndarray, *, mark: tuple[int, int] | None = None) -> str:
        """Scores (H, W) in [0, 1] over the photograph: the higher, the less of it shows through.

        mark: row and column of a pixel of the photograph that gets a ring.
        """
        small = cv2.cvtColor(self._shrink(image), cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
        values = np.clip(self._shrink(scores.astype(np.float32)), 0, 1)
        colours = mpl.colormaps["inferno"](values)[..., :3].astype(np.float32) * 255
        weight = (0.25 + 0.6 * values)[..., None]
        canvas = (small * (1 - weight) + colours * weight).round().astype(np.uint8)
        if mark is not None:
            row, column = (
                int((place + 0.5) * shown / own)
                for place, shown, own in zip(mark, canvas.shape[:2], image.shape[:2], strict=True)
            )
            radius = max(3, max(canvas.shape[:2]) // 40)
            for colour, thickness in ((_RIM, 3), (_WHITE, 1)):
                cv2.circle(canvas, (column, row), radius, colour, thickness, cv2.LINE_AA)
        return self._jpeg(canvas)

    def proposal(self, image: np.ndarray, mask: np.ndarray, identity: int) -> str:
        """A soft mask (h, w) in [0, 1], of the image's aspect, in the colour of a class over the grey
        photograph, outlined where it is above one half."""
        grey = cv2.cvtColor(self._shrink(image), cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
        colour = self.colours.get(identity, _UNKNOWN)
        soft = cv2.resize(mask.astype(np.float32), self._size(*image.shape[:2]), interpolation=cv2.INTER_AREA)
        weight = 0.65 * soft[..., None]
        picture = (grey * 0.6 + 80) * (1 - weight) + np.array(colour, np.float32) * weight
        canvas = np.ascontiguousarray(picture.round().clip(0, 255).astype(np.uint8))
        _outline(canvas, soft > 0.5, colour)
        return self._jpeg(canvas)

    def regions(self, image: np.ndarray, labels: np.ndarray, colours: Mapping[int, Colour]) -> str:
        """Regions 1..T of labels (h, w), 0 outside, over the grey photograph, outlined and numbered."""
        size = self._size(*image.shape[:2])
        grey = cv2.cvtColor(self._shrink(image), cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
        picture = np.repeat(grey * 0.6 + 80, 3, axis=2)
        small = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(np.int64)
        for number, colour in colours.items():
            inside = small == number
            picture[inside] = picture[inside] * 0.35 + np.array(colour, np.float32) * 0.65
            core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
            picture[inside & (core == 0)] = _RIM
        canvas = np.ascontiguousarray(picture.round().clip(0, 255).astype(np.uint8))
        for number in colours:
            _write_number(canvas, small == number, str(number))
        return self._jpeg(canvas)

    def outlined(self, image: np.ndarray, mask: np.ndarray, ids: Iterable[int], *, tinted: int) -> str:
        """The photograph with the areas of these classes in a mask of ids (H, W) outlined, one tinted too."""
        size = self._size(*image.shape[:2])
        canvas = self._shrink(image).copy()
        small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(np.int64)
        for identity in ids:
            inside = small == identity
            colour = self.colours.get(identity, _UNKNOWN)
            if identity == tinted:
                canvas[inside] = (canvas[inside] * 0.65 + np.array(colour) * 0.35).astype(np.uint8)
            _outline(canvas, inside, colour)
        return self._jpeg(canvas)

    def mask(self, mask: np.ndarray) -> str:
        """Class ids (H, W) in the classes' colours; void is hatched in white, ids of no class are magenta."""
        width, height = self._size(*mask.shape)
        small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST).astype(
            np.int64
        )
        # Every picture brings a palette of just its own ids: that is what keeps the files small.
        present = [int(value) for value in np.unique(small) if value not in VOID_IDS]
        palette = [self.colours.get(identity, _UNKNOWN) for identity in present][:254]
        indices = np.searchsorted(present, small) if present else np.zeros_like(small)
        diagonal = np.add.outer(np.arange(height), np.arange(width))
        void = np.isin(small, VOID_IDS)
        indices = np.where(void, len(palette) + (diagonal % 6 < 2), np.minimum(indices, len(palette)))
        picture = Image.fromarray(indices.astype(np.uint8), mode=None)
        picture.putpalette([channel for colour in [*palette, _WHITE, _STRIPE] for channel in colour])
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        return data_uri(buffer.getvalue(), "image/png")

    def legend(self, masks: Iterable[np.ndarray]) -> list[Legend]:
        """The classes that occur in any of the masks, in the order of their ids; void last."""
        found = sorted({int(value) for mask in masks for value in np.unique(mask)})
        entries = [
            Legend(
                self.names.get(i, f"id {i}"), css_colour(self.colours.get(i, _UNKNOWN)), self.roles.get(i, "")
            )
            for i in found
            if i not in VOID_IDS
        ]
        if any(identity in VOID_IDS for identity in found):
            entries.append(Legend("void", "void", ""))
        return entries

    def _shrink(self, array: np.ndarray) -> np.ndarray:
        return cv2.resize(array, self._size(*array.shape[:2]), interpolation=cv2.INTER_AREA)

    def _jpeg(self, image: np.ndarray) -> str:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(
            buffer, format="JPEG", quality=self.quality, optimize=True
        )
        return data_uri(buffer.getvalue(), "image/jpeg")


def _outline(canvas: np.ndarray, inside: np.ndarray, colour: Colour) -> None:
    """The border of an area (h, w) bool in the colour of its class, with a white rim."""
    edges, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for line, thickness in ((_WHITE, 3), (colour, 1)):
        cv2.drawContours(canvas, edges, -1, line, thickness)


def _write_number(canvas: np.ndarray, inside: np.ndarray, text: str) -> None:
    """Text on the pixel of a region nearest to its centre, white with a dark rim, kept within the canvas."""
    rows, columns = np.nonzero(inside)
    if not len(rows):
        return
    nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    (width, height), _ = cv2.getTextSize(text, font, scale, 1)
    x = int(np.clip(columns[nearest] - width // 2, 2, max(2, canvas.shape[1] - width - 2)))
    y = int(np.clip(rows[nearest] + height // 2, height + 2, max(height + 2, canvas.shape[0] - 2)))
    for colour, thickness in (((0, 0, 0), 3), (_WHITE, 1)):
        cv2.putText(canvas, text, (x, y), font, scale, colour, thickness, cv2.LINE_AA)


def extremes(scores: Mapping[str, float], count: int) -> dict[str, list[str]]:
    """Ids of the `count` best, middle and worst images; no id twice, ties in the order of the ids.

    With few images the groups shrink alike instead of repeating images.
    """
    ranked = sorted(scores, key=lambda identity: (-scores[identity], identity))
    count = min(count, len(ranked) // 3) if len(ranked) >= 3 else min(count, 1)
    if count == 0:
        return {}
    groups: dict[str, list[str]] = {"best": ranked[:count], "middle": [], "worst": []}
    rest = ranked[count:]
    groups["worst"] = rest[len(rest) - count :] if len(rest) >= count else rest
    rest = rest[: len(rest) - len(groups["worst"])]
    start = max(0, (len(rest) - count) // 2)
    groups["middle"] = rest[start : start + count]
    return {name: group for name, group in groups.items() if group}


def ids_in(masks: Sequence[np.ndarray]) -> set[int]:
    """All ids that occur in the masks, void left out."""
    return {int(value) for mask in masks for value in np.unique(mask)} - set(VOID_IDS)
