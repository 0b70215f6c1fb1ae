"""Options of the data sets, one class per reader. No torch here: every dry run imports this."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from anyshot.options import Options, StageOptions


class DataSource(Options):
    """What every reader's options have."""

    on_bad_sample: Literal["stop", "skip"] = Field(
        "stop",
        description="`stop`: a broken sample is an error; `skip`: it is left out and named in card.json",
    )
    decode: bool = Field(
        True, description="decode every image while checking; false reads only their headers"
    )


class VocData(DataSource):
    """PASCAL VOC layout, with or without SBD's masks."""

    reader: Literal["voc"] = "voc"
    root: str = Field(
        description="folder with ImageSets/ and JPEGImages/, or one that holds VOCdevkit/VOC<year>/"
    )
    year: int = Field(2012, description="used only to find VOCdevkit/VOC<year>")
    sbd: bool | None = Field(
        None,
        description="true: the list trainaug is required; false: it is not read; null: read where it exists",
    )
    labels: Literal["xml", "mask"] | None = Field(
        None,
        description="image labels from Annotations/*.xml or from the masks; null: xml where there are any",
    )


class FolderData(DataSource):
    """Own data: images/<subset>/, masks/<subset>/<stem>.png, classes.csv."""

    reader: Literal["folder"] = "folder"
    root: str = Field(description="folder with images/, masks/ and classes.csv")
    masks: bool = Field(
        True, description="false: no masks are read at all, every label comes from labels.csv (stem,name)"
    )


class ImagenetData(DataSource):
    """Image classification folders, <wnid>/*.JPEG: labels without masks."""

    reader: Literal["imagenet"] = "imagenet"
    root: str = Field(description="folder with one folder per wnid, optionally names.csv (wnid,name)")
    wnids: list[str] | None = Field(None, min_length=1, description="the wnids to read; null: all")
    per_class: int | None = Field(None, ge=1, description="images per class, the first by name; null: all")
    subset: str = Field("train", min_length=1, description="the subset that all images belong to")
    append_wnid: bool = Field(
        False, description="write the wnid behind every name, not only where several wnids share it"
    )


class ScenesData(DataSource):
    """Generated photograph-like scenes: 20 object classes, 6 stuff classes. Written by the prepare stage."""

    reader: Literal["scenes"] = "scenes"
    size: int = Field(160, ge=64, le=1024, description="side of the square images in px")
    train: int = Field(320, ge=1, description="training images")
    val: int = Field(80, ge=1, description="validation images")
    seed: int = Field(0, ge=0, description="another seed, other scenes")
    masks: Literal["objects", "stuff_things"] = Field(
        "objects",
        description="`objects`: 0 is background, objects 1..20; `stuff_things`: objects 0..19, stuff 20..25",
    )


class CityscapesData(DataSource):
    """Cityscapes' official layout, fine annotations: leftImg8bit/ and gtFine/ with *_gtFine_labelIds.png."""

    reader: Literal["cityscapes"] = "cityscapes"
    root: str = Field(description="folder with leftImg8bit/ and gtFine/")


class CamvidData(DataSource):
    """CamVid as SegNet published it, 11 classes: train/, trainannot/, val/, valannot/, test/, testannot/."""

    reader: Literal["camvid"] = "camvid"
    root: str = Field(description="folder with train/, trainannot/ and so on")


CocoRecipe = Literal[
    "all_polygons_crowd_background",
    "first_polygon_crowd_background",
    "all_polygons_crowd_ignore",
    "first_polygon_crowd_ignore",
]


