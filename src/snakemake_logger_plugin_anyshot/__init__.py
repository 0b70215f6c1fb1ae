"""Mends two things in Snakemake: targets may follow `--resources NAME=VALUE`, and long runs stay calm.

    snakemake --cores 8 --resources gpu=4 results/retab/fold0/miou.json

Snakemake takes every word after `--resources` for a resource and fails on the target; the targets are moved
to a place where they are read as targets.

While jobs wait for a free core, Snakemake's scheduler wakes itself every second to look at them again, and
at their input files. But whenever a job ends it wakes, too, and starts another such series of timers (seen
with 9.27): after 150 jobs it looked at everything many times a second, in as many threads as jobs had ended,
and took half a core. Here no timer is started while one is pending.

Snakemake imports each installed package whose name starts with `snakemake_logger_plugin_` before it reads its
arguments; this package has such a name. It never logs anything: `LogHandler` is there because a package of
that name must have one.

Snakemake's internals may change. Whatever is not as expected here is left alone: the command then behaves as
it does without this package, and the documented form `--resources=gpu=4 TARGET` works in any case.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase

SWALLOWING = frozenset({"--resources", "--res"})
# NAME=VALUE is a resource; Snakemake hands values to its own job processes in base64.
RESOURCE = re.compile(r"[A-Za-z_]\w*=|base64//")


class LogHandler(LogHandlerBase):
    """A handler that is never chosen and writes nowhere."""

    writes_to_stream = False
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def emit(self, record: Any) -> None:
        """Drop the record."""


def targets_apart(words: Sequence[str]) -> list[str]:
    """The same command line with the targets that follow `--resources` moved away from it.

    They join the targets at the front if the line starts with some (argparse reads only one group of them),
    else they go behind `--`. A line without such targets comes back as it was.
    """
    end = words.index("--") if "--" in words else len(words)
    kept: list[str] = []
    moved: list[str] = []
    after_resources = False
    for word in words[:end]:
        if word.startswith("-"):
            after_resources = word in SWALLOWING
        elif after_resources and not RESOURCE.match(word):
            moved.append(word)
            continue
        kept.append(word)
    if not moved:
        return list(words)
    if kept and not kept[0].startswith("-"):
        return [*moved, *kept, *words[end:]]
    return [*kept, "--", *moved, *words[end + 1 :]]


def install() -> bool:
    """Put `targets_apart` before Snakemake's parser; False when Snakemake is not built as expected."""
    try:
        from snakemake.common.argparse import ArgumentParser

        original = ArgumentParser.parse_args
        if getattr(original, "moves_targets", False):
            return True

        def parse_args(self: Any, args: Any = None, *more: Any, **named: Any) -> Any:
            try:
                words = targets_apart([str(word) for word in (sys.argv[1:] if args is None else args)])
            except Exception:
                return original(self, args, *more, **named)
            return original(self, words, *more, **named)

        setattr(parse_args, "moves_targets", True)  # noqa: B010 - a function has no such attribute for mypy
        setattr(ArgumentParser, "parse_args", parse_args)  # noqa: B010
    except Exception:
        return False
    return True


_lock = threading.Lock()


def wake_later(scheduler: Any, delay: float) -> None:
    """Let the scheduler look at its jobs in `delay` seconds, unless it does so before anyway.

    Takes the place of `JobScheduler._schedule_reevalutation`, which starts a timer at every call. The timer
    does not keep Snakemake from ending.
    """
    due = time.monotonic() + delay
    with _lock:
        if getattr(scheduler, "_woken_at", math.inf) <= due:
            return
        scheduler._woken_at = due

    def wake() -> None:
        with _lock:
            if scheduler._woken_at == due:
                scheduler._woken_at = math.inf
        scheduler._open_jobs.release()

    timer = threading.Timer(delay, wake)
    timer.daemon = True
    timer.start()


def calm() -> bool:
    """Put `wake_later` into Snakemake's scheduler; False when Snakemake is not built as expected."""
    try:
        from snakemake.scheduling.job_scheduler import JobScheduler

        original = JobScheduler._schedule_reevalutation
        if original is wake_later:
            return True
        source = inspect.getsource(original)
        if "threading.Timer(" not in source or "self._open_jobs.release()" not in source:
            return False
        setattr(JobScheduler, "_schedule_reevalutation", wake_later)  # noqa: B010
    except Exception:
        return False
    return True


install()
calm()
