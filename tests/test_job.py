import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyshot
from anyshot.engine.stores import StoreWriter
from anyshot.errors import ArtifactError, ConfigError
from anyshot.job import Job, duration
from anyshot.options import StageOptions
from anyshot.provenance import content_hash


class Demo(StageOptions):
    power: int = 2
    action: str = "work"


SCRIPT = """
import os, random, signal, sys, time
import numpy
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.options import StageOptions

class Demo(StageOptions):
    power: int = 2
    action: str = "work"

def main(job: Job[Demo]) -> None:
    action = job.options.action
    if action == "data error":
        raise DataError("image x.jpg is broken; replace it")
    if action == "defect":
        raise ZeroDivisionError("a defect")
    if action == "sigterm":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    if action == "rank":
        job.log.info("quiet")
        job.log.warning("loud")
    import torch
    facts = [
        job.options.power, [str(path) for path in job.inputs("lists")], job.threads, torch.get_num_threads(),
        os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"), job.gpus, str(job.device),
        job.shard, job.shards, random.random(), numpy.random.random(), torch.rand(()).item(),
        job.mine(range(10)),
    ]
    job.output("facts").write_text(repr(facts))

run("demo.stage", Demo, main)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "stage.py"
    path.write_text(SCRIPT)
    return path


def call(script: Path, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "SLURM", "ANYSHOT"))
    }
    environment = {**kept, "PYTHONPATH": str(Path(anyshot.__file__).parents[1]), **variables}
    command = [sys.executable, str(script), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def facts_of(script: Path, *words: str | Path, **variables: str) -> list[Any]:
    """What a script that imports torch at its top wrote."""
    target = script.with_name("deep") / "er" / "facts"
    with_torch = script.with_name("with_torch.py")
    with_torch.write_text("import torch\n" + SCRIPT)
    result = call(with_torch, "--output", "facts", target, *words, **variables)
    assert result.returncode == 0, result.stderr
    found: list[Any] = eval(target.read_text())
    return found


def test_command_line(script: Path, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    words = ["--options", '{"power": 3, "revision": 1}', "--input", "lists", tmp_path / "a", tmp_path / "b"]
    words += ["--input", "unknown", tmp_path / "a", "--input", "lists", tmp_path / "c", "--input", "empty"]
    words += [
        "--threads",
        "2",
        "--seed",
        "5",
        "--shard",
        "1",
        "--shards",
        "4",
        "--log",
        tmp_path / "logs/stage.log",
    ]
    facts = facts_of(script, *words)
    lists = [str(tmp_path / name) for name in "abc"]
    assert facts[:10] == [3, lists, 2, 2, "2", "", 0, "cpu", 1, 4]
    assert facts[13] == [1, 5, 9]
    assert facts == facts_of(script, *words), "the seed fixes all generators"
    words[words.index("--seed") + 1] = "6"
    other = facts_of(script, *words)
    assert all(a != b for a, b in zip(facts[10:13], other[10:13], strict=True))
    log = (tmp_path / "logs/stage.log").read_text()
    assert log.count("demo.stage: done in") == 3
    assert "--seed 6" in log


def test_shard_as_in_file_names(script: Path) -> None:
    assert facts_of(script, "--options", "{}", "--shard", "2of3")[8:10] == [1, 3]


def test_gpus_are_leased_where_there_are_some(script: Path, tmp_path: Path) -> None:
    """Pretended GPUs: held, shown to CUDA, and not believed by a torch that sees none."""
    words = ["--options", "{}", "--gpus", "2"]
    facts = facts_of(script, *words, ANYSHOT_GPUS="4,5", ANYSHOT_LEASE_DIR=str(tmp_path / "locks"))
    assert facts[5:8] == ["4,5", 2, "cpu"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--options", '{"powr": 3}'], "powr: Extra inputs are not permitted, found 3"),
        (["--options", '{"power": "3"}'], "power: Input should be a valid integer, found '3'"),
        (["--options", "{"], "--options is no JSON object"),
        (["--options", '{"revision": 9}'], "written for revision 9, this is revision 1"),
        (["--options", "{}", "--input", "cam", "none.h5"], "--input cam none.h5 does not exist"),
        (["--options", "{}", "--shard", "4", "--shards", "4"], "--shard 4 of --shards 4"),
        (["--options", "{}", "--threads", "0"], "--threads 0: expected 1 or more"),
        (["--options", "{}"], "demo.stage: --output facts is missing (given: none)"),
        (["--options", '{"action": "data error"}'], "demo.stage: image x.jpg is broken; replace it"),
    ],
)
def test_errors_of_the_user_are_one_message(
    script: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    result = call(script, *words, "--log", tmp_path / "log")
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    log = (tmp_path / "log").read_text()
    assert message in log
    assert "Traceback" in log


def test_defects_are_shown_whole(script: Path, tmp_path: Path) -> None:
    result = call(script, "--options", '{"action": "defect"}', "--log", tmp_path / "log")
    assert result.returncode == 1
    for text in (result.stderr, (tmp_path / "log").read_text()):
        assert "ZeroDivisionError: a defect" in text
        assert "Traceback" in text


def test_sigterm(script: Path) -> None:
    assert call(script, "--options", '{"action": "sigterm"}').returncode == 128 + signal.SIGTERM


def test_further_ranks_only_warn(script: Path, tmp_path: Path) -> None:
    words = [
        "--options",
        '{"action": "rank"}',
        "--output",
        "facts",
        tmp_path / "f",
        "--log",
        tmp_path / "log",
    ]
    result = call(script, *words, LOCAL_RANK="1")
    assert "loud" in result.stderr
    assert "quiet" not in result.stderr
    assert not (tmp_path / "log").exists()


def test_importing_the_bridge_does_not_import_torch() -> None:
    code = (
        "import sys, anyshot.job; assert not {'torch', 'numpy', 'h5py', 'cv2', 'tqdm'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(anyshot.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def job(tmp_path: Path, **fields: Any) -> Job[Demo]:
    fields = {"options": Demo(), **fields}
    return Job.for_tests("demo.stage", **fields)


def test_names(tmp_path: Path) -> None:
    one = job(tmp_path, inputs={"a": tmp_path / "a", "many": [tmp_path / "b", tmp_path / "c"], "none": []})
    assert one.input("a") == tmp_path / "a"
    assert one.inputs("many") == [tmp_path / "b", tmp_path / "c"]
    assert one.inputs("absent") == []
    assert (one.has_input("a"), one.has_input("none"), one.has_input("absent")) == (True, False, False)
    with pytest.raises(ConfigError, match=r"--input many has 2 paths, expected 1 \(given: a, many\)"):
        one.input("many")
    with pytest.raises(ConfigError, match="--output x is missing"):
        one.output("x")


def test_fingerprint_follows_contents_not_times(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    first = job(tmp_path, inputs={"a": path}).fingerprint
    os.utime(path, (0, 0))
    assert job(tmp_path, inputs={"a": path}).fingerprint == first
    (tmp_path / "b").write_text("one")
    assert job(tmp_path, inputs={"a": tmp_path / "b"}).fingerprint == first, (
        "the name of the file does not count"
    )
    others = [
        job(tmp_path, inputs={"a": path}, seed=1),
        job(tmp_path, inputs={"a": path}, options=Demo(power=3)),
        job(tmp_path, inputs={"b": path}),
        job(tmp_path, inputs={"a": path}, shard=1, shards=2),
    ]
    path.write_text("two")
    others.append(job(tmp_path, inputs={"a": path}))
    assert len({first, *(other.fingerprint for other in others)}) == 6


def test_a_store_stands_for_what_made_it(tmp_path: Path) -> None:
    """Its own fingerprint counts, not its bytes, which hold times."""
    for name, seconds in (("a.h5", "1"), ("b.h5", "2")):
        with StoreWriter(tmp_path / name, attributes={"fingerprint": "f", "seconds": seconds}) as writer:
            writer.add("i", [1], np.zeros((1, 2, 2)), height=2, width=2)
    assert content_hash(tmp_path / "a.h5") == content_hash(tmp_path / "b.h5") == "f"
    (tmp_path / "c.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:100])
    with pytest.raises(ArtifactError, match="damaged"):
        content_hash(tmp_path / "c.h5")


def test_folders_and_missing_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/x").write_text("1")
    before = content_hash(folder)
    (folder / "sub/x").rename(folder / "sub/y")
    assert content_hash(folder) != before
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        content_hash(tmp_path / "none")


def test_provenance(tmp_path: Path) -> None:
    facts = job(tmp_path, seed=3).provenance()
    assert all(isinstance(value, str) for value in facts.values())
    assert json.loads(facts["options"]) == {"power": 2, "action": "work", "revision": 1}
    assert facts["stage"] == "demo.stage"
    assert facts["anyshot"] == anyshot.__version__
    assert facts["torch"]
    assert len(facts["fingerprint"]) == 64


def test_progress(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("anyshot").propagate = True
    monkeypatch.setattr("anyshot.job.PROGRESS_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "anyshot"):
        assert list(job(tmp_path).progress([1, 2, 3])) == [1, 2, 3]
        assert list(job(tmp_path).progress(iter("ab"), unit="tile")) == ["a", "b"]
    assert "demo.stage: 1/3 images (33%)" in caplog.text
    assert "s left" in caplog.text
    assert "demo.stage: 2 tiles in 0 s" in caplog.text


def test_leftovers_go_when_the_job_is_done(tmp_path: Path) -> None:
    one = job(tmp_path)
    (tmp_path / "state").touch()
    one.remove_after_success(tmp_path / "state")
    one.remove_after_success(tmp_path / "never written")
    one.finish()
    assert not (tmp_path / "state").exists()


def test_durations_for_people() -> None:
    assert [duration(s) for s in (0.4, 59.4, 185, 7800)] == ["0 s", "59 s", "3:05 min", "2:10 h"]


LIGHT = (
    "data/download", "data/prepare", "pop/evaluate", "pop/index", "pop/support", "raml/evaluate",
    "raml/split", "retab/split",
)  # fmt: skip


@pytest.mark.parametrize("stage", LIGHT)
def test_stages_without_a_network_do_not_wait_for_torch(repository: Path, stage: str) -> None:
    """It takes seconds to load, and there is a job of `pop_support` for every split, shot and draw."""
    script = repository / "workflow" / "scripts" / f"{stage}.py"
    command = [sys.executable, "-X", "importtime", str(script), "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository).stderr
    loaded = {line.rsplit("|", 1)[-1].strip() for line in found.splitlines() if "import time" in line}
    assert "anyshot.job" in loaded
    assert "torch" not in loaded
