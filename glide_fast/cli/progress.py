"""A bar that counts pictures, though they are made many at once and step by step."""

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
        """Pictures done, the share of those in the making included."""
        self._bar = tqdm(total=total, unit=" images", bar_format=_FORMAT, disable=not enabled)

    def __enter__(self) -> PictureBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.leave = self.done > 0  # a call that was refused leaves no bar behind
        self._bar.close()

    def start(self, batch: int) -> None:
        """The next ``batch`` pictures begin; those before are done."""
        self._finished += self._batch
        self._batch = batch

    def step(self, end: StepEnd) -> None:
        """A step of the present batch has ended."""
        names = list(self._stages)
        before = sum(self._stages[name] for name in names[: names.index(end.stage)])
        # Of the batch's images, those of the parts before this one are through this stage.
        through = (end.first + len(end.x0) * (end.index + 1) / end.total) / self._batch
        share = (before + self._stages[end.stage] * through) / sum(self._stages.values())
        self._bar.set_postfix_str(f"{end.stage} {end.index + 1}/{end.total}", refresh=False)
        done = self._finished + self._batch * share
        self._bar.update(done - self.done)
        self.done = done
