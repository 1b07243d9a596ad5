"""The sampling loop that pipelines use: a denoiser, a step rule and seeds in, pictures out.

Everything that can be known before the first step is made before it: the rule's table, what the network is told at each
step, the buffers. One step (:meth:`SamplingLoop.advance`) then only reads and writes those buffers and takes its index from the
device, so that the same launches serve every step and nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from glide_fast.diffusion.noise import BASE_STREAMS, Streams, philox_normal
from glide_fast.diffusion.respacing import SpacedDiffusion
from glide_fast.diffusion.rules import draws_noise, get_rule
from glide_fast.errors import invalid
from glide_fast.ops.guided_step import HISTORY, Step, guided_step

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Callback = Callable[[int, int, torch.Tensor], object]


class SamplingLoop:
    """Reverse diffusion of N images.

    Args:
        denoiser: called as ``denoiser(x, timesteps)`` with fp32 ``[B, C, H, W]`` and the original process's timesteps, int64
            ``[B]``; returns ``[B, 2 C, H, W]``. B is N, or 2 N with a guidance scale: the same states twice, the half to be
            conditioned on the prompt first.
        diffusion: the process on the steps to take.
        seeds: int64 ``[N]``, on the device to run on; an image depends on its own seed only.
        shape: ``(C, H, W)`` of one image.
        rule: a name in :data:`glide_fast.diffusion.rules.RULES`.
        streams: which of a seed's noise streams to use; stages of one pipeline use different ones.
        guidance_scale: classifier-free guidance; None for one that is not doubled.
        known, known_mask: ``[N, C, H, W]`` in [-1, 1] and ``[N, 1, H, W]``, 1 where every prediction is overwritten by it.
        score: ``score(x, timesteps)``, a scaled gradient of a log probability, ``[N, C, H, W]`` (CLIP guidance); called
            outside inference mode, so it may differentiate.
        noise_scale: multiplies the starting noise.
        image: ``[N, C, H, W]`` in [-1, 1], to start from when noised to step ``first`` instead of from noise alone.
        first: row of the respaced process to start at; None for the noisiest.
        clip: clamp predictions of the clean image to [-1, 1].

    Raises:
        InvalidInputError: for an unknown rule, or tensors of the wrong shape.
    """

    def __init__(
        self,
        denoiser: Denoiser,
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
    ) -> None:
        count, device = len(seeds), seeds.device
        full = (count, *shape)
        last_row = diffusion.num_timesteps - 1
        first = last_row if first is None else first
        if not 0 <= first <= last_row:
            raise invalid("first", first, f"a step from 0 to {last_row}")
        if (known is None) != (known_mask is None):
            raise invalid(
                "known_mask",
                None if known_mask is None else "a mask",
                "a mask if and only if `known` is given",
            )
        for name, tensor, wanted in (
            ("known", known, full),
            ("known_mask", known_mask, (count, 1, *shape[1:])),
            ("image", image, full),
        ):
            if tensor is not None and tensor.shape != wanted:
                raise invalid(name, tuple(tensor.shape), f"shape {wanted}")
        self.denoiser, self.score, self.seeds, self.streams = denoiser, score, seeds, streams
        self.guidance_scale, self.clip = guidance_scale, clip
        # As the step's kernels read them.
        self.known, self.known_mask = (
            None if tensor is None else tensor.float().contiguous() for tensor in (known, known_mask)
        )
        self.rule = get_rule(rule, argument="rule")
        self.total = first + 1
        """Steps of a run."""

        table = self.rule.build(diffusion, first)
        self._table = torch.from_numpy(table).to(device, torch.float32)
        self._timesteps = torch.tensor(diffusion.timestep_map, device=device)
        self._start_noise = noise_scale
        self._image: torch.Tensor | None = None
        if image is not None:
            self._image = image.float() * float(diffusion.sqrt_alphas_cumprod[first])
            self._start_noise = noise_scale * float(diffusion.sqrt_one_minus_alphas_cumprod[first])

        # Doubled for guidance, so that the network's input needs no concatenation at every step.
        copies = 1 if guidance_scale is None else 2
        self._inputs = torch.empty(copies * count, *shape, device=device)
        self._x = self._inputs[:count]
        self._copies = self._inputs[count:] if copies > 1 else None
        # A vector, because indexing with a scalar tensor would read it back to the host.
        self._steps = torch.empty(copies * count, dtype=torch.int64, device=device)
        self._history = torch.empty(HISTORY, *full, device=device) if self.rule.multistep else None
        self._draws_noise = draws_noise(table)

    @property
    def x(self) -> torch.Tensor:
        """The state, fp32 ``[N, C, H, W]``; the loop's own buffer, which the next step overwrites."""
        return self._x

    def reset(self) -> None:
        """Fill the buffers for a run from the first step; ``seeds`` may have been changed in place."""
        noise = philox_normal(self.seeds, 0, tuple(self.x.shape[1:]), stream=self.streams.start)
        start = noise * self._start_noise
        start = start if self._image is None else self._image + start
        for half in self._inputs.split(len(start)):
            half.copy_(start)
        self._steps.fill_(self.total - 1)
        if self._history is not None:
            self._history.zero_()

    def advance(self) -> torch.Tensor:
        """Take one step; returns its prediction of the clean images, ``[N, C, H, W]``."""
        count = len(self.seeds)
        steps = self._steps[:count]
        timesteps = self._timesteps.index_select(0, self._steps)
        score = None if self.score is None else self.score(self.x, timesteps[:count])
        model_out = self.denoiser(self._inputs, timesteps)
        step = guided_step(
            self.x,
            model_out,
            self._table,
            steps,
            seeds=self.seeds if self._draws_noise else None,
            stream=self.streams.step,
            guidance_scale=self.guidance_scale,
            known=self.known,
            known_mask=self.known_mask,
            clip=self.clip,
            score=score,
            history=self._history,
            remember_eps=self.rule.remember_eps,
            inputs=self._copies,
            # The prediction is handed out, so it is a tensor of its own; the rest is the loop's.
            out=Step(self.x, torch.empty_like(self.x), self._history),
        )
        self._steps -= 1
        return step.x0

    def run(self, callback: Callback | None = None) -> torch.Tensor:
        """Sample from the first step to the last.

        Args:
            callback: called after each step as ``callback(index, total, x0)``, index from 0, with the step's prediction of the
                clean images ``[N, C, H, W]``; what it raises stops the run and reaches the caller.

        Returns:
            fp32 ``[N, C, H, W]``, a tensor of its own.
        """
        with torch.inference_mode() if self.score is None else torch.no_grad():
            self.reset()
            for index in range(self.total):
                x0 = self.advance()
                if callback is not None:
                    callback(index, self.total, x0)
        return self.x.clone()
