"""The Slurm profile, and what docs/cluster.md says of other executors and remote stores, by dry runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yte  # type: ignore[import-untyped]

from anyshot.config_gpus import Gpus

Run = Callable[..., subprocess.CompletedProcess[str]]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
PLUGINS = {
    "--executor kubernetes": "snakemake_executor_plugin_kubernetes",
    "--executor aws-batch": "snakemake_executor_plugin_aws_batch",
    "--default-storage-provider fs": "snakemake_storage_plugin_fs",
    "--default-storage-provider s3": "snakemake_storage_plugin_s3",
}


def commands(words: str) -> list[str]:
    """The snakemake commands of the page that hold these words, each on one line."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [line.split(" # ")[0].strip() for line in lines if line.startswith("snakemake ")]
    return [line for line in found if re.search(words, line)]


# --- the profile ---

# What the profile says at every site; slurm/config.yaml and docs/cluster.md give the reasons.
AT_EVERY_SITE = {
    "executor": "slurm",
    "jobs": 100,
    "max-jobs-per-timespan": "10/1s",
    "keep-going": True,
    "rerun-incomplete": True,
    "show-failed-logs": True,
    "latency-wait": 60,
    "retries": 2,
    "default-resources": {"nodes": 1, "mem_mb": 500, "runtime": 10},
    "set-resource-scopes": {"runtime": "local"},
    "slurm-delete-logfiles-older-than": 30,
    "slurm-init-seconds-before-status-checks": 10,
    "slurm-status-command": "squeue",
    "slurm-status-attempts": 60,
    "max-status-checks-per-second": 0.2,
}


def site_variables() -> list[str]:
    """What the site of this machine says to the profile."""
    return [name for name in os.environ if name.startswith("ANYSHOT_SLURM_")]


