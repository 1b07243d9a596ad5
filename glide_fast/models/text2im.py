"""The four text-conditional UNets of GLIDE: base, upsampler, and the inpainting variant of each (Nichol et al. 2021)."""

from __future__ import annotations

from typing import Any, Protocol, TypedDict

import torch
from torch import nn

from glide_fast.errors import invalid
from glide_fast.models.conditioning import InpaintInput, SuperResInpaintInput, SuperResInput
from glide_fast.models.layers import CompactEmbedding, LayerNorm, Linear, timestep_embedding
from glide_fast.models.own_values import own_generator, own_normal_parameter
from glide_fast.models.precision import convert_linears
from glide_fast.models.text_transformer import Transformer
from glide_fast.models.unet import UNetModel

IN_CHANNELS_POSITION = 6
"""``in_channels`` comes after text_ctx, xf_width, xf_layers, xf_heads, xf_final_ln and tokenizer."""


class Tokenizer(Protocol):
    """What a model asks of its tokenizer."""

    @property
    def n_vocab(self) -> int: ...


class _TextEmbedding(TypedDict):
    xf_proj: torch.Tensor
    xf_out: torch.Tensor


class TextEmbedding(_TextEmbedding, total=False):
    """A prompt as the UNet sees it; known before the sampling loop.

    ``xf_proj`` ``[N, 4 * model_channels]`` is added to the timestep embedding; ``xf_out`` ``[N, xf_width, text_ctx]`` gives
    every attention layer its text keys and values, which ``keys`` may hold already: for each, ``[N, 2 C, text_ctx]``.
    """

    keys: list[torch.Tensor]


