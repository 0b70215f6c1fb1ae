"""`anyshot novel` for POP's model folders: a class is a prototype and a classifier that are learnt."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from anyshot.commands.novel import SEED, SETTINGS, STEPS, print_classes, refuse
from anyshot.commands.prediction import choose_device
from anyshot.commands.terminal import log, start_log
from anyshot.engine.novel_folder import StoredClass, check_name, id_for, read_supports
from anyshot.errors import ConfigError
from anyshot.job import Job
from anyshot.options import StageOptions
from anyshot.pop import novel_folder
from anyshot.pop.learning import learn_class
from anyshot.pop.novel_folder import NovelClass
from anyshot.pop.open_model import load_model, read_facts

THRESHOLDS = "these are settings of RAML's regions; POP decides pixel by pixel and has no thresholds"
POOR = 0.5  # share of a class's own support pixels, or of those it claims, below which a hint is printed


def add_class(arguments: argparse.Namespace) -> int:
    refuse(arguments, SETTINGS, THRESHOLDS)
    steps = STEPS if arguments.steps is None else arguments.steps
    seed = SEED if arguments.seed is None else arguments.seed
    facts, device = read_facts(arguments.model), choose_device(arguments.device)
    if device.index:
        raise ConfigError(
            f"--device {device}: a class is learnt on the first GPU that is visible; set"
            f" CUDA_VISIBLE_DEVICES={device.index} and give --device cuda"
        )
    check_name(facts, arguments.name, replace=arguments.replace)
    given = read_supports(arguments.images, arguments.masks, arguments.mask_value)
    present = novel_folder.read_classes(facts, without=[arguments.name])
    model = load_model(arguments.model, device)
    start_log()
    gpus = int(device.type == "cuda")
    job = Job(
        stage="novel add", options=StageOptions(), input_paths={}, output_paths={}, log=log, seed=seed,
        gpus=gpus,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        learnt = learn_class(
            model, novel_folder.session_head(model, present), given, job=job, steps=steps, folder=Path(folder)
        )
    novel = NovelClass(
        id=id_for(facts, arguments.name),
        name=arguments.name,
        supports=tuple(path.name for path in arguments.images),
        prototype=learnt.prototype,
        classifier=learnt.classifier,
        session=novel_folder.next_session(present),
    )
    stored = novel_folder.write_class(
        facts, novel, seed=seed, steps=steps, found=learnt.found, precision=learnt.precision
    )
    print(f"{stored.path}: {_described(stored)}")
    print(
        f"on its own images it gets {learnt.found:.0%} of the class's pixels, {learnt.precision:.0%} of what"
        f" it takes is the class; largest |cosine| with another prototype {learnt.overlap:.2f}"
    )
    if min(learnt.found, learnt.precision) < POOR:
        print("that is little: give more --steps or more images, and masks that hold all of the class")
    return 0


def copy_classes(arguments: argparse.Namespace) -> int:
    refuse(arguments, SETTINGS, THRESHOLDS)
    refuse(arguments, ("bank",), "a POP model takes the classes of a head; give its folder with --head")
    model = load_model(arguments.model, "cpu")
    for stored in novel_folder.copy_head(model, arguments.head, replace=arguments.replace):
        print(f"{stored.path}: {_described(stored)}")
    return 0


def change_settings(arguments: argparse.Namespace) -> int:
    raise ConfigError(f"{arguments.model} is a POP model, for which nothing can be set: {THRESHOLDS}")


def list_classes(arguments: argparse.Namespace) -> int:
    facts = read_facts(arguments.model)
    print_classes(
        arguments.model,
        novel_folder.read_class,
        lambda stored: novel_folder.problem_of(facts, stored),
        _described,
    )
    own = facts.known_ids[1 + facts.tables.base_count :]
    if own:
        names = ", ".join(facts.table.name_of(number) for number in own)
        print(f"the network itself brings along: {names}")
    return 0


def _described(stored: StoredClass[NovelClass]) -> str:
    novel = stored.novel
    plus, minus = novel.slopes
    return (
        f"{novel.name}, id {novel.id}, {len(novel.supports)} images, session {novel.session}"
        f" ({stored.facts['session'].get('time', 'time unknown')}), c+ {plus:.2f}, c- {minus:.2f}"
    )
