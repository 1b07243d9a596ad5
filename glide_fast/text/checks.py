"""Checks of the arguments of :mod:`glide_fast.text`; each error names the argument."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from ..errors import invalid


def require_text(text: object, argument: str = "text") -> str:
    """Return `text` if it is a string, else raise InvalidInputError naming `argument`."""
    if not isinstance(text, str):
        raise invalid(argument, text, "a string")
    return text


def require_utf8(text: object, argument: str = "text") -> str:
    """Return `text` if it is a string without lone surrogates, else raise InvalidInputError."""
    text = require_text(text, argument)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise invalid(argument, text, "a string without lone surrogates (half of a UTF-16 pair)") from None
    return text


def require_context(text_ctx: object, minimum: int) -> int:
    """Return `text_ctx` as an int if it is an integer of at least `minimum`, else raise InvalidInputError."""
    if isinstance(text_ctx, bool) or not isinstance(text_ctx, Integral) or text_ctx < minimum:
        raise invalid("text_ctx", text_ctx, f"an integer >= {minimum}")
    return int(text_ctx)


def require_ids(tokens: object) -> Sequence[int]:
    """Return `tokens` if it is a sequence that is no text, else raise InvalidInputError."""
    if isinstance(tokens, (str, bytes, bytearray)) or not isinstance(tokens, Sequence):
        raise invalid("tokens", tokens, "a sequence of ids, as `encode` returns")
    return tokens
