"""Which layouts the channels-last kernels can read in place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glide_fast.ops.layout import channel_rows


@pytest.mark.parametrize(
    ("x", "strides"),
    [
        (torch.empty(2, 6, 4, 5).to(memory_format=torch.channels_last), (120, 6)),
        (torch.empty(2, 4, 5, 6).movedim(-1, 1)[:, 2:5], (120, 6)),  # some of the channels
        (torch.empty(2, 4, 5, 6).movedim(-1, 1)[:, :, 1:3], (120, 6)),  # some of the rows
        (torch.empty(2, 7, 6).movedim(-1, 1), (42, 6)),
        (torch.empty(2, 3, 4, 5, 6).movedim(-1, 1), (360, 6)),
        (torch.empty(2, 6, 1, 1), (6, 6)),  # one position: both layouts at once
        (torch.empty(2, 1, 4, 5), (20, 1)),  # one channel: both layouts at once
        (torch.empty(2, 6, 4, 5), None),
        (torch.empty(2, 4, 5, 6).movedim(-1, 1)[:, :, :, 1:3], None),  # part of each image row: gaps
        (torch.empty(2, 4, 5, 12).movedim(-1, 1)[:, ::2], None),
        (torch.empty(2, 5, 4, 6).permute(0, 3, 2, 1), None),  # width before height
    ],
)
def test_layouts(x: torch.Tensor, strides: tuple[int, int] | None) -> None:
    assert channel_rows(x) == strides


@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=5),
    st.permutations(range(5)),
    st.integers(0, 2**32 - 1),
)
def test_the_strides_address_every_element(shape: list[int], order: list[int], seed: int) -> None:
    """Whatever the layout: where strides are given, reading through them gives the tensor."""
    order = [axis for axis in order if axis < len(shape)]
    values = torch.randn([shape[axis] for axis in order], generator=torch.Generator().manual_seed(seed))
    x = values.permute([order.index(axis) for axis in range(len(shape))])
    if (strides := channel_rows(x)) is not None:
        sample, row = strides
        n, c = x.shape[:2]
        read = torch.as_strided(x, (n, x[0, 0].numel(), c), (sample, row, 1))
        assert torch.equal(read, x.flatten(2).transpose(1, 2))
