"""Write what the documentation takes from the code: configuration.md, and the graph in architecture.md.

    python docs/generate.py            # write
    python docs/generate.py --check    # exit status 1 where a page is out of step

Run it in the root of the repository.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from anyshot.config import Config
from anyshot.config_gpus import ON_ONE, Gpus
from anyshot.data import options as data
from anyshot.larvseg import options as mixed
from anyshot.larvseg import system as larvseg
from anyshot.larvseg.image_set_options import ImageSet
from anyshot.options import BackboneOptions, OptimiserOptions
from anyshot.page_options import Report
from anyshot.pop import system as pop
from anyshot.raml import system as raml
from anyshot.retab import system as retab
from anyshot.retab.options import Crf, Crops
from anyshot.simformer import options as weak
from anyshot.simformer import system as simformer

DOCS = Path(__file__).resolve().parent
REFERENCE, ARCHITECTURE = DOCS / "configuration.md", DOCS / "architecture.md"
BEGIN, END = "<!-- rule graph: made by docs/generate.py -->", "<!-- end of the rule graph -->"

READERS = (
    data.VocData,
    data.CityscapesData,
    data.CamvidData,
    data.CocoData,
    data.CocoStuff10kData,
    data.Ade20kData,
    data.Ade20kFullData,
    data.PascalContextData,
    data.FolderData,
    data.ImagenetData,
    data.ScenesData,
)

# Groups that several stages have: described once, and per stage only where their defaults differ.
SHARED: dict[str, type[BaseModel]] = {
    "backbone": BackboneOptions,
    "optimiser": OptimiserOptions,
    "crops": Crops,
    "crf": Crf,
    "network": weak.MaskNetwork,
    "augmentation": weak.Augmentation,
    "matching": weak.Matching,
    "losses": weak.SetLosses,
    "pairs": weak.PairLosses,
    "neck": mixed.Neck,
    "attention": mixed.Attention,
}

# Each system's class and the module with its stages.
SYSTEMS: dict[str, tuple[type[BaseModel], types.ModuleType]] = {
    "retab": (retab.Retab, retab),
    "raml": (raml.Raml, raml),
    "pop": (pop.Pop, pop),
    "simformer": (simformer.Simformer, simformer),
    "larvseg": (larvseg.Larvseg, larvseg),
}

# Groups of a system that are no stages, by their key.
GROUPS: dict[str, dict[str, type[BaseModel]]] = {
    "larvseg": {
        "experiments.<name>": mixed.Experiment,
        "experiments.<name>.sources": mixed.Source,
        "experiments.<name>.targets": mixed.Target,
        "image_sets.<name>": ImageSet,
    },
}

INTRODUCTION = """\
# Configuration

Made by `python docs/generate.py` from the classes that validate the configuration; a test keeps it in step.

`config.yaml` is the one configuration; overlays are merged over it key by key, from left to right:

    snakemake --configfile config/paper/retab_voc.yaml --cores 8 -- all_folds

- A default below is the value of a key that is written nowhere. The systems' defaults are the published
  settings; `config.yaml` overrides many of them, so that everything runs on a small machine.
- Before any job starts everything is validated. An unknown key, a wrong type, a value out of range or a
  contradiction is named with its full path, the value found and the values allowed. Without running
  anything: `python -m anyshot.config --check config.yaml OVERLAY`.
