"""The command `anyshot`: use trained models, add classes to them, check data, move weights, compare."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import anyshot
from anyshot.commands import check_data, compare, export, imagenet_head, import_weights, novel, predict
from anyshot.errors import AnyshotError

EPILOG = """\
examples:
  anyshot predict --model results/retab/fold0/segmentation --images photos --output masks --overlay
  anyshot novel add --model results/raml/16_3/metric --name tram --images a.png --masks a_mask.png
  anyshot check-data --config config.yaml
  anyshot import-weights retab res38_cls.pth --kind classifier --output weights/classifier
  anyshot imagenet-head models/imagenet
  anyshot export --model results/retab/fold0/segmentation --format onnx --output segmenter.onnx
  anyshot compare results/a results/b

Training and scoring are run by Snakemake: see README.md. `anyshot COMMAND --help` explains each command.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; needs neither torch nor any data."""
    parser = argparse.ArgumentParser(
        prog="anyshot",
        description="Semantic segmentation when most classes have no pixel labels.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"anyshot {anyshot.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for module in (predict, novel, check_data, import_weights, imagenet_head, export, compare):
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status: 0 done, 1 an error, 2 a wrong command line, 130 interrupted."""
    parsed = build_parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except AnyshotError as error:
        print(f"anyshot {parsed.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"anyshot {parsed.command}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output, say `head`, has gone: point stdout elsewhere, so that exiting is silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
