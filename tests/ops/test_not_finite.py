"""NaN and infinities among an op's inputs come out where the maths puts them, in every kernel: no fewer and no more."""

from __future__ import annotations

import pytest
import torch

from glide_fast.ops import group_norm_act, native, resample
from glide_fast.ops.backends import force
from glide_fast.ops.group_norm_act import cpu as group_norm_act_cpu
from glide_fast.ops.group_norm_act.arguments import Call
from glide_fast.ops.group_norm_act.reference import reference
from glide_fast.ops.text_attention import cpu as text_attention_cpu
from glide_fast.ops.text_attention.arguments import Call as TextCall
from glide_fast.ops.text_attention.reference import reference as text_reference

library = native.load()
pytestmark = pytest.mark.skipif(library is None, reason=str(native.why_missing()))
ISAS = [] if library is None else library.isas()

isas = pytest.mark.parametrize("isa", ISAS)
poisons = pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def alike(got: torch.Tensor, want: torch.Tensor) -> None:
    """``want`` is the reference's in fp32: torch's own bf16 products let a NaN spill into the next row on some processors."""
    assert torch.equal(got.isnan(), want.isnan())
    tolerance = 1e-5 if got.dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=tolerance, equal_nan=True)


@isas
@poisons
@dtypes
@pytest.mark.parametrize("where", ["x", "residual", "x2"])
@pytest.mark.parametrize("mode", [None, "nearest_x2", "mean_2x2"])
@pytest.mark.parametrize("size", [(2, 32, 4, 6), (1, 32, 16, 16)])
def test_group_norm(
    isa: str, poison: float, dtype: torch.dtype, where: str, mode: str | None, size: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    tensors = {
        name: normal(*size).to(dtype).to(memory_format=torch.channels_last)
        for name in ("x", "residual", "x2")
    }
    tensors[where][0, 5, 1, 1] = poison
    rest = {"weight": normal(64), "bias": normal(64), "groups": 8, "silu": True, "resample": mode}
    got = group_norm_act_cpu.run(Call(**tensors, **rest), isa=isa).y
    want = reference(**{name: tensor.float() for name, tensor in tensors.items()}, **rest)
    assert want.isnan().any() and not want.isnan().all()
    alike(got, want)


@isas
@poisons
@dtypes
@pytest.mark.parametrize(("tokens", "text"), [(8, 5), (70, 128)])
def test_an_image_key_of_text_attention(
    isa: str, poison: float, dtype: torch.dtype, tokens: int, text: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, tokens, 192, generator=generator).to(dtype)
    kv = torch.randn(2, text, 128, generator=generator).to(dtype)
    qkv[0, 3, 64 + 7] = poison
    got = text_attention_cpu.run(TextCall(qkv.mT, 1, kv.mT), isa=isa)
    alike(got, text_reference(qkv.mT.float(), 1, kv.mT.float()))


@poisons
@dtypes
@pytest.mark.parametrize("mode", ["nearest_x2", "mean_2x2"])
def test_resample(poison: float, dtype: torch.dtype, mode: str) -> None:
    x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.to(memory_format=torch.channels_last)
    x[0, 3, 1, 1] = poison
    results = []
    for backend in ("cpu", "reference"):
        with force(resample=backend):
            results.append(resample(x, mode))
    torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", ["cpu", "reference", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 8, 1, 1), (2, 8, 1, 1)])
@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_a_group_of_one_value_has_no_variance(
    backend: str | None, dtype: torch.dtype, size: tuple[int, ...], eps: float
) -> None:
    """The norm of a single value is 0, so what comes behind it is all that there is; torch's own layer refuses it."""
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight, bias, scale, shift = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    film = (scale.expand(size[:2]), shift.expand(size[:2]))
    with force(**({} if backend is None else {"group_norm_act": backend})):
        got = group_norm_act(
            x.to(memory_format=torch.channels_last), weight, bias, 8, eps, *film, resample="nearest_x2"
        )
    want = (bias * (1 + scale) + shift) if eps else torch.full((8,), torch.nan)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(
        got.float(),
        want.view(1, 8, 1, 1).expand(size[0], 8, 2, 2),
        rtol=tolerance,
        atol=tolerance,
        equal_nan=True,
    )
