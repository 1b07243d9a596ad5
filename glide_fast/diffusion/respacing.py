"""Sampling with fewer steps than the model was trained on (Nichol & Dhariwal 2021, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from glide_fast.diffusion.gaussian import GaussianDiffusion
from glide_fast.errors import InvalidInputError, invalid


def _ddim_stride(num_timesteps: int, count: int) -> set[int]:
    for stride in range(1, num_timesteps):
        if len(range(0, num_timesteps, stride)) == count:
            return set(range(0, num_timesteps, stride))
    raise InvalidInputError(
        f"timestep_respacing: got 'ddim{count}'; accepted: a count that an integer stride over {num_timesteps} steps gives "
        "(such as ddim25, ddim50, ddim100, ddim250); cannot create exactly "
        f"{count} steps with an integer stride"
    )


def space_timesteps(num_timesteps: int, section_counts: str | Sequence[int]) -> set[int]:
    """Choose the steps of the original process to keep.

    Args:
        num_timesteps: length of the original process.
        section_counts: one count per equal section of the process, as a list or a comma list ("100", "10,10,3,2,2"); within a
            section the steps are evenly spaced with both ends kept. "ddimN" is the DDIM paper's integer stride. "fast27" is
            "10,10,3,2,2" with the noisiest step moved two earlier, the released upsampler's schedule.

    Raises:
        InvalidInputError (a ValueError): for counts that do not fit.
    """
    argument = section_counts
    if isinstance(section_counts, str):
        if section_counts == "fast27":
            return (space_timesteps(num_timesteps, "10,10,3,2,2") - {num_timesteps - 1}) | {num_timesteps - 3}
        try:
            if section_counts.startswith("ddim"):
                return _ddim_stride(num_timesteps, int(section_counts[len("ddim") :]))
            section_counts = [int(count) for count in section_counts.split(",")]
        except InvalidInputError:
            raise
        except ValueError:
            raise invalid(
                "timestep_respacing", argument, "counts like '100' or '10,10,3,2,2', 'ddimN' or 'fast27'"
            ) from None
    if any(count < 0 for count in section_counts) or sum(section_counts) < 1:
        raise invalid("timestep_respacing", argument, "counts of at least 0, one of them above 0")

    size_per, extra = divmod(num_timesteps, len(section_counts))
    kept: set[int] = set()
    start = 0
    for i, count in enumerate(section_counts):
        size = size_per + (i < extra)
        if size < count:
            raise invalid(
                "timestep_respacing",
                argument,
                f"at most {size} steps in section {i}; cannot divide {size} into {count}",
            )
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # Accumulating (not multiplying) the stride and rounding half to even keep the official set, step for step.
        position = 0.0
        for _ in range(count):
            kept.add(start + round(position))
            position += stride
        start += size
    return kept


class OriginalTimesteps:
    """A model (or ``cond_fn``) called with the original process's timestep instead of the respaced index."""

    def __init__(self, model: Callable[..., torch.Tensor], timestep_map: torch.Tensor) -> None:
        self.model = model
        self.timestep_map = timestep_map

    def __call__(self, x: torch.Tensor, ts: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return self.model(x, self.timestep_map.to(ts.device)[ts].to(ts.dtype), **kwargs)


class SpacedDiffusion(GaussianDiffusion):
    """A process on a subset of the steps of another, with the same marginals at the steps kept.

    Args:
        use_timesteps: steps of the original process to keep.
        betas: of the original process.
    """

    def __init__(self, use_timesteps: Iterable[int], *, betas: Any) -> None:
        self.use_timesteps = set(use_timesteps)
        original = GaussianDiffusion(betas=betas).alphas_cumprod
        self.original_num_steps = len(original)
        self.timestep_map = sorted(step for step in self.use_timesteps if step < self.original_num_steps)
        if not self.timestep_map:
            raise invalid(
                "use_timesteps", sorted(self.use_timesteps), f"at least one step below {len(original)}"
            )
        kept = original[self.timestep_map]
        self._timestep_map = torch.tensor(self.timestep_map)
        super().__init__(betas=1.0 - kept / np.append(1.0, kept[:-1]))

    def _wrap(self, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        if isinstance(function, OriginalTimesteps):
            return function
        return OriginalTimesteps(function, self._timestep_map)
