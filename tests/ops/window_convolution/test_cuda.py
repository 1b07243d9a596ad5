"""window_convolution by cuBLAS on a device: GLIDE's sizes against fp64, and sums that torch's settings do not reach."""

from __future__ import annotations

import pytest
import torch

from glide_fast.ops import window_convolution
from glide_fast.ops.backends import force
from glide_fast.ops.case import Case, allowed_error, relative_error
from glide_fast.ops.window_convolution.cases import CASES

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_glide_sizes(case: Case, dtype: torch.dtype) -> None:
    given = case.arguments(case.batches[0], dtype, "cuda")
    with force(window_convolution="matmul"):
        y = window_convolution(**given)
    truth = window_convolution(**{name: tensor.double() for name, tensor in given.items()})
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert relative_error([y], [truth]) <= allowed_error(0.0, dtype)


def test_settings_of_torch_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the longest sums with the fewest rows, which cuBLAS would cut."""
    case = next(case for case in CASES if case.name == "8px 1536 to 768")
    given = case.arguments(1, torch.float16, "cuda")
    results = []
    for allowed in (True, False):
        for name in ("allow_fp16_reduced_precision_reduction", "allow_fp16_accumulation"):
            if hasattr(torch.backends.cuda.matmul, name):
                monkeypatch.setattr(torch.backends.cuda.matmul, name, allowed)
        results.append(window_convolution(**given))
    assert torch.equal(*results)
