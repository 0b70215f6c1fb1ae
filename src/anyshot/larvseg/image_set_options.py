"""Options of image sets: image-labelled folders too large for a manifest. No torch here."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from anyshot.options import Options, StageOptions

OnProblem = Literal["stop", "skip"]


class ImageSet(Options):
    """Folders <wnid>/*.JPEG such as ImageNet-21K's: 14 million files, 21,841 classes (larvseg.md 1.2, 5.4).

    Classes are the folders in sorted order. One without an image stays a class and is never drawn.
    """

    root: str = Field(min_length=1, description="folder with one folder per wnid")
    names: str | None = Field(
        None,
        description="what the wnids are called: a csv file (wnid,name), or `timm` (first lemma of WordNet,"
        " from timm's package data); null: <root>/names.csv where there is one, else the wnids themselves",
    )
    pack: bool = Field(
        False, description="copy all images into a few HDF5 files; false: read the folders through an index"
    )
    short_side: int = Field(
        448,
        ge=16,
        description="px that the shorter side is packed with at most; 448 is 1.4 x 320 px crops",
    )
    per_shard: int = Field(
        10_000, ge=1, description="images per packed file; a stopped run goes on at the file it was at"
    )
    on_corrupt: OnProblem = Field(
        "stop",
        description="`stop`: an image that cannot be read is an error, when packed or else when drawn;"
        " `skip`: it is left out and counted, or the next draw is taken",
    )
    not_a_wnid: OnProblem = Field(
        "stop", description="`stop`: a folder that is no wnid is an error; `skip`: it is left out and counted"
    )


class Images(StageOptions):
    """Index one image set, and pack it if wanted (larvseg.md 5.4)."""

    revision: ClassVar[int] = 2  # packs have checksums and no heap

    name: str | None = Field(None, description="filled in from the wildcard")
    image_set: ImageSet | None = Field(None, description="filled in from `image_sets`")
