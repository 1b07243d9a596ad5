"""Batches as a pure function of (seed, step): a run killed at any moment repeats the same ones when it goes on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from glide_fast.data.dataset import SceneDataset, area_mean
from glide_fast.errors import invalid
from glide_fast.text.gpt2 import get_encoder
from glide_fast.text.prompts import tokenize
from glide_fast.train.config import TrainConfig


class Batch(NamedTuple):
    """Inputs of one step, on the CPU."""

    x0: torch.Tensor  # [N, 3, S, S] fp32 in [-1, 1]
    t: torch.Tensor  # [N] int64
    noise: torch.Tensor  # [N, 3, S, S] fp32
    inputs: dict[str, torch.Tensor]  # of the model: tokens, mask, and its pictures


def caption_tokens(captions: list[str], text_ctx: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens ``[N, text_ctx]`` int64 and mask of every caption; each distinct caption is tokenized once."""
    distinct = sorted(set(captions))
    rows = {caption: i for i, caption in enumerate(distinct)}
    tokens, mask = tokenize(distinct, get_encoder(), text_ctx)
    index = torch.tensor([rows[caption] for caption in captions])
    return tokens[index], mask[index]


def used_tokens(tokens: torch.Tensor) -> list[int]:
    """The token ids that occur, padding included, in ascending order."""
    return sorted({*tokens.unique().tolist(), get_encoder().end_token})


def random_masks(rng: np.random.Generator, count: int, size: int) -> NDArray[np.float32]:
    """Inpainting masks ``[count, 1, size, size]``, 1 = keep: one rectangle, repainted or (one time in three) kept."""
    masks = np.ones((count, 1, size, size), np.float32)
    sides = rng.integers(size // 4, size * 3 // 4 + 1, (count, 2))
    corners = (rng.random((count, 2)) * (size - sides + 1)).astype(int)
    inverted = rng.random(count) < 1 / 3
    for mask, (height, width), (top, left), invert in zip(masks, sides, corners, inverted, strict=True):
        mask[:, top : top + height, left : left + width] = 0
        if invert:
            mask[:] = 1 - mask
    return masks


class Batches:
    """The batches of a run.

    Pictures are shuffled anew each epoch; captions, timesteps, noise, masks and crops come from a generator keyed by
    (seed, step). The data set's pictures are shrunk to the model's size by an exact mean.
    """

    def __init__(
        self, config: TrainConfig, data: SceneDataset, tokens: torch.Tensor, mask: torch.Tensor
    ) -> None:
        self.config, self.data, self.tokens, self.mask = config, data, tokens, mask
        options = config.options()
        self.size: int = options["image_size"]
        self.super_res: bool = options["super_res"]
        self.inpaint: bool = options["inpaint"]
        self.diffusion_steps: int = options["diffusion_steps"]
        self.low_res_factor = _low_res_factor(config) if self.super_res else 0
        stored = data.images.shape[1]
        if stored % self.size:
            raise invalid("image_size", self.size, f"a divisor of the data set's {stored} px")
        self.shrink = stored // self.size
        crop = config.crop
        # The UNet halves what it gets once a level, and a window must start on a low-resolution pixel.
        unit = math.lcm(self.low_res_factor, self.size // 8) if self.super_res else 0
        if crop and (not unit or crop > self.size or crop % unit):
            accepted = (
                f"0 or a multiple of {unit} up to {self.size}"
                if unit
                else "0; only upsamplers train on crops"
            )
            raise invalid("crop", crop, accepted)
        if len(data) < config.batch_size:
            raise invalid("batch_size", config.batch_size, f"at most the data set's {len(data)} pictures")
        self.steps_per_epoch = len(data) // config.batch_size
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def _indices(self, step: int) -> NDArray[np.int64]:
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.config.seed, 1, epoch)).permutation(len(self.data))
            self._epoch = epoch
        batch = self.config.batch_size
        return np.sort(self._order[position * batch : (position + 1) * batch])

    def __getitem__(self, step: int) -> Batch:
        config = self.config
        rng = np.random.default_rng((config.seed, 2, step))
        indices = self._indices(step)
        count = len(indices)
        pictures = area_mean(self.data.images[indices], self.shrink)
        low_res = area_mean(pictures, self.low_res_factor) if self.super_res else None
        if config.crop:
            pictures, low_res = self._crop(rng, pictures, low_res)
        x0 = _to_tensor(pictures)

        tokens, mask = self.tokens[indices].clone(), self.mask[indices].clone()
        unknown = torch.from_numpy(rng.random(tokens.shape) < config.unknown_dropout)
        tokens[unknown & mask] = get_encoder().n_vocab - 2  # an id that no caption holds
        empty = torch.from_numpy(rng.random(count) < config.caption_dropout)
        tokens[empty] = get_encoder().end_token
        mask[empty] = False
        inputs = {"tokens": tokens, "mask": mask}
        if low_res is not None:
            inputs["low_res"] = _degrade(rng, _to_tensor(low_res))
        if self.inpaint:
            masks = random_masks(rng, count, x0.shape[-1])
            masks[rng.random(count) >= config.inpaint_fraction] = 0
            inputs["inpaint_mask"] = torch.from_numpy(masks)
            inputs["inpaint_image"] = x0 * inputs["inpaint_mask"]
        t = torch.from_numpy(rng.integers(0, self.diffusion_steps, count))
        noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
        return Batch(x0, t, noise, inputs)

    def _crop(
        self, rng: np.random.Generator, pictures: NDArray[np.uint8], low_res: NDArray[np.uint8] | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """The same random window of each pair, aligned to the low-resolution pixels."""
        assert low_res is not None
        small = self.config.crop // self.low_res_factor
        top, left = rng.integers(0, low_res.shape[1] - small + 1, 2)
        low = low_res[:, top : top + small, left : left + small]
        top, left = top * self.low_res_factor, left * self.low_res_factor
        return pictures[:, top : top + self.config.crop, left : left + self.config.crop], low


def _low_res_factor(config: TrainConfig) -> int:
    """How many times larger an upsampler's output is than its input."""
    size, small = config.options()["image_size"], config.model.get("low_res_size")
    if type(small) is not int or not 0 < small < size or size % small:
        raise invalid(
            "low_res_size", small, f"the side of the upsampler's input, a divisor of image_size {size}"
        )
    return size // small


def _to_tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _degrade(rng: np.random.Generator, low_res: torch.Tensor) -> torch.Tensor:
    """Blur half of the pictures a little and add faint noise: a base model's samples are not as clean as renders."""
    sigma = torch.from_numpy(rng.uniform(0.2, 0.6, len(low_res)).astype(np.float32))
    offsets = torch.arange(-1, 2, dtype=torch.float32)
    kernel = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))
    kernel = kernel / kernel.sum(1, keepdim=True)
    separable = (kernel[:, :, None] * kernel[:, None, :]).repeat_interleave(3, 0)[:, None]
    n, c, h, w = low_res.shape
    padded = F.pad(low_res.reshape(1, n * c, h, w), (1, 1, 1, 1), mode="replicate")
    blurred = F.conv2d(padded, separable, groups=n * c).view(n, c, h, w)
    chosen = torch.from_numpy(rng.random(n) < 0.5)[:, None, None, None]
    noise = torch.from_numpy(rng.standard_normal(low_res.shape, dtype=np.float32))
    strength = torch.from_numpy(rng.uniform(0, 0.04, n).astype(np.float32))[:, None, None, None]
    return (torch.where(chosen, blurred, low_res) + strength * noise).clamp(-1, 1)
