from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_fast.errors import InvalidInputError
from glide_fast.text import PromptTruncatedWarning, get_encoder, tokenize, validate_prompts


def test_one_prompt_or_many() -> None:
    assert validate_prompts("a corgi") == ["a corgi"]
    assert validate_prompts("") == [""]
    assert validate_prompts(("a", "", "b")) == ["a", "", "b"]
    given_list = ["a"]
    assert validate_prompts(given_list) is not given_list


@pytest.mark.parametrize(
    "prompt", [None, b"a corgi", bytearray(b"a"), [], (), 3, {"a": 1}, {"a"}, iter(["a"])]
)
def test_what_is_no_prompt(prompt: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"prompt: got .*accepted: a string or a non-empty list"):
        validate_prompts(prompt)


@pytest.mark.parametrize("item", [None, b"b", 3, ["b"]])
def test_an_item_that_is_no_string_is_named(item: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"negative_prompt\[1\]: got .*accepted: a string"):
        validate_prompts(["a", item], argument="negative_prompt")


@pytest.mark.parametrize(("prompt", "named"), [("\udc80", "prompt: "), (["a", "\udc80"], r"prompt\[1\]: ")])
def test_lone_surrogates_are_named(prompt: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{named}.*lone surrogates"):
        validate_prompts(prompt)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=12), min_size=1, max_size=4))
def test_tokenize_is_the_encoder_row_by_row(prompts: list[str]) -> None:
    encoder = get_encoder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        tokens, mask = tokenize(prompts, encoder, 8)
    assert tokens.shape == mask.shape == (len(prompts), 8)
    assert (tokens.dtype, mask.dtype) == (torch.int64, torch.bool)
    for row, prompt in enumerate(prompts):
        expected = encoder.padded_tokens_and_mask(encoder.encode(prompt), 8)
        assert (tokens[row].tolist(), mask[row].tolist()) == expected


def test_the_unconditional_prompt_is_all_padding() -> None:
    tokens, mask = tokenize("", get_encoder(), 128)
    assert tokens.shape == (1, 128)
    assert bool((tokens == 50256).all())
    assert not mask.any()


def test_a_prompt_that_fits_exactly_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, mask = tokenize(["one two three", ""], get_encoder(), 3)
    assert mask.tolist() == [[True] * 3, [False] * 3]


def test_the_cut_text_is_named_and_the_caller_blamed() -> None:
    prompts = ["short", "an oil painting of a corgi wearing a hat"]
    with pytest.warns(PromptTruncatedWarning, match=r"\d+ tokens and the model reads 5") as caught:
        tokens, mask = tokenize(prompts, get_encoder(), 5)
    assert len(caught) == 1
    assert "'an oil painting of a corgi wearing a hat'" in str(caught[0].message)
    lost = get_encoder().decode(get_encoder().encode(prompts[1])[5:])
    assert str(caught[0].message).endswith(f"cut off: {lost!r}")
    assert caught[0].filename == __file__
    assert get_encoder().decode(tokens[1]) + lost == prompts[1]
    assert mask[1].all()


def test_the_warning_stays_short() -> None:
    with pytest.warns(PromptTruncatedWarning) as caught:
        tokenize("word " * 100_000, get_encoder(), 128)
    assert len(str(caught[0].message)) < 500


def test_nothing_is_encoded_before_all_is_checked() -> None:
    class Unused:
        def encode(self, text: str) -> list[int]:
            raise AssertionError("encoded a prompt of a bad batch")

    with pytest.raises(InvalidInputError, match=r"caption\[1\]"):
        tokenize(["a", None], Unused(), 8, argument="caption")  # type: ignore[arg-type, list-item]
    with pytest.raises(InvalidInputError, match="text_ctx"):
        tokenize(["a"], Unused(), -1)  # type: ignore[arg-type]
