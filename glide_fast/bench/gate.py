"""No speed-up is told of a wrong result."""

from __future__ import annotations

import torch

from glide_fast.bench.stock import stock
from glide_fast.bench.subject import Subject
from glide_fast.bench.work import Work

MARGIN = 1.25
"""How much more than torch's own eager code in the same type a contestant may err: roundings differ by chance."""
SANE = 0.3
"""An error of torch's own from which on it excuses nobody."""
FLOOR = 1e-4
"""Relative error that is allowed in any case: of fp32 sums in another order, through a whole network."""


def error(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative L2 error; infinite for NaN or another shape."""
    if got.shape != truth.shape:
        return float("inf")
    value = float((got.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-30))
    return value if value == value else float("inf")


def allowance(torchs: float, floor: float) -> float:
    """What a contestant may err where torch's own code errs by ``torchs``."""
    return max(floor, MARGIN * torchs if torchs <= SANE else 0.0)


class Gate:
    """The fp32 prediction of one step, and what torch's own eager code makes of it in other types.

    Args:
        subject, work: the step. The truth is computed by torch's own layers, as the released code has them.
    """

    def __init__(self, subject: Subject, work: Work) -> None:
        self._subject, self._work = subject, work
        self._allowed: dict[torch.dtype, float] = {}
        self.truth = self._predict(torch.float32)

    def _predict(self, dtype: torch.dtype) -> torch.Tensor:
        work = self._work
        model = stock(self._subject.model, dtype=dtype, device=work.device)
        with torch.inference_mode():
            return model(work.x, work.timesteps, **work.prompt, **work.pictures)

    def allowed(self, dtype: torch.dtype) -> float:
        """The most that a contestant of this type may err."""
        if dtype not in self._allowed:
            torchs = 0.0 if dtype == torch.float32 else error(self._predict(dtype), self.truth)
            self._allowed[dtype] = allowance(torchs, FLOOR)
        return self._allowed[dtype]
