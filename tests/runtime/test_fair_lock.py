"""The lock behind pipelines and models: order, interrupts at every line, circles, forks and copies."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.threads import TIMEOUT, in_threads

from glide_fast.errors import ReentrantCallError
from glide_fast.runtime import fair_lock
from glide_fast.runtime.fair_lock import FairLock


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def finished(*threads: threading.Thread) -> bool:
    for thread in threads:
        thread.join(TIMEOUT)
    return not any(thread.is_alive() for thread in threads)


def queued(lock: FairLock) -> int:
    """Calls that are waiting."""
    count, entry = 0, lock._last
    while entry is not None:
        count += entry.present.locked() and entry.before is not None
        entry = entry.before
    return count


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Held:
    """A call in a thread of its own, which lasts until it is let go."""

    def __init__(self, *locks: FairLock) -> None:
        self.inside, self.go = threading.Event(), threading.Event()

        def work(rest: tuple[FairLock, ...] = locks) -> None:
            if rest:
                rest[0].run(work, rest[1:])
            else:
                self.inside.set()
                self.go.wait(TIMEOUT)

        self.thread = started(work)
        assert self.inside.wait(TIMEOUT)

    def over(self) -> bool:
        self.go.set()
        return finished(self.thread)


def test_one_at_a_time_and_what_a_call_gives_or_raises_reaches_the_caller() -> None:
    lock, inside, most = FairLock(), 0, 0

    def work(index: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0)
        inside -= 1
        if index % 5 == 0:
            raise ValueError(index)
        return index

    got = in_threads(6, [lambda i=i: lock.run(work, i) for i in range(300)])
    assert most == 1
    assert [g.args[0] if isinstance(g, ValueError) else g for g in got] == list(range(300))
    assert all(isinstance(got[i], ValueError) for i in range(0, 300, 5))


def test_first_come_first_served() -> None:
    lock, order = FairLock(), []
    first = Held(lock)
    threads = []
    for i in range(8):
        threads.append(started(lambda i=i: lock.run(order.append, i)))
        until(lambda i=i: queued(lock) == i + 1)
    assert first.over()
    assert finished(*threads)
    assert order == list(range(8))


def test_a_call_within_a_call_is_refused_and_may_join() -> None:
    lock = FairLock()

    def within() -> list[int]:
        with pytest.raises(ReentrantCallError, match=r"within: called within .*callback"):
            lock.run(within)
        return [lock.join(lock.join, len, "joined")]

    for _ in range(2):
        assert lock.run(within) == [6]
    waiting = Held(lock)
    other = started(lambda: lock.run(within))
    until(lambda: queued(lock) == 1)
    assert waiting.over()
    assert finished(other)


def test_one_thread_at_once_after_another_is_never_taken_for_the_one_before() -> None:
    """A waiting call takes hold of its predecessor's lock for a moment: the thread that has just left may come back meanwhile."""
    lock = FairLock()
    got = in_threads(4, [lambda: [lock.run(int, "1") for _ in range(500)]] * 8)
    assert got == [[1] * 500] * 8


def interrupted_at(at: int, call: Callable[[], object], before: Held | None) -> bool:
    """Whether ``call`` was interrupted at the lock's line number ``at``, or has fewer; ``before`` is let go on the way."""
    source = Path(fair_lock.__file__).read_text().splitlines()
    entered: set[tuple[types.FrameType, int]] = set()
    left = at

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != fair_lock.__file__:
            return None
        place = frame, frame.f_lineno
        leaves = place in entered and source[frame.f_lineno - 1].lstrip().startswith("with ")
        entered.add(place)
        if event in ("call", "line") and not leaves:
            if before is not None:
                before.go.set()
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.parametrize("handover", [False, True])
def test_an_interrupt_at_any_line_gives_the_turn_back(handover: bool) -> None:
    """A KeyboardInterrupt out of each line and call of the lock's code in turn, free or with a call before it.

    (But for a ``with`` line's second event, on leaving: Python delivers signals after calls and at jumps back, and neither stands
    between the last call of a block and the release of its lock.)
    """
    for at in itertools.count():
        lock = FairLock()
        before = Held(lock) if handover else None
        interrupted = interrupted_at(at, lambda lock=lock: lock.run(int, "1"), before)
        assert before is None or before.over()
        later: list[int] = []
        assert finished(started(lambda lock=lock, later=later: later.append(lock.run(int, "2")))), at
        assert lock.run(int, "3") == 3
        assert later == [2]
        if not interrupted:
            assert at > 10
            return


