"""The one configuration of the workflow: the systems' options put together, validated, asked for by stage.

    python -m anyshot.config --schema              # workflow/schema.json
    python -m anyshot.config --published retab     # the published options of a system, as YAML
    python -m anyshot.config --check config.yaml   # validate a file, or several merged from left to right

No torch here: Snakemake imports this for every dry run.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from anyshot.config_errors import found, message, translate, unknown
from anyshot.config_files import plain, read_yaml
from anyshot.config_gpus import Gpus
from anyshot.data.open_splits import OPEN_SCHEMES
from anyshot.data.options import DataOptions, Download, Prepare
from anyshot.data.splits import SCHEMES, novel_class_names, split_names
from anyshot.errors import AnyshotError, ConfigError
from anyshot.larvseg.system import Larvseg
from anyshot.options import Options, StageOptions
from anyshot.page_options import Report
from anyshot.pop.system import Pop
from anyshot.raml.system import Raml
from anyshot.retab.system import Retab
from anyshot.simformer.system import Simformer

NAME = re.compile(r"\w[\w-]*")  # of data sets and splits: they become folders
SHARED = "shared"  # the folder of what does not depend on the split
SYSTEMS = ("retab", "raml", "pop", "simformer", "larvseg")
PUBLISHED = (*SYSTEMS, "pop_coco", "simformer_ade20k")  # what `--published` prints
WITH_SHARED = ("retab", "pop", "larvseg")  # systems with stages that do not depend on the split
LIST = "tag:yaml.org,2002:seq"
GROUPS = ("all_folds", *(f"{system}_all" for system in SYSTEMS), "report")  # targets that are no files


class Config(Options):
    """Everything that `config.yaml` may say."""

    results: str = Field("results", min_length=1, description="folder of everything the workflow makes")
    seed: int = Field(0, ge=0, description="seed of every training")
    gpus: Gpus = Field(
        default_factory=Gpus, description="GPUs per network stage; without a GPU the stages run on the CPU"
    )
    systems: list[Literal["retab", "raml", "pop", "simformer", "larvseg"]] = Field(
        ["retab"], min_length=1, description="systems to run"
    )
    targets: list[str] = Field(
        default_factory=lambda: ["all_folds", "report"],
        min_length=1,
        description="built by `snakemake` alone: all_folds, <system>_all, report, or files",
    )
    data: dict[str, DataOptions] = Field(description="the data sets, by name")
    download: Download = Field(
        default_factory=lambda: Download(root="datasets"),
        description="what `snakemake data_download` fetches",
    )
    retab: Retab = Field(default_factory=Retab, description="RETAB (BMVC 2022)")
    raml: Raml = Field(default_factory=Raml, description="RAML (IJCAI 2022)")
    pop: Pop = Field(default_factory=Pop, description="POP (CVPR 2023)")
    simformer: Simformer = Field(default_factory=Simformer, description="SimFormer (NeurIPS 2022)")
    larvseg: Larvseg = Field(default_factory=Larvseg, description="LarvSeg (PRCV 2024)")
    report: Report = Field(default_factory=Report, description="the page results/report.html")

    def novel_classes(self, split: str) -> list[str]:
        """Names of the novel classes of a split of RETAB. Raises ConfigError for an unknown split."""
        if split not in self.splits():
            raise ConfigError(f'split "{split}": {unknown(split, self.splits())}')
        if self.retab.novel_classes is not None:
            return list(self.retab.novel_classes[split])
        return novel_class_names(str(self.retab.scheme), split)

    def splits(self) -> list[str]:
        """Every split that RETAB's scheme has, whether it is enabled in `retab.folds` or not."""
        if self.retab.novel_classes is not None:
            return list(self.retab.novel_classes)
        return list(split_names(str(self.retab.scheme)))

    def every_split(self) -> list[str]:
        """Every split of any system, each name once."""
        return list(dict.fromkeys(split for system in SYSTEMS for split in self.splits_of(system)))

    def splits_of(self, system: str) -> list[str]:
        """Every split of one system."""
        if system == "retab":
            return self.splits()
        options: Raml | Pop | Simformer | Larvseg = getattr(self, system)
        return list(options.every_split())

    def stage(
        self,
        stage: str,
        *,
        split: str | None = None,
        labels: str | None = None,
        walk: str | None = None,
        name: str | None = None,
        shot: str | None = None,
        support: str | None = None,
        method: str | None = None,
        target: str | None = None,
    ) -> StageOptions:
        """Options of the stage `system.stage`; the keywords are the rule's wildcards.

        Raises KeyError for an unknown stage or data set, ConfigError for an unknown split.
        """
        system, _, key = stage.partition(".")
        if system == "retab":
            novel = self.novel_classes(split) if split not in (None, SHARED) else None
            return self.retab.stage(key, split=split, novel=novel, labels=labels, walk=walk)
        if system == "raml":
            return self.raml.stage(key, split=split, shot=shot, support=support)
        if system == "pop":
            recipe = getattr(self.data.get(self.pop.data), "recipe", None)
            return self.pop.stage(key, split=split, shot=shot, support=support, method=method, recipe=recipe)
        if system == "simformer":
            return self.simformer.stage(key, split=split, method=method)
        if system == "larvseg":
            return self.larvseg.stage(key, split=split, method=method, target=target, image_set=name)
        if stage == "data.prepare":
            return Prepare(name=str(name), source=self.data[str(name)])
        fixed: dict[str, StageOptions] = {"data.download": self.download, "report.report": self.report}
        return fixed[stage]


