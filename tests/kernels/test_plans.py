"""How the kernels cut up GLIDE's shapes, and any other: pure functions, checked without running a kernel."""

from __future__ import annotations

import pytest
import torch
from glide_fast.kernels import convolution, group_norm_act, masked_attention, resample, text_attention
from glide_fast.kernels.occupancy import blocks_per_multiprocessor
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import norm_model
from glide_fast.ops import native
from glide_fast.ops.case import fake_calls
from glide_fast.ops.group_norm_act import cuda as group_norm_act_cuda
from glide_fast.ops.text_attention import triton as attention_backend

NORMS = fake_calls("group_norm_act", torch.float16, "cuda")
SHAPES = sorted({(call.x.shape[-1], call.channels) for call in NORMS})


@given(
    samples=st.integers(1, 64),
    positions=st.integers(1, 70000),
    groups=st.integers(1, 64),
    group=st.integers(1, 64),
    itemsize=st.sampled_from([2, 4]),
)
def test_every_channel_and_position_is_covered_once(
    samples: int, positions: int, groups: int, group: int, itemsize: int
) -> None:
    channels = groups * group
    cut = group_norm_act.plan(samples, positions, channels, groups, itemsize)
    assert channels % cut.slab == 0 and cut.slab % group == 0
    assert cut.lanes & (cut.lanes - 1) == 0 and cut.rows & (cut.rows - 1) == 0
    assert (cut.chunks - 1) * cut.chunk < positions <= cut.chunks * cut.chunk
    assert cut.chunk % cut.rows == 0


@pytest.mark.parametrize(("size", "channels"), SHAPES)
@pytest.mark.parametrize("samples", [1, 2, 32])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_glide_shapes_waste_neither_lanes_nor_sectors(
    size: int, channels: int, samples: int, itemsize: int
) -> None:
    cut = group_norm_act.plan(samples, size * size, channels, 32, itemsize)
    assert cut.slab % cut.lanes == 0
    assert cut.slab * itemsize % group_norm_act.SECTOR == 0
    assert cut.lanes * itemsize >= group_norm_act.SECTOR
    assert size * size % cut.rows == 0


