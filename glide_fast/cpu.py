"""The processor's model and instruction sets, from /proc/cpuinfo."""

from __future__ import annotations

import functools
from pathlib import Path

FEATURES = {
    "AVX2": {"avx2", "fma"},
    "AVX-512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "AVX-512 BF16": {"avx512_bf16"},
    "AMX BF16": {"amx_tile", "amx_bf16"},
}
"""Name -> the flags of /proc/cpuinfo that together make it up."""


@functools.cache
def info() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def features() -> list[str]:
    """Those of :data:`FEATURES` that this machine has."""
    flags = set(info().get("flags", "").split())
    return [name for name, needed in FEATURES.items() if needed <= flags]
