"""What `anyshot import-weights` does for every system: the options in common, the check, the folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from anyshot.errors import ArtifactError

if TYPE_CHECKING:
    from anyshot.data.classes import ClassTable


class Report(Protocol):
    """What an import found, the same for RAML, POP and SimFormer."""

    @property
    def path(self) -> Path: ...

    @property
    def network(self) -> Mapping[str, Any]: ...

    @property
    def tensors(self) -> int: ...

    @property
    def parameters(self) -> int: ...


def system_parser(
    systems: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    *,
    help: str,
    description: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """The parser of a system, with the checkpoint, the folder for the result, and --force."""
    parser = systems.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for the result")
    parser.add_argument("--force", action="store_true", help="replace weights that are in the folder")
    return parser


def check_target(arguments: argparse.Namespace) -> None:
    """Raise ArtifactError where weights would be replaced without --force."""
    from anyshot.engine.model_folder import WEIGHTS_FILE

    target = arguments.output / WEIGHTS_FILE
    if target.exists() and not arguments.force:
        raise ArtifactError(f"{target} exists: choose another --output, or --force to replace it")


def novel_names(arguments: argparse.Namespace, table: ClassTable, scheme: str) -> list[str]:
    """The novel classes that `--novel` lists, or those of `--split` in a scheme. Raises ConfigError."""
    from anyshot.commands.predict import class_names
    from anyshot.data.splits import novel_class_names

    if arguments.novel is not None:
        return class_names([arguments.novel], table.names)
    return novel_class_names(scheme, arguments.split)


def imported_card(
    system: str, arguments: argparse.Namespace, report: Report, table: ClassTable, **more: Any
) -> dict[str, Any]:
    """The model card of a network that was trained on one split of the classes of `table`."""
    from anyshot.engine.model_folder import model_card
    from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD

    return model_card(
        system=system,
        split=arguments.split,
        network=report.network["name"],
        network_options=report.network["options"],
        table=table,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        imported={"file": report.path.name, "tensors": report.tensors, "numbers": report.parameters},
        **more,
    )


def write_folder(
    arguments: argparse.Namespace, state: Mapping[str, Any], card: Mapping[str, Any], said: str
) -> None:
    """Write the model folder and tell what was found."""
    from anyshot.engine.model_folder import CARD_FILE, CLASSES_FILE, WEIGHTS_FILE, save_model_folder

    save_model_folder(arguments.output, state_dict=dict(state), card=card)
    print(said)
    print(f"written to {arguments.output}: {WEIGHTS_FILE}, {CARD_FILE}, {CLASSES_FILE}")