@pytest.mark.parametrize(("size", "channels"), SHAPES)
def test_the_second_pass_reads_few_statistics(size: int, channels: int) -> None:
    cut = group_norm_act.plan(2, size * size, channels, 32, 2)
    statistics = cut.chunks * cut.slab_groups(channels // 32) * 8
    assert cut.chunks == 1 or statistics * 8 <= cut.chunk * cut.slab * 2


def test_large_tensors_fill_a_device_at_small_batches() -> None:
    for samples, size, channels in ((2, 64, 192), (1, 256, 192), (2, 64, 384), (1, 128, 192)):
        cut = group_norm_act.plan(samples, size * size, channels, 32, 2)
        programs = samples * (channels // cut.slab) * cut.chunks
        assert programs >= 0.9 * group_norm_act.FILL, (size, channels, programs)


def test_the_cost_model_reproduces_the_sweep_that_it_is_fitted_to() -> None:
    found = norm_model.fit()
    assert found.plans > 1400
    assert found.median < 0.05 and found.ninth_tenth < 0.3
    # The plan that it takes, by the best that was measured.
    assert max(found.regret.values()) < 1.4
    assert sorted(found.regret.values())[len(found.regret) // 2] < 1.02


@pytest.mark.parametrize("shape", list(norm_model.TARGETS))
def test_cuda_plans_differ_and_come_in_the_order_of_their_predictions(shape: tuple[int, int, int]) -> None:
    library = native.load()
    if library is None or not hasattr(library, "cuda"):
        pytest.skip("the native library was built without CUDA, and it knows which plans fit")
    found = group_norm_act_cuda.predicted(norm_model.call_of(*shape))
    assert [us for _, us in found] == sorted(us for _, us in found)
    assert len(found) > 50
    assert len({tuple(sorted(plan.items())) for plan, _ in found}) == len(found)
    # The kernels here have a shorter chain than those that were measured: at the very least that is predicted.
    assert found[0][1] < min(line.us for line in norm_model.measured() if line.key == shape and line.slab)


def test_small_grids_get_tiles_of_64_queries() -> None:
    small = [call for call in fake_calls("text_attention", torch.float16, "cuda") if call.qkv.shape[0] <= 2]
    assert len(small) == 8
    for call in small:
        samples, _, tokens = call.qkv.shape
        assert text_attention.tiles(samples * call.heads, tokens, call.head_size, 2).queries == 64
    assert text_attention.tiles(32 * 6, 1024, 64, 2).queries == 128
    # Tiles of 128 would be half empty here, or masked throughout.
    assert text_attention.tiles(32 * 12, 64, 64, 2).queries == 64
    assert text_attention.tiles(32 * 12, 1000, 64, 2).queries == 64


def test_every_candidate_of_glides_attention_cuts_it_evenly_and_fits() -> None:
    for call in fake_calls("text_attention", torch.float16, "cuda"):
        plans = list(attention_backend.plans(call))
        cuts = [text_attention.Tiles(**plan) for plan in plans]
        assert len(set(cuts)) == len(cuts) >= 3
        samples, _, tokens = call.qkv.shape
        assert cuts[0] == text_attention.tiles(samples * call.heads, tokens, call.head_size, 2)
        text_tokens = 0 if call.encoder_kv is None else call.encoder_kv.shape[2]
        for cut in cuts:
            assert cut.why_not(call.head_size, 2) is None
            assert not tokens % cut.queries and not tokens % cut.keys and not text_tokens % cut.keys
    assert text_attention.plans(12, 64, 64, 4)[0] == text_attention.tiles(12, 64, 64, 4)


def test_masked_attention_gets_shorter_programs_where_few_fill_a_device() -> None:
    # One prompt, one picture of 257 tokens: 24 and 108 programs. Four pictures make 240 of 64 queries.
    assert masked_attention.tiles(8, 77, 64, 2).queries == 32
    assert masked_attention.tiles(12, 257, 64, 2).queries == 32
    assert masked_attention.tiles(4 * 12, 257, 64, 2).queries == 64


@given(
    queries=st.integers(1, 512),
    keys=st.integers(1, 512),
    head=st.sampled_from([16, 32, 64, 128]),
    heads=st.sampled_from([1, 1000]),
    causal=st.booleans(),
    lengths=st.booleans(),
    itemsize=st.sampled_from([2, 4]),
)
def test_masks_are_compiled_out_only_where_no_tile_is_ragged(
    queries: int, keys: int, head: int, heads: int, causal: bool, lengths: bool, itemsize: int
) -> None:
    keys = queries if causal else keys
    cut = masked_attention.tiles(heads, queries, head, itemsize)
    told = masked_attention.constants(cut, head, queries, keys, causal, lengths, itemsize)
    ends = (
        [min(keys, end) for end in range(cut.queries, queries + cut.queries, cut.queries)]
        if causal
        else [keys]
    )
    ragged = queries % cut.queries > 0 or any(end % cut.keys for end in ends)
    assert told["EVEN"] == (not lengths and not ragged)


def test_occupancy_by_hand() -> None:
    # 128 threads of 128 registers: 16,384 of 65,536; shared memory of 48 KiB and the 1 KiB that each program costs: 4 of 228.
    assert blocks_per_multiprocessor(90, 4, 128, 0) == 4
    assert blocks_per_multiprocessor(90, 8, 32, 48 * 1024) == 4
    assert blocks_per_multiprocessor(80, 8, 32, 48 * 1024) == 3
    assert blocks_per_multiprocessor(90, 4, 16, 0) == 16


def test_candidates_begin_with_the_guess_and_cut_what_can_be_cut() -> None:
    for op, module in (
        ("group_norm_act", group_norm_act),
        ("text_attention", text_attention),
        ("masked_attention", masked_attention),
        ("convolution", convolution),
    ):
        for call in fake_calls(op, torch.float16, "cuda"):
            plans = module.plans_of(call)
            assert 1 < len(plans) <= 40 and len(set(plans)) == len(plans), (op, len(plans))
            for cut in plans:
                warps = cut.warps
                assert warps in (2, 4, 8, 16)
                if op == "group_norm_act":
                    assert call.channels % cut.slab == 0 and cut.slab % (call.channels // call.groups) == 0
                    assert (cut.chunks - 1) * cut.chunk < call.positions <= cut.chunks * cut.chunk
                    assert cut.chunk % cut.rows == 0 and cut.rows & (cut.rows - 1) == 0
                if op == "convolution":
                    steps = cut.steps(call.x.shape[1])
                    assert (cut.splits - 1) * -(-steps // cut.splits) < steps  # none without a step
    assert convolution.plans(2 * 64, 768, 768)[0] == convolution.plan(2 * 64, 768, 768)
    assert text_attention.plans(12, 1024, 64, 2)[0] == text_attention.tiles(12, 1024, 64, 2)
    assert group_norm_act.plans(2, 4096, 192, 32, 2)[0] == group_norm_act.plan(2, 4096, 192, 32, 2)
    assert resample.plans(192)[0] == resample.tile(192)