- A stage runs again when one of its own values changes, and so does what depends on it; nothing else does.
- YAML reads `1e-3` as text: write `1.0e-3`.
- Lists are replaced as a whole by an overlay, groups are merged. `null` takes a value away.
- `workflow/schema.json` holds the same for editors; `config.yaml` names it in its first line.
"""


def reference() -> str:
    """The whole page docs/configuration.md."""
    top = ["results", "seed", "gpus", "systems", "targets"]
    parts = [INTRODUCTION, "## Top level\n", table(Config, only=top), "### `gpus` as a group\n", gpus()]
    parts += [
        "## `data`: the data sets\n",
        "A name of your choice for each; `reader` decides which keys it has.\n",
    ]
    for reader in READERS:
        name = reader.model_fields["reader"].default
        parts += [f"### `reader: {name}`\n", f"{summary(reader)}\n", table(reader, leave=["reader"])]
    found = Config.model_fields["download"].get_default(call_default_factory=True)
    note = f"What it fetches goes to `root`, which is `{found.root}` when `download` is not given at all.\n"
    parts += ["## `download`\n", f"{summary(data.Download)}\n", note, table(data.Download)]
    parts += ["## `report`\n", f"{summary(Report)}\n", table(Report)]
    for system, (model, module) in SYSTEMS.items():
        parts += [f"## `{system}`\n", f"{summary(model)}\n", table(model, leave=module.STAGES)]
        for key, group in GROUPS.get(system, {}).items():
            parts += [f"### `{system}.{key}`\n", f"{summary(group)}\n", table(group)]
    parts += ["## Groups that several stages have\n"]
    for name, model in SHARED.items():
        parts += [f"### `{name}`\n", f"{summary(model)}\n", table(model)]
    for system, (_, module) in SYSTEMS.items():
        parts += [f"## Stages of {system.upper()}\n"]
        for name, stage in module.STAGES.items():
            shown_keys = table(stage, leave=module.FILLED_IN)
            parts += [f"### `{system}.{name}`\n", f"{summary(stage)}\n", shown_keys, differing(stage)]
    return "\n".join(part for part in parts if part)


def gpus() -> str:
    """The section on the group of numbers of GPUs, which has a key for every network stage."""
    trainings = [name for name in Gpus.model_fields if name not in ("default", *ON_ONE)]
    text = " ".join((Gpus.__doc__ or "").split())
    lists = [
        f"- {title}: {', '.join(f'`{name}`' for name in names)}\n"
        for title, names in (("Trainings, from 0", trainings), ("On one GPU, 0 or 1", ON_ONE))
    ]
    return "\n".join([f"{text}\n", table(Gpus, only=["default"]), "".join(lists)])


def summary(model: type[BaseModel]) -> str:
    """The first paragraph of a class's documentation."""
    paragraph = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    return plain_text(paragraph)


def plain_text(text: str) -> str:
    """Text without references to sections of the specification, its <names> kept from being read as HTML."""
    return re.sub(
        r"<(\w+)>", r"&lt;\1&gt;", re.sub(r" \((?:retab|raml|pop|simformer|larvseg)\.md [^)]*\)", "", text)
    )


def table(model: type[BaseModel], *, only: Iterable[str] | None = None, leave: Iterable[str] = ()) -> str:
    """A Markdown table of a class's keys; groups that have a section of their own are left out."""
    names = [name for name in (model.model_fields if only is None else only) if name not in set(leave)]
    rows = [row(name, model.model_fields[name]) for name in names if not is_group(name, model)]
    if not rows:
        return ""
    return "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def is_group(name: str, model: type[BaseModel]) -> bool:
    """Whether a key is a group that has a section of its own."""
    field = model.model_fields[name]
    return name in SHARED and "group" in kind(field.annotation).split(", ")


def row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else shown(field.get_default(call_default_factory=True))
    cells = [f"`{name}`", values(field), default, plain_text(field.description or "")]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def differing(stage: type[BaseModel]) -> str:
    """A line on the shared groups of a stage, with the defaults that are not the group's own; below them the
    keys that the stage's class has besides."""
    lines: list[str] = []
    tables: list[str] = []
    for name, model in SHARED.items():
        if name not in stage.model_fields:
            continue
        field = stage.model_fields[name]
        found, usual = field.get_default(call_default_factory=True), model()
        changed = [key for key in model.model_fields if getattr(found, key) != getattr(usual, key)]
        text = ", ".join(f"`{key}` {shown(getattr(found, key))}" for key in changed)
        null = "; `null`: none" if type(None) in typing.get_args(field.annotation) else ""
        lines.append(f"- [`{name}`](#{name}){f', with the defaults {text}' if changed else ''}{null}")
        own = [key for key in type(found).model_fields if key not in model.model_fields]
        if own:
            tables.append(f"Further keys of `{name}` in this stage:\n")
            tables.append(table(type(found), only=own))
    return "\n".join([*lines, "", *tables]) if lines else ""


