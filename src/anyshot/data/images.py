"""Reading and writing images and masks. Images are uint8 RGB whatever the file holds; masks are ids."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from anyshot.data.classes import IGNORE_8_BIT, ClassTable
from anyshot.data.files import write_bytes
from anyshot.errors import DataError

# Pillow refuses files of more than twice this many pixels as possible decompression bombs. Aerial images are
# larger than its default, 89 million.
Image.MAX_IMAGE_PIXELS = 500_000_000

EXIF_ORIENTATION: Final = 0x0112
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
BROKEN: Final = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError, Image.DecompressionBombError
)  # fmt: skip
FORMATS: Final = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"
}  # fmt: skip

Pixels = NDArray[np.uint8]
Mask = NDArray[np.uint8] | NDArray[np.uint16]


def read_image(path: Path) -> Pixels:
    """Read an image as uint8 RGB, (H, W, 3), turned upright after its EXIF entry.

    Grayscale becomes three equal channels, 16-bit values lose their low byte, CMYK is converted, alpha is
    dropped. Raises DataError naming the file when it is missing, truncated, or no image.
    """
    with _open(path, "image") as image:
        try:
            _check_chunks(path, image)
            return np.array(_as_rgb(ImageOps.exif_transpose(image)))
        except BROKEN as error:
            raise _unreadable(path, "image", error) from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in px after EXIF rotation, from the header alone. Raises DataError."""
    with _open(path, "image") as image:
        try:
            quarter_turned = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
        except BROKEN as error:
            raise _unreadable(path, "image", error) from error
        width, height = image.size
    return (width, height) if quarter_turned else (height, width)


def read_mask(path: Path) -> Mask:
    """Read a mask as class ids: (H, W), uint8 for 8-bit files (palettes as indices), uint16 for 16-bit files.

    Raises DataError when the file is missing, broken, lossy (JPEG), or holds colours instead of ids.
    """
    with _open(path, "mask") as image:
        if image.format == "JPEG":
            raise DataError(f"{path}: a JPEG mask has lost its ids to compression; save masks as PNG")
        try:
            _check_chunks(path, image)
            if image.mode in ("P", "L", "1"):
                return np.array(image, dtype=np.uint8)
            if image.mode.startswith("I"):
                return _as_uint16(np.asarray(image), path)
        except BROKEN as error:
            raise _unreadable(path, "mask", error) from error
        raise DataError(
            f"{path}: the mask has mode {image.mode}, so it was saved through colour and its ids are lost;"
            " save class ids as 8-bit gray or palette PNG, or as 16-bit gray PNG"
        )


def write_mask(path: Path, mask: NDArray[Any], table: ClassTable) -> None:
    """Write class ids (H, W) as PNG, atomically: 8-bit with a palette, or 16-bit where ids reach 255."""
    wide = table.ignore != IGNORE_8_BIT
    limit = 65535 if wide else 255
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"a mask has the shape (height, width), found {mask.shape}")
    if mask.min() < 0 or mask.max() > limit:
        raise ValueError(f"mask values {mask.min()}..{mask.max()} do not fit 0..{limit}")
    image = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint16 if wide else np.uint8))
    if not wide:
        image.putpalette(table.palette())
    _save(path, image, "PNG", {})


def write_image(path: Path, array: NDArray[np.uint8], *, quality: int = 93) -> None:
    """Write uint8 RGB (H, W, 3) or gray (H, W), atomically; the suffix gives the format.

    `quality` is JPEG's, 1..100.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: write images as one of {', '.join(FORMATS)}")
    kind = FORMATS[path.suffix.lower()]
    options: dict[str, Any] = {"quality": quality, "subsampling": 0} if kind == "JPEG" else {}
    _save(path, Image.fromarray(np.ascontiguousarray(array)), kind, options)


def _save(path: Path, image: Image.Image, kind: str, options: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    write_bytes(path, buffer.getvalue())


def _open(path: Path, what: str) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such {what} file") from None
    except (UnidentifiedImageError, *BROKEN) as error:
        raise _unreadable(path, what, error) from error


def _check_chunks(path: Path, image: Image.Image) -> None:
    """Raise ValueError for a PNG with a wrong checksum.

    Pillow does not look at the checksums of the pixels, and shows other ones where a bit has changed.
    """
    if image.format != "PNG":
        return
    content = memoryview(path.read_bytes())
    begin, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if begin + 12 > len(content):
            raise ValueError("the file is cut off")
        length = int.from_bytes(content[begin : begin + 4])
        kind, end = bytes(content[begin + 4 : begin + 8]), begin + 8 + length
        # A length beyond the end gives a checksum of fewer bytes than four, which is never the right one.
        if zlib.crc32(content[begin + 4 : end]).to_bytes(4) != content[end : end + 4]:
            raise ValueError(f"wrong checksum in the chunk at byte {begin}")
        begin = end + 4


def _unreadable(path: Path, what: str, error: BaseException) -> DataError:
    reason = "not an image file" if isinstance(error, UnidentifiedImageError) else str(error) or repr(error)
    return DataError(
        f"{path}: the {what} cannot be read ({reason}); replace the file or remove it from the list"
    )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_high_byte(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating point pixels; convert the image to 8 or 16 bits")
    if image.mode == "P":
        # A palette with a transparent entry converts to RGB without a warning only by way of RGBA.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _high_byte(values: NDArray[Any]) -> Pixels:
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ValueError(f"gray values {values.min()}..{values.max()} do not fit 16 bits")
    return (values.astype(np.uint16) >> 8).astype(np.uint8)


def _as_uint16(values: NDArray[Any], path: Path) -> NDArray[np.uint16]:
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise DataError(f"{path}: mask values {values.min()}..{values.max()} do not fit 0..65535")
    return np.array(values, dtype=np.uint16)
