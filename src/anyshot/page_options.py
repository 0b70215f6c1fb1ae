"""Options of the report. No torch, no matplotlib: the workflow imports this for every dry run."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from anyshot.options import StageOptions


class Report(StageOptions):
    """What goes on the page and how large the page may grow."""

    revision: ClassVar[int] = 1

    title: str = Field("anyshot report", min_length=1, description="heading of the page")
    gallery_images: int = Field(
        4, ge=0, le=50, description="images per group (best, middle, worst) and split; 0 = no gallery"
    )
    image_side: int = Field(240, ge=32, le=1024, description="longest side of a gallery picture, px")
    jpeg_quality: int = Field(82, ge=20, le=98, description="quality of photographs and heat maps")
    curve_points: int = Field(300, ge=10, description="most points drawn of a training curve")
    confused_pairs: int = Field(10, ge=0, description="rows in the table of most frequent confusions")
    max_megabytes: float = Field(
        8.0, gt=0.5, description="size the page must stay under, MB; gallery pictures shrink until it does"
    )
