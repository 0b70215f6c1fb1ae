"""What a page is made of: sections of blocks. Plain values only; `templates/` turns them into HTML.

All text is plain text: the template escapes it. A system adds its part of the report by a function that takes
the `Material` and returns a `Section` (or None when its inputs are absent), see `page.SECTIONS`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Colour = tuple[int, int, int]


def data_uri(content: bytes, media_type: str) -> str:
    """Bytes as a `data:` address, so that the page refers to no file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def css_colour(colour: Colour) -> str:
    """(red, green, blue), 0..255 each, as CSS."""
    red, green, blue = (int(value) for value in colour)
    return f"rgb({red},{green},{blue})"


@dataclass(frozen=True)
class Cell:
    """One cell of a table. `bar` is a share in [0, 1] drawn behind the text, `swatch` a colour before it."""

    text: str
    strong: bool = False
    muted: bool = False
    number: bool = False
    swatch: str | None = None
    bar: float | None = None


@dataclass(frozen=True)
class Text:
    """Paragraphs."""

    kind: ClassVar[str] = "text"
    paragraphs: Sequence[str]


@dataclass(frozen=True)
class Note:
    """A remark the reader must not miss; `level` says how loudly."""

    kind: ClassVar[str] = "note"
    text: str
    level: Literal["information", "warning"] = "information"


@dataclass(frozen=True)
class Tile:
    """One number in large type, what it is, and a smaller remark below."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Tiles:
    """The numbers to take home."""

    kind: ClassVar[str] = "tiles"
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class RowGroup:
    """Rows under one sub-heading (empty heading = none)."""

    heading: str
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its header. `spans` (text, columns) stand above the headings."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    groups: Sequence[RowGroup]
    spans: Sequence[tuple[str, int]] = ()
    footnote: str = ""

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers; its heading then stands to the right as they do."""
        return any(row[column].number for group in self.groups for row in group.rows)


@dataclass(frozen=True)
class Figure:
    """A picture with a text alternative; `width` is the widest it is shown, px."""

    kind: ClassVar[str] = "figure"
    uri: str
    alt: str
    caption: str = ""
    width: int = 1180


@dataclass(frozen=True)
class Figures:
    """Small figures side by side."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Code:
    """Text kept as it is, such as options."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Panel:
    """One picture of a gallery row: what it shows, and its score if it has one."""

    name: str
    uri: str
    alt: str
    score: str = ""


@dataclass(frozen=True)
class Legend:
    """A class that occurs in a gallery row."""

    name: str
    colour: str
    role: str = ""


@dataclass(frozen=True)
class PanelRow:
    """Further pictures of an image, below its own, under a heading."""

    heading: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class GalleryRow:
    """All pictures of one image; rows of further ones and `lines` stand below them."""

    image_id: str
    remark: str
    panels: Sequence[Panel]
    legend: Sequence[Legend]
    lines: Sequence[str] = ()
    below: Sequence[PanelRow] = ()


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures under one heading."""

    kind: ClassVar[str] = "gallery"
    heading: str
    rows: Sequence[GalleryRow]

    @property
    def is_narrow(self) -> bool:
        """Whether two rows fit side by side."""
        longest = [max(map(len, (row.panels, *(part.panels for part in row.below)))) for row in self.rows]
        return max(longest, default=0) <= 3


@dataclass(frozen=True)
class Details:
    """Blocks shown on demand (always when printed)."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]
    open: bool = False


Block = Text | Note | Tiles | Table | Figure | Figures | Code | Gallery | Details


@dataclass(frozen=True)
class Section:
    """A heading of the page with what stands under it; `anchor` is its name in the page's address."""

    anchor: str
    heading: str
    blocks: Sequence[Block]
    introduction: str = ""
    subsections: Sequence[Section] = field(default_factory=tuple)
