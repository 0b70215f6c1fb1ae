"""Names of classes and data sets are text to every system: no shell, page or path takes them for more."""

from __future__ import annotations

import copy
import csv
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anyshot.cli import main
from anyshot.config import load
from anyshot.data.classes import ClassTable
from anyshot.engine.novel_folder import check_stems
from anyshot.errors import ConfigError
from anyshot.page_options import Report
from anyshot.report import plots
from anyshot.report.material import Material
from anyshot.report.page import build
from tests.reliability.fuzz_names import CHINESE, NAMES, NOVEL, RUNS, SHELL, TABLE, NamedRun
from tests.report.fabricated_larvseg import add_larvseg
from tests.report.fabricated_pop import add_pop
from tests.report.fabricated_raml import add_raml
from tests.report.fabricated_run import FabricatedRun, drawn_pictures
from tests.report.fabricated_simformer import add_simformer
from tests.report.test_page import checked
from tests.shapes import SIDE
from tests.workflow.conftest import Project


def hostile(shipped: dict[str, Any]) -> dict[str, Any]:
    """Every system on a data set with a Chinese name, with these names as its novel classes."""
    content = copy.deepcopy(shipped)
    content["data"][CHINESE] = content["data"]["scenes_stuff"]
    for system, key in (("retab", "folds"), ("raml", "splits"), ("pop", "folds"), ("simformer", "splits")):
        own = {"data": CHINESE, "scheme": None, "novel_classes": {"mine": list(NAMES[1:])}, key: ["mine"]}
        content[system].update(own)
    experiment = content["larvseg"]["experiments"]["scenes"]
    experiment["sources"][0]["classes"] = list(NAMES[1:])
    for one in (*experiment["sources"], *experiment["targets"]):
        one["data"] = CHINESE
    return content