def test_signals_at_any_time_leave_the_lock_free() -> None:
    lock = FairLock()
    busy = [started(lambda: [lock.run(int, "1") for _ in range(3000)]) for _ in range(2)]
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for i in range(100):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + i))
                while True:
                    lock.run(int, "1")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert finished(*busy)
    assert lock.run(int, "2") == 2


def test_who_gives_up_waiting_lets_the_next_one_through_and_no_earlier() -> None:
    lock, order = FairLock(), []
    first = Held(lock)

    def interrupt() -> None:
        until(lambda: queued(lock) == 1)
        behind.append(started(lambda: lock.run(order.append, "behind")))
        until(lambda: queued(lock) == 2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    behind: list[threading.Thread] = []
    helper = started(interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            lock.run(order.append, "never")
    finally:
        signal.signal(signal.SIGINT, before)
    assert finished(helper)
    assert order == []
    order.append("first")
    assert first.over()
    assert finished(*behind)
    assert order == ["first", "behind"]


def test_callbacks_that_would_wait_for_each_other_are_refused() -> None:
    """Two threads, each within a call on one lock, call the other's: one is refused, the other one goes on. Nobody is stuck."""
    for _ in range(20):
        a, b, c = FairLock(), FairLock(), FairLock()
        together = threading.Barrier(3)

        def call(mine: FairLock, other: FairLock, together: threading.Barrier = together) -> int:
            def callback() -> int:
                together.wait(TIMEOUT)
                return other.run(int, "1")

            return mine.run(callback)

        got = in_threads(3, [lambda p=p: call(*p) for p in ((a, b), (b, c), (c, a))])
        refused = [g for g in got if isinstance(g, ReentrantCallError)]
        assert len(refused) == 1
        assert "another thread that waits" in str(refused[0])
        assert [g for g in got if g not in refused] == [1, 1]


def test_a_callback_may_wait_for_another_locks_call() -> None:
    a, b = FairLock(), FairLock()
    busy = Held(b)
    got: list[int] = []
    nested = started(lambda: a.run(lambda: got.append(b.run(int, "1"))))
    until(lambda: queued(b) == 1)
    waits = started(lambda: got.append(a.run(int, "2")))
    until(lambda: queued(a) == 1)
    assert busy.over()
    assert finished(nested, waits)
    assert got == [1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("by_holder", [False, True])
def test_a_fork_leaves_a_usable_lock(by_holder: bool) -> None:
    lock = FairLock()

    def child() -> bool:
        # In a callback the turn is still its thread's; in any other thread's fork nobody has it.
        if by_holder:
            with pytest.raises(ReentrantCallError):
                lock.run(int, "1")
            return lock.join(int, "1") == 1
        done: list[int] = []
        return finished(started(lambda: done.append(lock.run(int, "1")))) and lock.run(int, "2") == 2

    def fork() -> int:
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        status = 1
        try:
            status = 0 if child() else 2
        finally:
            os._exit(status)

    if by_holder:
        assert lock.run(fork) == 0
    else:
        holder = Held(lock)
        behind = started(lambda: lock.run(int, "1"))
        until(lambda: queued(lock) == 1)
        with lock._queue, fair_lock._process.mutex:  # as another thread may hold them just then
            assert fork() == 0
        assert holder.over()
        assert finished(behind)


def test_copies_and_pickles_are_locks_that_nobody_holds() -> None:
    lock = FairLock()
    held = Held(lock)
    for made in (copy.copy(lock), copy.deepcopy(lock), pickle.loads(pickle.dumps(lock))):
        assert made is not lock
        assert made.run(int, "1") == 1
    assert held.over()
