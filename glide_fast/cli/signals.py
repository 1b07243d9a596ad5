"""Ctrl-C and SIGTERM: at any moment one line, no traceback, and the exit code that shells use for a signal.

While a command works, a signal raises KeyboardInterrupt, so that files in the making are tidied away. Before and after, and
until torch is loaded (nothing is written before that, and an exception in the middle of an import of C++ would not always
come out as KeyboardInterrupt), it ends the process at once.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

_received: int | None = None
_working = False
_hiding = False  # whether an exception raised now would be lost
_main_thread = 0


def install() -> None:
    """Handle the signals from now on, in the main thread. A signal that is ignored, as in a script's background job, stays so."""
    global _main_thread
    _main_thread = _thread.get_ident()
    for number in _WORDS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _handle)
    sys.unraisablehook = _deliver_again


@contextlib.contextmanager
def work() -> Iterator[None]:
    """A block in which a signal raises KeyboardInterrupt; if a library catches that, it is raised again at the end."""
    global _working
    _working = True
    try:
        yield
    except Exception:
        # An error after a signal comes from the signal.
        if _received is None:
            raise
    finally:
        _working = False
    if _received is not None:
        raise KeyboardInterrupt


def ending() -> tuple[int, str]:
    """Exit code and message for the signal that ended the command; those of Ctrl-C if there was no signal."""
    number = signal.SIGINT if _received is None else _received
    return 128 + number, _WORDS[signal.Signals(number)]


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    if not (_working and _is_loaded("torch")):
        _leave()
    raise KeyboardInterrupt


def _leave() -> NoReturn:
    code, line = ending()
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
    os._exit(code)


def _is_loaded(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def _deliver_again(unraisable: Any) -> None:
    """Send a signal again if it came in a destructor or a callback, where Python drops the exception."""
    global _hiding
    if issubclass(unraisable.exc_type, KeyboardInterrupt) and _received is not None:
        _hiding = True
        _thread.start_new_thread(_deliver, (_received,))
        _hiding = False
    else:
        sys.__unraisablehook__(unraisable)


def _deliver(number: int) -> None:
    """Send the signal to the main thread once that has left the hook, where an exception would be dropped again."""
    while _hiding:
        time.sleep(0.001)
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:
        signal.pthread_kill(_main_thread, number)  # which also ends a wait of that thread
