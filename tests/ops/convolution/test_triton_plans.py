"""How convolution and resample cut up their work: pure functions, checked without running a kernel."""

from __future__ import annotations

import pytest
from glide_fast.kernels import convolution, resample
from hypothesis import given
from hypothesis import strategies as st


@given(pixels=st.integers(1, 300_000), inputs=st.integers(1, 2000), outputs=st.integers(1, 2000))
def test_every_step_has_one_split_and_no_split_is_empty(pixels: int, inputs: int, outputs: int) -> None:
    cut = convolution.plan(pixels, inputs, outputs)
    steps = cut.steps(inputs)
    share = -(-steps // cut.splits)
    assert (cut.splits - 1) * share < steps <= cut.splits * share
    for size in (cut.pixels, cut.outputs, cut.inputs):
        assert size >= 16 and size & (size - 1) == 0  # the least that tensor cores multiply


@given(pixels=st.integers(1, 300_000), inputs=st.integers(1, 2000), outputs=st.integers(1, 2000))
def test_a_workspace_moves_no_more_than_the_weights(pixels: int, inputs: int, outputs: int) -> None:
    cut = convolution.plan(pixels, inputs, outputs)
    assert cut.splits == 1 or cut.splits * pixels * outputs * 8 <= 9 * inputs * outputs * 2


@pytest.mark.parametrize(("samples", "side", "inputs", "outputs"), convolution.glide_shapes())
def test_glide_shapes_waste_no_lane_and_little_of_a_device(
    samples: int, side: int, inputs: int, outputs: int
) -> None:
    pixels = samples * side * side
    cut = convolution.plan(pixels, inputs, outputs)
    assert pixels % cut.pixels == 0 and outputs % cut.outputs == 0 and inputs % cut.inputs == 0
    programs = pixels // cut.pixels * (outputs // cut.outputs) * cut.splits
    assert programs >= 0.5 * convolution.FILL, programs
    assert cut.splits == 1 or side <= 16 or samples == 1


def test_small_levels_at_small_batches_are_split() -> None:
    for samples in (1, 2):
        for side, inputs, outputs in ((8, 768, 768), (8, 1536, 768), (16, 576, 576), (16, 1152, 576)):
            assert convolution.plan(samples * side * side, inputs, outputs).splits > 1
    assert convolution.plan(32 * 64, 768, 768).splits == 1


@pytest.mark.parametrize("channels", range(1, 200))
def test_tiles_of_resample_are_powers_of_two_and_waste_no_lane_of_glides_widths(channels: int) -> None:
    pixels, lanes, _ = resample.tile(channels)
    assert pixels * lanes == resample.TILE
    assert lanes & (lanes - 1) == 0
    assert channels % 16 or channels % lanes == 0
