"""`anyshot import-weights simformer`: a checkpoint of MaskFormer or SimFormer into a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyshot.commands.importing import (
    check_target,
    imported_card,
    novel_names,
    system_parser,
    write_folder,
)

if TYPE_CHECKING:
    from anyshot.data.classes import ClassTable
    from anyshot.simformer.tables import WeakTables
    from anyshot.simformer.weights import ImportReport

SCHEMES = {"coco_stuff": "coco_stuff_weak", "ade20k": "ade20k_weak"}
NONE_NOVEL = "joint"  # a split of every scheme

EPILOG = """\
examples:
  anyshot import-weights simformer final_S1.pth --split split1 --output models/simformer_split1
  anyshot import-weights simformer maskformer.pth --data-set ade20k --output models/maskformer_ade
  anyshot import-weights simformer model.safetensors --backbone resnet101 --output models/from_transformers
  anyshot import-weights simformer own.pth --classes own.csv --split own --novel car,bus --output models/own

The file has the names of detectron2 (the official codes of MaskFormer and SimFormer) or of Hugging Face's
MaskFormerForInstanceSegmentation; which one is found out. It may hold tensors and plain containers only;
nothing else in it is loaded or run. Every name and shape of the network must be there and nothing else may
be, what belongs to its losses (criterion.*) aside.
"""


def add_parser(systems: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = system_parser(
        systems,
        "simformer",
        help="MaskFormer's and SimFormer's checkpoints on ResNets",
        description="Convert a checkpoint of MaskFormer or SimFormer (.pth, .bin or .safetensors).",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--data-set",
        choices=SCHEMES,
        default="coco_stuff",
        help="its classes and splits (default coco_stuff)",
    )
    parser.add_argument(
        "--split",
        default=NONE_NOVEL,
        metavar="NAME",
        help="split it was trained on, split1 to split9 (ade20k: to split4); default joint, no novel class,"
        " for MaskFormer itself",
    )
    parser.add_argument(
        "--novel",
        metavar="A,B",
        help="novel classes of a split of your own; instead of the data set's splits",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="classes.csv in the order of the outputs, for another table than the data set's own",
    )
    parser.add_argument("--backbone", default="resnet50", metavar="NAME", help="default resnet50")
    parser.add_argument(
        "--heads", type=int, default=8, metavar="N", help="of every attention; no file tells (default 8)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from anyshot.engine.checkpoints import load_into
    from anyshot.simformer.networks import build_simformer
    from anyshot.simformer.options import MaskBackbone
    from anyshot.simformer.weights import import_checkpoint

    check_target(arguments)
    tables = _tables(arguments)
    state, report = import_checkpoint(
        arguments.file,
        classes=len(tables.table),
        backbone=MaskBackbone(name=arguments.backbone, weights="none").model_dump(mode="json"),
        heads=arguments.heads,
    )
    load_into(build_simformer(report.network["options"]), state)
    write_folder(arguments, state, _card(arguments, tables, report), report.text())
    return 0


def _tables(arguments: argparse.Namespace) -> WeakTables:
    """The split's tables. Raises ConfigError for unknown splits and classes, DataError for a broken table."""
    from anyshot.data.classes import ClassTable
    from anyshot.simformer.tables import WeakTables

    table = _table(arguments.data_set) if arguments.classes is None else ClassTable.read(arguments.classes)
    return WeakTables.make(table, novel_names(arguments, table, SCHEMES[arguments.data_set]))


def _table(data_set: str) -> ClassTable:
    """The data set's own classes, with the ids of its published masks."""
    if data_set == "ade20k":
        from anyshot.data.ade20k_labels import ade20k_table

        return ade20k_table(first=1)
    from anyshot.data.coco_stuff_labels import coco_stuff_table

    return coco_stuff_table()


def _card(arguments: argparse.Namespace, tables: WeakTables, report: ImportReport) -> dict[str, Any]:
    """The content of `model.json`: the size is that of the published training crops and short sides."""
    from anyshot.simformer.options import Joint
    from anyshot.simformer.system import published_ade20k

    published = published_ade20k().joint if arguments.data_set == "ade20k" else Joint()
    return imported_card(
        "simformer",
        arguments,
        report,
        tables.table,
        input_size=published.augmentation.crop,
        longest=published.augmentation.longest,
        novel=[tables.table.names[index] for index in tables.novel],
    )