def shown(value: Any) -> str:
    """A value as YAML has it."""
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(str(part) for part in value)}]`"
    if isinstance(value, Mapping) and not value:
        return "none"
    if isinstance(value, Gpus):
        return f"`{value.default}`"
    if isinstance(value, BaseModel | Mapping):
        return "see its own keys"
    return f"`{value}`"


def values(field: FieldInfo) -> str:
    """What a key takes: its type, or its words, and its range."""
    return kind(field.annotation) + limits(field.metadata)


def kind(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in arguments)
    if origin in (typing.Union, types.UnionType):
        return ", ".join(kind(part) for part in arguments)
    if origin is list:
        return f"list of {kind(arguments[0])}"
    if origin is tuple:
        return f"list of {kind(arguments[0])}, {len(arguments)} long"
    if origin is dict:
        return f"names, each with {kind(arguments[1])}"
    if annotation is Gpus:
        return "whole number from 0, or a group"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "group"
    plain = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`", type(None): "`null`"}
    return plain[annotation]


def limits(metadata: Iterable[Any]) -> str:
    words = {
        annotated_types.Ge: ("ge", "from {}"),
        annotated_types.Gt: ("gt", "above {}"),
        annotated_types.Le: ("le", "to {}"),
        annotated_types.Lt: ("lt", "below {}"),
        annotated_types.MinLen: ("min_length", "at least {} long"),
        annotated_types.MaxLen: ("max_length", "at most {} long"),
    }
    found = [
        words[type(one)][1].format(getattr(one, words[type(one)][0]))
        for one in metadata
        if type(one) in words
    ]
    text = ", ".join(found)
    exact = re.fullmatch(r"at least (\d+) long, at most \1 long", text)
    return f", {exact[1]} long" if exact else f", {text}" if text else ""


def rule_graph() -> str:
    """The rules of one split as a Mermaid block: an arrow where a rule reads what another has made.

    Arrows that follow from others are left out, so the way from `data_prepare` to everything is drawn once.
    """
    command = [
        "-m",
        "snakemake",
        "--configfile",
        "config/demo.yaml",
        "--rulegraph",
        "mermaid-js",
        "--",
        "report",
    ]
    done = subprocess.run(
        [sys.executable, *command], cwd=DOCS.parent, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"snakemake --rulegraph failed:\n{done.stderr}")
    names = dict(re.findall(r"^\s*(id\d+)\[(.+)\]$", done.stdout, flags=re.MULTILINE))
    edges = {
        (names[a], names[b])
        for a, b in re.findall(r"^\s*(id\d+) --> (id\d+)$", done.stdout, flags=re.MULTILINE)
    }
    direct = sorted(edge for edge in edges if not longer_way(edges, *edge))
    return "\n".join(
        [BEGIN, "```mermaid", "flowchart TB", *(f"    {a} --> {b}" for a, b in direct), "```", END]
    )


def longer_way(edges: set[tuple[str, str]], begin: str, end: str) -> bool:
    """Whether `end` can be reached from `begin` by two arrows or more."""
    todo = [b for a, b in edges if a == begin and b != end]
    seen: set[str] = set()
    while todo:
        place = todo.pop()
        if place == end:
            return True
        todo += [b for a, b in edges if a == place and b not in seen]
        seen.add(place)
    return False


def with_graph(page: str) -> str:
    """The page docs/architecture.md with the graph as it is now."""
    before, rest = page.split(BEGIN)
    return before + rule_graph() + rest.split(END)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing, tell which pages are out of step"
    )
    check = parser.parse_args().check
    stale = 0
    for path, text in {
        REFERENCE: reference(),
        ARCHITECTURE: with_graph(ARCHITECTURE.read_text("utf-8")),
    }.items():
        if path.exists() and path.read_text("utf-8") == text:
            continue
        if check:
            print(
                f"{path.relative_to(DOCS.parent)} is out of step: run python docs/generate.py",
                file=sys.stderr,
            )
            stale = 1
        else:
            path.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
