"""Pictures and masks in and out of pipelines: PIL images, numpy arrays and torch tensors.

Accepted pictures: PIL in mode RGB or L; numpy ``[H, W, 3]`` or ``[N, H, W, 3]``; torch ``[3, H, W]`` or ``[N, 3, H, W]``; arrays
(of either byte order) and tensors either uint8 or fp16, bf16, fp32 or fp64 in [0, 1];
or a list of such pictures, all of one size. Masks have no channels
(torch may have one) and hold two values. Inside, pictures are fp32 ``[N, 3, H, W]`` in [-1, 1] and masks fp32 ``[N, 1, H, W]``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

from glide_fast.errors import invalid

ImageInput: TypeAlias = Any
"""A picture or several, as the module describes."""

OUTPUT_TYPES = ("pil", "pt", "np")

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

_KINDS = "a PIL image, a numpy array or a torch tensor, or a list of them"
_PICTURE_SHAPES = "[H, W, 3] or [N, H, W, 3] of numpy, or [3, H, W] or [N, 3, H, W] of torch"
_MASK_SHAPES = "[H, W] or [N, H, W] (or, of torch, [N, 1, H, W])"


def read_images(image: ImageInput, argument: str = "image") -> torch.Tensor:
    """Pictures as fp32 ``[N, 3, H, W]`` in [-1, 1] on the CPU; InvalidInputError naming ``argument``."""
    return _gather(image, argument, _read_image)


def read_masks(mask: ImageInput, argument: str) -> torch.Tensor:
    """Masks as fp32 ``[N, 1, H, W]`` of 0 and 1 on the CPU; InvalidInputError naming ``argument``.

    A mask is boolean, or numbers that are all 0 or 1, or of type uint8 and all 0 or 255.
    """
    return _gather(mask, argument, _read_mask)


def _gather(value: Any, argument: str, read: Any) -> torch.Tensor:
    if not isinstance(value, (list, tuple)):
        return read(value, argument)
    if not value:
        raise invalid(argument, value, "at least one picture")
    parts = [read(item, f"{argument}[{i}]") for i, item in enumerate(value)]
    for i, part in enumerate(parts):
        if part.shape[2:] != parts[0].shape[2:]:
            raise invalid(f"{argument}[{i}]", _size(part), f"the size of the first, {_size(parts[0])}")
    return torch.cat(parts)


def _size(x: torch.Tensor) -> str:
    return f"{x.shape[-1]}x{x.shape[-2]} pixels"


def _read_image(value: Any, argument: str) -> torch.Tensor:
    if isinstance(value, PIL.Image.Image):
        if value.mode not in ("RGB", "L"):
            raise invalid(
                argument,
                f"a PIL image of mode {value.mode}",
                "mode RGB or L; convert it with .convert('RGB')",
            )
        value = np.asarray(value.convert("RGB"))
    if isinstance(value, np.ndarray):
        if value.ndim not in (3, 4) or value.shape[-1] != 3:
            raise invalid(argument, f"an array of shape {value.shape}", _PICTURE_SHAPES)
        x = _from_numpy(value, argument)
        x = (x if x.dim() == 4 else x[None]).permute(0, 3, 1, 2)
    elif isinstance(value, torch.Tensor):
        _require_dense(value, argument)
        if value.dim() not in (3, 4) or value.shape[-3] != 3:
            raise invalid(argument, f"a tensor of shape {tuple(value.shape)}", _PICTURE_SHAPES)
        x = value.detach().cpu()
        x = x if x.dim() == 4 else x[None]
    else:
        raise invalid(argument, value, _KINDS)
    if not x.numel():
        raise invalid(argument, f"shape {tuple(x.shape)}", "a picture with pixels")
    if x.dtype == torch.uint8:
        return (x.float() / 127.5 - 1).contiguous()
    if x.dtype not in _FLOATS:
        raise invalid(argument, x.dtype, "uint8, or fp16, bf16, fp32 or fp64 in [0, 1]")
    _require_range(x, argument)
    return (x.float() * 2 - 1).contiguous()


def _require_dense(value: torch.Tensor, argument: str) -> None:
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        raise invalid(
            argument,
            f"a tensor of layout {value.layout} and type {value.dtype} on {value.device}",
            "a dense tensor that holds its values",
        )


def _from_numpy(value: np.ndarray, argument: str) -> torch.Tensor:
    try:
        # A copy: PIL's arrays are read-only, others may have negative strides, or the other order of bytes.
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    except TypeError:
        raise invalid(argument, f"an array of {value.dtype}", "numbers or booleans") from None


def _require_range(x: torch.Tensor, argument: str) -> None:
    if not bool(x.isfinite().all()):
        raise invalid(argument, "values that are NaN or infinite", "finite values in [0, 1]")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise invalid(
            argument, f"values from {low:g} to {high:g}", "floating point values in [0, 1], or uint8"
        )


def _read_mask(value: Any, argument: str) -> torch.Tensor:
    if isinstance(value, PIL.Image.Image):
        if value.mode not in ("1", "L"):
            raise invalid(argument, f"a PIL image of mode {value.mode}", "mode 1 or L")
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        x = _from_numpy(value, argument)
    elif isinstance(value, torch.Tensor):
        _require_dense(value, argument)
        x = value.detach().cpu()
        if x.dim() == 4 and x.shape[1] == 1:
            x = x[:, 0]
    else:
        raise invalid(argument, value, _KINDS)
    if x.dim() not in (2, 3) or not x.numel():
        raise invalid(argument, f"shape {tuple(x.shape)}", _MASK_SHAPES)
    if x.dtype not in _FLOATS + _INTEGERS:
        raise invalid(
            argument,
            x.dtype,
            "booleans, integers of up to 64 bits with a sign, uint8, or fp16, bf16, fp32, fp64",
        )
    on = x == (255 if x.dtype == torch.uint8 and int(x.max()) > 1 else 1)
    if not bool((on | (x == 0)).all()):
        raise invalid(
            argument,
            "values between or beyond the two",
            "booleans, 0 and 1, or uint8 0 and 255; threshold it first",
        )
    on = on if on.dim() == 3 else on[None]
    return on[:, None].float()


def resize_images(x: torch.Tensor, size: int) -> torch.Tensor:
    """``[N, 3, H, W]`` in [-1, 1] resized to ``size`` squared, bicubic with antialiasing, as PIL resizes."""
    if x.shape[2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def resize_masks(mask: torch.Tensor, size: int) -> torch.Tensor:
    """``[N, 1, H, W]`` resized to ``size`` squared, each pixel taking the value of the nearest."""
    return F.interpolate(mask, (size, size), mode="nearest-exact")


def require_square(x: torch.Tensor, argument: str) -> None:
    """Models are square; stretching a picture silently would not be what anyone asked for."""
    if x.shape[-1] != x.shape[-2]:
        raise invalid(argument, _size(x), "a square picture; crop or pad it first")


def require_size(x: torch.Tensor, size: tuple[int, int], argument: str, what: str) -> None:
    """``x`` ``[..., H, W]`` must have the ``size`` (H, W); ``what`` says whose size that is."""
    if tuple(x.shape[-2:]) != size:
        raise invalid(argument, _size(x), f"{what}, {size[1]}x{size[0]} pixels")


def quantise(x: torch.Tensor) -> torch.Tensor:
    """Round pictures in [-1, 1] to the 8-bit levels that the upsampler was trained on."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def write_images(x: torch.Tensor, output_type: str) -> Any:
    """Convert pictures ``[N, 3, H, W]`` in [-1, 1] to an output type.

    ``pil``: a list of RGB images. ``np``: fp32 ``[N, H, W, 3]`` in [0, 1]. ``pt``: fp32 ``[N, 3, H, W]`` in [0, 1] on the
    device of ``x``.
    """
    pictures = (x.float().clamp(-1, 1) + 1) / 2
    if output_type == "pt":
        return pictures
    arrays = pictures.permute(0, 2, 3, 1).contiguous().cpu()
    return arrays.numpy() if output_type == "np" else _as_pil(arrays)


def as_pil(images: Any) -> list[PIL.Image.Image]:
    """What :func:`write_images` gave, in whatever type, as RGB images."""
    if isinstance(images, torch.Tensor):
        return _as_pil(images.permute(0, 2, 3, 1).cpu())
    return _as_pil(torch.from_numpy(images)) if isinstance(images, np.ndarray) else list(images)


def _as_pil(arrays: torch.Tensor) -> list[PIL.Image.Image]:
    """Of fp32 ``[N, H, W, 3]`` in [0, 1]."""
    return [PIL.Image.fromarray(array.numpy()) for array in (arrays * 255).round().to(torch.uint8)]
