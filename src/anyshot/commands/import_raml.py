"""`anyshot import-weights raml`: a checkpoint of the official RAML code into a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyshot.errors import ArtifactError

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
    parser = systems.add_parser(
        "raml",
        help="RAML's checkpoints of stages 1 to 3",
        description="Convert a checkpoint of the official RAML code (final.pth).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for the result")
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
    parser.add_argument("--force", action="store_true", help="replace weights that are in the folder")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from anyshot.engine.checkpoints import load_into
    from anyshot.engine.model_folder import CLASSES_FILE, WEIGHTS_FILE, model_card, save_model_folder
    from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD
    from anyshot.raml.networks import build_network
    from anyshot.raml.options import OpenBackbone
    from anyshot.raml.weights import import_checkpoint

    target = arguments.output / WEIGHTS_FILE
    if target.exists() and not arguments.force:
        raise ArtifactError(f"{target} exists: choose another --output, or --force to replace it")
    tables = _tables(arguments)
    backbone = OpenBackbone(name=arguments.backbone, weights="none").model_dump(mode="json")
    state, report = import_checkpoint(arguments.file, tables=tables, backbone=backbone)
    load_into(build_network(report.network, load=False), state)
    card = model_card(
        system="raml",
        split=arguments.split,
        network=report.network["name"],
        network_options=report.network["options"],
        table=tables.table,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        tables=tables.to_json(),
        imported={"file": report.path.name, "tensors": report.tensors, "numbers": report.parameters},
    )
    save_model_folder(arguments.output, state_dict=state, card=card)
    print(report.text())
    print(f"written to {arguments.output}: {target.name}, {target.with_suffix('.json').name}, {CLASSES_FILE}")
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
