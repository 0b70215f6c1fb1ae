"""`anyshot novel` for RAML's model folders: a class is described by its images, nothing is trained."""

from __future__ import annotations

import argparse
from typing import Any

from anyshot.commands.novel import SETTINGS, TRAINING, given_options, print_classes, refuse
from anyshot.commands.prediction import choose_device
from anyshot.engine.checkpoints import load_weights
from anyshot.engine.model_folder import WEIGHTS_FILE
from anyshot.engine.novel_folder import StoredClass, check_name, class_files
from anyshot.errors import ConfigError
from anyshot.raml import novel_folder
from anyshot.raml.bank import NovelClass
from anyshot.raml.novel_folder import Settings
from anyshot.raml.open_model import ModelFacts, load_model, read_facts
from anyshot.raml.weights import PROTOTYPES


def _check_settings(facts: ModelFacts, changes: dict[str, Any]) -> Settings:
    """The settings that these changes give. Raises ConfigError when they cannot be."""
    facts.require_embedding()
    settings = novel_folder.changed_settings(facts.folder, changes)
    if changes["reject_known"]:
        state, _ = load_weights(facts.folder / WEIGHTS_FILE)
        if not state[PROTOTYPES].any():
            raise ConfigError(
                f"--reject-known: {facts.folder} has no prototypes of its known classes (imported weights"
                " have none); leave it out, or train stage 3 here"
            )
    return settings


def add_class(arguments: argparse.Namespace) -> int:
    refuse(arguments, TRAINING, "RAML describes a class without training; these are options of POP's models")
    facts, changes = read_facts(arguments.model), given_options(arguments, SETTINGS)
    settings = _check_settings(facts, changes)
    check_name(facts, arguments.name, replace=arguments.replace)
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


def copy_classes(arguments: argparse.Namespace) -> int:
    refuse(arguments, ("head",), "a RAML model takes the classes of a bank; give its bank.json with --bank")
    facts, changes = read_facts(arguments.model), given_options(arguments, SETTINGS)
    if changes["hit_ratio"] is None and not class_files(arguments.model):
        changes["hit_ratio"] = novel_folder.bank_facts(arguments.bank).get("hit_ratio")
    settings = _check_settings(facts, changes)
    for stored in novel_folder.copy_bank(facts, arguments.bank, replace=arguments.replace):
        print(f"{stored.path}: {_described(stored, settings)}")
    novel_folder.write_settings(arguments.model, settings)
    return 0


def change_settings(arguments: argparse.Namespace) -> int:
    changes = given_options(arguments, SETTINGS)
    if all(value is None for value in changes.values()):
        raise ConfigError("nothing to set: give --threshold, --min-area or another setting (see --help)")
    settings = _check_settings(read_facts(arguments.model), changes)
    novel_folder.write_settings(arguments.model, settings)
    print(_settings_text(settings))
    return 0


def list_classes(arguments: argparse.Namespace) -> int:
    facts, settings = read_facts(arguments.model), novel_folder.read_settings(arguments.model)
    print_classes(
        arguments.model,
        novel_folder.read_class,
        lambda stored: novel_folder.problem_of(facts, stored),
        lambda stored: _described(stored, settings),
    )
    print(_settings_text(settings))
    return 0


def _described(stored: StoredClass[NovelClass], settings: Settings) -> str:
    novel = stored.novel
    channels = novel.channels(settings.hit_ratio).nonzero().flatten().tolist()
    text = ", ".join(map(str, channels)) or "none"
    return f"{novel.name}, id {novel.id}, {len(novel.supports)} images, meta channels {text}"


def _settings_text(settings: Settings) -> str:
    return "settings: " + ", ".join(f"{name} {value}" for name, value in settings.model_dump().items())
