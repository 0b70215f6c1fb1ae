"""`anyshot export`: the final segmenter as an ONNX graph, checked against ours."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from anyshot.errors import AnyshotError

DEFAULT_SIZE = (512, 512)
TOLERANCE = 1e-3  # largest difference of a logit
PACKAGES = ("onnx", "onnxscript", "onnxruntime")

EPILOG = """\
examples:
  anyshot export --model results/retab/fold0/segmentation --format onnx --output segmenter.onnx
  anyshot export --model MODEL --format onnx --output segmenter.onnx --size 375x500

The graph takes `image`, float32 (1, 3, H, W), RGB from 0 to 255, at the size given, and returns `logits`,
float32 (1, C, H, W): normalisation and upsampling are inside. Its metadata holds the class table as JSON
(`classes`). Several scales, the mirror and the CRF are not part of it. SimFormer's graph scales the image as
`predict` does; its logits are log(s + 0.001) of the fused scores s. Needs the packages onnx, onnxscript and
onnxruntime.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export",
        help="a final segmenter as ONNX, checked against ours",
        description="Export a final segmenter for other programs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="model folder")
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="onnx is the only one")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--size", type=_size, default=DEFAULT_SIZE, metavar="HxW", help="image size in px (default 512x512)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    missing = [name for name in PACKAGES if not _is_installed(name)]
    if missing:
        raise AnyshotError(
            f"export needs {', '.join(missing)}, not installed here: pip install {' '.join(missing)}"
        )
    from anyshot.commands.onnx_export import export_onnx
    from anyshot.commands.segmenters import load_plain

    model = load_plain(arguments.model, "cpu")
    difference = export_onnx(model, arguments.output, size=arguments.size, tolerance=TOLERANCE)
    height, width = arguments.size
    print(f"{arguments.output}: {len(model.table)} classes, image (1, 3, {height}, {width})")
    print(f"largest difference of a logit between the graph and ours: {difference:.2e}")
    return 0


def _is_installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected HEIGHTxWIDTH in px, e.g. 375x500")
    return int(parts[0]), int(parts[1])
