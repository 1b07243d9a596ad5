"""Triton's backends through the calls that GLIDE makes and the traps of test_conformance.py, interpreted or on a device.

tests/ops/test_triton.py runs this in a process of its own. The interpreter takes a reduced set: the least case of each structure.
"""

from __future__ import annotations

import pytest
import torch
from support import conformance
from support.conformance import Contestant, Judge, drawn, forced, result
from support.interpreter import teach_bfloat16
from support.triton_device import DEVICE

from glide_fast.errors import BackendError
from glide_fast.ops.case import Case
from glide_fast.ops.triton_runtime import interpreting

if interpreting():
    teach_bfloat16()

TRITON = Contestant("triton")
OPS = [
    op
    for op in conformance.names()
    if op not in conformance.ON_ANOTHER_OP and "triton" in conformance.backends_of(op).names
]
CASES = [
    pytest.param(op, case, id=f"{op}: {case.title}")
    for op in OPS
    for case in (conformance.representatives if interpreting() else conformance.cases)(op)
]
every_case = pytest.mark.parametrize(("op", "case"), CASES)


def checked(op: str, arguments: conformance.Arguments, judge: Judge) -> bool:
    """Whether Triton's backend takes the call; its result is right, and out of guarded memory."""
    try:
        with forced(op, TRITON), conformance.unchanged(arguments), conformance.guarded():
            found = result(op, arguments)
    except BackendError:
        return False
    judge.check(found, TRITON)
    return True


@every_case
def test_every_case_is_right(op: str, case: Case) -> None:
    arguments = drawn(case, 1, torch.float16, DEVICE)
    judge = Judge(op, arguments)
    takes = op != "convolution" or (arguments["weight"].shape[2:] == (3, 3) and arguments["stride"] == 1)
    assert checked(op, arguments, judge) == takes


@every_case
@pytest.mark.parametrize("layout", conformance.LAYOUTS)
def test_any_layout_is_declined_or_right(op: str, case: Case, layout: str) -> None:
    arguments = drawn(case, 1, torch.float16, DEVICE)
    lay = conformance.LAYOUTS[layout]
    tensors = {name: lay(tensor) for name, tensor in conformance.tensors_of(arguments).items()}
    checked(op, {**arguments, **tensors}, Judge(op, arguments))
