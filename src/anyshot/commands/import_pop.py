"""`anyshot import-weights pop`: a checkpoint of the official POP code into a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anyshot.commands.importing import (
    check_target,
    imported_card,
    novel_names,
    system_parser,
    write_folder,
)

if TYPE_CHECKING:
    from anyshot.data.classes import ClassTable
    from anyshot.pop.tables import FoldTables

SCHEMES = {"voc": "pascal_5i", "coco": "coco_20i"}

EPILOG = """\
examples:
  anyshot import-weights pop best.pth --split fold0 --output models/pop_base
  anyshot import-weights pop best_123.pth --split fold2 --data-set coco --output models/pop_coco
  anyshot import-weights pop best.pth --split own --classes classes.csv --novel car,bus --output models/own

The file may hold tensors and plain containers only; nothing else in it is loaded or run. Every name and shape
of the network must be there and nothing else may be. A file of stage 1 (best.pth) has no novel classes, one
of stage 2 (best_SEED.pth) has those of the split.
"""


def add_parser(systems: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = system_parser(
        systems,
        "pop",
        help="POP's checkpoints of both stages",
        description="Convert a checkpoint of the official POP code (best.pth, best_SEED.pth).",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--split", required=True, metavar="NAME", help="split it was trained on: fold0 to fold3, or joint"
    )
    parser.add_argument(
        "--data-set", choices=SCHEMES, default="voc", help="its classes and splits (default voc)"
    )
    parser.add_argument(
        "--novel",
        metavar="A,B",
        help="novel classes of a split of your own; instead of the data set's splits",
    )
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="classes.csv, for another table than the data set's own"
    )
    parser.add_argument("--backbone", default="resnet50_v2", metavar="NAME", help="default resnet50_v2")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from anyshot.engine.checkpoints import load_into
    from anyshot.pop.networks import build_pop_net
    from anyshot.pop.options import PopBackbone, Predict
    from anyshot.pop.weights import import_checkpoint

    check_target(arguments)
    tables = _tables(arguments)
    state, report = import_checkpoint(
        arguments.file,
        base=tables.base_count,
        novel=tables.novel_count,
        backbone=PopBackbone(name=arguments.backbone, weights="none").model_dump(mode="json"),
    )
    load_into(build_pop_net(report.network["options"]), state)
    card = imported_card(
        "pop", arguments, report, tables.table, tables=tables.to_json(), input_size=Predict().size
    )
    write_folder(arguments, state, card, report.text())
    return 0


def _tables(arguments: argparse.Namespace) -> FoldTables:
    """The split's tables. Raises ConfigError for unknown splits and classes, DataError for a broken table."""
    from anyshot.data.classes import ClassTable
    from anyshot.pop.tables import FoldTables

    table = _table(arguments.data_set) if arguments.classes is None else ClassTable.read(arguments.classes)
    return FoldTables.make(table, novel=novel_names(arguments, table, SCHEMES[arguments.data_set]))


def _table(data_set: str) -> ClassTable:
    """The data set's own classes. COCO's 80 follow from its splits: fold f has every fourth, from f on."""
    from anyshot.data.classes import ClassTable
    from anyshot.data.readers.voc import voc_table
    from anyshot.data.splits import novel_class_names, split_names

    if data_set == "voc":
        return voc_table()
    folds = [novel_class_names(SCHEMES["coco"], fold) for fold in split_names(SCHEMES["coco"])]
    return ClassTable.of(["background", *(name for row in zip(*folds, strict=True) for name in row)])
