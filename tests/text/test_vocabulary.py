"""Which words of a prompt a small vocabulary does not cover, as the user typed them."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glide_fast.data.vocabulary import WORDS
from glide_fast.models.layers import CompactEmbedding
from glide_fast.text import UnknownWordsWarning, Vocabulary, get_encoder

ENCODER = get_encoder()


def token_ids(*texts: str) -> set[int]:
    return {token for text in texts for token in ENCODER.encode(text)}


SHIPPED = Vocabulary(token_ids("a", "an", *(f" {word}" for word in WORDS)), WORDS)
"""A model trained on the package's own data."""

OTHER = Vocabulary(token_ids("a", " red", " square", " sunflower", " stripe", " cube"), WORDS)
"""One trained on other data, with some of the same words."""


def test_the_words_of_every_caption_are_known() -> None:
    assert SHIPPED.words == WORDS
    assert len(set(WORDS)) == len(WORDS)
    for caption in (
        "a red cube on top of a blue cube",
        "an owl in noto style on a light yellow background",
        "a small purple cone left of an orange sunflower",
        "",
    ):
        assert SHIPPED.unknown(caption) == []


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a corgi wearing a hat", ["corgi", "wearing", "hat"]),
        ("a Corgi and a CORGI and a Corgi", ["Corgi", "and", "CORGI"]),
        ("A Red CUBE", []),
        ("red cube", ["red"]),  # another token than in a caption, where an article comes first
        ("a dog, please.", [",", "please", "."]),
        ('a "red" cube', ['"', "red"]),
        ("a well-known cube, isn't it?", ["well-known", ",", "isn't", "it", "?"]),
        ("a red  cube", [" "]),
        ("a red cube ", [" "]),
        ("a red\ncube", ["\n", "cube"]),
        ("3 dogs", ["3", "dogs"]),
        ("a café 犬 🐶", ["café", "犬", "🐶"]),
        ("a dog not on a flower", ["not", "flower"]),  # both are parts of known words
        ("an İstanbul", ["i̇stanbul"]),  # a capital that becomes two characters
    ],
)
def test_unknown_words_are_named_as_typed(prompt: str, unknown: list[str]) -> None:
    assert SHIPPED.unknown(prompt) == unknown


def test_what_the_model_does_not_read_is_not_judged() -> None:
    assert SHIPPED.unknown("a red cube with a hat", 3) == []
    assert SHIPPED.unknown("a red cube with a hat", 4) == ["with"]


def test_other_data() -> None:
    """Without a list of its words a model knows those whose tokens it knows."""
    assert OTHER.words[:3] == ("cube", "red", "sunflower")
    assert {"square", "stripe"} <= set(OTHER.words)
    assert OTHER.unknown("a red square stripe cube sunflower") == []
    assert OTHER.unknown("a green square") == ["green"]


def test_a_model_that_knows_nothing() -> None:
    warning = Vocabulary([ENCODER.end_token]).warning("a cube", None, "nowhere")
    assert warning is not None
    assert warning.words == ["a", "cube"]
    assert "no word at all" in str(warning)


def test_the_warning_helps() -> None:
    warning = SHIPPED.warning("red cubes in a gray corgi ", 24, "all of them: there")
    assert isinstance(warning, UnknownWordsWarning)
    assert warning.prompt == "red cubes in a gray corgi "
    assert warning.words == ["red", "cubes", "gray", "corgi", " "]
    text = str(warning)
    assert "'red' (known only with a space before it, as after 'a' or 'an')" in text
    assert "'cubes' (did you mean 'cube'?)" in text
    assert "'gray' (did you mean 'grey'?)" in text
    assert "'corgi', ' ' (white space)" in text
    assert f"{len(WORDS)} words: cube, sphere, " in text
    assert f"and {len(WORDS) - 12} more (all of them: there)" in text
    assert SHIPPED.warning("a cube", 24, "") is None
    copied = pickle.loads(pickle.dumps(warning))
    assert (str(copied), copied.words) == (text, warning.words)


def test_a_long_prompt_gives_a_short_message() -> None:
    warning = SHIPPED.warning(" ".join(f"word{number}x" for number in range(500)), None, "")
    assert warning is not None
    assert len(warning.words) == 500
    assert len(str(warning)) < 700


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_pieces_are_what_the_model_reads(text: str) -> None:
    pieces = ENCODER.pieces(text)
    assert [token for _, tokens in pieces for token in tokens] == ENCODER.encode(text)
    assert "".join(typed for typed, _ in pieces) in (text, text.lower())


@given(st.lists(st.sampled_from([*WORDS, "corgi", "Not", "e", ",", "  ", "\n", "sun", "flower"]), max_size=8))
def test_a_prompt_is_silent_exactly_where_its_tokens_are_known(words: list[str]) -> None:
    """Of a model with no list of words."""
    known = token_ids("a", " red", " cube", " hat")
    prompt = " ".join(words)
    assert (Vocabulary(known).unknown(prompt) == []) == known.issuperset(ENCODER.encode(prompt))


def test_an_embedding_says_which_tokens_have_a_row() -> None:
    embedding = CompactEmbedding(50257, 4, 2)
    assert embedding.known() == []
    embedding.assign([7, 50256, 3])
    assert embedding.known() == [3, 7, 50256]
    assert torch.equal(embedding(torch.tensor([5])), embedding(torch.tensor([6])))
