"""What text_attention and masked_attention share: the limits of the kernels that serve both, and whether xformers is there."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator

import torch

from glide_fast.cpu import features
from glide_fast.ops import native
from glide_fast.plans.file import Plan

# csrc/attention/cpu.cpp
TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
HEAD_SIZES = (32, 64, 128)

# kernels/text_attention.py and kernels/masked_attention.py
TRITON_TYPES = (torch.float16, torch.bfloat16, torch.float32)
MAX_HEAD_SIZE = 128
MAX_OFFSET = 2**31  # elements: within a sample the kernels count in 32 bits


def span(x: torch.Tensor) -> int:
    """Elements from the first of a sample of ``x`` ``[N, ..., ...]`` to behind its last, at most."""
    shape, stride = x.shape, x.stride()
    return shape[1] * stride[1] + shape[2] * stride[2]


def cpu_worth(facts: object) -> str | None:
    """Why SDPA or the reference is the better choice where nobody asks for the C++ kernel, or None.

    On an AVX-512 core SDPA with its concatenations took 4.6 times (bf16) as long as this kernel with AVX-512 BF16, 2.5 times with
    plain AVX-512, and 1.3 times with AVX2, at every size of GLIDE; docs/explanation/kernels.md has the table.
    """
    library = native.load()
    if library is not None and library.isas()[0] == "portable":
        return "without AVX2 it takes twice the time of SDPA; force it to compare"
    return None


def tiles_are_left_to_torch() -> bool:
    """Whether torch may multiply bf16 in this processor's AMX tiles, but the C++ kernel was compiled without them.

    Where the system refuses tiles to the process, torch has none either.
    """
    library = native.load()
    if library is None or "AMX BF16" not in features() or "amx" in library.isas():
        return False
    usable: bool = library.amx_usable() if hasattr(library, "amx_usable") else True
    return usable


def cpu_plans(dtype: torch.dtype) -> Iterator[Plan]:
    """The instruction sets that are candidates for the C++ kernel here, the best guess first.

    That tiles are faster than AVX-512 for bf16 is a guess. Fp32 has no use for tiles; of the others each is faster than the next.
    """
    library = native.load()
    isas = (
        [] if library is None else [isa for isa in library.isas() if isa != "amx" or dtype == torch.bfloat16]
    )
    for isa in isas[: 2 if isas[:1] == ["amx"] else 1]:
        yield {"isa": isa}


def planned_isa(plan: Plan | None, dtype: torch.dtype, isa: str) -> str:
    """The instruction set of a plan; ``isa`` where there is none.

    Raises:
        ValueError: for a plan that is none of :func:`cpu_plans`.
    """
    if plan is None:
        return isa
    candidates = list(cpu_plans(dtype))
    if plan not in candidates:
        raise ValueError(f"plan: got {plan}; this call takes {' or '.join(map(str, candidates))}")
    return str(plan["isa"])


@functools.cache
def why_no_xformers() -> str | None:
    """Why xformers' operators cannot run here; None if they can. Never raises."""
    try:
        importlib.import_module("xformers.ops")
        library = importlib.import_module("xformers._cpp_lib")
    except ImportError as error:
        return f'xformers is not installed (pip install "glide-fast[xformers]"): {error}'
    failure = getattr(library, "_cpp_library_load_exception", None)
    return None if failure is None else " ".join(str(failure).split())
