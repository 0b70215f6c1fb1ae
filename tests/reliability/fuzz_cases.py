"""How many cases the fuzzers try, what they do to a file, and the process that reads it.

python -m pytest tests/reliability -k fuzz                                # 500 cases, the same every time
ANYSHOT_FUZZ_CASES=10000 python -m pytest tests/reliability -k fuzz       # so many others
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

FEW = 500
CASES = int(os.environ.get("ANYSHOT_FUZZ_CASES", FEW))  # of all fuzzers together
PERCENT = {
    "config": 24,
    "config text": 6,
    "manifest": 5,
    "class table": 3,
    "png mask": 12,
    "png header": 7,
    "image": 12,
    "score store": 9,
    "strange store": 4,
    "image pack": 3,
    "label maps": 4,
    "safetensors": 4,
    "model folder": 3,
    "torch file": 3,
    "mxnet file": 1,
}
SECONDS = (
    300  # that a case may take on a machine busy with other things; of the CPU it gets fuzz_child.SECONDS
)
NUMBERS = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 10**12, 2**63 - 1, 2**63, 2**64 - 1)
TRIED: Counter[str] = Counter()


def cases(name: str) -> settings:
    """The share of a fuzzer: the same cases every time, unless more are asked for."""
    return settings(
        max_examples=CASES * PERCENT[name] // 100,
        derandomize=CASES <= FEW,
        database=None,
        deadline=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def counted(name: str) -> Iterator[Counter[str]]:
    """Within it, a fuzzer notes what its cases came to: some were refused, and of many some were read."""
    outcomes: Counter[str] = Counter()
    yield outcomes
    TRIED[name] += outcomes.total()
    assert outcomes.total() >= CASES * PERCENT[name] // 100, outcomes
    assert outcomes["refused"], outcomes
    assert outcomes["read"] or outcomes.total() < 100, outcomes


KINDS = ("flip", "set", "cut", "delete", "insert", "repeat", "zero", "swap", "number")
PLACES = st.one_of(st.integers(0, 127), st.integers(0, 2**20))
EDITS = st.lists(
    st.tuples(st.sampled_from(KINDS), PLACES, PLACES, st.integers(0, 2**16)), min_size=1, max_size=3
)
Edits = list[tuple[str, int, int, int]]


def edited(content: bytes, edits: Edits) -> bytes:
    """Bits flipped; bytes set, removed, inserted, repeated, blanked, exchanged; numbers in their place."""
    data = bytearray(content)
    for kind, place, other, value in edits:
        if not data:
            break
        at, length = place % len(data), 1 + value % 64
        if kind == "flip":
            data[at] ^= 1 << value % 8
        elif kind == "set":
            data[at] = value % 256
        elif kind == "cut":
            del data[at:]
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "insert":
            data[at:at] = bytes([value % 256]) * length
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "zero":
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == "swap":
            low, high = sorted((at, other % len(data)))
            length = min(length, high - low, len(data) - high)
            first, second = data[low : low + length], data[high : high + length]
            data[low : low + length], data[high : high + length] = second, first
        else:
            form = ("<I", ">I", "<Q", ">Q")[value % 4]
            number = NUMBERS[other % len(NUMBERS)] % 2 ** (8 * struct.calcsize(form))
            data[at : at + struct.calcsize(form)] = struct.pack(form, number)
    return bytes(data)


@dataclass(frozen=True)
class Outcome:
    """What reading a file came to: a value, or the message of an AnyshotError."""

    value: Any
    message: str | None


class Child:
    """Reads files in a process of its own: a crash, a hang or a huge allocation is seen, not suffered.

    Raises AssertionError for these, and for an exception that is no AnyshotError.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, reader: str, path: Path, named: Iterable[Path] = ()) -> Outcome:
        """One of `fuzz_child.READERS` on a path. A message must name the path, or one of `named`."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([reader, str(path)]).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        line = process.stdout.readline() if ready else b""
        if not line:
            status = process.poll()
            self.close()
            raise AssertionError(
                f"{reader}: nothing within {SECONDS} s" if status is None else f"{reader}: died with {status}"
            )
        answer = json.loads(line)
        assert "defect" not in answer, answer["defect"]
        message = answer.get("error")
        if message is not None:
            assert any(one.name in message for one in (path, *named)), message
        return Outcome(answer.get("value"), message)

    def _start(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("fuzz_child.py")
        words = [sys.executable, "-W", "ignore", str(script)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def note(outcomes: Counter[str], outcome: Outcome) -> Outcome:
    outcomes["read" if outcome.message is None else "refused"] += 1
    return outcome


def same_or_refused(outcomes: Counter[str], outcome: Outcome, good: Any) -> None:
    """What a reader with checksums owes: what was written, or an error."""
    note(outcomes, outcome)
    assert outcome.message is not None or outcome.value == good
