"""Whether Triton's kernels can run here: on a CUDA device, or, slowly and for tests, in Triton's interpreter on the CPU."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from types import ModuleType
from typing import Any, TypeVar

import torch

OLDEST = (
    8,
    0,
)  # the lowest compute capability for which the kernels are compiled and their registers counted


Cut = TypeVar("Cut")


def cut_of(record: Callable[..., Cut], plan: Mapping[str, object], candidates: Collection[Cut]) -> Cut:
    """The kernel's own record of a plan.

    Args:
        record: the class of the records, whose fields are the names in a plan.
        candidates: every record that the kernel offers for the call.

    Raises:
        ValueError: for a plan that is none of them.
    """
    try:
        cut: Cut | None = record(**plan)
    except TypeError:
        cut = None
    # True is 1, but not the same plan.
    if cut is None or cut not in candidates or any(type(value) is bool for value in plan.values()):
        offered = ", ".join(map(str, candidates))
        raise ValueError(f"plan: got {dict(plan)}; accepted for this call: {offered}")
    return cut


def interpreting() -> bool:
    """Whether Triton interprets kernels instead of compiling them; Triton reads the same switch when it is imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in {"1", "true", "on"}


@functools.cache
def load(name: str) -> tuple[ModuleType | None, str | None]:
    """The module ``glide_fast.kernels.<name>``, or None and the reason; never raises."""
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return None, f"Triton does not load: {error}"
    try:
        return importlib.import_module(f"glide_fast.kernels.{name}"), None
    except ModuleNotFoundError as error:
        return None, f"the kernels are not installed (pip install -e .): {error}"


def plans(name: str, call: Any) -> Iterator[dict[str, Any]]:
    """Every plan of ``glide_fast.kernels.<name>`` for a call of its op, the default first; none where :func:`load` has none."""
    kernels, _ = load(name)
    return (cut._asdict() for cut in kernels.plans_of(call)) if kernels is not None else iter(())


@functools.cache
def _device_reason() -> str | None:
    if torch.version.hip is not None:
        return "this torch is built for ROCm, on which the kernels were never run"
    capability = min(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))
    if capability < OLDEST:
        return f"a device here has compute capability {capability[0]}.{capability[1]}; the kernels want {OLDEST[0]}.{OLDEST[1]}"
    return None


def why_not(device: str, kernel: str) -> str | None:
    """Why ``glide_fast.kernels.<kernel>`` cannot run on a device of this type; None if it can. Imports Triton at most once."""
    if device != "cuda" and not (device == "cpu" and interpreting()):
        return f"the tensors are on {device}, not on a CUDA device"
    reason = load(kernel)[1]
    return reason if reason is not None or device == "cpu" else _device_reason()
