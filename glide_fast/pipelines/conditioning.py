"""Encoding prompts before the loop. The empty prompt is encoded again only when the weights have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from glide_fast.models.text2im import Text2ImUNet, TextEmbedding
from glide_fast.runtime.derived import written
from glide_fast.runtime.fingerprint import fingerprint
from glide_fast.runtime.model import Accelerated
from glide_fast.text import get_encoder, tokenize


class PromptEncoder:
    """Encodes prompts for one model; prompts that occur several times in a call are encoded once."""

    def __init__(self, model: Text2ImUNet) -> None:
        self.model = model
        self._empty: TextEmbedding | None = None
        self._empty_key: object = None

    def tokens(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and mask ``[N, text_ctx]`` on the CPU. The pipeline has warned about prompts that are cut already."""
        return tokenize(list(prompts), get_encoder(), self.model.text_ctx, warn=False)

    def encode(self, prompts: Sequence[str]) -> TextEmbedding | None:
        """The embedding of N prompts, in order; None for a model that reads no text."""
        if not self.model.xf_width:
            return None
        written = [prompt for prompt in dict.fromkeys(prompts) if prompt]
        parts = []
        if "" in prompts:
            parts.append(self.empty())
        if written:
            parts.append(self._run(written))
        rows = {prompt: row for row, prompt in enumerate(([""] if "" in prompts else []) + written)}
        index = torch.tensor([rows[prompt] for prompt in prompts], device=parts[0]["xf_out"].device)
        return _each(lambda *tensors: torch.cat(tensors).index_select(0, index), *parts)

    def empty(self) -> TextEmbedding:
        """The embedding of the empty prompt (N = 1); computed again only when the weights that it depends on have changed."""
        key = self._weights_key()
        if self._empty is None or key != self._empty_key:
            self._empty, self._empty_key = self._run([""]), key
        return self._empty

    def _run(self, prompts: list[str]) -> TextEmbedding:
        device = next(self.model.parameters()).device
        tokens, mask = (tensor.to(device) for tensor in self.tokens(prompts))
        # On a CPU one after the other: how a matrix product rounds depends on its number of rows, so a prompt's embedding
        # would depend on the other prompts.
        at_once = 1 if device.type == "cpu" else len(prompts)
        parts = []
        with torch.inference_mode():
            for few in zip(tokens.split(at_once), mask.split(at_once), strict=True):
                text = self.model.encode_text(*few)
                if isinstance(self.model, Accelerated):
                    text = text | {"keys": self.model.text_keys(text)}  # type: ignore[assignment]
                parts.append(text)
            return _each(lambda *tensors: torch.cat(tensors), *parts)

    def _weights_key(self) -> object:
        # Version counters do not see writes to raw memory, and values alone do not show that a weight was moved or converted.
        tensors = self.model.text_tensors()
        with torch.no_grad():
            return self.model.dtype, [(t.device, written(t)) for t in tensors], fingerprint(tensors)

    def refresh(self) -> None:
        """Forget the empty prompt's embedding; it is computed again when it is needed next."""
        self._empty = None


def doubled(conditional: TextEmbedding | None, unconditional: TextEmbedding | None) -> TextEmbedding | None:
    """The embeddings of a guided batch ``[2 N, ...]``, the conditional half first; None where a half is None."""
    if conditional is None or unconditional is None:
        return None
    return _each(lambda *halves: torch.cat(halves), conditional, unconditional)


def _each(function: Callable[..., torch.Tensor], *texts: TextEmbedding) -> TextEmbedding:
    """An embedding, each of whose tensors is ``function`` of the same tensor of all ``texts``."""
    result = TextEmbedding(
        xf_proj=function(*(text["xf_proj"] for text in texts)),
        xf_out=function(*(text["xf_out"] for text in texts)),
    )
    if all("keys" in text for text in texts):
        # As [N, S, C]: joining and picking give dense tensors, and attention reads a token's channels side by side.
        result["keys"] = [
            function(*(block.transpose(1, 2) for block in blocks)).transpose(1, 2)
            for blocks in zip(*(text["keys"] for text in texts), strict=True)
        ]
    return result
