"""The number of shards changes nothing in a result: every sharded stage of every system, in 1, 3 and 7 parts.

The evaluation sets have 6 and 4 images, so that some of 7 shards have none. Trainings that read no shards are
shared.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.runs import Command, Run, numbers

SYSTEMS = ("retab", "raml", "pop", "simformer", "larvseg")
SHARDED = {
    "retab.cam", "retab.crf_label", "retab.boundary_map", "retab.affinity_map", "retab.random_walk",
    "retab.pseudo_label", "retab.predict", "raml.open_world", "pop.predict", "simformer.pseudo_label",
    "simformer.predict", "larvseg.predict",
}  # fmt: skip


def in_shards(folder: Path, repository: Path, count: int) -> Run:
    change: dict[str, Any] = {f"{system}.shards": count for system in SYSTEMS}
    change |= {"retab.baselines": [], "larvseg.measure_compactness": False}
    return Run.make(folder, repository, change)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> tuple[Run, list[Command]]:
    """A run of one shard, and its commands."""
    run = in_shards(tmp_path_factory.mktemp("shards") / "1", repository, 1)
    commands = run.plan("all_folds")
    for command in commands:
        run.execute(command)
    return run, commands


def results_of(run: Run) -> dict[str, str]:
    """The numbers of every `miou.json`, and of RETAB's scores of its intermediate results."""
    paths = [path for name in ("miou.json", "scores.json") for path in run.results.rglob(name)]
    return {str(path.relative_to(run.results)): numbers(path) for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 7])
def test_shards_do_not_change_a_result(
    whole: tuple[Run, list[Command]], tmp_path: Path, repository: Path, count: int
) -> None:
    first, done = whole
    run = in_shards(tmp_path / "run", repository, count)
    todo = [command for command in run.plan("all_folds") if command not in done]
    run.take_results_of(first)
    for command in todo:
        run.execute(command)
    parts = Counter(command.stage for command in todo if "--shards" in command.words)
    assert set(parts) == SHARDED
    assert all(number % count == 0 for number in parts.values())
    found, expected = results_of(run), results_of(first)
    assert len(expected) >= len(SYSTEMS)
    written = {path for command in todo for path in command.outputs}
    assert {f"results/{name}" for name in expected} <= written, "compared with itself, a link"
    for name, result in expected.items():
        assert found[name] == result, name
    assert found.keys() == expected.keys()
