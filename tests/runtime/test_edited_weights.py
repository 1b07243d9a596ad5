"""A direct call after its weights were edited, in whatever way: what the plain model with the same edit predicts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.edits import COUNTED, RAW, Edit, delta_for, in_plain_memory, names
from support.small_unets import SIZE, call_arguments, states, tiny_model

from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.runtime import accelerate
from glide_fast.runtime.fingerprint import fingerprint
from glide_fast.runtime.model import Accelerated

TIMES = torch.tensor([3, 700])


def fast_and_plain(kind: str, defer: bool = False) -> tuple[Accelerated, Any]:
    plain = tiny_model(kind)
    fast = accelerate(plain, dtype="fp32", image_size=SIZE)
    assert isinstance(fast, Accelerated)
    if defer:  # as on a GPU
        fast.start(defer=True, batch=2, image_size=SIZE)
    return fast, plain


def predict(model: Any, arguments: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(states(), TIMES, **arguments)
    return out


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=5e-5, atol=5e-5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only get in each other's way on layers this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def edit_both(fast: Any, plain: Any, name: str, edit: Edit) -> None:
    delta = delta_for(plain.get_parameter(name))
    edit(fast.get_parameter(name), delta)
    with torch.no_grad():
        plain.get_parameter(name).add_(delta)


@pytest.mark.parametrize(("kind", "defer"), [("base", False), ("upsampler", False), ("upsampler", True)])
def test_the_next_call_has_an_edit_of_any_class_of_weights(kind: str, defer: bool) -> None:
    """One after the other, so that all else is remembered each time."""
    fast, plain = fast_and_plain(kind, defer)
    arguments = call_arguments(kind)
    before = predict(fast, arguments)
    for name in names(plain).values():
        edit_both(fast, plain, name, COUNTED["p.data += d"])
        got, want = predict(fast, arguments), predict(plain, arguments)
        close(got, want)
        assert (got - before).abs().max() > 1e-4, name
        before = got


@pytest.mark.parametrize("edit", list(COUNTED))
def test_the_next_call_has_an_edit_by_any_way(edit: str) -> None:
    fast, plain = fast_and_plain("upsampler")
    arguments = call_arguments("upsampler")
    predict(fast, arguments)
    for name in names(plain).values():
        edit_both(fast, plain, name, COUNTED[edit])
    close(predict(fast, arguments), predict(plain, arguments))


def test_an_edit_through_a_handle_taken_before_the_first_call() -> None:
    fast, plain = fast_and_plain("upsampler")
    handles = {name: fast.get_parameter(name).data for name in names(plain).values()}
    arguments = call_arguments("upsampler")
    predict(fast, arguments)
    for name, handle in handles.items():
        delta = delta_for(plain.get_parameter(name))
        handle.add_(delta)
        with torch.no_grad():
            plain.get_parameter(name).add_(delta)
    close(predict(fast, arguments), predict(plain, arguments))


def test_replaced_parameters_are_watched_from_their_first_call() -> None:
    fast, plain = fast_and_plain("base")
    arguments = call_arguments("base")
    fast.load_state_dict({n: v.clone() for n, v in plain.state_dict().items()}, assign=True)
    predict(fast, arguments)
    for name in names(plain).values():
        edit_both(fast, plain, name, COUNTED["p.data += d"])
    close(predict(fast, arguments), predict(plain, arguments))


def test_a_parameter_in_the_place_of_one_that_is_gone() -> None:
    """The third of three gets the first one's address and id, as memory is used again."""
    fast, plain = fast_and_plain("base")
    arguments = call_arguments("base")
    module = fast.get_submodule("transformer.resblocks.0.mlp.c_fc")
    for value in (0.1, 0.2):
        replaced = torch.nn.Parameter(torch.full_like(module.weight, value), requires_grad=False)
        module.weight = replaced
        del replaced
        if value == 0.1:
            predict(fast, arguments)
            first = id(module.weight)
            module.weight = torch.nn.Parameter(torch.full_like(module.weight, 0.3), requires_grad=False)
    assert first  # whether it is used again is the allocator's affair
    with torch.no_grad():
        plain.get_submodule("transformer.resblocks.0.mlp.c_fc").weight.fill_(0.2)
    close(predict(fast, arguments), predict(plain, arguments))


