"""Text in HDF5 files."""

from __future__ import annotations

from typing import Any

import h5py


def write_text(attributes: h5py.AttributeManager, name: str, value: str) -> None:
    """Write text of fixed length: other text lies in a heap without checksums, where a changed byte can keep
    HDF5 searching for ever."""
    content = value.encode()
    attributes.create(name, content, dtype=h5py.string_dtype("utf-8", max(1, len(content))))


def as_text(value: Any) -> str:
    """The text of an attribute, of fixed or other length."""
    return value.decode() if isinstance(value, bytes) else str(value)
