"""Worker processes that end with the process that started them, and an error when one of them is killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Literal

from anyshot.errors import AnyshotError


def _end_with_parent() -> None:
    """A killed process cannot end its workers: they would wait for work for ever, and hold their memory."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def worker_pool(processes: int, *, start: Literal["forkserver", "spawn"]) -> Iterator[ProcessPoolExecutor]:
    """A pool of `processes` workers; work that has not begun is dropped when the block ends.

    start: how a worker is made; not by fork, since the caller may hold threads, whose locks would be copied
    in whatever state. Raises AnyshotError when the system kills a worker.
    """
    context = multiprocessing.get_context(start)
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise AnyshotError(
            f"one of {processes} worker processes was killed, most likely for lack of memory: give the job"
            " more memory or fewer threads, then run again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
