"""Running functions in several threads at once."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

TIMEOUT = 60
"""Seconds after which threads count as stuck."""


def in_threads(threads: int, functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """The result of each function, or the exception that it raised, in order; ``threads`` of them run at a time."""
    results: list[Any] = [None] * len(functions)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(functions)):
        waiting.put(index)
    together = threading.Barrier(threads)

    def work() -> None:
        together.wait(TIMEOUT)
        while True:
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results[index] = functions[index]()
            except BaseException as error:
                results[index] = error

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(
        1e-5
    )  # so that Python switches threads within the work of one line, which it seldom does otherwise
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(TIMEOUT)
    finally:
        sys.setswitchinterval(before)
    assert not any(worker.is_alive() for worker in workers), "threads are stuck"
    return results
