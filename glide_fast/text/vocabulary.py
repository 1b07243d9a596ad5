"""Which words a model that was trained on part of GPT-2's vocabulary knows, and which of a prompt it does not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import cached_property

from .gpt2 import get_encoder
from .prompts import shorten

_NEAR = 0.75
"""How alike two words must be (difflib's ratio) for one to be proposed for the other."""

_NAMED = 12
"""Words that a message lists; the whole lists are elsewhere."""


class UnknownWordsWarning(UserWarning):
    """A prompt has words that the model never saw in training: all of them are one unknown word to it.

    ``words`` are these words, numbers, signs or white space, as they were typed in ``prompt``, each once and in order.
    """

    def __init__(self, message: str, prompt: str = "", words: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.prompt, self.words = prompt, list(words)


class Vocabulary:
    """The words that a model knows whose embedding stores the rows of some tokens only.

    Args:
        token_ids: the tokens that have a row.
        candidates: words that may be known. Only a candidate can be listed as a known word of several tokens; and if candidates
            account for all tokens, no other word counts as known (a model that knows "sunflower" need not know "flower").
    """

    def __init__(self, token_ids: Iterable[int], candidates: Sequence[str] = ()) -> None:
        encoder = get_encoder()
        self._known = frozenset(token_ids) - {encoder.end_token}
        spelled = {word: encoder.encode(f" {word}") for word in candidates}
        first = [encoder.encode(word) for word in candidates]  # a prompt's first word has other tokens
        self._listed = tuple(word for word, ids in spelled.items() if self._known.issuperset(ids))
        self._exact = self._known <= {token for ids in (*spelled.values(), *first) for token in ids}

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The known words: the candidates among them in their order, then others of a single token in alphabetical order."""
        if self._exact:
            return self._listed
        tokens = (get_encoder().decode([token]) for token in self._known)
        single = {token[1:] for token in tokens if token[:1] == " " and token[1:].isalnum()}
        return (*self._listed, *sorted(single.difference(self._listed)))

    def unknown(self, prompt: str, text_ctx: int | None = None) -> list[str]:
        """The words, numbers, signs and white space of a prompt that are unknown, as typed, each once and in order.

        What lies beyond ``text_ctx`` tokens is not read by the model, so it is not judged.
        """
        found: dict[str, None] = {}
        for typed, tokens in _words(prompt, text_ctx):
            familiar = self._known.issuperset(tokens)
            if not familiar or (self._exact and typed.lower() not in self._listed):
                found[typed] = None
        return list(found)

    def warning(self, prompt: str, text_ctx: int | None, more: str) -> UnknownWordsWarning | None:
        """What to say about the unknown words of a prompt; None where there are none. ``more`` says how to list the known."""
        unknown = self.unknown(prompt, text_ctx)
        if not unknown:
            return None
        named = _some([repr(word) + self._advice(word) for word in unknown])
        known = f"{len(self.words)} words: {_some(self.words)} ({more})" if self.words else "no word at all"
        return UnknownWordsWarning(
            f"prompt {shorten(prompt, 40)!r}: the model does not know {named}; the picture will not show what that means. "
            f"The model knows {known}",
            prompt,
            unknown,
        )

    def _advice(self, typed: str) -> str:
        if not typed.strip():
            return " (white space)"
        word = typed.lower()
        if word in self.words:
            return " (known only with a space before it, as after 'a' or 'an')"
        near = difflib.get_close_matches(word, self.words, n=1, cutoff=_NEAR)
        return f" (did you mean {near[0]!r}?)" if near else ""


def _some(words: Sequence[str]) -> str:
    rest = len(words) - _NAMED
    return ", ".join(words[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _words(prompt: str, text_ctx: int | None) -> list[tuple[str, list[int]]]:
    """What stands between white space, as typed, with its tokens, as far as the first ``text_ctx`` tokens go.

    Signs before and after a word stand for themselves, and so does white space other than one space before something.
    """
    words: list[tuple[str, list[int]]] = []
    joined: list[tuple[str, list[int]]] = []  # pieces with no white space between

    def end_word() -> None:
        inside = [number for number, (typed, _) in enumerate(joined) if any(map(str.isalnum, typed))]
        first, last = (inside[0], inside[-1] + 1) if inside else (len(joined), len(joined))
        parts = (
            [[piece] for piece in joined[:first]]
            + [joined[first:last]]
            + [[piece] for piece in joined[last:]]
        )
        for part in filter(None, parts):
            typed = "".join(typed for typed, _ in part).strip()
            words.append((typed, [token for _, tokens in part for token in tokens]))
        joined.clear()

    read = 0
    for typed, tokens in get_encoder().pieces(prompt):
        if text_ctx is not None and read >= text_ctx:
            break
        read += len(tokens)
        if typed[0].isspace():
            end_word()
        if typed.isspace():
            words.append((typed, tokens))
        else:
            joined.append((typed, tokens))
    end_word()
    return words