@pytest.fixture
def profile(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The keys of slurm/config.yaml under environment variables, given without their prefix."""

    def read(**variables: str) -> dict[str, Any]:
        for name in site_variables():
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(f"ANYSHOT_SLURM_{name}", value)
        with (repository / "slurm" / "config.yaml").open() as file:
            content: dict[str, Any] = yte.process_yaml(file, require_use_yte=True)
        return content

    return read


def test_a_site_that_says_nothing_gets_no_partition_account_or_limit(profile: Callable[..., Any]) -> None:
    assert profile() == AT_EVERY_SITE


def test_what_a_site_says_changes_its_own_keys_alone(profile: Callable[..., Any]) -> None:
    said = profile(
        PARTITION="long", GPU_PARTITION="a100", ACCOUNT="4711", ACCOUNTING="yes", FIRST_CHECK="3",
        MAX_MINUTES="90", MAX_MEGABYTES="5000", MAX_THREADS="6",
    )  # fmt: skip
    assert {key: said[key] for key in said if said[key] != AT_EVERY_SITE.get(key)} == {
        "default-resources": {
            **AT_EVERY_SITE["default-resources"], "slurm_partition": "'long'", "slurm_account": "'4711'"
        },
        "set-resources": {
            stage: {"slurm_partition": "'a100'"} for stage in Gpus.model_fields if stage != "default"
        },
        "resources": {"runtime": 90, "mem_mb": 5000},
        "max-threads": 6,
        "slurm-init-seconds-before-status-checks": 3,
        "slurm-status-command": "sacct",
    }  # fmt: skip
    assert set(AT_EVERY_SITE) <= set(said)
    assert profile(MAX_MEGABYTES="5000")["resources"] == {"mem_mb": 5000}
    assert profile(MAX_MINUTES="90")["resources"] == {"runtime": 90}


def test_the_variables_of_this_site_do_not_reach_the_tests(
    profile: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAX_THREADS", "MAX_MINUTES", "PARTITION"):
        monkeypatch.setenv(f"ANYSHOT_SLURM_{name}", "7")
    assert profile() == AT_EVERY_SITE


def test_squeue_is_asked_unless_accounting_runs(profile: Callable[..., Any]) -> None:
    """Asking sacct without slurmdbd waits without end."""
    assert profile()["slurm-status-command"] == "squeue"
    assert profile(ACCOUNTING="0")["slurm-status-command"] == "squeue"
    assert profile(ACCOUNTING="1")["slurm-status-command"] == "sacct"


def test_network_stages_and_no_others_go_to_the_partition_of_gpus(profile: Callable[..., Any]) -> None:
    stages = profile(GPU_PARTITION="a100")["set-resources"]
    assert set(stages) == set(Gpus.model_fields) - {"default"}


def test_every_variable_of_the_profile_is_on_the_page(repository: Path) -> None:
    text = (repository / "slurm" / "config.yaml").read_text(encoding="utf-8")
    variables = {f"ANYSHOT_SLURM_{name}" for name in re.findall(r'given\("(\w+)"', text)}
    assert variables == set(re.findall(r"ANYSHOT_SLURM_\w+", PAGE.read_text(encoding="utf-8")))
    assert len(variables) == 8


def resources(text: str, rule: str) -> dict[str, str]:
    """The resources that a dry run prints for the first job of a rule."""
    line = re.search(rf"rule {rule}:.*?resources: (.*?)$", text, re.DOTALL | re.MULTILINE)
    assert line, text[-3000:]
    return dict(part.split("=", 1) for part in line[1].split(", ") if "=" in part)


def test_what_the_site_says_reaches_the_jobs(
    snakemake: Run, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"PARTITION": "cpu-long", "GPU_PARTITION": "gpu", "ACCOUNT": "4711"}
    limits = {"MAX_MINUTES": "90", "MAX_MEGABYTES": "5000", "MAX_THREADS": "2"}
    for name in site_variables():
        monkeypatch.delenv(name)
    variables = {f"ANYSHOT_SLURM_{name}": value for name, value in {**said, **limits}.items()}
    overlay = repository / "tests" / "end_to_end" / "tiny.yaml"
    # a dry run shows no more threads than --cores, 1 without it
    words = ("--profile", "slurm", "--configfile", str(overlay), "--dry-run", "--forceall", "--cores", "8")
    done = snakemake(*words, "--", "results/retab/shared/cam/1of2.h5", **variables)
    assert done.returncode == 0, done.stdout
    network, data = (resources(done.stdout, rule) for rule in ("retab_classifier", "data_prepare"))
    assert (network["slurm_partition"], data["slurm_partition"]) == ("gpu", "cpu-long")
    assert network["slurm_account"] == data["slurm_account"] == "4711"
    assert (network["runtime"], network["mem_mb"]) == ("90", "5000")
    assert (data["runtime"], data["mem_mb"]) == ("60", "4000")
    assert network["nodes"] == "1"
    threads = [int(number) for number in re.findall(r"^ +threads: (\d+)$", done.stdout, re.MULTILINE)]
    assert threads == [2, 2, 2]  # the rules ask for 4, 8 and 4


# --- the page's commands ---


class _Empty(BaseHTTPRequestHandler):
    """A store without a single bucket."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format: str, *words: object) -> None:
        """Says nothing."""


@pytest.fixture
def empty_store() -> Iterator[Mapping[str, str]]:
    """Environment variables under which S3 is an empty store on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "none",
            "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "none",
        }
        server.shutdown()


@pytest.mark.parametrize("command", commands("--executor|--default-storage-provider"))
def test_a_command_of_the_page_plans_the_whole_run(
    snakemake: Run, repository: Path, empty_store: Mapping[str, str], command: str
) -> None:
    needed = [module for words, module in PLUGINS.items() if words in command]
    assert needed, "a plug-in that this test does not know"
    for module in needed:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module.replace('_', '-')} is not installed")
    options, _, target = command.removeprefix("snakemake ").partition(" -- ")
    overlay = repository / "tests" / "end_to_end" / "tiny.yaml"
    words = [*shlex.split(options), "--configfile", str(overlay), "--dry-run", "--", *shlex.split(target)]
    done = snakemake(*words, **empty_store)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "rule retab_evaluate:" in done.stdout
    assert "/miou.json (send to storage)" in done.stdout


def test_the_page_has_a_command_for_every_plug_in() -> None:
    for words in PLUGINS:
        assert commands(words), words
