"""`anyshot predict`: class masks of images by a trained model."""

from __future__ import annotations

import argparse
from collections.abc import Container, Sequence
from pathlib import Path

from anyshot.errors import AnyshotError, ConfigError

FAILURES_SHOWN = 20
SMALLEST_TILE = 64  # px; smaller ones see too little of the image to be worth anything

EPILOG = """\
examples:
  anyshot predict --model results/retab/fold0/segmentation --images photos --output masks
  anyshot predict --model MODEL --images a.jpg b.tif --output masks --overlay --classes dog,cat
  anyshot predict --model MODEL --images aerial --output masks --tile 1024 --scales 1 --no-flip --device cuda

Every image becomes a palette PNG of its own size in the model's class ids, named like the image; classes.csv
in the same folder says what the ids mean. Images that are done are skipped, so an interrupted run goes on
where it stopped. With --classes all classes of the model still compete at every pixel, and what others win
is left out. Exit status 1 when some images could not be read; the others are done all the same.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "predict",
        help="class masks of images by a trained model",
        description="Segment images with a trained model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER", help="model.safetensors and model.json"
    )
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="image files, or folders of them",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--overlay", action="store_true", help="also NAME.overlay.jpg: colours, contours, legend"
    )
    parser.add_argument(
        "--scores",
        action="store_true",
        help="also class probabilities (SimFormer: fused scores), scores_*.h5 (float16)",
    )
    parser.add_argument(
        "--classes",
        action="append",
        metavar="A,B",
        help="keep only these classes; pixels of others become background (ignored where the model has none);"
        " LarvSeg takes ids and synonyms, too",
    )
    parser.add_argument("--force", action="store_true", help="do images again that are done")
    _add_inference_options(parser)
    parser.set_defaults(run=run)


def _add_inference_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("inference", "How to infer; the model's own way where not given.")
    group.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda or cuda:N (default: a GPU if there is one)"
    )
    group.add_argument("--scales", type=_scales, metavar="1,0.75", help="image scales, averaged")
    group.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=None, help="add the mirrored image"
    )
    group.add_argument(
        "--crf", action=argparse.BooleanOptionalAction, default=None, help="refine by a dense CRF"
    )
    group.add_argument(
        "--tile",
        type=_tile,
        metavar="N",
        help="cut larger images into overlapping tiles of N px (default: only very large images)",
    )
    group.add_argument(
        "--batch", type=_positive, default=1, metavar="N", help="images of one size at a time (default 1)"
    )
    group.add_argument("--threads", type=_positive, metavar="N", help="CPU threads (default: all cores)")


def run(arguments: argparse.Namespace) -> int:
    from anyshot.commands.prediction_files import find_images, plan
    from anyshot.commands.terminal import start_log

    planned = plan(find_images(arguments.images), arguments.output, overlay=arguments.overlay)
    start_log()
    from anyshot.commands.prediction import Settings, predict  # imports torch

    settings = Settings(
        model=arguments.model,
        output=arguments.output,
        device=arguments.device,
        scores=arguments.scores,
        classes=arguments.classes,
        force=arguments.force,
        batch=arguments.batch,
        threads=arguments.threads,
        infer={name: getattr(arguments, name) for name in ("scales", "flip", "crf", "tile")},
    )
    outcome = predict(planned, settings)
    print(f"{outcome.done} images predicted, {outcome.skipped} were done before, into {arguments.output}")
    if outcome.failures:
        raise AnyshotError(_failure_text(outcome.failures))
    return 0


def _failure_text(failures: Sequence[str]) -> str:
    lines = [f"{len(failures)} images failed:", *(f"  {text}" for text in failures[:FAILURES_SHOWN])]
    if len(failures) > FAILURES_SHOWN:
        lines.append(f"  ... and {len(failures) - FAILURES_SHOWN} more")
    return "\n".join(lines)


def _scales(text: str) -> list[float]:
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected numbers like 1,0.75") from None
    if not all(0.05 <= scale <= 8 for scale in scales):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected scales from 0.05 to 8")
    return scales


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number above 0")
    return int(text)


def _tile(text: str) -> int:
    if _positive(text) < SMALLEST_TILE:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {SMALLEST_TILE} px or more")
    return int(text)


def class_names(given: Sequence[str], known: Container[str]) -> list[str]:
    """Names of `--classes A,B`; a value that is itself a class name (it may hold commas) is taken whole."""
    parts = [part for value in given for part in ([value] if value in known else value.split(","))]
    names = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not names:
        raise ConfigError("--classes is empty; name classes as in classes.csv, or leave it out")
    return names
