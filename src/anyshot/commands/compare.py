"""`anyshot compare A B`: what changed between two results folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from anyshot.errors import ArtifactError

EPILOG = """\
examples:
  anyshot compare results/a results/b      # two runs: options that differ, scores side by side
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="what changed between two runs: options, numbers",
        description="Compare two results folders: options that differ, scores and their differences.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("a", type=Path, metavar="A", help="the earlier results folder")
    parser.add_argument("b", type=Path, metavar="B", help="the later results folder")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from anyshot.report.compare import compare

    for folder in (arguments.a, arguments.b):
        if not folder.is_dir():
            raise ArtifactError(
                f"{folder} is not a folder; give two results folders, e.g. results and results.old"
            )
    print(compare(arguments.a, arguments.b))
    return 0
