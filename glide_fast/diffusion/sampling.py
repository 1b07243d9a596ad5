"""The sampling loop that pipelines use: a denoiser, a step rule and seeds in, pictures out.

Everything that can be known before the first step is computed before it: the rule's table, the network's timesteps, the
buffers. One step (:meth:`SamplingLoop.advance`) then only reads and writes those buffers and takes its index from the device, so
that the same launches serve every step and nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from glide_fast.diffusion.denoiser import Denoiser, LoopDenoiser, PlainDenoiser
from glide_fast.diffusion.noise import BASE_STREAMS, Streams, philox_normal
from glide_fast.diffusion.plan import Interval, StepKind, plan_steps
from glide_fast.diffusion.respacing import SpacedDiffusion
from glide_fast.diffusion.rules import draws_noise, get_rule
from glide_fast.errors import invalid
from glide_fast.ops import backends
from glide_fast.ops.dry_run import dry_run
from glide_fast.ops.guided_step import HISTORY, Step, guided_step

Callback = Callable[[int, int, torch.Tensor], object]


class SamplingLoop:
    """Reverse diffusion of N images.

    Args:
        denoiser: the network, as a :data:`~glide_fast.diffusion.denoiser.Denoiser` or a
            :class:`~glide_fast.diffusion.denoiser.LoopDenoiser`. Its batch is N; with a guidance scale it is 2 N, the same states
            twice, of which the first half is conditioned on the prompt.
        diffusion: the process on the steps to take.
        seeds: int64 ``[N]``, on the device to run on; an image depends on its own seed only.
        shape: ``(C, H, W)`` of one image.
        rule: a name in :data:`glide_fast.diffusion.rules.RULES`.
        streams: which of a seed's noise streams to use; stages of one pipeline use different ones.
        guidance_scale: classifier-free guidance; None for a batch that is not doubled.
        known, known_mask: ``[N, C, H, W]`` in [-1, 1] and ``[N, 1, H, W]``; where the mask is 1, ``known`` overwrites every
            prediction.
        score: ``score(x, timesteps)``, a scaled gradient of a log probability, ``[N, C, H, W]`` (CLIP guidance); called
            outside inference mode, so it may differentiate.
        noise_scale: multiplies the starting noise.
        image: ``[N, C, H, W]`` in [-1, 1], to start from when noised to step ``first`` instead of from noise alone.
        first: row of the respaced process to start at; None for the noisiest.
        clip: clamp predictions of the clean image to [-1, 1].
        guidance_interval, cache_interval: see :func:`glide_fast.diffusion.plan.plan_steps`.

    Raises:
        InvalidInputError: for an unknown rule, or tensors of the wrong shape.
    """

    def __init__(
        self,
        denoiser: Denoiser | LoopDenoiser,
        diffusion: SpacedDiffusion,
        seeds: torch.Tensor,
        shape: tuple[int, int, int],
        *,
        rule: str = "ddpm",
        streams: Streams = BASE_STREAMS,
        guidance_scale: float | None = None,
        known: torch.Tensor | None = None,
        known_mask: torch.Tensor | None = None,
        score: Denoiser | None = None,
        noise_scale: float = 1.0,
        image: torch.Tensor | None = None,
        first: int | None = None,
        clip: bool = True,
        guidance_interval: Interval | None = None,
        cache_interval: int = 1,
    ) -> None:
        count, device = len(seeds), seeds.device
        self._full = (count, *shape)
        last_row = diffusion.num_timesteps - 1
        first = last_row if first is None else first
        if not 0 <= first <= last_row:
            raise invalid("first", first, f"a step from 0 to {last_row}")
        self.denoiser: LoopDenoiser = (
            denoiser if isinstance(denoiser, LoopDenoiser) else PlainDenoiser(denoiser, device)
        )
        self.score, self.streams, self.clip = score, streams, clip
        self._forced_backends = backends.read_environment()  # for every op of a step
        self.rule = get_rule(rule, argument="rule")
        self.total = first + 1
        """Steps of a run."""
        taken = [int(diffusion.timestep_map[row]) for row in range(first, -1, -1)]
        self.kinds: Sequence[StepKind] = plan_steps(
            taken,
            diffusion.original_num_steps,
            guided=guidance_scale is not None,
            guidance_interval=guidance_interval,
            cache_interval=cache_interval,
        )
        """How each step is computed, in the order of the steps."""

        table = self.rule.build(diffusion, first)
        self._table = torch.from_numpy(table).to(device, torch.float32)
        self._timesteps = torch.tensor(diffusion.timestep_map, device=device)
        self._draws_noise = draws_noise(table)
        self._noise_scale = noise_scale
        self._keeps, self._noises = (
            float(diffusion.sqrt_alphas_cumprod[first]),
            float(diffusion.sqrt_one_minus_alphas_cumprod[first]),
        )

        # Doubled for guidance, so that the network's input needs no concatenation at every step.
        copies = 1 if guidance_scale is None else 2
        self._inputs = self.denoiser.empty_inputs(copies * count, shape)
        self._x = torch.empty(self._full, dtype=torch.float32, device=device)
        self._x0 = torch.empty(self._full, dtype=torch.float32, device=device)
        # A vector, because indexing with a scalar tensor would read it back to the host.
        self._steps = torch.empty(copies * count, dtype=torch.int64, device=device)
        self._times = torch.empty_like(self._steps)
        self._one = torch.ones(
            1, dtype=torch.int64, device=device
        )  # torch would make a tensor of the number at each step
        self._history = (
            torch.empty(HISTORY, *self._full, dtype=torch.float32, device=device)
            if self.rule.multistep
            else None
        )
        self.seeds = torch.empty_like(seeds)
        self._guidance = (
            None if guidance_scale is None else torch.empty(1, dtype=torch.float32, device=device)
        )
        self._known, self._known_mask, self._image = (
            None if tensor is None else torch.empty(size, dtype=torch.float32, device=device)
            for tensor, size in (
                (known, self._full),
                (known_mask, (count, 1, *shape[1:])),
                (image, self._full),
            )
        )
        self.renew(seeds, guidance_scale=guidance_scale, known=known, known_mask=known_mask, image=image)

    def renew(
        self,
        seeds: torch.Tensor,
        *,
        guidance_scale: float | None = None,
        known: torch.Tensor | None = None,
        known_mask: torch.Tensor | None = None,
        image: torch.Tensor | None = None,
    ) -> None:
        """Write the values of another run into the loop's buffers, whose addresses stay the same.

        The arguments are those of the constructor; exactly those that it got must be passed. The denoiser's conditioning is
        renewed by the denoiser.

        Raises:
            InvalidInputError: for an argument more or less than the constructor got, or of another shape.
        """
        if (known is None) != (known_mask is None):
            raise invalid(
                "known_mask",
                None if known_mask is None else "a mask",
                "a mask if and only if `known` is given",
            )
        pairs = [
            ("seeds", self.seeds, seeds),
            ("known", self._known, known),
            ("known_mask", self._known_mask, known_mask),
            ("image", self._image, image),
        ]
        for name, mine, new in pairs:
            if (mine is None) != (new is None):
                raise invalid(name, None if new is None else "a tensor", "what this loop was made with")
            if mine is not None and new is not None and mine.shape != new.shape:
                raise invalid(name, tuple(new.shape), f"shape {tuple(mine.shape)}")
        if (self._guidance is None) != (guidance_scale is None):
            raise invalid(
                "guidance_scale", guidance_scale, "a number if and only if the loop was made with one"
            )
        for _, mine, new in pairs:
            if mine is not None and new is not None:
                mine.copy_(new)
        if self._guidance is not None and guidance_scale is not None:
            self._guidance.fill_(guidance_scale)

    @property
    def x(self) -> torch.Tensor:
        """The state, fp32 ``[N, C, H, W]``; a buffer of the loop, which the next step overwrites."""
        return self._x

    @property
    def x0(self) -> torch.Tensor:
        """The last step's prediction of the clean images, fp32 ``[N, C, H, W]``; a buffer that the next step overwrites."""
        return self._x0

    def reset(self) -> None:
        """Fill the buffers for a run from the first step, for the present values of ``seeds``."""
        noise = philox_normal(self.seeds, 0, self._full[1:], stream=self.streams.start)
        if self._image is None:
            self._x.copy_(noise * self._noise_scale)
        else:
            self._x.copy_(self._image * self._keeps + noise * (self._noise_scale * self._noises))
        for copy in self._inputs.split(len(self._x)):
            copy.copy_(self._x)
        self._steps.fill_(self.total - 1)
        if self._history is not None:
            self._history.zero_()

    def choose_backends(self) -> None:
        """Choose the backend of every op for each kind of step, so that no run stops to choose.

        Walks through one step of each kind without computing its ops, and leaves the buffers' values undefined: :meth:`reset`
        comes before every run. A score function is not called: it may do anything.

        Raises:
            BackendError: for a forced backend that cannot run (see :mod:`glide_fast.ops.backends`).
        """
        score = self.score
        with torch.inference_mode() if score is None else torch.no_grad(), dry_run():
            if score is not None:
                self.score = lambda x, timesteps: torch.empty_like(x)
            try:
                for kind in dict.fromkeys(self.kinds):
                    self.reset()
                    self.advance(kind)
            finally:
                self.score = score

    def advance(self, kind: StepKind | None = None) -> torch.Tensor:
        """Take one step of the given kind; None for a full one, guided where the loop is.

        Returns its prediction of the clean images, ``[N, C, H, W]``: the loop's own buffer, which the next step overwrites.
        """
        count = len(self.seeds)
        guided = self._guidance is not None if kind is None else kind.guided
        width = len(self._inputs) if guided else count
        steps = self._steps[:count]
        timesteps = self._times[:width]
        torch.index_select(self._timesteps, 0, self._steps[:width], out=timesteps)
        options: dict[str, Any] = {} if kind is None or not kind.shallow else {"shallow": True}
        with backends.bound(self._forced_backends):
            score = None if self.score is None else self.score(self._x, timesteps[:count])
            model_out = self.denoiser(self._inputs[:width], timesteps, self._steps[:width], **options)
            guided_step(
                self._x,
                model_out,
                self._table,
                steps,
                seeds=self.seeds if self._draws_noise else None,
                stream=self.streams.step,
                guidance_scale=self._guidance if guided else None,
                known=self._known,
                known_mask=self._known_mask,
                clip=self.clip,
                score=score,
                history=self._history,
                remember_eps=self.rule.remember_eps,
                inputs=self._inputs,
                out=Step(self._x, self._x0, self._history),
            )
        self._steps.sub_(self._one)
        return self._x0

    def run(self, callback: Callback | None = None) -> torch.Tensor:
        """Sample from the first step to the last.

        Args:
            callback: called after each step as ``callback(index, total, x0)``, index from 0, with a copy of the step's
                prediction of the clean images ``[N, C, H, W]``; an exception in it stops the run and reaches the caller.

        Returns:
            A new tensor, fp32 ``[N, C, H, W]``.
        """
        with torch.inference_mode() if self.score is None else torch.no_grad():
            self.reset()
            for index, kind in enumerate(self.kinds):
                x0 = self.advance(kind)
                if callback is not None:
                    callback(index, self.total, x0.clone())
        return self.x.clone()
