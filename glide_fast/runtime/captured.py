"""A sampling loop that is captured once and replayed for every picture after it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch

from glide_fast.diffusion.plan import StepKind
from glide_fast.diffusion.sampling import Callback, SamplingLoop
from glide_fast.ops import arena
from glide_fast.runtime.bound import Bound
from glide_fast.runtime.recording import Recorder, Recording


class EagerLoopWarning(UserWarning):
    """A loop could not be captured, so each of its kernels is launched by Python at every step."""


WARM_UP = 2
"""How many steps run before one is captured: in the first ones libraries choose their algorithms and take memory."""


class CapturedLoop:
    """A :class:`~glide_fast.diffusion.sampling.SamplingLoop`, with its steps recorded.

    A step reads all that it needs from buffers whose addresses never change; the number of the step is in one of them. So one
    recording serves every step that is computed the same way (guided or not, full or shallow). It also serves later runs:
    :meth:`renew` writes other prompts, seeds and scales into the buffers, and all values computed from them or from the weights.

    Args:
        loop: what to run, over a denoiser whose buffers keep their addresses (:class:`~glide_fast.runtime.bound.Bound`).
        recorder: makes the recordings; None launches every kernel at every step.
        addresses: returns the addresses of all weights. A recording reads the weights at the addresses that they had when it was
            recorded, so the steps are recorded again when these have changed.
        whole_loop: also record all steps as one, for runs without a callback. This saves the gaps between replays; recording
            takes about as long as a run.

    Raises:
        BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
    """

    def __init__(
        self,
        loop: SamplingLoop,
        recorder: Recorder | None,
        addresses: Callable[[], Hashable] = lambda: None,
        *,
        whole_loop: bool = False,
    ) -> None:
        self.loop = loop
        self._recorder, self._addresses, self._whole_loop = recorder, addresses, whole_loop
        self._steps: dict[StepKind, Recording] = {}
        self._whole: Recording | None = None
        self._recorded_at: Hashable = None
        self.why_eager: str | None = None
        """Why steps are not replayed; None where they are or will be."""
        if recorder is None:
            self.why_eager = "there is no CUDA device to capture on"
        elif loop.score is not None:
            self.why_eager = "a score function (CLIP guidance) may do anything, also wait for the device"
            self._warn()
        loop.choose_backends()

    @property
    def captured(self) -> bool:
        """Whether there is a recording."""
        return bool(self._steps) or self._whole is not None

    def renew(self, conditioning: Mapping[str, Any], seeds: torch.Tensor, values: Mapping[str, Any]) -> None:
        """Write the values of another run into the buffers, with all that is computed from them by the present weights.

        Args:
            conditioning: arguments of :meth:`glide_fast.runtime.bound.Bound.renew`.
            seeds, values: arguments of :meth:`~glide_fast.diffusion.sampling.SamplingLoop.renew`.
        """
        denoiser = self.loop.denoiser
        if isinstance(denoiser, Bound):
            denoiser.renew(**conditioning)
        self.loop.renew(seeds, **values)

    def run(self, callback: Callback | None = None) -> torch.Tensor:
        """As :meth:`SamplingLoop.run`; ``callback`` is called between replays."""
        loop = self.loop
        with torch.inference_mode() if loop.score is None else torch.no_grad():
            whole = self._whole_loop and callback is None
            if self.why_eager is None:
                self._prepare(whole)
            loop.reset()
            if whole and self._whole is not None:
                self._whole.replay()
            else:
                for index, kind in enumerate(loop.kinds):
                    if self.why_eager is None:
                        self._steps[kind].replay()
                    else:
                        loop.advance(kind)
                    if callback is not None:
                        callback(index, loop.total, loop.x0.clone())
        return loop.x.clone()

    def _prepare(self, whole: bool) -> None:
        """Record what a run needs, again if weights have moved; a loop that cannot be recorded runs launch by launch."""
        if self.captured and self._addresses() != self._recorded_at:
            self.release()
        try:
            self._record(whole)
        except RuntimeError as error:
            self.release()
            if isinstance(error, torch.OutOfMemoryError):
                raise  # launch by launch it would fit no better; a smaller batch might
            self.why_eager = f"capturing failed: {error}"
            self._warn()
        except BaseException:  # Ctrl-C: the next run records all steps again
            self.release()
            raise

    def _record(self, whole: bool) -> None:
        """Record what a run needs and is not recorded yet."""
        assert self._recorder is not None
        loop = self.loop
        if whole:
            if self._whole is None:
                self._warm_up()
                loop.reset()
                self._whole = self._recorder.record(lambda: [loop.advance(kind) for kind in loop.kinds])
        elif not self._steps:
            self._warm_up()
            for kind in dict.fromkeys(loop.kinds):
                loop.reset()
                self._steps[kind] = self._recorder.record(lambda one=kind: loop.advance(one))  # type: ignore[misc]
        self._recorded_at = self._addresses()

    def _warm_up(self) -> None:
        # In the order of the loop: a shallow step needs a full one before it.
        for kind in dict.fromkeys(self.loop.kinds):
            for _ in range(WARM_UP):
                self.loop.reset()
                self.loop.advance(kind)

    def _warn(self) -> None:
        warnings.warn(
            f"the sampling loop runs launch by launch: {self.why_eager}", EagerLoopWarning, stacklevel=3
        )

    def release(self) -> None:
        """Free the memory of the recordings, and on a CPU the memory that all steps use; the next run asks for it again."""
        for recording in (*self._steps.values(), *([self._whole] if self._whole else [])):
            recording.release()
        self._steps.clear()
        self._whole = None
        if self._recorder is None:
            arena.trim()
