"""`anyshot novel`: add classes to a trained RAML or POP model from a few images."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anyshot.errors import AnyshotError, ConfigError

if TYPE_CHECKING:
    from anyshot.engine.novel_folder import StoredClass

SYSTEMS: Final = {"raml": "anyshot.commands.novel_raml", "pop": "anyshot.commands.novel_pop"}
"""Modules with `add_class`, `copy_classes`, `change_settings` and `list_classes`, by the card's system."""

SETTINGS: Final = ("threshold", "hit_ratio", "channel_threshold", "closing", "min_area", "reject_known")
TRAINING: Final = ("steps", "seed")
STEPS, SEED = 500, 0

EPILOG = """\
examples:
  anyshot novel add --model MODEL --name tram --images a.png b.png --masks a_mask.png b_mask.png
  anyshot novel copy --model MODEL --bank results/raml/16_3/novel_bank/5shot_seed0/bank.json
  anyshot novel copy --model MODEL --head results/pop/fold0/novel_update/pop/5shot_seed123
  anyshot novel set --model MODEL --min-area 40 --threshold 0.7
  anyshot novel list --model MODEL
  anyshot novel remove --model MODEL --name tram

MODEL is a model folder of RAML, e.g. results/raml/16_3/metric, or of POP, e.g. results/pop/fold0/base.
Classes lie in MODEL/novel, two files each; `anyshot predict --model MODEL` uses them. No class changes the
files of another. RAML only describes a class, and settings.json in the same folder says how its regions are
found. POP learns a prototype and a small classifier on the network, which stays as it is.
"""

EPILOG_ADD = f"""\
examples:
  anyshot novel add --model MODEL --name tram --images a.png b.png --masks a_mask.png b_mask.png
  anyshot novel add --model MODEL --name tram --images a.png --masks ids.png --mask-value 7

The first mask belongs to the first image, and so on; both have one size. Pixels of a mask that are neither 0
nor 255 (ignored) are the class, or those of --mask-value alone. A class that is in the model's own table
keeps its id; any other gets a free one.

POP learns from all pixels: those of the class as the mask says, ignored ones not at all, and the others as
what the model takes them for without the class, so give masks that hold all of the class that is to be seen.
It takes {STEPS} steps if --steps does not say otherwise; the same --seed gives the same class.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "novel",
        help="classes added to a RAML or POP model from a few images",
        description="Add classes to a trained RAML or POP model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    _add_add(actions)
    copy = _action(actions, "copy", "copy_classes", "take over classes that the workflow has made")
    source = copy.add_mutually_exclusive_group(required=True)
    source.add_argument("--bank", type=Path, metavar="FILE", help="RAML: the bank.json of a novel_bank")
    source.add_argument("--head", type=Path, metavar="FOLDER", help="POP: the folder of a novel_update")
    copy.add_argument("--replace", action="store_true", help="make classes anew that are there")
    _add_settings(copy)
    _add_settings(_action(actions, "set", "change_settings", "change how RAML's regions are found"))
    _action(actions, "list", "list_classes", "the classes that were added")
    remove = _action(actions, "remove", None, "delete a class that was added")
    remove.set_defaults(run=remove_class)
    remove.add_argument("--name", required=True, help="the class")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    work: str | None,
    help: str,
    **more: Any,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER", help="model folder of RAML or POP"
    )
    parser.set_defaults(run=run, work=work)
    return parser


def _add_add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _action(actions, "add", "add_class", "add a class from images and masks", epilog=EPILOG_ADD)
    parser.add_argument("--name", required=True, help="what to call the class")
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="FILE", help="image files")
    parser.add_argument(
        "--masks", type=Path, nargs="+", required=True, metavar="FILE", help="one mask for each image"
    )
    parser.add_argument("--mask-value", type=int, metavar="N", help="the class's value in the masks")
    parser.add_argument("--replace", action="store_true", help="make the class anew if it is there")
    parser.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda or cuda:N (default: a GPU if there is one)"
    )
    group = parser.add_argument_group("how POP learns")
    group.add_argument("--steps", type=_whole, metavar="N", help=f"updates, two images each ({STEPS})")
    group.add_argument("--seed", type=_whole, metavar="N", help=f"of the draws ({SEED})")
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "how RAML finds regions",
        "Written to novel/settings.json, for all classes; as before where not given.",
    )
    group.add_argument("--threshold", type=float, metavar="X", help="least cosine to a class (0.8)")
    group.add_argument(
        "--hit-ratio", type=float, metavar="X", help="share of a mask that a channel must cover (0.15)"
    )
    group.add_argument(
        "--channel-threshold", type=float, metavar="X", help="a channel is on at or above this (0.5)"
    )
    group.add_argument("--closing", type=int, metavar="N", help="square that closes holes, cells of 4 px (5)")
    group.add_argument("--min-area", type=int, metavar="N", help="least area, cells of 4 x 4 px (250)")
    group.add_argument(
        "--reject-known",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="a region nearer to a known class stays known (off)",
    )


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 0")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Hand the action to the system of the model folder."""
    work: Callable[[argparse.Namespace], int]
    work = getattr(importlib.import_module(SYSTEMS[_system(arguments.model)]), arguments.work)
    return work(arguments)


def remove_class(arguments: argparse.Namespace) -> int:
    from anyshot.engine import novel_folder

    _system(arguments.model)
    novel_folder.remove_class(arguments.model, arguments.name)
    print(f"{arguments.name} removed from {arguments.model}")
    return 0


def _system(folder: Path) -> str:
    """The folder's system. Raises ArtifactError for one whose models take no novel classes."""
    from anyshot.engine.model_folder import read_card
    from anyshot.errors import ArtifactError

    card = read_card(folder)
    if card.system not in SYSTEMS:
        raise ArtifactError(
            f"{folder} is no RAML model and no POP model: it holds {card.network.name} of {card.system}."
            " Classes can be added to folders such as results/raml/16_3/metric and results/pop/fold0/base"
        )
    return card.system


# --- for the systems ---


def given_options(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Options by name, None where not given."""
    return {name: getattr(arguments, name, None) for name in names}


def refuse(arguments: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise ConfigError when any of these options is given."""
    found = [name for name, value in given_options(arguments, names).items() if value is not None]
    if found:
        raise ConfigError(f"{', '.join('--' + name.replace('_', '-') for name in found)}: {why}")


def print_classes(
    folder: Path,
    read: Callable[[Path], StoredClass[Any]],
    problem: Callable[[StoredClass[Any]], str | None],
    described: Callable[[StoredClass[Any]], str],
) -> None:
    """A line for each class that was added, also for those that are damaged or do not fit."""
    from anyshot.engine.novel_folder import class_files

    paths = class_files(folder)
    for path in paths:
        try:
            stored = read(path)
        except AnyshotError as error:
            print(f"{path.stem}: {error}")
            continue
        reason = problem(stored)
        print(described(stored) + (f"; DOES NOT FIT the model: {reason}" if reason else ""))
    if not paths:
        print(f"{folder} has no novel classes; anyshot novel add adds one")
