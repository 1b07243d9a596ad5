"""A progress bar that counts pictures, although several are sampled at once and step by step."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from glide_fast.pipelines import StepEnd

_FORMAT = (
    "{percentage:3.0f}%|{bar}| {n:.1f}/{total} images [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
)


class PictureBar:
    """Shows images done, images/s and the present stage on standard error.

    Args:
        total: pictures in all.
        stages: steps of each stage by name, in order; a picture is done in proportion to its steps.
        enabled: False shows nothing.
    """

    def __init__(self, total: int, stages: Mapping[str, int], enabled: bool) -> None:
        self._stages = stages
        self._finished = self._batch = 0
        self.done = 0.0
        """How many pictures are done; an unfinished picture counts as a fraction."""
        self._bar = tqdm(total=total, unit=" images", bar_format=_FORMAT, disable=not enabled)

    def __enter__(self) -> PictureBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.leave = self.done > 0  # a call that was refused leaves no bar behind
        self._bar.close()

    def start(self, batch: int) -> None:
        """Count the former pictures as done, and ``batch`` pictures as begun."""
        self._finished += self._batch
        self._batch = batch

    def step(self, end: StepEnd) -> None:
        """Count a step of the present batch."""
        names = list(self._stages)
        before = sum(self._stages[name] for name in names[: names.index(end.stage)])
        # The images of earlier parts have passed this stage already.
        through = (end.first + len(end.x0) * (end.index + 1) / end.total) / self._batch
        share = (before + self._stages[end.stage] * through) / sum(self._stages.values())
        self._bar.set_postfix_str(f"{end.stage} {end.index + 1}/{end.total}", refresh=False)
        done = self._finished + self._batch * share
        self._bar.update(done - self.done)
        self.done = done