def load(content: Mapping[str, Any]) -> Config:
    """Validate a configuration as YAML gives it.

    Raises ConfigError: one line per mistake (the first ten), with the key's full path, the value found and
    the values allowed.
    """
    given = plain(content)
    try:
        # From JSON, because only there strict types still take a list for a tuple and text for a path.
        config = Config.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        raise ConfigError(message(translate(error, given, _rules()))) from None
    folds = [
        *_folds(config, "retab", "folds"),
        *_folds(config, "pop", "folds"),
        *_folds(config, "simformer", "splits"),
        *_open_splits(config),
    ]
    problems = [*_names(config), *folds] or _targets(config)
    if problems:
        raise ConfigError(message(problems))
    return config


@cache
def _rules() -> dict[str, Any]:
    """The JSON schema, which takes longer to make than a configuration to check."""
    return Config.model_json_schema()


def check_targets(config: Config, words: Sequence[str]) -> None:
    """Raise ConfigError when one of `words`, a command line, is a result of a split that does not exist."""
    problems = []
    root = Path(config.results).parts
    for word in words:
        parts = Path(word).parts
        if parts[: len(root)] != root or len(parts) <= len(root) + 2 or parts[len(root)] not in SYSTEMS:
            continue
        system, split = parts[len(root) : len(root) + 2]
        known = config.splits_of(system)
        if split not in known and not (system in WITH_SHARED and split == SHARED):
            problems.append(f'{word}: there is no split "{split}" of {system}; {unknown(split, known)}')
    if problems:
        raise ConfigError("\n".join(problems))


def _names(config: Config) -> list[str]:
    problems = [
        f"data: found the name {found(name)}, expected letters, digits, _ and -: it becomes a folder"
        for name in config.data
        if not NAME.fullmatch(name)
    ]
    if {"{", "}"} & set(config.results):
        problems.append(f"results: found {found(config.results)}, expected a path without braces")
    for key in ("systems", "targets"):
        problems += _repeated(key, getattr(config, key))
    for system in config.systems:
        if system == "larvseg":
            problems += _experiments(config)
            continue
        data = getattr(config, system).data
        if data not in config.data:
            problems.append(f"{system}.data: {_no_data(data, config)}")
    return problems


def _no_data(name: str, config: Config) -> str:
    return f"found {found(name)}, expected the name of a data set under `data`; {unknown(name, config.data)}"


def _experiments(config: Config) -> list[str]:
    """Mistakes in the names of LarvSeg's experiments and of their data sets."""
    problems = [
        f"larvseg: {found(name)} names an experiment or image set: use letters, digits, _ and -"
        for name in (*config.larvseg.experiments, *config.larvseg.image_sets)
        if not NAME.fullmatch(name)
    ]
    for split in config.larvseg.built():
        experiment = config.larvseg.experiments[split]
        for key, members in (("sources", experiment.sources), ("targets", experiment.targets)):
            problems += [
                f"larvseg.experiments.{split}.{key}[{position}].data: {_no_data(one.data, config)}"
                for position, one in enumerate(members)
                if one.data not in config.data and one.data not in config.larvseg.image_sets
            ]
    segmented = config.larvseg.segment_21k.data
    if segmented is not None and segmented not in config.data:
        problems.append(f"larvseg.segment_21k.data: {_no_data(segmented, config)}")
    return problems


def _repeated(key: str, values: Sequence[str]) -> list[str]:
    twice = sorted({value for value in values if values.count(value) > 1})
    return (
        [f"{key}: found {', '.join(map(found, twice))} more than once, expected every entry once"]
        if twice
        else []
    )


