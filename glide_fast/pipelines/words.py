"""Warnings, before any work, about words of a prompt that a model does not know or does not read."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from glide_fast.models.layers import CompactEmbedding
from glide_fast.text import get_encoder
from glide_fast.text.prompts import PromptTruncatedWarning, truncation
from glide_fast.text.vocabulary import UnknownWordsWarning, Vocabulary

if TYPE_CHECKING:
    from glide_fast.pipelines.components import Components
    from glide_fast.pipelines.plan import Plan
    from glide_fast.pipelines.stage import Stage

_SHIPPED = "small"  # what ``glide-fast words`` lists without an option


def vocabulary(stages: Iterable[Stage]) -> Vocabulary | None:
    """The words that all of the stages know; None where each has GPT-2's whole vocabulary, or reads no text."""
    known: set[int] | None = None
    for stage in stages:
        embedding = getattr(stage.model, "token_embedding", None)
        if isinstance(embedding, CompactEmbedding):
            ids = embedding.known()
            known = set(ids) if known is None else known.intersection(ids)
    if known is None:
        return None
    from glide_fast.data.vocabulary import WORDS  # only small models need them

    return Vocabulary(known, WORDS)


def unknown_words(stages: Sequence[Stage], prompt: str) -> list[str]:
    """The words of a prompt that the stages read and at least one of them does not know."""
    known = vocabulary(stages)
    return [] if known is None else known.unknown(prompt, _length(stages))


def find_unknown_words(
    components: Components, plan: Plan, *, base: bool = True
) -> dict[str, UnknownWordsWarning]:
    """The warnings about unknown words before a call, by prompt or negative prompt.

    Args:
        base: False where only the upsampler runs.
    """
    found: dict[str, UnknownWordsWarning] = {}
    for texts, stages in _reading(components, plan, base):
        known = vocabulary(stages)
        if known is None:
            continue
        for text in dict.fromkeys(texts):
            warning = known.warning(text, _length(stages), _all_words(components.name))
            if warning is not None:
                found.setdefault(text, warning)
    return found


def find_cut_prompts(
    components: Components, plan: Plan, *, base: bool = True
) -> dict[str, PromptTruncatedWarning]:
    """As :func:`find_unknown_words`: the warnings about prompts that are too long for some model to read whole."""
    encoder = get_encoder()
    found: dict[str, PromptTruncatedWarning] = {}
    for texts, stages in _reading(components, plan, base):
        lengths = [stage.model.text_ctx for stage in stages if stage.model.xf_width]
        if not lengths:
            continue
        for text in dict.fromkeys(texts):
            warning = truncation(text, encoder.encode(text), encoder, min(lengths))
            if warning is not None:
                found.setdefault(text, warning)
    return found


def warn_about_prompts(components: Components, plan: Plan, *, base: bool = True) -> None:
    """Emit the warnings of :func:`find_unknown_words` and :func:`find_cut_prompts`, once for each different prompt."""
    for find in (find_unknown_words, find_cut_prompts):
        for warning in find(components, plan, base=base).values():
            warnings.warn(warning, stacklevel=2)


def _reading(components: Components, plan: Plan, base: bool) -> list[tuple[list[str], Sequence[Stage]]]:
    """Lists of texts of a call, each with the stages that read them."""
    reading: list[tuple[list[str], Sequence[Stage]]] = [
        (plan.prompts, components.stages if base else components.stages[-1:])
    ]
    if (
        base and plan.options.guidance_scale != 1.0
    ):  # only then is a negative prompt read, and only by the base model
        reading.append((plan.negative_prompts, components.stages[:1]))
    return reading


def _all_words(name: str | None) -> str:
    """How to list all words that a pipeline knows; the command line can only load one that has a ``name``."""
    listed = "all of them: pipe.known_words"
    if name is None:
        return listed
    model = "" if name == _SHIPPED else f" --model {shlex.quote(name)}"
    return f"{listed}, or glide-fast words{model}"


def _length(stages: Sequence[Stage]) -> int:
    """The most tokens of a prompt that any of the stages reads."""
    return max(stage.model.text_ctx for stage in stages)
