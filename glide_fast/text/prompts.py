"""From what a caller passes as a prompt to the tensors that GLIDE's text transformer reads."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from ..errors import invalid
from .checks import require_context, require_utf8
from .gpt2 import Encoder


class PromptTruncatedWarning(UserWarning):
    """A prompt is longer than the model's text context; the message names the text that was cut off."""


def validate_prompts(prompt: str | Sequence[str], *, argument: str = "prompt") -> list[str]:
    """Return one prompt or a sequence of prompts as a list; the empty string is the unconditional prompt.

    Raises InvalidInputError naming `argument` (and the position in it) for None, bytes, an empty sequence,
    anything that is not a sequence of strings, and strings with lone surrogates.
    """
    if isinstance(prompt, str):
        return [require_utf8(prompt, argument)]
    if isinstance(prompt, (bytes, bytearray, memoryview)) or not isinstance(prompt, Sequence) or not prompt:
        raise invalid(argument, prompt, "a string or a non-empty list of strings")
    return [require_utf8(text, f"{argument}[{position}]") for position, text in enumerate(prompt)]


def tokenize(
    prompts: str | Sequence[str],
    encoder: Encoder,
    text_ctx: int,
    *,
    argument: str = "prompt",
    warn: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask of N prompts, each cut or padded to `text_ctx` tokens.

    Returns:
        tokens: int64 [N, text_ctx] on the CPU, padded with `encoder.end_token`.
        mask: bool [N, text_ctx] on the CPU, True on the prompt's own tokens.

    Warns with PromptTruncatedWarning for each prompt that does not fit, unless `warn` is False: the caller has done it then.
    Raises InvalidInputError for bad prompts (see :func:`validate_prompts`) and a negative `text_ctx`.
    """
    texts = validate_prompts(prompts, argument=argument)
    require_context(text_ctx, 0)
    rows = []
    for text in texts:
        tokens = encoder.encode(text)
        warning = truncation(text, tokens, encoder, text_ctx) if warn else None
        if warning is not None:
            warnings.warn(warning, stacklevel=2)  # the caller of tokenize
        rows.append(encoder.padded_tokens_and_mask(tokens, text_ctx))
    return (
        torch.tensor([tokens for tokens, _ in rows], dtype=torch.long, device="cpu"),
        torch.tensor([mask for _, mask in rows], dtype=torch.bool, device="cpu"),
    )


def truncation(
    text: str, tokens: list[int], encoder: Encoder, text_ctx: int
) -> PromptTruncatedWarning | None:
    """What to say about a prompt of these `tokens` that is cut; None for one that fits."""
    if len(tokens) <= text_ctx:
        return None
    lost = encoder.decode(tokens[text_ctx:])
    return PromptTruncatedWarning(
        f"prompt {shorten(text, 40)!r} has {len(tokens)} tokens and the model reads {text_ctx}; "
        f"cut off: {shorten(lost, 200)!r}"
    )


def shorten(text: str, length: int) -> str:
    """The first ``length`` characters, with dots where there are more."""
    return text if len(text) <= length else text[:length] + "..."
