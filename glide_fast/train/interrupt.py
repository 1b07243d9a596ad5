"""Ctrl-C and SIGTERM that wait for the end of a step, so that a checkpoint never holds half a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DeferredInterrupt:
    """A context in which the first Ctrl-C or SIGTERM only sets ``requested``; a second one takes its course at once.

    When the context ends, so does the first: it is delivered to whom it would have gone without the context (Ctrl-C then raises
    KeyboardInterrupt, and SIGTERM ends the process where nobody handles it).

    Python delivers signals to the main thread, so in any other this does nothing; nor does it for a signal that the process
    ignores, as one started in the background of a script ignores Ctrl-C.
    """

    def __init__(self) -> None:
        self.requested = False
        self._waiting: int | None = None
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._waiting = None
            self._restore()
            signal.raise_signal(number)
        else:
            self.requested, self._waiting = True, number

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __enter__(self) -> DeferredInterrupt:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if self._waiting is not None and error is None:
            signal.raise_signal(self._waiting)
            raise KeyboardInterrupt
