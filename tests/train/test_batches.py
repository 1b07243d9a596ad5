"""Batches are a function of (seed, step), and hold what each kind of model is to learn from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.tiny import MODEL, UPSAMPLER, train_config, write_data_set

from glide_fast.data.dataset import SceneDataset, area_mean
from glide_fast.errors import InvalidInputError
from glide_fast.text.gpt2 import get_encoder
from glide_fast.train.batches import Batch, Batches, caption_tokens, random_masks, used_tokens

CLEAN = {"caption_dropout": 0.0, "unknown_dropout": 0.0}


def batches(scenes: SceneDataset, data: Path, **changes: Any) -> Batches:
    config = train_config(data, **changes)
    return Batches(config, scenes, *caption_tokens(scenes.captions, config.options()["text_ctx"]))


def as_tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """Pictures as a model sees them: ``[N, 3, S, S]`` in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def assert_equal(one: Batch, other: Batch) -> None:
    for a, b in zip(one[:3], other[:3], strict=True):
        assert torch.equal(a, b)
    assert one.inputs.keys() == other.inputs.keys()
    assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def test_a_batch_depends_on_seed_and_step_alone(data: Path, scenes: SceneDataset) -> None:
    model = UPSAMPLER | {"inpaint": True}
    in_order = batches(scenes, data, model=model, crop=8)
    wanted = [in_order[step] for step in range(14)]  # six steps are an epoch
    apart = batches(scenes, data, model=model, crop=8)
    for step in (13, 0, 7, 2, 13):
        assert_equal(apart[step], wanted[step])
    other = batches(scenes, data, model=model, crop=8, seed=1)[0]
    assert not torch.equal(other.noise, wanted[0].noise)
    assert not torch.equal(wanted[1].noise, wanted[0].noise)


def test_an_epoch_shows_every_picture_once_and_the_next_in_another_order(
    data: Path, scenes: SceneDataset
) -> None:
    whole = batches(scenes, data, **CLEAN)
    pictures = as_tensor(scenes.images)

    def seen(steps: range) -> list[int]:
        shown = torch.cat([whole[step].x0 for step in steps])
        return [int((pictures == picture).flatten(1).all(1).nonzero()) for picture in shown]

    first, second = seen(range(6)), seen(range(6, 12))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second


def test_pictures_come_with_their_own_captions(data: Path, scenes: SceneDataset) -> None:
    batch = batches(scenes, data, **CLEAN)[3]
    pictures = as_tensor(scenes.images)
    tokens, mask = caption_tokens(scenes.captions, 8)
    for picture, row, real in zip(batch.x0, batch.inputs["tokens"], batch.inputs["mask"], strict=True):
        index = int((pictures == picture).flatten(1).all(1).nonzero())
        assert torch.equal(row, tokens[index])
        assert torch.equal(real, mask[index])


def test_larger_pictures_are_shrunk_by_an_exact_mean(data: Path, scenes: SceneDataset) -> None:
    small = MODEL | {"image_size": 8, "channel_mult": "1"}
    batch = batches(scenes, data, model=small, batch_size=24, **CLEAN)[0]
    wanted = as_tensor(area_mean(scenes.images, 2))
    assert torch.equal(batch.x0, wanted)


def test_empty_captions_are_as_frequent_as_asked(data: Path, scenes: SceneDataset) -> None:
    many = batches(scenes, data, batch_size=24, caption_dropout=0.2, unknown_dropout=0.0)
    masks = torch.cat([many[step].inputs["mask"] for step in range(40)])
    tokens = torch.cat([many[step].inputs["tokens"] for step in range(40)])
    empty = ~masks.any(1)
    assert 0.15 < empty.float().mean() < 0.25
    assert bool((tokens[empty] == get_encoder().end_token).all())
    unmasked = batches(scenes, data, batch_size=24, caption_dropout=0.0, unknown_dropout=0.0)[0]
    assert bool(unmasked.inputs["mask"].any(1).all())


def test_unknown_words_stand_in_for_real_tokens_only(data: Path, scenes: SceneDataset) -> None:
    some = batches(scenes, data, batch_size=24, caption_dropout=0.0, unknown_dropout=0.3)
    clean, _ = caption_tokens(scenes.captions, 8)
    tokens = torch.cat([some[step].inputs["tokens"] for step in range(20)])
    masks = torch.cat([some[step].inputs["mask"] for step in range(20)])
    unknown = ~torch.isin(tokens, torch.tensor(used_tokens(clean)))
    assert 0.25 < unknown[masks].float().mean() < 0.35
    assert not unknown[~masks].any()


def test_times_cover_the_whole_process(data: Path, scenes: SceneDataset) -> None:
    short = batches(scenes, data, model=MODEL | {"diffusion_steps": 10}, batch_size=24)
    t = torch.cat([short[step].t for step in range(20)])
    assert set(t.tolist()) == set(range(10))
    assert t.dtype == torch.int64


