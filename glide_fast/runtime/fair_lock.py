"""A lock that threads get in the order in which they asked for it; a call that would wait for itself is refused."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from glide_fast.errors import ReentrantCallError

P = ParamSpec("P")
R = TypeVar("R")


class _Entry:
    """One call, waiting or running.

    ``before`` is the call to wait for; None for one that runs. A call that gave up waiting (Ctrl-C) keeps it, so that the calls
    behind it know which one to wait for instead.
    """

    __slots__ = ("before", "left", "present", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.before: _Entry | None = None
        self.left = threading.Lock()
        """Held until the call is over; the next call waits for it."""
        self.present = threading.Lock()
        """Held as long. No other call ever takes it, so it shows whether this call is still running or waiting."""


class _Process:
    """The state that all locks of a process share."""

    def __init__(self) -> None:
        self.survivor = threading.get_ident()
        """The thread that forked, the only one that a child process has."""
        self.mutex = threading.RLock()  # a signal's handler may need it, too
        self.waiting: dict[int, _Entry] = {}
        """The latest entry of each thread that has waited."""


_process = _Process()


def _after_fork() -> None:
    global _process
    _process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class FairLock:
    """Runs one call at a time, in the order in which the calls came.

    A call that raises ends like any other; one that is interrupted while it waits leaves the queue. On Linux and macOS Ctrl-C
    interrupts waiting. After a fork the lock is free in the child process, unless the thread that forked held it. A copy, or one
    from a pickle, is a new lock that is free.

    (Everything is acquired by ``with`` on a lock of Python's own, so that a KeyboardInterrupt cannot come between acquiring and
    releasing. A ``finally`` written in Python would not ensure that.)
    """

    def __init__(self) -> None:
        self._process = _process
        self._queue = threading.Lock()
        self._last: _Entry | None = None
        self._running: _Entry | None = None

    def __reduce__(self) -> tuple[type[FairLock], tuple[()]]:
        return FairLock, ()

    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """``function(*args, **kwargs)``, once all calls that came before are over.

        Raises:
            ReentrantCallError: at once, in a thread that is within such a call (in a callback), and where threads would wait for
                each other in a circle.
        """
        self.refuse_within(function)
        entry = _Entry()
        with entry.left, entry.present:
            self._take_turn(entry, function)
            return function(*args, **kwargs)

    def join(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As :meth:`run`; but within a call of the same thread ``function`` is run as a part of that call, without waiting."""
        if self._held():
            return function(*args, **kwargs)
        entry = _Entry()
        with entry.left, entry.present:
            self._take_turn(entry, function)
            return function(*args, **kwargs)

    def refuse_within(self, function: Callable[..., object]) -> None:
        """Raise the ReentrantCallError that :meth:`run` of ``function`` raises in a thread that is within a call of this lock."""
        if self._held():
            raise ReentrantCallError(
                f"{_name(function)}: called within a call that is still running (from its callback); accepted: after that "
                "call has returned, or another pipeline that shares no model with it"
            )

    def _held(self) -> bool:
        """Whether the calling thread is within a call."""
        if self._process is not _process:
            self._start_anew()
        running = self._running
        return running is not None and running.thread == threading.get_ident() and running.present.locked()

    def _take_turn(self, entry: _Entry, function: Callable[..., object]) -> None:
        """Join the queue with ``entry``, whose locks the caller holds, and wait until all calls before it are over."""
        with self._queue:
            entry.before = self._last
            self._last = entry
        if entry.before is not None:
            self._wait(entry, function)
        self._running = entry

    def _wait(self, entry: _Entry, function: Callable[..., object]) -> None:
        while entry.before is not None and not entry.before.left.locked():
            entry.before = entry.before.before
        if entry.before is None:
            return
        shared = _process
        with shared.mutex:
            shared.waiting[entry.thread] = entry
            circle = _waits_for(entry.thread, entry.before)
        if circle:
            raise ReentrantCallError(
                f"{_name(function)}: called from a callback, it would wait for a call in another thread that waits for the one "
                "this callback belongs to; accepted: callbacks that call no pipeline whose callbacks call theirs"
            )
        while (before := entry.before) is not None:
            with before.left:
                # None where that one ran, and the one before it where it gave up.
                entry.before = before.before

    def _start_anew(self) -> None:
        """In the child of a fork: forget the calls of threads that the child does not have."""
        shared = _process
        with shared.mutex:
            if self._process is shared:
                return
            running = self._running
            if running is not None and not (running.present.locked() and running.thread == shared.survivor):
                running = None
            self._running = self._last = running
            self._queue = threading.Lock()
            self._process = shared


def _waits_for(thread: int, entry: _Entry | None) -> bool:
    """Whether ``entry`` waits, through other calls and locks, for something that ``thread`` runs."""
    while entry is not None:
        if not entry.present.locked():
            entry = entry.before  # over, or given up
        elif entry.thread == thread:
            return True
        elif entry.before is not None:
            entry = entry.before  # itself waiting
        else:  # running; but its thread may wait with another lock's entry
            other = _process.waiting.get(entry.thread)
            waits = other is not None and other is not entry and other.present.locked()
            entry = other.before if waits and other is not None else None
    return False


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", repr(function))


class Locked(Protocol):
    """An object whose methods take turns."""

    @property
    def lock(self) -> FairLock:
        """The lock for which the methods take turns."""


L = TypeVar("L", bound=Locked)


def takes_turns(method: Callable[Concatenate[L, P], R]) -> Callable[Concatenate[L, P], R]:
    """A decorator: an object's decorated methods run one at a time; a call from within one raises ReentrantCallError."""

    @functools.wraps(method)
    def run(self: L, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.lock.run(method, self, *args, **kwargs)

    return run


def joins(method: Callable[Concatenate[L, P], R]) -> Callable[Concatenate[L, P], R]:
    """A decorator: an object's decorated methods run one at a time; a call from within one runs as a part of it."""

    @functools.wraps(method)
    def run(self: L, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.lock.join(method, self, *args, **kwargs)

    return run
