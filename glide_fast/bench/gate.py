"""How far steps and loops of a model may err, measured against torch's own code in the same type."""

from __future__ import annotations

import torch

from glide_fast.bench.stock import stock
from glide_fast.bench.subject import Subject
from glide_fast.bench.work import Work
from glide_fast.ops.case import Tolerance, relative_error

STEP = Tolerance(margin=1.25, floor=1e-4, sane=0.3)
"""Of one prediction of a network: roundings differ by chance, and fp32 sums differ in their order."""
LOOP = STEP._replace(floor=1e-3)
"""Of a whole loop, where the errors of its steps add up."""


def error(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative L2 error; infinite for NaN or another shape."""
    return relative_error([got], [truth])


class Gate:
    """The fp32 prediction of one step, and what torch's own eager code makes of it in other types.

    Args:
        subject, work: the step. The truth is computed by torch's own layers, as the released code has them.
    """

    def __init__(self, subject: Subject, work: Work) -> None:
        self._subject, self._work = subject, work
        self._allowed: dict[torch.dtype, float] = {}
        self.truth = self.predict(torch.float32)

    def predict(self, dtype: torch.dtype) -> torch.Tensor:
        """Torch's own prediction for the work as it is now."""
        work = self._work
        model = stock(self._subject.model, dtype=dtype, device=work.device)
        with torch.inference_mode():
            return model(work.x, work.timesteps, **work.prompt, **work.pictures)

    def allowed(self, dtype: torch.dtype) -> float:
        """The most that a contestant of this type may err."""
        if dtype not in self._allowed:
            plain = 0.0 if dtype == torch.float32 else error(self.predict(dtype), self.truth)
            self._allowed[dtype] = STEP.allowed(plain)
        return self._allowed[dtype]
