"""What clusters do to jobs: cancel them, lose their node, stop them out of time. The weights stay the same.

Each test starts from prepared data and trains one network, which saves its state after every step.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from tests.cluster.cluster import Cluster, RunningSnakemake, Submitted, submitted, wait_until
from tests.end_to_end.checkout import CONFIG, Checkout, processes_of, succeeded

SCRIPT = "retab/classifier.py"
WEIGHTS = "retab/shared/classifier/model.safetensors"
TARGET = f"results/{WEIGHTS}"
PATIENCE = 900  # s; on two idle cores a test takes less than one minute
nightly = pytest.mark.skipif(
    not os.environ.get("ANYSHOT_NIGHTLY"), reason="takes minutes: set ANYSHOT_NIGHTLY=1"
)


@pytest.fixture(scope="module")
def undisturbed(checkout: Callable[..., Checkout]) -> Checkout:
    """A checkout in which the network was trained on this machine, without Slurm."""
    tiny = yaml.safe_load(CONFIG.read_text())["retab"]
    tiny["classifier"]["optimiser"]["epochs"] = 2  # 10 steps
    made = checkout("undisturbed", retab=tiny, systems=["retab"])
    succeeded(made.run(TARGET))
    return made


@pytest.fixture
def disturbed(cluster: Cluster, undisturbed: Checkout, tmp_path: Path, repository: Path) -> Checkout:
    """The same checkout before the training."""
    made = Checkout.make(tmp_path / "disturbed", repository)
    shutil.copy(undisturbed.folder / "config.yaml", made.folder)
    shutil.copytree(undisturbed.folder / ".snakemake", made.folder / ".snakemake")
    shutil.copytree(undisturbed / "data", made / "data", symlinks=True)
    return made


@pytest.fixture
def nodes_up(cluster: Cluster) -> Iterator[None]:
    """At the end of the test all nodes can run jobs again."""
    yield
    for line in cluster.ask(
        "sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T"
    ).splitlines():
        name, state = line.split()
        if state.startswith("down"):
            cluster.ask("scontrol", "update", f"NodeName={name}", "State=RESUME")


def stopped_training(run: RunningSnakemake, checkout: Checkout) -> Submitted:
    """The job of a training that has saved its state and is held there, so that nothing depends on speed.

    Slurm wakes its processes when it ends a job.
    """
    state = (checkout / WEIGHTS).with_name("state.pt")

    def at_work() -> bool:
        return state.exists() and bool(processes_of(SCRIPT, checkout.folder))

    run.await_that(at_work, "a saved state of the training")
    os.kill(processes_of(SCRIPT, checkout.folder)[0], signal.SIGSTOP)
    assert not (checkout / WEIGHTS).exists()
    (job,) = run.submitted()
    return job


def assert_same_weights(found: Checkout, expected: Checkout) -> None:
    mine, theirs = load_file(found / WEIGHTS), load_file(expected / WEIGHTS)
    assert mine.keys() == theirs.keys()
    assert all((mine[key] == theirs[key]).all() for key in theirs)
    assert not (found / WEIGHTS).with_name("state.pt").exists()
    log = (found / "logs/retab/shared/classifier.log").read_text()
    assert "continu" in log or "resum" in log


def test_a_cancelled_job_is_retried_with_more_and_continues(
    cluster: Cluster, disturbed: Checkout, undisturbed: Checkout
) -> None:
    with cluster.started(disturbed, TARGET, timeout=PATIENCE) as run:
        first = stopped_training(run, disturbed)
        cluster.ask("scancel", first.job)
        done = run.finish()
    succeeded(done)
    first, second = submitted(done.stdout)
    states = cluster.states()
    assert (states[first.job], states[second.job]) == ("CANCELLED", "COMPLETED")
    asked = [cluster.facts(one.job) for one in (first, second)]
    assert [facts["MinMemoryNode"] for facts in asked] == ["16000M", "32000M"]
    assert [facts["TimeLimit"] for facts in asked] == ["12:00:00", "1-00:00:00"]
    assert_same_weights(disturbed, undisturbed)


def test_a_node_that_goes_down_loses_its_job_to_the_other_one(
    cluster: Cluster, disturbed: Checkout, undisturbed: Checkout, nodes_up: None
) -> None:
    with cluster.started(disturbed, "--slurm-no-requeue", "--", TARGET, timeout=PATIENCE) as run:
        first = stopped_training(run, disturbed)
        node = cluster.facts(first.job)["NodeList"]
        cluster.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        done = run.finish()
    succeeded(done)
    first, second = submitted(done.stdout)
    states = cluster.states()
    assert (states[first.job], states[second.job]) == ("NODE_FAIL", "COMPLETED")
    assert cluster.facts(second.job)["NodeList"] not in ("", node)
    assert_same_weights(disturbed, undisturbed)


@nightly
def test_a_node_that_goes_down_where_slurm_itself_queues_the_job_again(
    cluster: Cluster, disturbed: Checkout, undisturbed: Checkout, nodes_up: None
) -> None:
    with cluster.started(disturbed, TARGET, timeout=PATIENCE) as run:
        only = stopped_training(run, disturbed)
        node = cluster.facts(only.job)["NodeList"]
        cluster.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        done = run.finish()
    succeeded(done)
    assert [one.job for one in submitted(done.stdout)] == [only.job]
    facts = cluster.facts(only.job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1")
    assert_same_weights(disturbed, undisturbed)


def test_a_job_out_of_time_is_retried_with_more_time_and_continues(
    cluster: Cluster, disturbed: Checkout, undisturbed: Checkout
) -> None:
    limit = ("--set-resources", "retab_classifier:runtime=attempt", "--", TARGET)  # minutes: 1, then 2
    with cluster.started(disturbed, *limit, timeout=PATIENCE) as run:
        stopped_training(run, disturbed)
        done = run.finish()
    succeeded(done)
    first, second = submitted(done.stdout)
    states = cluster.states()
    assert (states[first.job], states[second.job]) == ("TIMEOUT", "COMPLETED")
    assert cluster.facts(second.job)["TimeLimit"] == "00:02:00"
    assert_same_weights(disturbed, undisturbed)


def test_after_snakemake_is_killed_its_job_is_cancelled_by_hand_and_the_next_call_continues(
    cluster: Cluster, disturbed: Checkout, undisturbed: Checkout
) -> None:
    with cluster.started(disturbed, TARGET, timeout=PATIENCE) as run:
        left = stopped_training(run, disturbed)
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
        assert cluster.states()[left.job] == "RUNNING"
        cluster.ask("scancel", left.job)
        wait_until(lambda: not processes_of(SCRIPT, disturbed.folder), "the end of the training")
    succeeded(cluster.snakemake(disturbed, "--unlock", timeout=PATIENCE))
    done = cluster.snakemake(disturbed, TARGET, timeout=PATIENCE)
    succeeded(done)
    assert_same_weights(disturbed, undisturbed)
