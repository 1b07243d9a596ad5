"""Matrix products on a GPU whose sums are in fp32 from the first product to the last, whatever torch allows in general.

torch lets cuBLAS split a sum among blocks of threads and add the parts in fp16 or bf16
(``torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction``, on by default), and a caller may let it add all of a sum
in fp16 (``allow_fp16_accumulation``). A product with few rows and a long sum is just what is split.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

SETTINGS = (
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_accumulation",
)
"""Of ``torch.backends.cuda.matmul``; older versions of torch lack the last."""

_lock = threading.Lock()
_inside = 0
_before: dict[str, bool] = {}


def exact_sums(like: torch.Tensor) -> Any:
    """A block in which products of half-precision tensors on ``like``'s device add in fp32.

    The settings are the process's: while one thread is in a block, products of other threads add in fp32 as well. They are read
    by the host where a product is launched, so a captured graph keeps what held when it was captured.
    """
    return _exact() if like.is_cuda and like.dtype in (torch.float16, torch.bfloat16) else nullcontext()


@contextmanager
def _exact() -> Iterator[None]:
    global _inside
    settings = torch.backends.cuda.matmul
    with _lock:
        if not _inside:
            # One that is off stays as it is: with it a caller may have forbidden to split sums at all.
            for name in SETTINGS:
                if getattr(settings, name, False):
                    _before[name] = True
                    setattr(settings, name, False)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for name, value in _before.items():
                    setattr(settings, name, value)
                _before.clear()