class CocoData(DataSource):
    """COCO layout: an instances JSON and a folder of images per subset. The prepare stage draws the masks."""

    reader: Literal["coco"] = "coco"
    root: str = Field(description="folder with annotations/ and the folders of images")
    year: int = Field(
        2014, description="used only to find annotations/instances_<subset><year>.json and <subset><year>/"
    )
    subsets: list[str] = Field(
        default_factory=lambda: ["train", "val"], min_length=1, description="the subsets to read, in order"
    )
    annotations: dict[str, str] = Field(
        default_factory=dict,
        description="{subset: instances JSON} where not found by `year`; relative paths count from root",
    )
    images: dict[str, str] = Field(
        default_factory=dict, description="{subset: folder of images} where it is not found by `year`"
    )
    lists: dict[str, str] = Field(
        default_factory=dict,
        description="{subset: list file}: its ids, in its order; without one, all images with objects",
    )
    recipe: CocoRecipe = Field(
        "all_polygons_crowd_background",
        description=(
            "how masks are drawn: every polygon of an object or only its first, crowd regions as background"
            " or ignored; POP: all_polygons_crowd_background, DIaM: first_polygon_crowd_background"
        ),
    )
    recipe_version: Literal[1] = Field(
        1, description="version of the drawing; it is raised when a change of code changes a mask"
    )

    @model_validator(mode="after")
    def _subsets_fit(self) -> Self:
        if len(set(self.subsets)) < len(self.subsets):
            raise ValueError(f"`subsets` lists {self.subsets}: every entry once")
        for key in ("annotations", "images", "lists"):
            for subset in getattr(self, key):
                if subset not in self.subsets:
                    raise ValueError(
                        f"`{key}.{subset}`: {subset!r} is not among `subsets`, which are"
                        f" {', '.join(self.subsets)}: add it there, or remove it here"
                    )
        return self


class CocoStuff10kData(DataSource):
    """COCO-Stuff-10K, 171 classes: the archive (the prepare stage converts its masks), or converted masks."""

    reader: Literal["coco_stuff10k"] = "coco_stuff10k"
    root: str = Field(
        description="folder with images/, annotations/*.mat and imageLists/, or with images_detectron2/ and"
        " annotations_detectron2/"
    )


class Ade20kData(DataSource):
    """ADE20K as the scene parsing challenge published it (SceneParse150), 150 classes."""

    reader: Literal["ade20k"] = "ade20k"
    root: str = Field(
        description="folder with images/ and annotations/ (or annotations_detectron2/), or the one above,"
        " which holds ADEChallengeData2016/"
    )


class Ade20kFullData(DataSource):
    """ADE20K with 847 classes (release 2021_17_01), converted as MaskFormer converts it: 16-bit masks."""

    reader: Literal["ade20k_full"] = "ade20k_full"
    root: str = Field(
        description="folder with images_detectron2/ and annotations_detectron2/, or the one above, which"
        " holds ADE20K_2021_17_01/"
    )
    classes: str | None = Field(
        None,
        description="a class list of 847 names (.yaml, .json, .csv, .txt; relative paths count from root)"
        " instead of LarvSeg's, which is shipped",
    )


class PascalContextData(DataSource):
    """PASCAL-Context, 59 classes in 8-bit masks or 459 in 16-bit masks."""

    reader: Literal["pascal_context"] = "pascal_context"
    root: str = Field(
        description="folder with images/ and annotations_ctx59/ or annotations_ctx459/, or VOC2010's, with"
        " JPEGImages/ and SegmentationClassContext/; or one that holds either"
    )
    classes: Literal[59, 459] = Field(59, description="how many classes")


DataOptions = Annotated[
    VocData
    | FolderData
    | ImagenetData
    | ScenesData
    | CityscapesData
    | CamvidData
    | CocoData
    | CocoStuff10kData
    | Ade20kData
    | Ade20kFullData
    | PascalContextData,
    Field(discriminator="reader"),
]


class Prepare(StageOptions):
    """Options of the stage `data.prepare`: one data set of the configuration."""

    name: str = Field(min_length=1, description="name of the data set in the configuration")
    source: DataOptions


class Download(StageOptions):
    """Options of the stage `data.download`: PASCAL VOC 2012 and SBD. Runs only when asked for by name."""

    root: str = Field(min_length=1, description="folder to download to; VOCdevkit/ appears in it")
    sbd: bool = Field(True, description="also fetch SBD and write SegmentationClassAug and the list trainaug")
    voc_url: str | None = Field(
        None, description="a mirror of VOCtrainval_11-May-2012.tar; null: the official one"
    )
    sbd_url: str | None = Field(
        None, description="a mirror of SBD's benchmark.tgz; null: the official address"
    )