def test_inpainting_shows_what_the_mask_keeps_and_hides_the_rest(data: Path, scenes: SceneDataset) -> None:
    model = MODEL | {"inpaint": True}
    some = batches(scenes, data, model=model, batch_size=24, inpaint_fraction=0.5)
    drawn = [some[step] for step in range(10)]
    for batch in drawn:
        mask, image = batch.inputs["inpaint_mask"], batch.inputs["inpaint_image"]
        assert mask.shape == (24, 1, 16, 16)
        assert torch.equal(image, batch.x0 * mask)
    masks = torch.cat([batch.inputs["inpaint_mask"] for batch in drawn])
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    shown = masks.flatten(1).any(1).float().mean()
    assert 0.4 < shown < 0.6
    none = batches(scenes, data, model=model, batch_size=24, inpaint_fraction=0.0)[0]
    assert not none.inputs["inpaint_mask"].any()


def is_rectangle(inside: NDArray[np.bool_], size: int) -> bool:
    """Whether what is inside is one rectangle with sides that a mask may have."""
    rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
    sides = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    return bool(
        inside.sum() == sides[0] * sides[1] and size // 4 <= min(sides) and max(sides) <= size * 3 // 4
    )


@given(seed=st.integers(0, 2**32), size=st.sampled_from([8, 16, 64]))
def test_a_mask_is_one_rectangle_or_all_but_one(seed: int, size: int) -> None:
    for mask in random_masks(np.random.default_rng(seed), 6, size)[:, 0]:
        assert is_rectangle(mask == 0, size) or is_rectangle(mask == 1, size)


def test_crops_are_windows_of_the_picture_aligned_with_their_low_resolution(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "set", count=24, size=32)
    scenes = SceneDataset(data)
    model = UPSAMPLER | {"image_size": 32, "channel_mult": "1,1,2", "low_res_size": 16}
    cropped = batches(scenes, data, model=model, batch_size=24, crop=8)
    corners = set()
    for step in range(6):
        batch = cropped[step]
        assert batch.x0.shape == (24, 3, 8, 8)
        assert batch.inputs["low_res"].shape == (24, 3, 4, 4)
        pictures = as_tensor(scenes.images)
        found = [
            (top, left)
            for top in range(25)
            for left in range(25)
            if torch.equal(pictures[:, :, top : top + 8, left : left + 8], batch.x0)
        ]
        assert len(found) == 1
        top, left = found[0]
        assert top % 2 == left % 2 == 0
        low = as_tensor(area_mean(scenes.images, 2))
        window = low[:, :, top // 2 : top // 2 + 4, left // 2 : left // 2 + 4]
        # Blur and noise come on top; the mean level stays, which at any other place it would not.
        assert (batch.inputs["low_res"] - window).flatten(1).mean(1).abs().max() < 0.06
        corners.add((top, left))
    assert len(corners) > 3


def test_low_resolution_inputs_are_degraded_but_stay_in_range(data: Path, scenes: SceneDataset) -> None:
    batch = batches(scenes, data, model=UPSAMPLER, batch_size=24)[0]
    clean = as_tensor(area_mean(scenes.images, 2))
    low = batch.inputs["low_res"]
    assert low.shape == clean.shape
    assert low.min() >= -1
    assert low.max() <= 1
    difference = (low - clean).flatten(1)
    assert bool((difference.std(1) > 0).all())
    assert difference.std() < 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 25}, "batch_size: got 25; accepted: at most the data set's 24 pictures"),
        (
            {"model": MODEL | {"image_size": 64, "channel_mult": "1,1,1,2"}},
            "image_size: got 64; accepted: a divisor of the data set's",
        ),
        ({"crop": 8}, "crop: got 8; accepted: 0; only upsamplers train on crops"),
        ({"model": UPSAMPLER, "crop": 3}, "crop: got 3; accepted: 0 or a multiple of 2 up to 16"),
        ({"model": UPSAMPLER, "crop": 32}, "crop: got 32; accepted: 0 or a multiple of 2 up to 16"),
        ({"model": UPSAMPLER | {"low_res_size": 0}}, "low_res_size: got 0; accepted: the side of"),
        ({"model": UPSAMPLER | {"low_res_size": True}}, "low_res_size: got True; accepted: the side of"),
        ({"model": UPSAMPLER | {"low_res_size": 5}}, "low_res_size: got 5; accepted: the side of"),
        ({"model": UPSAMPLER | {"low_res_size": 16}}, "low_res_size: got 16; accepted: the side of"),
        ({"model": MODEL | {"super_res": True}}, "low_res_size: got None; accepted: the side of"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(
    data: Path, scenes: SceneDataset, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match="^" + re.escape(message)):
        batches(scenes, data, **change)
