"""The noise-aware CLIP: both encoders, their tokenizer, and the gradient that guides sampling (Nichol et al. 2021, 2.4)."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from glide_fast.errors import invalid
from glide_fast.models.clip_blocks import resolve_device
from glide_fast.models.clip_config import ClipConfig, read_clip_config
from glide_fast.models.clip_image import ImageEncoder
from glide_fast.models.clip_text import TextEncoder
from glide_fast.text import PromptTruncatedWarning, SimpleTokenizer, get_tokenizer, validate_prompts

CondFn = Callable[..., torch.Tensor]
"""Called as ``cond_fn(x, t, **model_kwargs)``; gives a gradient of the shape of ``x``."""


@dataclass(eq=False)
class CLIPModel:
    """CLIP's two encoders, its tokenizer and its scale.

    Attributes:
        config: complete configuration; see :func:`glide_fast.models.clip_config.clip_defaults`.
        text_encoder: of prompts; load weights into it, as the official notebooks do.
        image_encoder: of noisy pictures; load weights into it as well.
        logit_scale: ``[]`` fp32, the logarithm of the factor on the cosine.
        device: where both encoders are.
        tokenizer: CLIP's own.
    """

    config: ClipConfig
    text_encoder: TextEncoder
    image_encoder: ImageEncoder
    logit_scale: torch.Tensor
    device: torch.device
    tokenizer: SimpleTokenizer

    def convert_to(self, dtype: torch.dtype) -> None:
        """Compute both encoders in ``dtype`` from now on; layer norms stay in fp32, and so do embeddings and gradients.

        Raises:
            InvalidInputError: for a type that is not a floating-point one.
        """
        self.text_encoder.convert_to(dtype)
        self.image_encoder.convert_to(dtype)

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids ``[N, max_text_len]`` and lengths ``[N]``, int64 on the model's device.

        A prompt that is too long is cut, with a ``PromptTruncatedWarning``.
        """
        limit = self.text_encoder.max_text_len
        rows, lengths = [], []
        for prompt in validate_prompts(prompts, argument="prompts"):
            tokens = self.tokenizer.encode(prompt)
            if len(tokens) > limit - 2:
                lost = self.tokenizer.decode(tokens[limit - 2 :])
                warnings.warn(
                    f"prompt {prompt[:40]!r} has {len(tokens)} tokens and CLIP reads {limit - 2}; cut off: {lost[:200]!r}",
                    PromptTruncatedWarning,
                    stacklevel=2,
                )
            row, length = self.tokenizer.padded_tokens_and_len(tokens, limit)
            rows.append(row)
            lengths.append(length)
        return (
            torch.tensor(rows, dtype=torch.long, device=self.device),
            torch.tensor(lengths, dtype=torch.long, device=self.device),
        )

    def text_embeddings(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit vectors ``[N, n_embd]`` fp32."""
        return _unit(self.text_encoder(*self.encode_prompts(prompts)))

    def image_embeddings(self, images: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Unit vectors ``[N, n_embd]`` fp32 of ``images`` ``[N, 3, H, W]`` in [-1, 1] (plus noise) at timesteps ``t`` ``[N]``."""
        return _unit(self.image_encoder((images + 1) * 127.5, t))

    def cond_fn(self, prompts: Sequence[str], grad_scale: float) -> CondFn:
        """A ``cond_fn`` for the sampling loops: what would make the images look more like the prompts.

        Args:
            prompts: one for each image of the batch to be sampled, or one for all.
            grad_scale: factor on the gradient of ``exp(logit_scale) * cosine``; the caller of the result may override it.

        Returns:
            ``cond_fn(x, t, grad_scale=grad_scale, **kwargs)``: the gradient ``[N, 3, H, W]`` with respect to ``x``, whatever the
            gradient mode it is called in. ``t`` is of the original process, as the respaced loops pass it.
        """
        with torch.no_grad():
            text = self.text_embeddings(prompts)

        def cond_fn(
            x: torch.Tensor, t: torch.Tensor, grad_scale: float = grad_scale, **kwargs: Any
        ) -> torch.Tensor:
            if text.shape[0] not in (1, x.shape[0]):
                raise invalid(
                    "prompts", f"{text.shape[0]} prompts", f"1 or as many as there are images, {x.shape[0]}"
                )
            with torch.enable_grad():
                x = x.detach().requires_grad_(True)
                score = torch.exp(self.logit_scale) * (text * self.image_embeddings(x, t)).sum()
                (gradient,) = torch.autograd.grad(score, x)
            return gradient * grad_scale

        return cond_fn


def _unit(features: torch.Tensor) -> torch.Tensor:
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return F.normalize(wide, dim=-1, eps=1e-12)


def create_clip_model(
    config_path: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    tokenizer: SimpleTokenizer | None = None,
) -> CLIPModel:
    """Build a noise-aware CLIP with fresh fp32 weights.

    Args:
        config_path: a YAML file, or a mapping of the same names. A value that it leaves out is that of the released model; None
            leaves out all.
        device: None takes the GPU where there is one.
        tokenizer: None takes the one that ships with the package.

    Raises:
        InvalidInputError: for a configuration that cannot be read or built.
    """
    config = read_clip_config(config_path)
    device = resolve_device(device)
    return CLIPModel(
        config=config,
        text_encoder=TextEncoder(
            n_bpe_vocab=config["n_vocab"],
            max_text_len=config["max_text_len"],
            n_embd=config["n_embd"],
            n_head=config["n_head_text"],
            n_xf_blocks=config["n_xf_blocks_text"],
            n_head_state=config["n_head_state_text"],
            device=device,
        ),
        image_encoder=ImageEncoder(
            image_size=config["image_size"],
            patch_size=config["patch_size"],
            n_embd=config["n_embd"],
            n_head=config["n_head_image"],
            n_xf_blocks=config["n_xf_blocks_image"],
            n_head_state=config["n_head_state_image"],
            n_timestep=config["n_timesteps"],
            device=device,
        ),
        logit_scale=torch.tensor(math.log(config["logit_scale"]), dtype=torch.float32, device=device),
        device=device,
        tokenizer=get_tokenizer() if tokenizer is None else tokenizer,
    )