def _folds(config: Config, system: str, key: Literal["folds", "splits"]) -> list[str]:
    """Mistakes in the scheme, the own splits and the listed splits of a system."""
    options: Retab | Pop | Simformer = getattr(config, system)
    if options.scheme is not None and options.scheme not in SCHEMES:
        return [f"{system}.scheme: found {found(options.scheme)}; {unknown(options.scheme, SCHEMES)}"]
    listed: list[str] = getattr(options, key)
    problems = _repeated(f"{system}.{key}", listed)
    for split, names in (options.novel_classes or {}).items():
        own = f"{system}.novel_classes.{split}"
        if not NAME.fullmatch(split) or split == SHARED:
            problems.append(f'{own}: a split is named by letters, digits, _ and -, and not "{SHARED}"')
        if not names:
            problems.append(f"{own}: found [], expected the name of at least one class")
        problems += _repeated(own, names)
    known = config.splits_of(system)
    for position, fold in enumerate(listed):
        if fold not in known:
            problems.append(
                f"{system}.{key}[{position}]: found {found(fold)}, no such split; {unknown(fold, known)}"
            )
    return problems


def _open_splits(config: Config) -> list[str]:
    raml = config.raml
    if raml.scheme is not None and raml.scheme not in OPEN_SCHEMES:
        return [f"raml.scheme: found {found(raml.scheme)}; {unknown(raml.scheme, OPEN_SCHEMES)}"]
    known = list(raml.every_split())
    problems = [
        f"raml.novel_classes.{name}: a split is named by letters, digits, _ and -"
        for name in raml.novel_classes or {}
        if not NAME.fullmatch(name)
    ]
    if "raml" in config.systems:
        problems += [
            f"raml.splits[{position}]: found {found(split)}, no such split; {unknown(split, known)}"
            for position, split in enumerate(raml.splits)
            if split not in known
        ]
    return problems


def _targets(config: Config) -> list[str]:
    problems = []
    for position, target in enumerate(config.targets):
        if "/" not in target and target not in GROUPS:
            problems.append(
                f"targets[{position}]: found {found(target)}; {unknown(target, GROUPS)}, or a file"
            )
    try:
        check_targets(config, config.targets)
    except ConfigError as error:
        problems += [f"targets: {line}" for line in str(error).splitlines()]
    return problems


def schema() -> str:
    """The JSON schema of the configuration, for editors."""
    content = {"title": "anyshot: config.yaml", **Config.model_json_schema()}
    return json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def published(name: str) -> str:
    """The published options of a system as YAML: every key, so that an overlay of them restores every one.

    `pop` are POP's for PASCAL-5i, `pop_coco` those for COCO-20i; `simformer` those for COCO-Stuff-10K.
    """
    import yaml

    from anyshot.larvseg import system as larvseg
    from anyshot.pop import system as pop
    from anyshot.raml import system as raml
    from anyshot.retab import system as retab
    from anyshot.simformer import system as simformer

    modules: dict[str, Any] = {
        "retab": retab, "raml": raml, "pop": pop, "simformer": simformer, "larvseg": larvseg
    }  # fmt: skip
    others = {"pop_coco": pop.published_coco, "simformer_ade20k": simformer.published_ade20k}
    system = name.split("_")[0]
    module = modules[system]
    options = others[name]() if name in others else getattr(Config(data={}), system)
    content = options.model_dump(mode="json")
    if isinstance(options, Larvseg):
        content["splits"] = options.built()  # or those of a file below would be built, too
    for stage in module.STAGES:
        for key in module.FILLED_IN:
            content[stage].pop(key, None)
    filled = {key: value for key, value in content.items() if value != {}}

    class Dumper(yaml.SafeDumper):
        """Lists on one line, as people write them."""

    Dumper.add_representer(
        list, lambda dumper, items: dumper.represent_sequence(LIST, items, flow_style=True)
    )
    return str(yaml.dump({system: filled}, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))


def merged(paths: Sequence[Path]) -> dict[str, Any]:
    """Configuration files merged key by key from left to right, as Snakemake does with `--configfile`."""

    def merge(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
        for key, value in over.items():
            if isinstance(
                value, Mapping
            ):  # copied also where nothing lies under it: YAML anchors share mappings
                below = under.get(key)
                under[key] = merge(below if isinstance(below, dict) else {}, value)
            else:
                under[key] = value
        return under

    content: dict[str, Any] = {}
    for path in paths:
        merge(content, read_yaml(path))
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m anyshot.config", description=(__doc__ or "").split("\n")[0]
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--schema", action="store_true", help="print the JSON schema")
    action.add_argument(
        "--published", metavar="SYSTEM", choices=PUBLISHED, help="print the published options"
    )
    action.add_argument(
        "--check", nargs="+", type=Path, metavar="FILE", help="validate files merged left to right"
    )
    parsed = parser.parse_args(arguments)
    try:
        if parsed.schema:
            print(schema(), end="")
        elif parsed.published:
            print(published(parsed.published), end="")
        else:
            load(merged(parsed.check))
            print("no mistakes found")
    except AnyshotError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
