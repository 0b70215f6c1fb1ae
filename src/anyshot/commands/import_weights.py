"""`anyshot import-weights`: a released checkpoint into a folder of ours, strictly, with a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyshot.commands import import_pop, import_raml, import_simformer
from anyshot.commands.importing import check_target, system_parser, write_folder
from anyshot.errors import ConfigError

if TYPE_CHECKING:
    from anyshot.data.classes import ClassTable
    from anyshot.retab.weights import ImportReport

# By kind of network: the options of its stage that its builder needs, beside the backbone and the classes.
HEAD_OPTIONS = {
    "classifier": ("dropout",),
    "affinity": ("branch_channels", "initial_gain"),
    "boundary": ("branch_channels", "initial_gain"),
    "segmentation": ("head_channels", "head_dilation", "skip_channels"),
}
KINDS = tuple(HEAD_OPTIONS)
WIDTH = 1.0  # factor on the channels of ResNet-38; tests make it small

EPILOG = """\
examples:
  anyshot import-weights retab res38_cls.pth --kind classifier --output weights/classifier
  anyshot import-weights raml final.pth --split 16_3 --output models/raml_16_3
  anyshot import-weights pop best.pth --split fold0 --output models/pop_fold0
  anyshot import-weights simformer final_S1.pth --split split1 --output models/simformer_split1

`anyshot import-weights SYSTEM --help` has the options of each system.
"""

EPILOG_RETAB = """\
examples:
  anyshot import-weights retab res38_cls.pth --kind classifier --output weights/classifier
  anyshot import-weights retab psa_ourbest_fold0_affnet.pth --kind affinity --output weights/affinity_fold0
  anyshot import-weights retab seg.pth --kind segmentation --output models/seg --classes classes.csv

The file may hold tensors only; nothing else in it is loaded or run. Every name and shape of the network
must be there and nothing else may be. A segmentation folder is what `anyshot predict --model` takes.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "import-weights",
        help="a released checkpoint into a folder of ours",
        description="Convert a checkpoint of the official code of a system.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    systems = parser.add_subparsers(title="systems", dest="system", metavar="SYSTEM", required=True)
    _add_retab(systems)
    import_raml.add_parser(systems)
    import_pop.add_parser(systems)
    import_simformer.add_parser(systems)


def _add_retab(systems: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = system_parser(
        systems,
        "retab",
        help="PSA's and RETAB's networks on ResNet-38",
        description="Convert a checkpoint of the official code (.pth or .safetensors).",
        epilog=EPILOG_RETAB,
    )
    parser.add_argument("--kind", choices=KINDS, required=True, help="which network the file holds")
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="classes.csv of the data set, in the order of the outputs (default: PASCAL VOC's)",
    )
    parser.add_argument(
        "--split", default="shared", metavar="NAME", help="fold of a network trained on one, e.g. fold0"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from anyshot.engine.checkpoints import load_into
    from anyshot.retab.networks import build_network
    from anyshot.retab.weights import import_checkpoint

    check_target(arguments)
    state, report = import_checkpoint(arguments.kind, arguments.file, width=WIDTH)
    card = _card(report, _class_table(report, arguments.classes), split=arguments.split)
    load_into(build_network(card["network"], load=False), state)
    write_folder(arguments, state, card, report.text())
    return 0


def _class_table(report: ImportReport, path: Path | None) -> ClassTable:
    """The data set's classes. Raises ConfigError when the network has another number of outputs."""
    from anyshot.data.classes import ClassTable
    from anyshot.data.readers.voc import voc_table

    table = voc_table() if path is None else ClassTable.read(path)
    # A classifier has no output for the background; affinity and boundary networks have none for any class.
    outputs = len(table.foreground_ids) if report.kind == "classifier" else len(table)
    if report.classes is not None and report.classes != outputs:
        raise ConfigError(
            f"{report.path} has {report.classes} outputs, but {path or 'PASCAL VOC'} has {outputs} classes"
            " for them: give a classes.csv of the right length with --classes"
        )
    return table


def _card(report: ImportReport, table: ClassTable, *, split: str) -> dict[str, Any]:
    """The content of `model.json`: the network with the published options, and where it came from."""
    from anyshot.engine.model_folder import model_card
    from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD
    from anyshot.options import BackboneOptions
    from anyshot.retab.options import Predict
    from anyshot.retab.system import STAGES

    # The defaults of the options are the published settings, with which the released files were trained.
    published = STAGES[report.kind]().model_dump(mode="json")
    head = {key: published[key] for key in HEAD_OPTIONS[report.kind]}
    if report.classes is not None:
        head["classes"] = report.classes
    inference: dict[str, Any] = {}
    if report.kind == "segmentation":
        way = Predict()
        crf = False if way.crf is None else way.crf.model_dump()
        inference = {"scales": way.scales, "flip": way.mirror, "crf": crf}
    backbone = BackboneOptions(name="resnet38", weights="none", width=WIDTH).model_dump(mode="json")
    return model_card(
        system="retab",
        split=split,
        network=f"retab_{report.kind}",
        network_options={"backbone": backbone, **head},
        table=table,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        imported={"file": report.path.name, "tensors": report.tensors, "numbers": report.parameters},
        **inference,
    )
