"""The inputs of one step, the same for all contestants."""

from __future__ import annotations

from typing import Any

import torch

from glide_fast.bench.subject import Subject
from glide_fast.diffusion.respacing import SpacedDiffusion
from glide_fast.diffusion.rules import get_rule
from glide_fast.models.factory import create_gaussian_diffusion
from glide_fast.text import get_encoder, tokenize

PROMPT = "a red circle"
STEPS = 100
"""Steps of the process from which a single step is taken."""


class Work:
    """The arguments of the network's call in one step of a loop.

    Args:
        subject: the model that is called.
        batch: rows of the network's call; None is the number for one picture: 2 for guided base models, 1 for upsamplers.
        steps: how many steps the respaced process has; the one in the middle is measured.

    Attributes:
        guided: whether the first half of the batch is conditional and the second is not, as in classifier-free guidance. True
            for even batches, except those of upsamplers.
        x: ``[batch, 3, S, S]`` fp32.
        timesteps, rows: int64 ``[batch]``, the step in the original and in the respaced process.
        tokens, mask: ``[batch, text_ctx]``; None for models without text.
        pictures: further pictures that the model reads, by the names of its arguments.
        count: the number of states: ``batch``, or half of it where guided.
    """

    def __init__(
        self, subject: Subject, batch: int | None, device: torch.device, steps: int = STEPS, seed: int = 0
    ) -> None:
        self.device = device
        self.batch = batch or (1 if subject.upsamples else 2)
        self.guided = not subject.upsamples and self.batch % 2 == 0
        self.count = self.batch // 2 if self.guided else self.batch
        self.shape = (3, subject.image_size, subject.image_size)
        generator = torch.Generator().manual_seed(seed)
        state = torch.randn(self.count, *self.shape, generator=generator)
        self.x = state.repeat(self.batch // self.count, 1, 1, 1).to(device)
        self._state = state
        self.process: SpacedDiffusion = create_gaussian_diffusion(
            int(subject.options["diffusion_steps"]), subject.options["noise_schedule"], str(steps)
        )
        row = self.process.num_timesteps // 2
        self.rows = torch.full((self.batch,), row, device=device)
        self.timesteps = torch.full((self.batch,), int(self.process.timestep_map[row]), device=device)
        self.table = self.make_table()
        self.seeds = torch.arange(self.count, device=device)
        self.tokens: torch.Tensor | None = None
        self.mask: torch.Tensor | None = None
        if subject.model.xf_width:
            prompts = [PROMPT] * self.count + [""] * (self.batch - self.count)
            tokens, mask = tokenize(prompts, get_encoder(), subject.model.text_ctx)
            self.tokens, self.mask = tokens.to(device), mask.to(device)
        self.pictures: dict[str, torch.Tensor] = {}
        if subject.upsamples:
            self.pictures["low_res"] = self._picture(generator, 3, max(1, subject.image_size // 4))
        if subject.options["inpaint"]:
            self.pictures["inpaint_image"] = self._picture(generator, 3, subject.image_size)
            self.pictures["inpaint_mask"] = (self._picture(generator, 1, subject.image_size) > 0).float()

    def redraw(self, number: int) -> None:
        """Write other values into ``x``, drawn for ``number``; 0 writes the first ones again."""
        state = self._state
        if number:
            state = torch.randn(state.shape, generator=torch.Generator().manual_seed(1000 + number))
        self.x.copy_(state.repeat(self.batch // self.count, 1, 1, 1))

    def make_table(self) -> torch.Tensor:
        """The coefficients of every step of the released sampler, on the device."""
        table = get_rule("ddpm").build(self.process, self.process.num_timesteps - 1)
        return torch.from_numpy(table).to(self.device, torch.float32)

    def _picture(self, generator: torch.Generator, channels: int, size: int) -> torch.Tensor:
        picture = torch.rand(self.batch, channels, size, size, generator=generator) * 2 - 1
        return picture.to(self.device)

    @property
    def prompt(self) -> dict[str, Any]:
        """The prompt as arguments of a call."""
        return {} if self.tokens is None else {"tokens": self.tokens, "mask": self.mask}

    def __str__(self) -> str:
        return f"{self.batch} x {self.shape[1]} px"
