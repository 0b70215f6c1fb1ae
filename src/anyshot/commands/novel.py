"""`anyshot novel`: add classes to a trained RAML model from a few images, without training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyshot.errors import AnyshotError, ConfigError

if TYPE_CHECKING:
    from anyshot.raml.novel_folder import Settings
    from anyshot.raml.open_model import ModelFacts

EPILOG = """\
examples:
  anyshot novel add --model MODEL --name tram --images a.png b.png --masks a_mask.png b_mask.png
  anyshot novel copy --model MODEL --bank results/raml/16_3/novel_bank/5shot_seed0/bank.json
  anyshot novel set --model MODEL --min-area 40 --threshold 0.7
  anyshot novel list --model MODEL
  anyshot novel remove --model MODEL --name tram

MODEL is a RAML model folder, e.g. results/raml/16_3/metric. Classes lie in MODEL/novel, two files each, and
settings.json there says how regions are found; `anyshot predict --model MODEL` uses them. No class changes
the files of another.
"""

EPILOG_ADD = """\
examples:
  anyshot novel add --model MODEL --name tram --images a.png b.png --masks a_mask.png b_mask.png
  anyshot novel add --model MODEL --name tram --images a.png --masks ids.png --mask-value 7 --min-area 40

The first mask belongs to the first image, and so on; both have one size. Pixels of a mask that are neither 0
nor 255 (ignored) are the class, or those of --mask-value alone. A class that is in the model's own table
keeps its id; any other gets a free one.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "novel",
        help="classes added to a RAML model from a few images",
        description="Add classes to a trained RAML model, without training.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    _add_add(actions)
    copy = _action(actions, "copy", copy_bank, "take over a bank that the workflow has built")
    copy.add_argument("--bank", type=Path, required=True, metavar="FILE", help="its bank.json")
    copy.add_argument("--replace", action="store_true", help="make classes anew that are there")
    _add_settings(copy)
    _add_settings(_action(actions, "set", change_settings, "change how regions are found"))
    _action(actions, "list", list_classes, "the classes that were added, and the settings")
    remove = _action(actions, "remove", remove_class, "delete a class that was added")
    remove.add_argument("--name", required=True, help="the class")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: Any, help: str, **more: Any
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="RAML model folder")
    parser.set_defaults(run=run)
    return parser


def _add_add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _action(actions, "add", add_class, "add a class from images and masks", epilog=EPILOG_ADD)
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
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "how regions are found", "Written to novel/settings.json, for all classes; as before where not given."
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


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("threshold", "hit_ratio", "channel_threshold", "closing", "min_area", "reject_known")
    return {name: getattr(arguments, name) for name in names}


def _check_settings(facts: ModelFacts, changes: dict[str, Any]) -> Settings:
    """The settings that these changes give. Raises ConfigError when they cannot be."""
    from anyshot.engine.checkpoints import load_weights
    from anyshot.engine.model_folder import WEIGHTS_FILE
    from anyshot.raml.novel_folder import changed_settings
    from anyshot.raml.weights import PROTOTYPES

    facts.require_embedding()
    settings = changed_settings(facts.folder, changes)
    if changes["reject_known"]:
        state, _ = load_weights(facts.folder / WEIGHTS_FILE)
        if not state[PROTOTYPES].any():
            raise ConfigError(
                f"--reject-known: {facts.folder} has no prototypes of its known classes (imported weights"
                " have none); leave it out, or train stage 3 here"
            )
    return settings


def add_class(arguments: argparse.Namespace) -> int:
    from anyshot.commands.prediction import choose_device
    from anyshot.raml import novel_folder
    from anyshot.raml.open_model import load_model, read_facts

    facts, changes = read_facts(arguments.model), _settings(arguments)
    settings = _check_settings(facts, changes)
    novel_folder.check_name(facts, arguments.name, replace=arguments.replace)
    stored = novel_folder.add_class(
        load_model(arguments.model, choose_device(arguments.device)),
        arguments.name,
        arguments.images,
        arguments.masks,
        mask_value=arguments.mask_value,
        channel_threshold=settings.channel_threshold,
        replace=arguments.replace,
    )
    novel_folder.write_settings(arguments.model, settings)
    print(f"{stored.path}: {_described(stored, settings)}")
    if not stored.novel.channels(settings.hit_ratio).any():
        best = stored.novel.hits.max()
        print(
            f"no meta channel covers more than {settings.hit_ratio:.0%} of a mask (the best one {best:.1%}):"
            " no region is proposed for this class alone; lower --hit-ratio, or give other images"
        )
    return 0


def copy_bank(arguments: argparse.Namespace) -> int:
    from anyshot.raml import novel_folder
    from anyshot.raml.open_model import read_facts

    facts, changes = read_facts(arguments.model), _settings(arguments)
    if changes["hit_ratio"] is None and not novel_folder.class_files(arguments.model):
        changes["hit_ratio"] = novel_folder.bank_facts(arguments.bank).get("hit_ratio")
    settings = _check_settings(facts, changes)
    for stored in novel_folder.copy_bank(facts, arguments.bank, replace=arguments.replace):
        print(f"{stored.path}: {_described(stored, settings)}")
    novel_folder.write_settings(arguments.model, settings)
    return 0


def change_settings(arguments: argparse.Namespace) -> int:
    from anyshot.raml import novel_folder
    from anyshot.raml.open_model import read_facts

    changes = _settings(arguments)
    if all(value is None for value in changes.values()):
        raise ConfigError("nothing to set: give --threshold, --min-area or another setting (see --help)")
    settings = _check_settings(read_facts(arguments.model), changes)
    novel_folder.write_settings(arguments.model, settings)
    print(_settings_text(settings))
    return 0


def list_classes(arguments: argparse.Namespace) -> int:
    from anyshot.raml import novel_folder
    from anyshot.raml.open_model import read_facts

    facts, settings = read_facts(arguments.model), novel_folder.read_settings(arguments.model)
    paths = novel_folder.class_files(arguments.model)
    for path in paths:
        try:
            stored = novel_folder.read_class(path)
        except AnyshotError as error:
            print(f"{path.stem}: {error}")
            continue
        problem = novel_folder.problem_of(facts, stored)
        print(_described(stored, settings) + (f"; DOES NOT FIT the model: {problem}" if problem else ""))
    if not paths:
        print(f"{arguments.model} has no novel classes; anyshot novel add adds one")
    print(_settings_text(settings))
    return 0


def remove_class(arguments: argparse.Namespace) -> int:
    from anyshot.raml import novel_folder
    from anyshot.raml.open_model import read_facts

    novel_folder.remove_class(read_facts(arguments.model), arguments.name)
    print(f"{arguments.name} removed from {arguments.model}")
    return 0


def _described(stored: Any, settings: Settings) -> str:
    novel = stored.novel
    channels = novel.channels(settings.hit_ratio).nonzero().flatten().tolist()
    text = ", ".join(map(str, channels)) or "none"
    return f"{novel.name}, id {novel.id}, {len(novel.supports)} images, meta channels {text}"


def _settings_text(settings: Settings) -> str:
    return "settings: " + ", ".join(f"{name} {value}" for name, value in settings.model_dump().items())