class Text2ImUNet(UNetModel):
    """UNet conditioned on text through a transformer encoder.

    Args:
        text_ctx: tokens a prompt is padded or cut to.
        xf_width, xf_layers, xf_heads: the transformer; width 0 builds a model without text.
        xf_final_ln: layer norm after the transformer.
        tokenizer: gives ``n_vocab``.
        cache_text_emb: keep the first prompt's encoding until :meth:`del_cache`; another prompt is an error till then.
        xf_ar: above 0, builds the (unused here) autoregressive output head of the official class.
        xf_padding: learned embeddings stand where the mask is False.
        share_unemb: that head shares the token embedding's weights.
        vocab_rows: above 0, the token embedding stores only this many rows (:class:`CompactEmbedding`).
        args, kwargs: of :class:`UNetModel`.
    """

    def __init__(
        self,
        text_ctx: int,
        xf_width: int,
        xf_layers: int,
        xf_heads: int,
        xf_final_ln: bool,
        tokenizer: Tokenizer,
        *args: Any,
        cache_text_emb: bool = False,
        xf_ar: float = 0.0,
        xf_padding: bool = False,
        share_unemb: bool = False,
        vocab_rows: int = 0,
        **kwargs: Any,
    ) -> None:
        kwargs["encoder_channels"] = xf_width or None
        super().__init__(*args, **kwargs)
        self.text_ctx, self.xf_width, self.xf_ar, self.xf_padding = text_ctx, xf_width, xf_ar, xf_padding
        self.tokenizer = tokenizer
        self.cache_text_emb = cache_text_emb
        self.cache: dict[str, torch.Tensor] | None = None
        if not xf_width:
            return
        self.transformer = Transformer(text_ctx, xf_width, xf_layers, xf_heads)
        self.final_ln = LayerNorm(xf_width) if xf_final_ln else None
        self.token_embedding: nn.Embedding | CompactEmbedding = (
            CompactEmbedding(tokenizer.n_vocab, vocab_rows, xf_width)
            if vocab_rows
            else nn.Embedding(tokenizer.n_vocab, xf_width)
        )
        own = own_generator("text embeddings")
        self.positional_embedding = own_normal_parameter((text_ctx, xf_width), 0.01, own)
        self.transformer_proj = Linear(xf_width, self.model_channels * 4)
        if xf_padding:
            self.padding_embedding = own_normal_parameter((text_ctx, xf_width), 0.01, own)
        if xf_ar:
            self.unemb = nn.Linear(xf_width, tokenizer.n_vocab)
            if share_unemb:
                if vocab_rows:
                    raise invalid("share_unemb", share_unemb, "False with vocab_rows: the two differ in size")
                self.unemb.weight = self.token_embedding.weight

    def convert_to(self, dtype: torch.dtype) -> None:
        """Convert torso, text transformer, its projection and the token embedding to ``dtype``."""
        super().convert_to(dtype)
        self.cache = None
        if self.xf_width:
            convert_linears(self.transformer, dtype)
            self.transformer_proj.to(dtype)
            self.token_embedding.to(dtype)
            if self.xf_ar:
                self.unemb.to(dtype)

    @property
    def text_dtype(self) -> torch.dtype:
        """What the text transformer computes in."""
        return self.dtype

    def text_tensors(self) -> list[torch.Tensor]:
        """Every parameter and buffer that :meth:`encode_text` reads."""
        if not self.xf_width:
            return []
        parts = (self.transformer, self.transformer_proj, self.token_embedding, self.final_ln)
        free = [self.positional_embedding, *([self.padding_embedding] if self.xf_padding else [])]
        return [
            *(
                tensor
                for part in parts
                if part is not None
                for tensor in (*part.parameters(), *part.buffers())
            ),
            *free,
        ]

    def encode_text(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> TextEmbedding:
        """Encode ``tokens`` ``[N, text_ctx]``; ``mask`` ``[N, text_ctx]`` is True where a token is real."""
        if tokens.dim() != 2 or tokens.shape[1] != self.text_ctx:
            raise invalid("tokens", tuple(tokens.shape), f"integers of shape [N, {self.text_ctx}] (text_ctx)")
        x = self.token_embedding(tokens.long()) + self.positional_embedding[None]
        if self.xf_padding:
            if mask is None:
                raise invalid(
                    "mask", None, "a bool tensor of the tokens' shape: this model embeds padding (xf_padding)"
                )
            x = torch.where(mask[..., None].bool(), x, self.padding_embedding[None].to(x.dtype))
        out = self.transformer(x.to(self.text_dtype))
        if self.final_ln is not None:
            out = self.final_ln(out)
        return TextEmbedding(xf_proj=self.transformer_proj(out[:, -1]), xf_out=out.transpose(1, 2))

    def get_text_emb(
        self, tokens: torch.Tensor, mask: torch.Tensor | None
    ) -> TextEmbedding | dict[str, torch.Tensor]:
        """:meth:`encode_text` behind the official class's cache (``cache_text_emb``)."""
        cache = self.cache  # once: another thread may forget it meanwhile
        if self.cache_text_emb and cache is not None:
            cached = cache["tokens"]
            if tokens.shape != cached.shape or not bool((tokens == cached).all()):
                raise invalid(
                    "tokens", tokens.tolist(), f"the cached prompt {cached.tolist()}, or del_cache() first"
                )
            return cache
        embedding = self.encode_text(tokens, mask)
        if self.cache_text_emb:
            self.cache = {
                "tokens": tokens,
                "xf_proj": embedding["xf_proj"].detach(),
                "xf_out": embedding["xf_out"].detach(),
            }
        return embedding

    def del_cache(self) -> None:
        """Forget the cached prompt."""
        self.cache = None

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        tokens: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        *,
        text: TextEmbedding | None = None,
    ) -> torch.Tensor:
        """Predict eps and v.

        Args:
            x: ``[N, in_channels, H, W]``: the fp32 state, followed by the further channels that this class of model reads.
            timesteps: ``[N]``, of the original 1000-step process.
            tokens, mask: ``[N, text_ctx]``; or else
            text: a prompt already encoded by :meth:`encode_text`.

        Returns:
            ``[N, 6, H, W]`` in the type of ``x``.
        """
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels))
        encoder_out = None
        if self.xf_width:
            if text is None:
                if tokens is None:
                    raise invalid(
                        "tokens", None, "integers of shape [N, text_ctx], or an encoded prompt as `text`"
                    )
                text = self.get_text_emb(tokens, mask)  # type: ignore[assignment]
            emb = emb + text["xf_proj"].to(emb)  # type: ignore[index]
            encoder_out = text["xf_out"].to(self.dtype)  # type: ignore[index]
        return self.torso(x, emb, encoder_out)


class SuperResText2ImUNet(SuperResInput, Text2ImUNet):  # type: ignore[misc]  # the inputs come before the rest
    """Upsampler: beside x, the low-resolution picture resized bilinearly."""

    in_channels_position = IN_CHANNELS_POSITION


class InpaintText2ImUNet(InpaintInput, Text2ImUNet):  # type: ignore[misc]  # the inputs come before the rest
    """Inpainting base: beside x, the masked picture and the mask."""

    in_channels_position = IN_CHANNELS_POSITION


class SuperResInpaintText2ImUnet(SuperResInpaintInput, Text2ImUNet):  # type: ignore[misc]  # the inputs come before the rest
    """Inpainting upsampler: beside x, the masked picture and the mask at the size of x, then the resized low-resolution one."""

    in_channels_position = IN_CHANNELS_POSITION