@pytest.mark.parametrize("edit", list(RAW))
def test_after_refresh_a_call_has_edits_of_raw_memory(edit: str) -> None:
    fast, plain = fast_and_plain("upsampler")
    arguments = call_arguments("upsampler")
    predict(fast, arguments)
    for name in names(plain).values():
        if in_plain_memory(fast.get_parameter(name)):
            edit_both(fast, plain, name, RAW[edit])
    fast.refresh()
    close(predict(fast, arguments), predict(plain, arguments))


def test_the_vocabulary_can_be_assigned_anew() -> None:
    """The rows of token ids are a buffer, not a parameter."""
    fast, plain = fast_and_plain("base")
    arguments = call_arguments("base")
    predict(fast, arguments)
    ids = [7, 1, 50, 90, 3, 99, 12]
    for model in (fast, plain):
        model.token_embedding.assign(ids)
    close(predict(fast, arguments), predict(plain, arguments))


def test_a_model_accelerated_in_inference_mode_notices_edits() -> None:
    plain = tiny_model("base")
    with torch.inference_mode():
        # Of tensors made in that mode, too.
        fast: Any = accelerate(copy.deepcopy(plain), dtype="fp32", image_size=SIZE, take=True)
    arguments = call_arguments("base")
    predict(fast, arguments)
    for name in names(plain).values():
        edit_both(fast, plain, name, COUNTED["p.data += d"])
    close(predict(fast, arguments), predict(plain, arguments))


def test_watched_parameters_are_ordinary_ones_elsewhere() -> None:
    fast, _ = fast_and_plain("base")
    weight = fast.get_parameter("transformer_proj.weight")
    assert isinstance(weight, torch.nn.Parameter)
    assert type(weight * 2) is torch.Tensor and type(weight.data) is torch.Tensor
    assert type(copy.deepcopy(weight)) is torch.nn.Parameter
    assert weight.data.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 6, 3, 3), (70_000,), (3, 65_536 * 2)])
def test_a_fingerprint_is_of_every_value_and_its_place(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    value = (torch.randn(shape, generator=generator) * 100).to(dtype)
    first = fingerprint([value])
    assert fingerprint([value.clone()]) == first
    flat = value.flatten()
    for place in {0, len(flat) // 2, len(flat) - 1}:
        changed = value.clone()
        changed.view(-1)[place] += 1
        assert fingerprint([changed]) != first
    if len(flat) > 1:
        assert fingerprint([flat.flip(0).view(shape)]) != first
        assert fingerprint([flat.roll(1).view(shape)]) != first
    assert fingerprint([-value]) != first
    assert fingerprint([value * 2]) != first


def test_fingerprints_of_any_layout() -> None:
    whole = torch.arange(2 * 8 * 4 * 4, dtype=torch.float32).view(2, 8, 4, 4)
    odd = torch.arange(9, dtype=torch.float32)[1:8]  # begins and ends inside of a word
    for tensor in (
        whole.to(memory_format=torch.channels_last),
        whole[:, ::2],
        whole[:, 1:],
        whole.transpose(0, 1),
        odd,
        torch.tensor(3.0),
        torch.empty(0),
    ):
        before = fingerprint([tensor])
        assert fingerprint([tensor]) == before
        for place in range(tensor.numel()):
            index = torch.unravel_index(torch.tensor(place), tensor.shape)
            kept = tensor[index].clone()
            tensor[index] = -1.5
            assert fingerprint([tensor]) != before
            tensor[index] = kept
        assert fingerprint([tensor]) == before
    pair = [whole[0].clone(), whole[1].clone()]
    assert fingerprint(pair) != fingerprint(pair[::-1])


def test_an_edit_is_undone_by_the_data_saved_before_it() -> None:
    fast, _ = fast_and_plain("upsampler")
    arguments = call_arguments("upsampler")
    before, addresses = predict(fast, arguments), [fast.addresses()]
    saved = [parameter.data for parameter in fast.parameters()]
    for parameter in fast.parameters():
        parameter.data = parameter.data * 1.3
    addresses.append(fast.addresses())
    assert not torch.equal(predict(fast, arguments), before)
    for parameter, data in zip(fast.parameters(), saved, strict=True):
        parameter.data = data
    addresses.append(fast.addresses())
    assert torch.equal(predict(fast, arguments), before)
    assert len(set(addresses)) == 3, "captured loops notice both"


def test_where_packed_weights_are_is_noticed_when_one_is_bound_anew() -> None:
    fast, _ = fast_and_plain("base")
    before = fast.addresses()
    weight = next(p for p in fast.parameters() if isinstance(p, PackedWeight))
    weight.data = weight.data * 1
    assert fast.addresses() != before
