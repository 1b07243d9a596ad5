"""CLIP's text encoder: a causal transformer read at the position of the last token."""

from __future__ import annotations

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


class TextEmbedding(nn.Module):
    """Token plus position."""

    def __init__(self, n_vocab: int, n_context: int, n_state: int, device: Device = None) -> None:
        super().__init__()
        device = resolve_device(device)
        self.n_vocab, self.n_context, self.n_state = n_vocab, n_context, n_state
        self.w_voc = normal_parameter((n_vocab, n_state), 0.02, device)
        self.w_pos = normal_parameter((n_context, n_state), 0.01, device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ids ``[N, n_context]`` to ``[N, n_context, n_state]``."""
        if x.dim() != 2 or x.shape[1] != self.n_context:
            raise invalid("text", tuple(x.shape), f"token ids of shape [N, {self.n_context}]")
        return F.embedding(x, self.w_voc) + self.w_pos


class TextFeatureExtractor(nn.Module):
    """The hidden state of a text's last token; normed and mapped to the joint space unless asked for bare."""

    def __init__(
        self, n_state: int, n_embd: int, device: Device = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        device = resolve_device(device)
        self.n_state, self.n_embd = n_state, n_embd
        self.ln = LayerNorm(n_state, device=device)
        self.f = Affine(n_state, n_embd, use_bias=False, device=device, generator=generator)

    def forward(
        self, text: torch.Tensor, text_len: torch.Tensor, return_probe_features: bool = False
    ) -> torch.Tensor:
        """Hidden states ``[N, T, n_state]`` and lengths ``[N]`` to ``[N, n_embd]``, or ``[N, n_state]`` bare."""
        if text.dim() != 3:
            raise invalid("text", tuple(text.shape), "hidden states of shape [N, T, n_state]")
        if tuple(text_len.shape) != (text.shape[0],):
            raise invalid("text_len", tuple(text_len.shape), f"{text.shape[0]} lengths, one a text")
        last = text[torch.arange(text.shape[0], device=text.device), text_len - 1]
        return last if return_probe_features else self.f(self.ln(last))


class TextEncoder(nn.Module):
    """Padded token ids to features in the space shared with the image encoder.

    Args:
        n_bpe_vocab: rows of the token embedding.
        max_text_len: positions; every text is padded to this.
        n_embd: width of the features.
        n_head, n_head_state: heads and their size; the transformer's width ``n_state`` is their product.
        n_xf_blocks: transformer blocks.
        device: where the parameters live; None takes the GPU where there is one.
    """

    def __init__(
        self,
        n_bpe_vocab: int,
        max_text_len: int,
        n_embd: int,
        n_head: int,
        n_xf_blocks: int,
        n_head_state: int = 64,
        device: Device = None,
    ) -> None:
        super().__init__()
        device = resolve_device(device)
        self.n_bpe_vocab, self.max_text_len, self.n_embd = n_bpe_vocab, max_text_len, n_embd
        self.n_head, self.n_xf_blocks, self.n_head_state = n_head, n_xf_blocks, n_head_state
        self.n_state = n_head * n_head_state
        generator = own_generator("TextEncoder")
        attention = AttentionInfo(n_head, causal=True)
        blocks: dict[str, nn.Module] = {
            "input": TextEmbedding(n_bpe_vocab, max_text_len, self.n_state, device),
            **{
                f"block_{i}": TransformerBlock(self.n_state, 2 * n_xf_blocks, attention, device, generator)
                for i in range(n_xf_blocks)
            },
            "output": TextFeatureExtractor(self.n_state, n_embd, device, generator),
        }
        self.blocks = nn.ModuleDict(blocks)

    def convert_to(self, dtype: torch.dtype) -> None:
        """Compute in ``dtype`` from now on, layer norms in fp32 within; the features come in it as well."""
        convert_matrices(self, dtype)

    def forward(
        self, text: torch.Tensor, text_len: torch.Tensor, return_probe_features: bool = False
    ) -> torch.Tensor:
        """Features of texts.

        Args:
            text: ``[N, max_text_len]`` int64, padded behind each text.
            text_len: ``[N]`` int64, tokens of each text with start and end, at least 1.
            return_probe_features: the last token's hidden state itself.

        Returns:
            ``[N, n_embd]``, or ``[N, n_state]`` of probe features, not normalised, in the matrices' type.
        """
        h = self.blocks["input"](text)
        for i in range(self.n_xf_blocks):
            # The mask is causal, so padding never reaches the feature; the length spares a kernel the work on it.
            h = self.blocks[f"block_{i}"](h, text_len)
        return self.blocks["output"](h, text_len, return_probe_features)
