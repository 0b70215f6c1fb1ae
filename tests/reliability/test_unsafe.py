"""Nothing from outside is run: no pickle in a weights file, no path in an archive."""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyshot.cli import main
from anyshot.data.download import SBD, VOC2012, unpack
from anyshot.engine.checkpoints import CHECKSUM, load_state
from anyshot.errors import DataError, WeightsError
from anyshot.nets.backbones import build_backbone
from anyshot.nets.vit_tokens import build_vit
from anyshot.options import BackboneOptions
from tests.cli.conftest import photograph
from tests.cli.conftest import write_model as retab_model
from tests.cli.test_simformer_predict import write_model as simformer_model
from tests.larvseg.test_segmenter import write_model as larvseg_model
from tests.nets.test_weight_files import Malicious
from tests.pop.pop_models import write_model as pop_model
from tests.raml.open_models import write_model as raml_model

CODE = ("src", "workflow", "benchmarks", "docs")
NEVER = {
    "eval", "exec", "builtins.eval", "builtins.exec", "os.system", "os.popen", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "_pickle.load", "_pickle.loads", "_pickle.Unpickler", "yaml.load", "yaml.load_all",
    "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "pandas.read_pickle",
    "torch.jit.load", "torch.hub.load", "subprocess.getoutput", "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell", "shutil.unpack_archive", "tempfile.mktemp",
}  # fmt: skip
NEVER_IMPORTED = {"dill", "cloudpickle", "joblib", "shelve", "marshal"}
PICKLE_ALLOWED = {"numpy.load": 2, "numpy.lib.format.read_array": 1}  # the place of `allow_pickle`
SHELLS = {"sh", "bash", "dash", "ksh", "zsh", "csh", "tcsh", "fish", "busybox"}


# --- what the code never does ---


def code() -> list[Path]:
    root = Path(__file__).resolve().parents[2]
    return [path for folder in CODE for path in sorted((root / folder).rglob("*.py"))]


def imported(tree: ast.AST) -> dict[str, str]:
    """What the names that a file imports stand for: {"t": "torch", "load": "pickle.load"}."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.asname: one.name for one in node.names if one.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return found


def modules_of(node: ast.AST) -> list[str]:
    """The modules that an import names."""
    if isinstance(node, ast.Import):
        return [one.name for one in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def runs_a_shell(node: ast.AST) -> bool:
    """Whether it is a command such as ["bash", "-c", text]."""
    if not isinstance(node, (ast.List, ast.Tuple)):
        return False
    words = [one.value for one in node.elts if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return any(Path(word).name in SHELLS for word in words) and any(
        re.fullmatch(r"-[a-z]*c", word) for word in words
    )


def dangers_in(tree: ast.AST) -> Iterator[str]:
    """Calls that could run what a file or a name says."""
    meaning = {"np": "numpy", "pd": "pandas"} | imported(tree)
    for node in ast.walk(tree):
        yield from (f"import {one}" for one in modules_of(node) if one.split(".")[0] in NEVER_IMPORTED)
        if runs_a_shell(node):
            yield ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = ast.unparse(node.func).partition(".")
        name = meaning.get(first, first) + dot + rest
        given = {one.arg: ast.unparse(one.value) for one in node.keywords}
        if name in PICKLE_ALLOWED and len(node.args) > PICKLE_ALLOWED[name]:
            given["allow_pickle"] = ast.unparse(node.args[PICKLE_ALLOWED[name]])
        if (
            name in NEVER
            or given.get("shell", "False") != "False"
            or given.get("allow_pickle", "False") != "False"
        ):
            yield ast.unparse(node)
        if name in ("torch.load", "torch.serialization.load") and given.get("weights_only") != "True":
            yield ast.unparse(node)
        if name.endswith((".extract", ".extractall")) and given.get("filter") != "_files_only":
            yield ast.unparse(node)
        command = (
            node.args[0] if node.args else next((k.value for k in node.keywords if k.arg == "args"), None)
        )
        if name.startswith("subprocess.") and isinstance(command, (ast.Constant, ast.JoinedStr)):
            yield ast.unparse(node)


def test_no_file_is_unpickled_and_no_text_is_run() -> None:
    found = {str(path): list(dangers_in(ast.parse(path.read_text(encoding="utf-8")))) for path in code()}
    assert len(found) > 200
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)", "subprocess.run(f'rm {name}')", "yaml.load(text)",
        "import dill", "archive.extractall(folder)", "eval(x)",
        "from pickle import load; load(file)", "from pickle import loads as read; read(text)",
        "import pickle as p; p.Unpickler(file)", "import torch as t; t.load(file)",
        "from torch import load; load(file, map_location='cpu')", "from dill import loads",
        "from joblib.numpy_pickle import load", "import numpy; numpy.load(path, None, True)",
        "np.load(path, None, allowed)", "from numpy import load; load(path, allow_pickle=1)",
        "import pandas; pandas.read_pickle(path)", "from yaml import unsafe_load as load; load(text)",
        "subprocess.getoutput(text)", "from subprocess import getstatusoutput; getstatusoutput(text)",
        "subprocess.run(['bash', '-c', text])", "subprocess.Popen(('/bin/sh', '-ec', text))",
        "command = ['env', 'zsh', '-lc', text]", "from subprocess import run; run('ls *', shell=True)",
        "subprocess.run(args=f'rm {name}')", "from os import system; system(text)",
    ],
)  # fmt: skip
def test_the_search_finds_them(line: str) -> None:
    assert list(dangers_in(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)", "np.load(path)", "np.load(path, None, False)",
        "import json as pickle; pickle.load(file)", "from json import load; load(file)",
        "subprocess.run(['bash', path])", "subprocess.run([program, '-c', path])", "yaml.safe_load(text)",
    ],
)  # fmt: skip
def test_the_search_leaves_the_rest_alone(line: str) -> None:
    assert not list(dangers_in(ast.parse(line)))


def test_rules_build_their_commands_in_one_place_alone(repository: Path) -> None:
    for path in [repository / "Snakefile", *(repository / "rules").glob("*.smk")]:
        text = path.read_text(encoding="utf-8")
        commands = re.findall(r"^\s+shell:\s*(\S+)", text, re.MULTILINE)
        assert all(one.startswith("stage(") for one in commands), path
    for path in [*(repository / "rules").glob("*.smk"), *(repository / "workflow").glob("*.smk")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"os\.system|subprocess|\beval\(|\bexec\(|\bshell\(", text), path


# --- pickles ---


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A folder that unpickling would make."""
    folder = tmp_path / "trap"
    yield folder
    assert not folder.exists()


