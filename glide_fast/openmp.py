"""How the threads of OpenMP, torch's and those of our kernels, wait for their next piece of work."""

from __future__ import annotations

import os

WAIT_POLICY = "OMP_WAIT_POLICY"
"""The variable in the environment that OpenMP reads when it is loaded, which is when torch is."""


def let_threads_sleep() -> None:
    """Make waiting threads sleep, unless :data:`WAIT_POLICY` is set already; to be called before torch is imported.

    Threads that wait by spinning take cores from the threads that work, on a machine that has other work.
    """
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")
