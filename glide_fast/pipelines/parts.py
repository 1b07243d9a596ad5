"""Making the images of a call in parts when all at once do not fit into memory."""

from __future__ import annotations

import gc
import warnings
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from glide_fast.errors import OutOfMemoryError

if TYPE_CHECKING:
    from glide_fast.pipelines.stage import Stage


class SmallerBatchWarning(UserWarning):
    """A batch did not fit into memory and is sampled in parts. The images are the same."""


_ALLOCATORS = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Texts in the messages of the plain RuntimeErrors that libraries raise when they get no memory."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the device or the host has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _ALLOCATORS)


class Attempt:
    """A ``with`` block that samples some images of a stage at once, and suppresses the error if they do not fit into memory.

    It then sets ``stage.part_size`` to half as many images, with a :class:`SmallerBatchWarning`. An image depends on no seed but
    its own, so images are the same whether they are sampled in parts or all at once.

    Args:
        stage: the stage that samples.
        name: the stage's name, for people.
        count: how many images the block samples.

    Raises:
        OutOfMemoryError: where one image alone does not fit.

    Attributes:
        failed: whether the images did not fit.
    """

    def __init__(self, stage: Stage, name: str, count: int) -> None:
        self._stage, self._name, self._count = stage, name, count
        self.failed = False

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or not ran_out_of_memory(error):
            return False
        stage, count = self._stage, self._count
        if count == 1:
            raise OutOfMemoryError(
                f"{self._name}: one image of {stage.image_size} px does not fit into the memory of {stage.device}; accepted: "
                f"a device with more, or for two stages on one GPU enable_sequential_stages() ({_first_line(error)})"
            ) from error
        stage.part_size = (count + 1) // 2
        warnings.warn(
            f"{self._name}: {count} images at once do not fit into the memory of {stage.device}; going on with "
            f"{stage.part_size}",
            SmallerBatchWarning,
            stacklevel=3,
        )
        self.failed = True
        return True


def collect_garbage(device: torch.device) -> None:
    """Give back the memory that a failed attempt held; only when its error is gone, whose traceback held it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