def pickled(path: Path, trap: Path, form: str) -> Path:
    content = {"model": {"weight": torch.ones(2)}, "fingerprint": "f", "extra": Malicious(trap)}
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


FORMS = pytest.mark.parametrize("form", ["zip", "older", "plain"])
IMPORTS = {
    "retab": ["--kind", "classifier"], "raml": ["--split", "16_3"], "pop": ["--split", "fold0"],
    "simformer": ["--split", "split1"],
}  # fmt: skip
quiet = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"anyshot {words[0]}: ")
    assert "Traceback" not in said
    return said


@quiet
@FORMS
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl", ".params"])
@pytest.mark.parametrize("system", IMPORTS)
def test_no_command_runs_what_a_weights_file_asks_for(
    system: str, suffix: str, form: str, tmp_path: Path, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = pickled(tmp_path / f"final{suffix}", trap, form)
    words = ["import-weights", system, str(file), *IMPORTS[system], "--output", str(tmp_path / "out")]
    assert file.name in refused(words, capsys)
    assert not (tmp_path / "out").exists()


@quiet
@FORMS
def test_no_model_folder_is_unpickled(
    form: str, tmp_path: Path, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither its weights, whose card has no checksum here, nor those of a class that was added."""
    Image.fromarray(photograph(40, 56)).save(tmp_path / "a.png")
    writers: dict[str, Callable[[Path], Path]] = {
        "retab": retab_model, "raml": raml_model, "pop": pop_model, "simformer": simformer_model,
        "larvseg": larvseg_model,
    }  # fmt: skip
    for system, write in writers.items():
        folder = write(tmp_path / system)
        words = ["predict", "--model", str(folder), "--images", str(tmp_path / "a.png"), "--device", "cpu"]
        if system in ("raml", "pop"):
            added = pickled(folder / "novel" / "tram.safetensors", trap, form)
            facts = {"id": 99, "name": "tram", "system": system, "kind": "novel_class"}
            added.with_suffix(".json").write_text(json.dumps(facts))
            assert "tram" in refused([*words, "--output", str(tmp_path / "novel")], capsys)
        card = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({key: card[key] for key in card if key != CHECKSUM}))
        pickled(folder / "model.safetensors", trap, form)
        assert str(folder) in refused([*words, "--output", str(tmp_path / "masks")], capsys)


@quiet
@FORMS
def test_no_backbone_and_no_training_state_is_unpickled(form: str, tmp_path: Path, trap: Path) -> None:
    networks = {".pth": ("resnet18", 1.0), ".safetensors": ("resnet18", 1.0), ".params": ("resnet38", 0.0625)}
    for suffix, (name, width) in networks.items():
        file = pickled(tmp_path / f"weights{suffix}", trap, form)
        with pytest.raises(WeightsError, match=re.escape(file.name)):
            build_backbone(BackboneOptions(name=name, weights=str(file), width=width))
    assert load_state(pickled(tmp_path / "state.pt", trap, form), "f") is None


def test_no_array_of_objects_is_unpickled(tmp_path: Path, trap: Path) -> None:
    """The .npz of a vision transformer: its arrays may be pickles."""
    names = [f"{prefix}embedding/kernel" for prefix in ("", "params/", "opt/target/")]
    objects = np.array([Malicious(trap)], dtype=object)
    file = tmp_path / "weights.npz"
    np.savez(file, **dict.fromkeys(names, objects))
    with pytest.raises(WeightsError, match=r"weights\.npz cannot be read .*Object arrays cannot be loaded"):
        build_vit(
            "vit_tiny_patch16_224", weights=str(file), grid=14, drop_path=0.0, statistics=None, load=True
        )


# --- downloads and archives ---


def test_downloads_are_known_by_sha256() -> None:
    for archive in (VOC2012, SBD):
        assert re.fullmatch(r"[0-9a-f]{64}", archive.digest)


MEMBERS: dict[str, list[tuple[str, bytes, str]]] = {
    "a path upwards": [("../evil", tarfile.REGTYPE, "")],
    "a path upwards from below": [("a/b/../../../evil", tarfile.REGTYPE, "")],
    "a link to a file outside": [("link", tarfile.SYMTYPE, "/etc/passwd")],
    "a link to the folder above, and a file through it": [
        ("link", tarfile.SYMTYPE, ".."), ("link/evil", tarfile.REGTYPE, "")
    ],
    "links that lead out together": [
        ("a", tarfile.SYMTYPE, "."), ("a/b", tarfile.SYMTYPE, ".."), ("b/evil", tarfile.REGTYPE, "")
    ],
    "a link within": [("link", tarfile.SYMTYPE, "file")],
    "a hard link": [("link", tarfile.LNKTYPE, "../outside")],
    "a device": [("null", tarfile.CHRTYPE, "")],
    "a pipe": [("pipe", tarfile.FIFOTYPE, "")],
}  # fmt: skip


@pytest.mark.parametrize("kind", MEMBERS)
@pytest.mark.parametrize("packing", ["w", "w:gz"])
def test_no_member_of_an_archive_leaves_the_folder(kind: str, packing: str, tmp_path: Path) -> None:
    path = tmp_path / "data.tar"
    (tmp_path / "outside").write_text("as before")
    with tarfile.open(path, packing) as file:  # type: ignore[call-overload]
        for name, form, target in MEMBERS[kind]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = form, target, 4 if form == tarfile.REGTYPE else 0
            file.addfile(member, io.BytesIO(b"evil") if member.size else None)
    with pytest.raises(DataError, match=r"data\.tar: refused to unpack"):
        unpack(path, tmp_path / "into" / "folder")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["data.tar", "into", "outside"]
    assert (tmp_path / "outside").read_text() == "as before"
    assert [one for one in (tmp_path / "into").rglob("*") if not one.is_dir()] == []


def test_an_absolute_path_and_rights_are_not_taken_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "data.tar", "w") as file:
        member = tarfile.TarInfo(str(tmp_path / "evil"))
        member.mode = 0o6777
        file.addfile(member)
    unpack(tmp_path / "data.tar", tmp_path / "folder")
    assert not (tmp_path / "evil").exists()
    (found,) = (one for one in (tmp_path / "folder").rglob("evil"))
    assert found.stat().st_mode & 0o6022 == 0