def texts(content: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(content, dict):
        yield from (text for pair in content.items() for one in pair for text in texts(one))
    elif isinstance(content, list):
        yield from (text for one in content for text in texts(one))
    elif isinstance(content, str):
        yield content


def test_no_shell_runs_a_class_name(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, tmp_path: Path
) -> None:
    """The commands of a dry run of all systems, as bash takes them apart, and one of each rule run by it."""
    project = Project(tmp_path_factory.mktemp("hostile"), repository)
    project.shipped = hostile(project.shipped)
    jobs = [job for job in project.plan(["all_folds", "report"]).jobs if not job.is_norun]
    (tmp_path / "precious").write_text("as before")
    environment = {
        "PATH": f"{project.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path),
        "CALLS": str(project.calls),
    }  # fmt: skip
    seen: dict[str, set[str]] = {}
    commands: dict[str, str] = {}
    for job in jobs:
        tokens = list(shlex.shlex(job.shellcmd, posix=True, punctuation_chars=True))
        assert not [one for one in tokens if set(one) <= set("();<>|&")], job.shellcmd
        words = shlex.split(job.shellcmd)
        options = json.loads(words[words.index("--options") + 1])
        seen.setdefault(job.rule.name.split("_")[0], set()).update(texts(options))
        commands.setdefault(job.rule.name, job.shellcmd)
    for system in RUNS:
        assert set(NAMES[1:]) <= seen[system], system
    before = sorted(path.name for path in project.folder.iterdir())
    for command in commands.values():
        subprocess.run(["bash", "-c", command], cwd=project.folder, env=environment, check=True, timeout=60)
    assert sorted(map(tuple, project.arguments())) == sorted(
        tuple(shlex.split(command)[1:]) for command in commands.values()
    )
    assert sorted({*before, "results"}) == sorted(path.name for path in project.folder.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("name", [SHELL, "../up", "a/b", "a b", "$(id)", "-n", "{x}", "."])
def test_a_data_set_and_a_split_become_folders_and_may_not_be_called_so(name: str, repository: Path) -> None:
    content = {"data": {"scenes": {"reader": "scenes"}}, "retab": {"data": "scenes", "scheme": "scenes_5i"}}
    with pytest.raises(ConfigError, match="it becomes a folder"):
        load({**content, "data": {**content["data"], name: {"reader": "scenes"}}})
    own = {"data": "scenes", "scheme": None, "novel_classes": {name: ["mug"]}, "folds": [name]}
    with pytest.raises(ConfigError, match="a split is named by letters"):
        load({**content, "retab": own})


def strings_of(folder: Path) -> set[str]:
    """Every text in the JSON and csv files of a folder."""
    found: set[str] = set()
    for path in folder.rglob("*.json"):
        found.update(texts(json.loads(path.read_text(encoding="utf-8"))))
    for path in folder.rglob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            found.update(cell for row in csv.reader(file) for cell in row)
    return found


def add_words(model: Path, name: str, shots: tuple[Path, Path], system: str) -> list[str]:
    words = ["novel", "add", "--model", str(model), "--name", name, "--images", str(shots[0])]
    words += ["--masks", str(shots[1]), "--device", "cpu"]
    return [*words, *(["--steps", "1"] if system == "pop" else ["--min-area", "1"])]


@pytest.mark.parametrize("system", RUNS)
def test_names_are_text_in_every_file_of_a_system(
    system: str, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained for a step, scored, used: all names whole, all files where they belong, nothing else made."""
    home, run, masks = tmp_path / "home", tmp_path / "run", tmp_path / "masks"
    for folder in (home, run):
        folder.mkdir()
    (home / "precious").write_text("as before")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    model = RUNS[system](NamedRun(run, repository, system))
    known = NAMES[1]
    names = [known]
    if system in ("raml", "pop"):
        values = np.zeros((SIDE, SIDE), np.uint8)
        values[:, SIDE // 2 :] = 1
        Image.fromarray(values).save(run / "mask.png")
        for name in NOVEL:
            assert main(add_words(model, name, (run / "000.png", run / "mask.png"), system)) == 0
        names += NOVEL
    words = ["--model", str(model), "--images", str(run / "050.png"), "--output", str(masks), "--overlay"]
    chosen = [part for name in names for part in ("--classes", name)]
    assert main(["predict", *words, *chosen, "--device", "cpu"]) == 0
    assert set(names) <= set(ClassTable.read(masks / "classes.csv").names)
    assert sorted(path.name for path in masks.iterdir()) == [
        "050.overlay.jpg", "050.png", "classes.csv", "predict.json"
    ]  # fmt: skip
    assert set(NAMES[1:]) <= strings_of(run / "out")
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in run.rglob("*"))
    assert [path.name for path in home.iterdir()] == ["precious"]


def test_names_are_text_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All systems on one page: no element or attribute comes from a name."""
    drawn: Callable[..., str] = lambda *_, **__: "data:image/svg+xml;base64,"  # noqa: E731
    for name in (
        "training_curve", "threshold_curves", "confusion", "anomaly_curves", "shot_curves", "class_bars",
        "prototype_cosines",
    ):  # fmt: skip
        monkeypatch.setattr(plots, name, drawn)
    run = FabricatedRun(tmp_path / "results", drawn_pictures(14, classes=len(NAMES)), TABLE, {"mine": [5, 6]})
    add_raml(run, "mine", [5, 6])
    add_pop(run, "mine", [5, 6])
    add_simformer(run, "mine", [5, 6])
    add_larvseg(run, "mine")
    options = Report(title=SHELL, gallery_images=1, image_side=64)
    page = build(Material(paths=run.files, options=options, provenance={"anyshot": "<script>"}))
    parsed = checked(page)
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    text = "\n".join(parsed.text)
    for name in (*NAMES[1:3], *NAMES[4:]):  # what stands between backticks is shown as code
        assert name in text


def test_two_classes_never_share_a_file() -> None:
    check_stems([*NAMES, "a b"])
    with pytest.raises(ConfigError, match=r"'a b' and 'a:b' would both be written to a_b\.safetensors"):
        check_stems(["a b", "c", "a:b"])
