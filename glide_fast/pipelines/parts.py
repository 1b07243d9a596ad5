"""Making the images of a call in parts, where all at once do not fit into memory."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from glide_fast.errors import OutOfMemoryError

if TYPE_CHECKING:
    from glide_fast.pipelines.stage import Stage


class SmallerBatchWarning(UserWarning):
    """A batch did not fit into memory and is made in parts. The images are the same."""


_ALLOCATORS = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""What errors say that libraries raise as plain RuntimeErrors for want of memory."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the device or the host has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _ALLOCATORS)


def in_parts(
    stage: Stage,
    name: str,
    count: int,
    make: Callable[[slice], torch.Tensor],
    release: Callable[[], object],
) -> torch.Tensor:
    """Make ``count`` images at once, or in parts as large as fit.

    A part that does not fit is halved, with a :class:`SmallerBatchWarning`, until it does. The size that did is kept in
    ``stage.part_size`` for later calls. An image depends on its own seed only, so the parts' images are those of the whole.

    Args:
        name: of the stage, for people.
        make: makes the images of a slice.
        release: gives memory back that is kept for speed only; called before anything is tried again.

    Returns:
        All images, in order.

    Raises:
        OutOfMemoryError: where one image alone does not fit.
    """
    made: list[torch.Tensor] = []
    done = 0
    while done < count:
        size = min(count - done, stage.part_size or count)
        try:
            made.append(make(slice(done, done + size)))
            done += size
            continue
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemoryError(
                    f"{name}: one image of {stage.image_size} px does not fit into the memory of {stage.device}; accepted: "
                    f"a device with more, or for two stages on one GPU enable_sequential_stages() ({_first_line(error)})"
                ) from error
        # Only here is the error gone, whose traceback held all that the part had allocated.
        stage.part_size = (size + 1) // 2
        warnings.warn(
            f"{name}: {size} images at once do not fit into the memory of {stage.device}; going on with {stage.part_size}",
            SmallerBatchWarning,
            stacklevel=2,
        )
        release()
        gc.collect()
        if stage.device.type == "cuda":
            torch.cuda.empty_cache()
    return made[0] if len(made) == 1 else torch.cat(made)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
