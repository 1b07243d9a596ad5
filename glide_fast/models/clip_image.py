"""CLIP's image encoder: a vision transformer that also reads the image's noise level (Nichol et al. 2021, section 4.4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from glide_fast.errors import invalid
from glide_fast.models.clip_blocks import (
    Affine,
    AttentionInfo,
    Device,
    LayerNorm,
    TransformerBlock,
    convert_matrices,
    normal_parameter,
    resolve_device,
)
from glide_fast.models.own_values import own_generator

# Statistics of CLIP's training images, red, green, blue, of pixels from 0 to 255.
image_channel_means = [122.77093945, 116.74601272, 104.09373519]
image_channel_stds = [68.50053285, 66.63215831, 70.32316309]


def standardise(pixels: torch.Tensor) -> torch.Tensor:
    """``[N, 3, H, W]`` of 0 to 255 to zero mean and unit variance a channel, in fp32 or wider."""
    wide = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    return (wide - _per_channel(image_channel_means, wide)) / _per_channel(image_channel_stds, wide)


def _per_channel(values: list[float], like: torch.Tensor) -> torch.Tensor:
    """``[3, 1, 1]`` of the type of ``like``, on its device.

    Filled there, not kept in a buffer that a model's conversion would round, nor copied from the host, which a capture forbids.
    """
    column = like.new_empty(len(values), 1, 1)
    for at, value in enumerate(values):
        column[at].fill_(value)
    return column


class ImageEmbedding(nn.Module):
    """Patches behind one leading token, plus positions, normed.

    The leading token is the row of ``w_t`` for the image's timestep, or with ``n_timestep`` 0 the one vector ``pred_state``.
    """

    def __init__(
        self, image_size: int, patch_size: int, n_state: int, n_timestep: int = 0, device: Device = None
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise invalid("patch_size", patch_size, f"a divisor of image_size {image_size}")
        device = resolve_device(device)
        self.image_size, self.patch_size, self.n_state = image_size, patch_size, n_state
        self.n_timestep = n_timestep
        unit = 1 / math.sqrt(n_state)
        if n_timestep:
            self.w_t = normal_parameter((n_timestep, n_state), unit, device)
        else:
            self.pred_state = normal_parameter((n_state,), unit, device)
        self.patch_proj = normal_parameter(
            (n_state, 3, patch_size, patch_size), math.sqrt(2 / n_state) / patch_size, device
        )
        self.w_pos = normal_parameter((1 + (image_size // patch_size) ** 2, n_state), unit, device)
        self.ln = LayerNorm(n_state, device=device)

    def forward(self, x: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Pixels ``[N, 3, image_size, image_size]`` of 0 to 255, and timesteps ``[N]``, to ``[N, 1 + patches, n_state]``."""
        if x.dim() != 4 or tuple(x.shape[1:]) != (3, self.image_size, self.image_size):
            raise invalid("image", tuple(x.shape), f"shape [N, 3, {self.image_size}, {self.image_size}]")
        leading = self._leading_token(x.shape[0], t)
        patches = F.conv2d(standardise(x).to(self.patch_proj.dtype), self.patch_proj, stride=self.patch_size)
        patches = patches.flatten(2).transpose(1, 2)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            # Autograd knows no out=, and the compiler fuses this by itself.
            return self.ln(torch.cat([leading[:, None], patches], dim=1) + self.w_pos)
        tokens = patches.new_empty(patches.shape[0], 1 + patches.shape[1], self.n_state)
        torch.add(leading, self.w_pos[0], out=tokens[:, 0])
        torch.add(patches, self.w_pos[1:], out=tokens[:, 1:])
        return self.ln(tokens)

    def _leading_token(self, batch: int, t: torch.Tensor | None) -> torch.Tensor:
        if not self.n_timestep:
            if t is not None:
                raise invalid(
                    "timesteps",
                    tuple(t.shape),
                    "None: this encoder was built for clean images (n_timestep 0)",
                )
            return self.pred_state.expand(batch, -1)
        if t is None or tuple(t.shape) != (batch,):
            shape = None if t is None else tuple(t.shape)
            raise invalid("timesteps", shape, f"{batch} integers below {self.n_timestep}, one an image")
        return F.embedding(t, self.w_t)


class ImageFeatureExtractor(nn.Module):
    """The hidden state of the leading token; normed and mapped to the joint space unless asked for bare."""

    def __init__(
        self, n_state: int, n_embd: int, device: Device = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        device = resolve_device(device)
        self.n_state, self.n_embd = n_state, n_embd
        self.ln = LayerNorm(n_state, device=device)
        self.f = Affine(n_state, n_embd, use_bias=False, device=device, generator=generator)

    def forward(self, x: torch.Tensor, return_probe_features: bool = False) -> torch.Tensor:
        """Hidden states ``[N, T, n_state]`` to ``[N, n_embd]``, or ``[N, n_state]`` bare."""
        return x[:, 0] if return_probe_features else self.f(self.ln(x[:, 0]))


class ImageEncoder(nn.Module):
    """Noised images to features in the space shared with the text encoder.

    Args:
        image_size, patch_size: the image's side and that of a patch, in pixels.
        n_embd: width of the features.
        n_head, n_head_state: heads and their size; the transformer's width ``n_state`` is their product.
        n_xf_blocks: transformer blocks.
        n_timestep: noise levels known; 0 builds an encoder for clean images.
        device: where the parameters live; None takes the GPU where there is one.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        n_embd: int,
        n_head: int,
        n_xf_blocks: int,
        n_head_state: int = 64,
        n_timestep: int = 0,
        device: Device = None,
    ) -> None:
        super().__init__()
        device = resolve_device(device)
        self.image_size, self.patch_size, self.n_embd = image_size, patch_size, n_embd
        self.n_head, self.n_xf_blocks, self.n_head_state = n_head, n_xf_blocks, n_head_state
        self.n_timestep = n_timestep
        self.n_state = n_head * n_head_state
        self.n_context = 1 + (image_size // patch_size) ** 2
        generator = own_generator("ImageEncoder")
        attention = AttentionInfo(n_head, causal=False)
        blocks: dict[str, nn.Module] = {
            "input": ImageEmbedding(image_size, patch_size, self.n_state, n_timestep, device),
            **{
                f"block_{i}": TransformerBlock(self.n_state, 2 * n_xf_blocks, attention, device, generator)
                for i in range(n_xf_blocks)
            },
            "output": ImageFeatureExtractor(self.n_state, n_embd, device, generator),
        }
        self.blocks = nn.ModuleDict(blocks)

    def convert_to(self, dtype: torch.dtype) -> None:
        """Compute in ``dtype`` from now on, layer norms in fp32 within; the features come in it as well."""
        convert_matrices(self, dtype)

    def forward(
        self, image: torch.Tensor, timesteps: torch.Tensor | None = None, return_probe_features: bool = False
    ) -> torch.Tensor:
        """Features of images.

        Args:
            image: ``[N, 3, image_size, image_size]``, pixels of 0 to 255 (``(x + 1) * 127.5`` of the diffusion's x, noise and
                all, so values beyond that range occur).
            timesteps: ``[N]`` integers of the original process, how noisy each image is; None for ``n_timestep`` 0.
            return_probe_features: the leading token's hidden state itself.

        Returns:
            ``[N, n_embd]``, or ``[N, n_state]`` of probe features, not normalised, in the matrices' type.
        """
        h = self.blocks["input"](image, timesteps)
        for i in range(self.n_xf_blocks):
            h = self.blocks[f"block_{i}"](h)
        return self.blocks["output"](h, return_probe_features)
