"""Pictures for people: the image with its classes in colour, and a legend below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anyshot.data.classes import ClassTable

LONG_SIDE = 2048  # px; larger images are shrunk for the picture
SMALLEST_WIDTH = 160  # px, so that a legend fits under the smallest image
OPACITY = 0.55
LINE_WIDTH_SHARE = 400  # one px of contour per so many px of the long side
FONT_SIZE = 14  # px
ROW = 22  # px per line of the legend
SWATCH = 14  # px


def overlay(image: np.ndarray, ids: np.ndarray, table: ClassTable) -> np.ndarray:
    """Picture (h, w, 3) uint8 of `image` (H, W, 3) uint8 and its class `ids` (H, W).

    Foreground classes are laid over the image in their colours, with a contour; background and ignored pixels
    stay as they are. The legend names the classes present, the largest first, with their share of the image.
    """
    image, ids = _shrunk(image, ids)
    colours = np.zeros((65536, 3), np.float32)
    shown = np.zeros(65536, bool)
    for number, kind, colour in zip(table.ids, table.kinds, table.colours, strict=True):
        colours[number], shown[number] = colour, kind != "background"
    covered = shown[ids][..., None]
    blended = image * (1 - OPACITY) + colours[ids] * OPACITY
    picture = np.where(covered, blended, image)
    picture = np.where(_contour(ids)[..., None], 255.0, picture).astype(np.uint8)
    values, counts = np.unique(ids[shown[ids]], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rows = [(int(values[number]), float(counts[number] / ids.size)) for number in order]
    return _with_legend(picture, rows, table)


def _shrunk(image: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both at the picture's size: at most LONG_SIDE px; tiny images are enlarged to hold a legend."""
    height, width = ids.shape
    factor = min(1.0, LONG_SIDE / max(height, width))
    if width * factor < SMALLEST_WIDTH:
        factor = max(factor, min(SMALLEST_WIDTH / width, LONG_SIDE / max(height, width)))
    if factor == 1.0:
        return image, ids
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    rows = np.minimum((np.arange(size[1]) + 0.5) * height / size[1], height - 1).astype(int)
    columns = np.minimum((np.arange(size[0]) + 0.5) * width / size[0], width - 1).astype(int)
    return pixels, ids[rows][:, columns]


def _contour(ids: np.ndarray) -> np.ndarray:
    """(h, w) bool: pixels beside a pixel of another class, thicker in larger pictures."""
    edge = np.zeros(ids.shape, bool)
    vertical, horizontal = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    edge[1:] |= vertical
    edge[:, 1:] |= horizontal
    for _ in range(max(ids.shape) // LINE_WIDTH_SHARE):
        wider = edge.copy()
        wider[1:] |= edge[:-1]
        wider[:, 1:] |= edge[:, :-1]
        edge = wider
    return edge


def _with_legend(picture: np.ndarray, rows: Sequence[tuple[int, float]], table: ClassTable) -> np.ndarray:
    """The picture with one entry per class below: swatch, name, percent of the pixels."""
    height, width = picture.shape[:2]
    width = max(width, SMALLEST_WIDTH)
    font = ImageFont.load_default(FONT_SIZE)
    entries = [
        (table.colours[table.index_of[number]], f"{table.name_of(number)} {share:.1%}")
        for number, share in rows
    ]
    if not entries:
        entries = [((0, 0, 0), "background only")]
    places, x, line = [], 0, 0
    for _, text in entries:
        length = SWATCH + 6 + round(font.getlength(text)) + 14
        if x and x + length > width:
            x, line = 0, line + 1
        places.append((x, line))
        x += length
    canvas = Image.new("RGB", (width, height + (line + 1) * ROW + 8), "white")
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for (colour, text), (left, row) in zip(entries, places, strict=True):
        top = height + 6 + row * ROW
        draw.rectangle((left + 4, top, left + 4 + SWATCH, top + SWATCH), fill=colour, outline=(80, 80, 80))
        draw.text((left + 4 + SWATCH + 6, top - 2), text, fill="black", font=font)
    return np.asarray(canvas)
