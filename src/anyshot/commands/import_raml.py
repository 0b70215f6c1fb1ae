"""`anyshot import-weights raml`: a checkpoint of the official RAML code into a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyshot.commands.importing import check_target, imported_card, system_parser, write_folder

if TYPE_CHECKING:
    from anyshot.data.split_tables import SplitTables

EPILOG = """\
examples:
  anyshot import-weights raml final.pth --split 16_3 --output models/raml_16_3
  anyshot import-weights raml final.pth --split own --classes classes.csv --novel car,bus --output models/own

The file may hold tensors and plain containers only; nothing else in it is loaded or run. Every name and shape
of the network must be there and nothing else may be. A file of stage 3 becomes what `anyshot novel add` and
`anyshot predict` take; one of stages 1 and 2 has no embedding of regions and segments known classes only.
"""


def add_parser(systems: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = system_parser(
        systems,
        "raml",
        help="RAML's checkpoints of stages 1 to 3",
        description="Convert a checkpoint of the official RAML code (final.pth).",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--split", required=True, metavar="NAME", help="split it was trained on: 16_3, 16_1, 14_5, 12_7, ..."
    )
    parser.add_argument(
        "--scheme",
        default="cityscapes_open",
        metavar="NAME",
        help="table of splits (default cityscapes_open)",
    )
    parser.add_argument(
        "--novel", metavar="A,B", help="classes that the training did not see; instead of --scheme"
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="classes.csv of the data set, known classes by ascending id (default: Cityscapes')",
    )
    parser.add_argument("--backbone", default="resnet101", metavar="NAME", help="default resnet101")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from anyshot.engine.checkpoints import load_into
    from anyshot.raml.networks import build_network
    from anyshot.raml.options import OpenBackbone
    from anyshot.raml.weights import import_checkpoint

    check_target(arguments)
    tables = _tables(arguments)
    backbone = OpenBackbone(name=arguments.backbone, weights="none").model_dump(mode="json")
    state, report = import_checkpoint(arguments.file, tables=tables, backbone=backbone)
    load_into(build_network(report.network, load=False), state)
    card = imported_card("raml", arguments, report, tables.table, tables=tables.to_json())
    write_folder(arguments, state, card, report.text())
    return 0


def _tables(arguments: argparse.Namespace) -> SplitTables:
    """The split's tables. Raises ConfigError for unknown schemes, splits and classes."""
    from anyshot.commands.predict import class_names
    from anyshot.data.cityscapes_labels import cityscapes_table
    from anyshot.data.classes import ClassTable
    from anyshot.data.open_splits import open_split
    from anyshot.data.split_tables import SplitTables

    table = cityscapes_table() if arguments.classes is None else ClassTable.read(arguments.classes)
    if arguments.novel is not None:
        return SplitTables.make(table, novel=class_names([arguments.novel], table.names))
    split = open_split(arguments.scheme, arguments.split)
    return SplitTables.make(table, novel=split.novel, ignored=split.ignored)
