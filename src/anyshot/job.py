"""The bridge between the workflow and the library: one command line for all stage scripts.

    python workflow/scripts/<system>/<stage>.py --options JSON --input NAME PATH [PATH...] ...
        --output NAME PATH ... [--threads N] [--gpus N] [--seed S] [--shard I --shards N] [--log FILE]

A script defines `main(job: Job) -> None` and ends with `run("<system>.<stage>", OptionsClass, main)`. A
script that uses torch imports it at its top: torch is seeded only when it has been imported before `run`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pydantic

import anyshot
from anyshot.dates import check_dates, wait_for_dates
from anyshot.errors import AnyshotError, ArtifactError, ConfigError
from anyshot.lease import lease
from anyshot.options import StageOptions
from anyshot.provenance import commit, content_hash, installed_version

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Opts = TypeVar("Opts", bound=StageOptions)

TERMINATED = 143  # 128 + SIGTERM, the shell's word for it
PROGRESS_SECONDS = 10.0  # between two log lines of `Job.progress`
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclasses.dataclass(kw_only=True)
class Job(Generic[Opts]):
    """One call of a stage: what to read, what to write, with which options, on which part of the images.

    shard is 0-based; gpus is the number of GPUs held (0 = CPU).
    """

    stage: str
    options: Opts
    input_paths: Mapping[str, Sequence[Path]]
    output_paths: Mapping[str, Path]
    seed: int = 0
    threads: int = 1
    gpus: int = 0
    shard: int = 0
    shards: int = 1
    log: logging.Logger = dataclasses.field(default_factory=lambda: logging.getLogger("anyshot"))
    begin: float = dataclasses.field(default_factory=time.monotonic)
    _leftovers: list[Path] = dataclasses.field(default_factory=list)

    @classmethod
    def for_tests(
        cls,
        stage: str,
        options: Opts,
        *,
        inputs: Mapping[str, Path | Sequence[Path]] | None = None,
        outputs: Mapping[str, Path] | None = None,
        **fields: Any,
    ) -> Job[Opts]:
        """A job without a command line, to call a stage's `main` in the same process; seeded as by `run`."""
        lists = {n: [p] if isinstance(p, Path) else list(p) for n, p in (inputs or {}).items()}
        job = cls(stage=stage, options=options, input_paths=lists, output_paths=dict(outputs or {}), **fields)
        _seed(job.seed)
        return job

    def inputs(self, name: str) -> list[Path]:
        """The paths given for `--input name`, none when it was not given."""
        return list(self.input_paths.get(name, ()))

    def has_input(self, name: str) -> bool:
        """Whether at least one path was given for `--input name`."""
        return bool(self.input_paths.get(name))

    def input(self, name: str) -> Path:
        """The one path given for `--input name`. Raises ConfigError for none or several."""
        paths = self.inputs(name)
        if len(paths) != 1:
            given = ", ".join(sorted(name for name in self.input_paths if self.has_input(name))) or "none"
            raise ConfigError(
                f"{self.stage}: --input {name} has {len(paths)} paths, expected 1 (given: {given})"
            )
        return paths[0]

    def output(self, name: str) -> Path:
        """The path given for `--output name`; its folder is made. Raises ConfigError when there is none."""
        if name not in self.output_paths:
            given = ", ".join(sorted(self.output_paths)) or "none"
            raise ConfigError(f"{self.stage}: --output {name} is missing (given: {given})")
        path = self.output_paths[name]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"cannot make the folder {path.parent}: {error.strerror}") from error
        return path

    def remove_after_success(self, path: Path) -> None:
        """Remove the file when the whole stage has succeeded: until then a restart may need it."""
        self._leftovers.append(path)

    def finish(self) -> None:
        """Remove what `remove_after_success` named."""
        for path in self._leftovers:
            path.unlink(missing_ok=True)

    def mine(self, items: Sequence[Item]) -> list[Item]:
        """This shard's share of `items`: every `shards`-th one."""
        return list(items[self.shard :: self.shards])

    @functools.cached_property
    def device(self) -> torch.device:
        """`cuda` when GPUs are held and torch sees them, else `cpu`."""
        import torch

        if self.gpus and torch.cuda.is_available():
            return torch.device("cuda")
        if self.gpus:
            self.log.warning(
                "%d GPU(s) held, but this torch (%s) cannot use them: CPU", self.gpus, torch.__version__
            )
        return torch.device("cpu")

    def progress(
        self, items: Iterable[Item], total: int | None = None, unit: str = "image"
    ) -> Iterator[Item]:
        """Iterate over `items`: a bar on a terminal, else a log line with the remaining time every 10 s."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        if sys.stderr.isatty():
            from tqdm import tqdm

            yield from tqdm(items, total=total, unit=unit, desc=self.stage, dynamic_ncols=True)
            return
        begin = last = time.monotonic()
        done = 0
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - last >= PROGRESS_SECONDS:
                last = now
                self.log.info("%s", _progress_line(self.stage, done, total, unit, now - begin))
        self.log.info("%s: %d %ss in %s", self.stage, done, unit, duration(time.monotonic() - begin))

    @functools.cached_property
    def input_hashes(self) -> dict[str, list[str]]:
        """sha256 of every input's content; score stores give their own fingerprint instead."""
        return {
            name: [content_hash(path) for path in paths] for name, paths in sorted(self.input_paths.items())
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over stage, options, seed, shard and the inputs' contents: equal for equal results."""
        parts = [self.stage, self.options.canonical(), self.seed, self.shard, self.shards, self.input_hashes]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def provenance(self) -> dict[str, str]:
        """What made a file, for its attributes or card; `seconds` counts from the job's start."""
        facts = {
            "stage": self.stage,
            "options": self.options.canonical(),
            "seed": str(self.seed),
            "shard": f"{self.shard + 1}of{self.shards}",
            "fingerprint": self.fingerprint,
            "input_hashes": json.dumps(self.input_hashes, sort_keys=True),
            "anyshot": anyshot.__version__,
            "torch": installed_version("torch"),
            "commit": commit(),
            "seconds": f"{time.monotonic() - self.begin:.1f}",
        }
        return {name: value for name, value in facts.items() if value}


def duration(seconds: float) -> str:
    """Seconds for people: 12 s, 3:05 min, 2:10 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _progress_line(stage: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    if not total:
        return f"{stage}: {done} {unit}s, {rate:.2f}/s"
    left = duration((total - done) / rate)
    return f"{stage}: {done}/{total} {unit}s ({100 * done / total:.0f}%), {rate:.2f}/s, {left} left"


class _ShardAction(argparse.Action):
    """`--shard I` is 0-based and needs `--shards N`; `--shard IofN`, 1-based as in file names, says both."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        first, of, count = str(values).partition("of")
        try:
            namespace.shard = int(first) - (1 if of else 0)
            if of:
                namespace.shards = int(count)
        except ValueError:
            parser.error(f"--shard {values}: expected a number from 0, or text like 1of4")


def _parser(stage: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Stage {stage} of anyshot.", allow_abbrev=False)
    parser.add_argument(
        "--options", required=True, metavar="JSON", help="the stage's options as JSON; {} = defaults"
    )
    parser.add_argument("--input", action="append", nargs="+", default=[], metavar=("NAME", "PATH"))
    parser.add_argument("--output", action="append", nargs=2, default=[], metavar=("NAME", "PATH"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs to lease; 0 hides them")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--shard", action=_ShardAction, default=0, metavar="I", help="from 0, or 1ofN")
    parser.add_argument("--shards", type=int, default=1, metavar="N")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the log is added to this file as well")
    return parser


def _parse_options(stage: str, options_class: type[Opts], text: str) -> Opts:
    try:
        return options_class.parse(text)
    except pydantic.ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}, found {e.get('input')!r}" for e in error.errors()
        ]
        raise ConfigError(f"{stage}: wrong options\n  " + "\n  ".join(lines)) from error
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{stage}: --options is no JSON object ({error}): {text[:200]}") from error


def _job(stage: str, options_class: type[Opts], arguments: argparse.Namespace) -> Job[Opts]:
    if not 0 <= arguments.shard < arguments.shards:
        raise ConfigError(
            f"--shard {arguments.shard} of --shards {arguments.shards}: expected 0 <= shard < shards"
        )
    for name, least in (("threads", 1), ("gpus", 0), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise ConfigError(f"--{name} {getattr(arguments, name)}: expected {least} or more")
    inputs: dict[str, list[Path]] = {}
    for name, *paths in arguments.input:
        inputs.setdefault(name, []).extend(map(Path, paths))
    for name, listed in inputs.items():
        for path in listed:
            if not path.exists():
                raise ArtifactError(
                    f"{stage}: --input {name} {path} does not exist; run the stage that writes it"
                )
    return Job(
        stage=stage,
        options=_parse_options(stage, options_class, arguments.options),
        input_paths=inputs,
        output_paths={name: Path(path) for name, path in arguments.output},
        seed=arguments.seed,
        threads=arguments.threads,
        gpus=arguments.gpus,
        shard=arguments.shard,
        shards=arguments.shards,
    )


class _TerminalHandler(logging.StreamHandler):
    """Writes to stderr without tearing a tqdm bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")
        if tqdm is None:
            super().emit(record)
        else:
            tqdm.tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """Says once on stderr that the file cannot be written (a full disk); the work goes on without it."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            print(f"the log {self.baseFilename} is not written: {error.strerror}", file=sys.stderr)

    def close(self) -> None:
        with contextlib.suppress(OSError) if self.failed else contextlib.nullcontext():
            super().close()


def _start_log(path: Path | None) -> logging.Logger:
    """The logger `anyshot`: INFO to stderr, DEBUG added to `path`. Further ranks of a job only warn."""
    log = logging.getLogger("anyshot")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for old in log.handlers[:]:
        log.removeHandler(old)
        old.close()
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    handlers: list[logging.Handler] = [_TerminalHandler(sys.stderr)]
    handlers[0].setLevel(logging.INFO if first else logging.WARNING)
    if path is not None and first:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(_LogFile(path, encoding="utf-8"))
        except OSError as error:
            raise ArtifactError(
                f"cannot write the log {path}: {error.strerror}: {error.filename}; make {path.parent} a"
                " folder that can be written, or set `results` to another disk, then run again"
            ) from error
    for handler in handlers:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
        )
        log.addHandler(handler)
    return log


def _set_threads(threads: int) -> None:
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)


