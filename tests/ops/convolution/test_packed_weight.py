"""PackedWeight: it holds only the packed copy, reads as the dense value, and every way of writing to it takes effect."""

from __future__ import annotations

import copy
import io
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.onednn import TYPES
from torch import nn

from glide_fast.errors import BackendError, InvalidInputError
from glide_fast.ops import convolution
from glide_fast.ops.convolution.cases import prepared
from glide_fast.ops.convolution.packed_weight import PackedWeight, dense_state_dict_hook, why_not

SHAPE = (2, 16, 8, 8)


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape or (32, 16, 3, 3), generator=torch.Generator().manual_seed(seed)).to(dtype)


def packed(*shape: int, dtype: torch.dtype = torch.float32) -> PackedWeight:
    return PackedWeight.pack(values(*shape, dtype=dtype), input_shape=SHAPE)


def module(dtype: torch.dtype = torch.float32) -> nn.Conv2d:
    made = nn.Conv2d(16, 32, 3, padding=1)
    made.weight = nn.Parameter(PackedWeight.pack(values(), input_shape=SHAPE), requires_grad=False)
    return made.to(dtype)


@given(
    outputs=st.integers(1, 70),
    channels=st.integers(1, 70),
    kernel=st.sampled_from([(1, 1), (3, 3), (5, 3), (2, 2)]),
    side=st.integers(5, 40),
    stride=st.sampled_from([1, 2]),
    dtype=st.sampled_from(TYPES),
    channels_last=st.booleans(),
)
def test_its_dense_value_is_the_given_one_bit_by_bit(
    outputs: int,
    channels: int,
    kernel: tuple[int, int],
    side: int,
    stride: int,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    weight = values(outputs, channels, *kernel, dtype=dtype)
    if channels_last:
        weight = weight.to(memory_format=torch.channels_last)
    w = PackedWeight.pack(weight, input_shape=(2, channels, side, side), stride=stride)
    assert w.packed is not None and w.packed.is_mkldnn
    assert type(w.dense()) is torch.Tensor and torch.equal(w.dense(), weight)
    assert w.dense().is_contiguous() and w.stride() == w.dense().stride()
    assert (w.shape, w.dtype, w.device) == (weight.shape, dtype, weight.device)


@pytest.mark.parametrize("shape", [(32, 16, 3, 3), (32, 16, 1), (32, 16)])
def test_it_keeps_the_shape_of_the_parameter_it_stands_for(shape: tuple[int, ...]) -> None:
    w = packed(*shape)
    assert w.shape == shape and torch.equal(w.dense(), values(*shape))
    assert w.geometry.input_shape == SHAPE
    assert w.packed is not None and w.packed.shape == (*shape, 1, 1)[:4]


def test_it_keeps_no_dense_copy() -> None:
    def resident() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * 4096

    packed().data.mul_(2)  # what the first call of each takes
    weight = torch.ones(1024, 1024, 5, 5)  # 105 MB
    size, before = weight.nbytes, resident()
    storage = weakref.ref(weight)
    w = PackedWeight.pack(weight, input_shape=(1, 1024, 8, 8))
    assert resident() - before > 0.9 * size
    del weight
    assert storage() is None and w.packed is not None
    for write in (lambda: w.data.mul_(2), lambda: setattr(w, "data", torch.full(w.shape, 3.0))):
        write()
        assert abs(resident() - before) < 0.6 * size  # a second copy would be 1
    # Without AVX-512 a block is of 24 outputs, and the last one is filled up.
    assert size <= torch.ops.mkldnn._nbytes(w.packed) <= 1.03 * size
    assert w.version == 2 and w.dense()[1023, 1023, 4, 4] == 3


WRITES: dict[str, Callable[[torch.Tensor], Any]] = {
    "copy_": lambda w: w.copy_(values(seed=1)),
    "copy_ of another type": lambda w: w.copy_(values(seed=1).bfloat16()),
    "copy_ of a packed weight": lambda w: w.copy_(PackedWeight.pack(values(seed=1), input_shape=SHAPE)),
    "mul_": lambda w: w.mul_(2),
    "add_ of itself": lambda w: w.add_(w, alpha=3),
    "zero_": lambda w: w.zero_(),
    "augmented assignment": lambda w: w.__iadd__(1),
    "out=": lambda w: torch.mul(values(), 3, out=w),
    "foreach": lambda w: torch._foreach_mul_([w], 2.0),
    "data": lambda w: w.data.mul_(2),
    "detach": lambda w: w.detach().mul_(2),
    "assigned data": lambda w: setattr(w, "data", values(seed=1)),
    "index": lambda w: w.__setitem__((3, slice(None), 1), 7.0),
    "masked index": lambda w: w.__setitem__(w > 0, -1.0),
    "row": lambda w: w[5].fill_(4),
    "view of a view": lambda w: w.data.view(32, -1)[3:9, ::2].mul_(-1),
    "flattened": lambda w: w.flatten()[17:99].zero_(),
    "transposed": lambda w: w.transpose(0, 1)[2].add_(1),
    "split": lambda w: w.split(16)[1].fill_(2),
    "unbind": lambda w: w.unbind(2)[1].mul_(5),
    "between its views": lambda w: w[0].copy_(w[1]),
    "initialisation": lambda w: nn.init.constant_(w, 0.5),
    "index_copy_": lambda w: w.index_copy_(0, torch.tensor([1, 4]), values(2, 16, 3, 3, seed=2)),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("inference", [False, True])
def test_writes_take_effect_as_on_a_plain_tensor(
    write: Callable[[torch.Tensor], Any], inference: bool
) -> None:
    plain, x = values(), values(*SHAPE).to(memory_format=torch.channels_last)
    w = nn.Parameter(packed(), requires_grad=False)
    with torch.inference_mode(inference), torch.no_grad():
        write(plain)
        write(w)
    assert w.version == 1 and type(w) is PackedWeight
    assert torch.equal(w.dense(), plain)
    torch.testing.assert_close(convolution(x, w), F.conv2d(x, plain, padding=1))


def test_operations_in_place_give_back_the_weight() -> None:
    w = packed()
    assert w.mul_(2) is w and w.detach() is not w
    alias = w.data
    alias.add_(1)
    assert w.version == alias.version == 2 and torch.equal(w, values() * 2 + 1)


def test_reading_packs_nothing() -> None:
    w = packed()
    w.sum(), w[0].clone(), w.view(-1).max(), w + w, w.dense().mul_(2), w.clone().zero_()
    assert w.version == 0 and torch.equal(w.dense(), values())


def test_operations_see_the_dense_value_and_give_plain_tensors() -> None:
    w, plain = packed(), values()
    for read in (
        lambda t: t + 1,
        lambda t: t.clone(),
        lambda t: t.bfloat16(),
        lambda t: t.sum(dim=0),
        lambda t: torch.cat([t, t]),
        lambda t: torch.stack(list(t)),
        lambda t: t.reshape(32, -1) @ t.reshape(32, -1).T,
        lambda t: F.conv2d(torch.ones(1, 16, 5, 5), t),
        lambda t: torch.einsum("oihw->io", t),
        lambda t: torch.where(t > 0, t, 0.0),
    ):
        result = read(w)
        assert type(result) is torch.Tensor
        torch.testing.assert_close(result, read(plain))
    assert torch.equal(w, plain) and torch.equal(w[3:5, 0].transpose(0, 1), plain[3:5, 0].transpose(0, 1))
    assert w.tolist() == plain.tolist() and w[0, 0, 0, 0].item() == plain[0, 0, 0, 0].item()
    assert np.array_equal(np.asarray(w), plain.numpy()) and np.array_equal(w[1].numpy(), plain[1].numpy())
    assert repr(w) == "PackedWeight(shape=(32, 16, 3, 3), dtype=torch.float32, version=0)"


def test_what_cannot_reach_the_weight_is_refused() -> None:
    w = packed()
    with pytest.raises(ValueError, match="read-only"):
        w.numpy()[0] = 1
    with pytest.raises(BackendError, match="no plain storage"):
        w.data_ptr()
    for change in (
        lambda: w.resize_(3),
        lambda: w.transpose_(0, 1),
        lambda: w.set_(),
        lambda: w.unsqueeze_(0),
        lambda: w.squeeze(0).unsqueeze_(0),
    ):
        with pytest.raises(InvalidInputError, match="keep the shape"):
            change()
    with pytest.raises(InvalidInputError, match=r"data: got .* keeps its shape"):
        w.data = torch.zeros(3)
    with pytest.raises(InvalidInputError, match="not a view"):
        w[0].data = torch.zeros(16, 3, 3)
    assert w.version == 0 and torch.equal(w.dense(), values())


def test_a_module_loads_its_state() -> None:
    m, state = module(), nn.Conv2d(16, 32, 3).state_dict()
    m.load_state_dict(state)
    assert type(m.weight) is PackedWeight and m.weight.version == 1
    assert torch.equal(m.weight.dense(), state["weight"])
    m.load_state_dict(state, assign=True)
    assert type(m.weight) is nn.Parameter and torch.equal(m.weight, state["weight"])
    with pytest.raises(RuntimeError, match="size mismatch"):
        module().load_state_dict(nn.Conv2d(16, 33, 3).state_dict())


def test_a_state_dict_writes_through_and_loads_into_another() -> None:
    m = module()
    m.state_dict()["weight"].mul_(2)
    assert torch.equal(m.weight.dense(), values() * 2)
    plain = nn.Conv2d(16, 32, 3)
    plain.load_state_dict(m.state_dict())
    assert type(plain.weight) is nn.Parameter and torch.equal(plain.weight, values() * 2)


def test_with_the_hook_state_dicts_are_plain_and_safetensors_saves_them(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Sequential(module()), nn.Linear(2, 2))
    names = list(model.state_dict())
    dense_state_dict_hook(model)
    dense_state_dict_hook(model)
    state = model.state_dict()
    assert list(state) == names and {type(t) for t in state.values()} == {torch.Tensor}
    assert type(model[0].state_dict()["0.weight"]) is torch.Tensor
    assert type(copy.deepcopy(model).state_dict()["0.0.weight"]) is torch.Tensor
    assert model.state_dict(keep_vars=True)["0.0.weight"] is model[0][0].weight
    save_file(state, tmp_path / "model.safetensors")
    assert torch.equal(load_file(tmp_path / "model.safetensors")["0.0.weight"], values())
    model.load_state_dict({name: t + 1 for name, t in state.items()})
    assert torch.equal(model[0][0].weight.dense(), values() + 1)


def test_a_deep_copy_is_packed_and_separate() -> None:
    m = module()
    m.weight.note = ["kept"]
    other = copy.deepcopy(m)
    assert type(other.weight) is PackedWeight and isinstance(other.weight, nn.Parameter)
    assert other.weight.packed is not None and not other.weight.requires_grad
    assert other.weight.note == ["kept"] and other.weight.note is not m.weight.note
    other.weight.data.zero_()
    assert torch.equal(m.weight.dense(), values()) and m.weight.version == 0
    tied = copy.deepcopy([m.weight, m.weight])
    assert tied[0] is tied[1]
    assert torch.equal(copy.deepcopy(packed()[2]), values()[2])


def test_pickling_writes_the_dense_value() -> None:
    w, m = packed(dtype=TYPES[-1]), module()
    loaded = pickle.loads(pickle.dumps(w))
    assert type(loaded) is torch.Tensor and torch.equal(loaded, values(dtype=TYPES[-1]))
    file = io.BytesIO()
    torch.save(m.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert type(state["weight"]) is torch.Tensor and torch.equal(state["weight"], values())
    whole = pickle.loads(pickle.dumps(m))
    assert type(whole.weight) is nn.Parameter and not whole.weight.requires_grad
    assert torch.equal(whole.weight, values())


def test_a_module_changes_type_and_device() -> None:
    m = module()
    w = m.weight
    for dtype, kept in (
        (torch.bfloat16, torch.bfloat16 in TYPES),
        (torch.float16, False),
        (torch.float64, False),
        (torch.float32, True),
    ):
        version = w.version
        m.to(dtype)
        assert m.weight is w and w.dtype == w.dense().dtype == w.data.dtype == dtype
        assert (w.packed is not None) == kept == (why_not(dtype) is None) == ("plain" not in repr(w))
        assert w.version == version + 1 and w.untyped_storage().nbytes() >= 0
        torch.testing.assert_close(w.dense().float(), values(), rtol=2**-7, atol=1e-7)
        w.data.mul_(1)
        x = torch.ones(SHAPE, dtype=dtype).to(memory_format=torch.channels_last)
        truth = F.conv2d(x.double(), w.double(), padding=1)
        torch.testing.assert_close(convolution(x, w).double(), truth, rtol=2e-2, atol=2e-2)
    m.to(memory_format=torch.channels_last)
    assert m.weight is w and w.packed is not None and w.is_contiguous()
    assert m.to("meta").weight.is_meta


def test_gradients_are_those_of_the_dense_value_and_optimisers_write() -> None:
    ours, plain = nn.Parameter(packed()), nn.Parameter(values())
    x = values(1, 16, 6, 6, seed=4)
    for w in (ours, plain):
        optimiser = torch.optim.AdamW([w], lr=0.1)
        F.conv2d(x, w).square().sum().backward()
        optimiser.step()
    assert type(ours.grad) is torch.Tensor
    torch.testing.assert_close(ours.grad, plain.grad)
    torch.testing.assert_close(ours.dense(), plain.detach())
    assert ours.version >= 1


def test_packed_in_inference_mode_it_can_be_written_to_outside() -> None:
    with torch.inference_mode():
        w = PackedWeight.pack(values(), input_shape=SHAPE)
        w.mul_(2)
    w.mul_(2)
    assert torch.equal(w.dense(), values() * 4) and not w.is_inference()


def test_a_packed_weight_can_be_packed_for_another_convolution() -> None:
    w = packed()
    again = PackedWeight.pack(w, input_shape=(1, 16, 64, 64), stride=2, padding=0)
    w.zero_()
    assert again.geometry.window.stride == (2, 2) and torch.equal(again.dense(), values())


@pytest.mark.parametrize(
    ("shape", "options", "name"),
    [
        ((16,), {}, "input_shape"),
        ((32, 16, 3), {}, "weight"),
        ((32, 16, 3, 3, 3), {}, "weight"),
        ((0, 16, 3, 3), {}, "weight"),
        ((32, 17, 3, 3), {}, "input_shape"),
        ((32, 16, 3, 3), {"input_shape": (2, 16, 8)}, "input_shape"),
        ((32, 16, 3, 3), {"input_shape": (0, 16, 8, 8)}, "input_shape"),
        ((32, 16, 3, 3), {"stride": 0}, "stride"),
        ((32, 16, 3, 3), {"padding": (1, -1)}, "padding"),
    ],
)
def test_bad_arguments_are_named(shape: tuple[int, ...], options: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{name}: got .*; accepted: "):
        PackedWeight.pack(torch.zeros(shape), **{"input_shape": SHAPE, **options})


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_what_onednn_does_not_take_is_not_packed(dtype: torch.dtype) -> None:
    with pytest.raises(BackendError, match="cannot be packed for oneDNN"):
        PackedWeight.pack(values(dtype=dtype), input_shape=SHAPE)
    assert why_not(dtype) is not None and why_not(torch.float32, "cuda") is not None


def test_assigned_data_leaves_a_handle_with_the_old_values() -> None:
    """The undo of an edit, as scripts write it for any parameter."""
    w = packed()
    saved, before, versions = w.data, w.dense(), [w.version]
    for assigned in (w.data * 1.3, saved, w[:] * 2, saved):
        w.data = assigned
        versions.append(w.version)
    assert torch.equal(w.dense(), before) and torch.equal(saved.dense(), before)
    assert sorted(set(versions)) == versions, "every one is noticed"
    saved.zero_()
    assert not w.dense().any(), "what was assigned is shared"


def test_two_weights_swap_their_data() -> None:
    a, b = packed(), PackedWeight.pack(values(seed=1), input_shape=SHAPE)
    values_a, values_b, version = a.dense(), b.dense(), a.version
    a.data, b.data = b.data, a.data
    assert torch.equal(a.dense(), values_b) and torch.equal(b.dense(), values_a)
    assert a.version > version
    x = torch.randn(SHAPE)
    torch.testing.assert_close(convolution(x, a), F.conv2d(x, values_b, padding=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("data", [lambda w: w.data, lambda w: w.data.data, lambda w: w[:].data])
def test_an_ordinary_parameter_cannot_take_memory_that_is_not_there(
    data: Callable[[PackedWeight], torch.Tensor],
) -> None:
    """Reading it would end the process."""
    w = nn.Parameter(packed(), requires_grad=False)
    e = nn.Parameter(torch.zeros(w.shape))
    with pytest.raises(RuntimeError, match="incompatible tensor type"):
        e.data = data(w)  # type: ignore[arg-type]
    assert not e.any()
    e.data.copy_(data(w))  # type: ignore[arg-type]
    assert torch.equal(e, w.dense())


def test_data_is_where_the_weight_is() -> None:
    w = packed()
    for data in (w.data, w.data.detach(), w.data[0], nn.Parameter(w.data, requires_grad=False)):
        assert data.device == torch.device("cpu") and not data.is_meta and data.is_cpu
    assert torch.zeros_like(w.data).device == (w.data * 2).device == torch.device("cpu")
    assert w.data.to(torch.bfloat16).dtype == torch.bfloat16 and w.data.stride() == w.stride()


@pytest.mark.parametrize("shape", [(32, 32, 1, 1), (32, 32, 1), (32, 32)])
def test_a_call_is_prepared_for_each_backend(shape: tuple[int, ...]) -> None:
    """Also where the weight of a projection has fewer dimensions."""
    x, weight = torch.randn(1, 32, 4, 4), torch.randn(shape)
    packed = PackedWeight.pack(weight, input_shape=x.shape)
    arguments = {"x": x, "weight": packed, "stride": 1, "padding": None}
    assert prepared(arguments, "onednn")["weight"] is packed
    dense = prepared(arguments, "reference")["weight"]
    assert type(dense) is torch.Tensor and torch.equal(dense, weight)
