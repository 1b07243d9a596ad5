"""Pictures and masks in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_fast.errors import InvalidInputError
from glide_fast.pipelines.images import quantise, read_images, read_masks, resize_masks, write_images


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_eight_bit_pictures_come_back_the_same(height: int, width: int, seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for given_ in (array, PIL.Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1), [array]):
        x = read_images(given_)
        assert x.shape == (1, 3, height, width)
        assert -1 <= float(x.min()) <= float(x.max()) <= 1
        np.testing.assert_array_equal(np.asarray(write_images(x, "pil")[0]), array)
        torch.testing.assert_close(quantise(x), x, rtol=0, atol=1e-6)
    floats = array.astype(np.float64) / 255
    torch.testing.assert_close(read_images(floats), read_images(array), rtol=0, atol=1e-6)


def test_grey_pictures_become_rgb() -> None:
    x = read_images(PIL.Image.new("L", (4, 2), 255))
    assert x.shape == (1, 3, 2, 4)
    assert bool((x == 1).all())


def test_odd_memory_is_no_obstacle() -> None:
    array = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    flipped = array[::-1, ::-1]
    assert torch.equal(read_images(flipped), read_images(flipped.copy()))
    array.flags.writeable = False
    read_images(array)
    floats = np.random.default_rng(0).random((4, 4, 3))
    for code in (">f2", ">f4", ">f8", "<f4"):
        want = read_images(floats.astype(code[1:]))
        assert torch.equal(read_images(floats.astype(code)), want), code
    masks = np.eye(4)
    for code in (">f4", ">i2", ">i8", "?"):
        assert torch.equal(read_masks(masks.astype(code), "mask"), read_masks(masks, "mask")), code


def test_lists_join_batches() -> None:
    assert read_images([torch.rand(2, 3, 4, 4), np.zeros((4, 4, 3), np.uint8)]).shape == (3, 3, 4, 4)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, "a PIL image"),
        ("cat.png", "a PIL image"),
        ([], "at least one"),
        (PIL.Image.new("RGBA", (4, 4)), "mode RGBA"),
        (PIL.Image.new("CMYK", (4, 4)), "mode CMYK"),
        (np.zeros((4, 4)), r"\(4, 4\)"),
        (np.zeros((3, 4, 4)), r"\(3, 4, 4\)"),
        (np.zeros((4, 4, 4)), r"\(4, 4, 4\)"),
        (np.zeros((0, 4, 3)), "pixels"),
        (np.zeros((4, 4, 3), dtype=np.int64), "int64"),
        (np.array([[["a"] * 3]]), "an array of"),
        (np.zeros((4, 4, 3), dtype=[("r", "u1")]), "an array of"),
        (np.zeros((4, 4, 3), dtype=np.longdouble), "an array of"),
        (np.zeros((4, 4, 3), dtype=">i8"), "int64"),
        (torch.zeros(4, 4, 3), r"\(4, 4, 3\)"),
        (torch.zeros(3, 4, 4).to(torch.float8_e4m3fn), "float8_e4m3fn.*fp16, bf16"),
        (torch.zeros(3, 4, 4).to(torch.float8_e5m2), "float8_e5m2"),
        (torch.zeros(3, 4, 4, dtype=torch.complex64), "complex64"),
        (torch.zeros(3, 4, 4, dtype=torch.uint16), "uint16"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "int32"),
        (torch.zeros(3, 4, 4, device="meta"), "holds its values"),
        (torch.zeros(3, 4, 4).to_sparse(), "sparse"),
        (torch.full((3, 4, 4), -1.0), "-1 to -1"),
        (torch.full((3, 4, 4), 255.0), "255"),
        (torch.full((3, 4, 4), float("nan")), "NaN"),
        (torch.full((3, 4, 4), float("inf")), "infinite"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)], r"image\[1\]: got '5x4 pixels'"),
        ([torch.zeros(3, 4, 4), None], r"image\[1\]"),
    ],
)
def test_bad_pictures(image: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        read_images(image)
    assert str(caught.value).startswith("image")


MASK = np.array([[True, False], [False, False]])


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK.astype(np.uint8),
        MASK.astype(np.uint8) * 255,
        MASK.astype(np.int64),
        MASK.astype(np.float32),
        MASK[None],
        torch.from_numpy(MASK),
        torch.from_numpy(MASK)[None, None].half(),
        PIL.Image.fromarray(MASK),
        PIL.Image.fromarray(MASK.astype(np.uint8) * 255),
        [MASK],
    ],
)
def test_masks(mask: Any) -> None:
    got = read_masks(mask, "keep_mask")
    assert got.dtype == torch.float32
    assert torch.equal(got, torch.from_numpy(MASK)[None, None].float())


@pytest.mark.parametrize(
    "mask",
    [
        None,
        [],
        PIL.Image.new("RGB", (2, 2)),
        np.zeros((2, 2, 2, 2)),
        np.zeros(4),
        np.zeros((0, 2)),
        np.full((2, 2), 0.5),
        np.full((2, 2), -1),
        np.full((2, 2), np.nan),
        np.array([[0, 1], [255, 255]], dtype=np.uint8),
        np.array([[0, 128], [255, 255]], dtype=np.uint8),
        np.full((2, 2), 255.0),
        torch.zeros(1, 3, 2, 2),
        torch.zeros(2, 2).to_sparse(),
    ],
)
def test_bad_masks(mask: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^keep_mask"):
        read_masks(mask, "keep_mask")


def test_masks_are_resized_by_the_nearest_pixel() -> None:
    mask = torch.eye(4)[None, None]
    assert torch.equal(resize_masks(mask, 8), torch.kron(torch.eye(4), torch.ones(2, 2))[None, None])
    assert set(resize_masks(mask, 3).unique().tolist()) <= {0.0, 1.0}