def _seed(seed: int) -> None:
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _terminate(signum: int, frame: object) -> None:
    raise SystemExit(TERMINATED)


def run(stage: str, options_class: type[Opts], main: Callable[[Job[Opts]], None]) -> None:
    """Read the command line, prepare log, threads, GPUs and seeds, call `main`, and exit with its status.

    0 = done; 1 = an error, AnyshotError as its message alone, anything else with traceback; 143 = SIGTERM.
    """
    signal.signal(signal.SIGTERM, _terminate)
    arguments = _parser(stage).parse_args()
    log = logging.getLogger("anyshot")
    try:
        log = _start_log(arguments.log)
        job = _job(stage, options_class, arguments)
        log.debug("%s pid %d: %s", stage, os.getpid(), " ".join(sys.argv))
        _set_threads(job.threads)
        held = lease(job.gpus)
        if not os.environ.get("SLURM_JOB_ID"):
            job.gpus = len(held)
        _seed(job.seed)
        read = [path for paths in job.input_paths.values() for path in paths]
        check_dates(read)
        main(job)
        job.finish()
        wait_for_dates(read)
        log.info("%s: done in %s", stage, duration(time.monotonic() - job.begin))
    except AnyshotError as error:
        log.error("%s: %s", stage, error)
        log.debug("traceback of the error above", exc_info=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        log.error("%s: interrupted", stage)
        raise SystemExit(130) from None
    except Exception:
        log.exception("%s: a defect of anyshot, please report it with this text", stage)
        raise SystemExit(1) from None
