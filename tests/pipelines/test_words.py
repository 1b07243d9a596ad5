"""Words that a pipeline's models do not know: one warning a prompt, before any work, whatever the way in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import write_pipeline

from glide_fast import GlidePipeline
from glide_fast.data.vocabulary import WORDS
from glide_fast.errors import InvalidInputError
from glide_fast.pipelines import Stage
from glide_fast.text import PromptTruncatedWarning, UnknownWordsWarning

PICTURE = np.full((16, 16, 3), 0.5)


@pytest.fixture(scope="module", params=["accelerated", "plain"])
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GlidePipeline:
    directory = write_pipeline(tmp_path_factory.mktemp("words") / "pipeline")
    return GlidePipeline.from_pretrained(directory, accelerate=request.param == "accelerated")


def said(call: Callable[[], Any]) -> list[list[str]]:
    """The unknown words of each warning of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [item.message.words for item in caught if isinstance(item.message, UnknownWordsWarning)]


QUICK: dict[str, Any] = {"num_inference_steps": 2, "upsample_steps": 1, "seed": 1, "progress": False}


def test_a_call_warns_once_a_prompt(pipe: GlidePipeline) -> None:
    prompts = ["a red corgi", "a red square", "a red corgi", "a Green hat, hat"]
    assert said(lambda: pipe(prompts, num_images_per_prompt=2, **QUICK)) == [["corgi"], ["hat", ","]]
    assert said(lambda: pipe(["a red square", ""], **QUICK)) == []


def test_every_way_in(pipe: GlidePipeline) -> None:
    corgi = "a red corgi"
    assert said(lambda: pipe.image_to_image(corgi, PICTURE, **QUICK)) == [["corgi"]]
    mask = np.zeros((16, 16))
    mask[4:8] = 1
    assert said(lambda: pipe.inpaint(corgi, PICTURE, keep_mask=mask, **QUICK)) == [["corgi"]]
    assert said(lambda: pipe.upsample(PICTURE, corgi, **QUICK)) == [["corgi"]]


def test_negative_prompts_count_where_they_are_read(pipe: GlidePipeline) -> None:
    negative = {"negative_prompt": "a blurry square"}
    assert said(lambda: pipe("a red square", **negative, **QUICK)) == [["blurry"]]
    assert said(lambda: pipe("a red square", **negative, guidance_scale=1.0, **QUICK)) == []
    assert said(lambda: pipe("a blurry square", **negative, **QUICK)) == [["blurry"]]
    assert said(lambda: pipe.upsample(PICTURE, "a red square", **negative, **QUICK)) == []


def test_the_lists(pipe: GlidePipeline) -> None:
    assert pipe.known_words is not None
    assert {"red", "square", "stripe"} <= set(pipe.known_words)
    assert "corgi" not in pipe.known_words
    assert pipe.unknown_words("a red Corgi") == ["Corgi"]
    assert pipe.unknown_words("") == []
    with pytest.raises(InvalidInputError, match="prompt: got "):
        pipe.unknown_words(None)  # type: ignore[arg-type]


def test_as_an_error_it_comes_before_any_work(pipe: GlidePipeline) -> None:
    steps: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownWordsWarning)
        with pytest.raises(UnknownWordsWarning, match="does not know 'corgi'"):
            pipe("a red corgi", callback_on_step_end=steps.append, **QUICK)
    assert steps == []


def test_the_whole_vocabulary_never_warns(base: Stage, upsampler: Stage, settings: dict[str, Any]) -> None:
    pipe = GlidePipeline(base, upsampler, settings=settings)
    assert pipe.known_words is None
    assert pipe.unknown_words("a corgi wearing a bow tie") == []
    assert said(lambda: pipe("a corgi", seed=1, progress=False)) == []


def test_new_weights_bring_their_words(tmp_path: Path) -> None:
    pipe = GlidePipeline.from_pretrained(write_pipeline(tmp_path / "pipeline", upsampler=False))
    assert pipe.base is not None
    state = {name: value.clone() for name, value in pipe.base.model.state_dict().items()}
    state["token_embedding.index"] = torch.zeros_like(state["token_embedding.index"])
    pipe.base.model.load_state_dict(state)
    assert pipe.unknown_words("a red") == ["a", "red"]


def test_the_shipped_model_knows_the_words_of_its_data_set() -> None:
    pipe = GlidePipeline.from_pretrained("small", accelerate=False)
    assert pipe.known_words == WORDS
    assert pipe.unknown_words("a corgi, not on top of a cube") == ["corgi", ",", "not"]


def test_the_warning_says_how_to_list_the_words_of_this_model(pipe: GlidePipeline) -> None:
    def says(made: GlidePipeline) -> str:
        with pytest.warns(UnknownWordsWarning) as caught:
            made("a corgi", **QUICK)
        return str(caught[0].message)

    assert says(pipe).endswith("(all of them: pipe.known_words, or glide-fast words --model pipeline)")
    unnamed = GlidePipeline(pipe.base, pipe.upsampler, settings=pipe.settings)
    assert says(unnamed).endswith("(all of them: pipe.known_words)")
    unnamed.name = "small"
    assert says(unnamed).endswith("(all of them: pipe.known_words, or glide-fast words)")


def test_a_prompt_that_is_cut_is_named_once_a_call(pipe: GlidePipeline) -> None:
    long = "a red square " * 200
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe([long, long, "a red square"], negative_prompt="", **QUICK)
        pipe.upsample(PICTURE, long, **QUICK)
    said = [item for item in caught if isinstance(item.message, PromptTruncatedWarning)]
    assert len(said) == 2
