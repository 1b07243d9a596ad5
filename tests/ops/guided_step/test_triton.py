"""guided_step's Triton kernel as machine code for real targets; what it computes is in check_triton.py."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton is not installed")


@pytest.mark.parametrize("target", [80, 90, 100])
def test_products_and_sums_are_rounded_one_by_one(target: int) -> None:
    from glide_fast.kernels import compile_report, guided_step

    for build in guided_step.default_builds():
        # Where noise is drawn, the logarithm of the device library has fused ones.
        assert (
            "seeds_ptr" in build.arguments
            or "fma.rn" not in compile_report.compiled(build, target).asm["ptx"]
        )
        assert compile_report.examine(build, target).registers <= 64, (
            "less than half of a multiprocessor's threads fit"
        )
