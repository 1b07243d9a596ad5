"""Replaced layers, hooks and parametrisations: an accelerated model that would not call them says so."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small_unets import SIZE, call_arguments, states, tiny_model
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from glide_fast.errors import BackendError, InvalidInputError
from glide_fast.models.text2im import Text2ImUNet
from glide_fast.runtime import accelerate
from glide_fast.runtime.model import Accelerated

TIMES = torch.tensor([3, 700])
LAYERS = (
    "input_blocks.1.0.in_layers.2",
    "middle_block.1.qkv",
    "middle_block.1.encoder_kv",
    "middle_block.0.emb_layers.1",
    "transformer.resblocks.0.attn.c_qkv",
    "time_embed.0",
)


class Doubled(nn.Module):
    """A wrapper as adapter libraries put around a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer

    def forward(self, *args: Any) -> Any:
        return self.base_layer(*args) * 2


class Double(nn.Module):
    """A parametrisation."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


def plain_model() -> Text2ImUNet:
    return tiny_model("base")


@pytest.fixture(scope="module")
def accelerated() -> Accelerated:
    fast = accelerate(plain_model(), dtype="fp32", image_size=SIZE)
    assert isinstance(fast, Accelerated)
    return fast


@pytest.fixture
def fast(accelerated: Accelerated) -> Accelerated:
    return copy.deepcopy(accelerated)


def predict(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(states(), TIMES, **call_arguments("base"))
    return out


def bind(model: Accelerated) -> Any:
    arguments = call_arguments("base")
    return model.bind(
        [3, 700], 2, (3, SIZE, SIZE), text=model.encode_text(arguments["tokens"], arguments["mask"])
    )


def replace(model: nn.Module, path: str, layer: nn.Module) -> None:
    room, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(room), leaf, layer)


def wrapped(model: nn.Module, path: str) -> None:
    replace(model, path, Doubled(model.get_submodule(path)))


def wrapped_by_a_namesake(model: nn.Module, path: str) -> None:
    """As peft's own Linear and Conv2d."""
    layer = model.get_submodule(path)
    kind = type(type(layer).__name__, (Doubled,), {})
    replace(model, path, kind(layer))


def of_another_class(model: nn.Module, path: str) -> None:
    layer = model.get_submodule(path)
    layer.__class__ = type("Louder", (type(layer),), {"forward": lambda self, x: x})


def hooked(model: nn.Module, path: str) -> None:
    model.get_submodule(path).register_forward_hook(lambda module, args, out: out * 2)


def hooked_before(model: nn.Module, path: str) -> None:
    model.get_submodule(path).register_forward_pre_hook(lambda module, args: args)


def with_a_forward_of_its_own(model: nn.Module, path: str) -> None:
    layer: Any = model.get_submodule(path)
    layer.forward = types.MethodType(lambda self, x: x, layer)


def parametrised(model: nn.Module, path: str) -> None:
    parametrize.register_parametrization(model.get_submodule(path), "bias", Double())


CHANGES: list[Callable[[nn.Module, str], None]] = [
    wrapped,
    wrapped_by_a_namesake,
    of_another_class,
    hooked,
    hooked_before,
    with_a_forward_of_its_own,
    parametrised,
]


CHANGED = [(change, LAYERS[place % len(LAYERS)]) for place, change in enumerate(CHANGES)]


def refused_by_name(model: Accelerated, bound: Any, path: str) -> None:
    for call in (lambda: predict(model), bound.renew, lambda: bind(model)):
        with pytest.raises(InvalidInputError, match=rf"in {path}, .*model\.plain\(\)"):
            call()


@pytest.mark.parametrize(("change", "path"), CHANGED)
def test_a_changed_layer_is_named_before_a_call_and_before_a_loop(
    fast: Accelerated, change: Callable[[nn.Module, str], None], path: str
) -> None:
    bound = bind(fast)
    change(fast, path)
    refused_by_name(fast, bound, path)


def test_a_wrapped_layer_is_named_wherever_it_is(fast: Accelerated) -> None:
    bound = bind(fast)
    plain = plain_model()
    want = predict(fast)
    for path in LAYERS:
        wrapped(fast, path)
        refused_by_name(fast, bound, path)
        replace(fast, path, fast.get_submodule(path).base_layer)  # type: ignore[arg-type]
        wrapped(plain, path)
        with pytest.raises(InvalidInputError, match=rf"Doubled in {path}, "):
            accelerate(plain)
        replace(plain, path, plain.get_submodule(path).base_layer)  # type: ignore[arg-type]
    assert torch.equal(predict(fast), want), "what is taken away again is forgiven"


@pytest.mark.parametrize(("change", "path"), CHANGED)
def test_a_changed_layer_of_a_plain_model_is_named(
    change: Callable[[nn.Module, str], None], path: str
) -> None:
    model = plain_model()
    change(model, path)
    with pytest.raises(InvalidInputError, match=rf"in {path}, which an accelerated model would not call"):
        accelerate(model, dtype="fp32", image_size=SIZE)


@pytest.mark.parametrize("norm", [weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm])
def test_normed_and_pruned_weights_are_refused_and_accepted_when_made_permanent(
    norm: Any, fast: Accelerated
) -> None:
    path = "middle_block.0.out_layers.3"
    plain = plain_model()
    for model, layer in ((m, m.get_submodule(path)) for m in (plain, fast)):
        if norm is weight_norm:
            prune.l1_unstructured(layer, "weight", 0.5)
        elif isinstance(model, Accelerated):
            parametrize.register_parametrization(layer, "bias", Double())
        else:
            norm(layer)
        with pytest.raises(InvalidInputError, match=path):
            predict(model) if isinstance(model, Accelerated) else accelerate(model)
    if norm is weight_norm:
        prune.remove(plain.get_submodule(path), "weight")
    else:
        parametrize.remove_parametrizations(plain.get_submodule(path), "weight")
    again = accelerate(plain, dtype="fp32", image_size=SIZE)
    torch.testing.assert_close(predict(again), predict(plain), rtol=5e-5, atol=5e-5)


def test_added_and_removed_layers_are_named(fast: Accelerated) -> None:
    more = copy.deepcopy(fast)
    more.middle_block.add_module("3", nn.Identity())
    with pytest.raises(InvalidInputError, match=r"Identity that was added in middle_block\.3"):
        predict(more)
    inner = copy.deepcopy(fast)
    inner.get_submodule("middle_block.1.qkv").adapter = nn.Linear(2, 2)
    with pytest.raises(InvalidInputError, match=r"Linear that was added in middle_block\.1\.qkv\.adapter"):
        predict(inner)
    del fast.middle_block[2]
    with pytest.raises(InvalidInputError, match=r"nothing, where a ResBlock was in middle_block\.2"):
        predict(fast)


def test_a_parametrised_embedding_of_the_model_itself_is_refused(fast: Accelerated) -> None:
    parametrize.register_parametrization(fast, "positional_embedding", Double())
    with pytest.raises(InvalidInputError, match=r"model\.plain\(\)"):
        predict(fast)


def test_a_hook_that_is_taken_away_is_forgiven(fast: Accelerated) -> None:
    want = predict(fast)
    layer = fast.get_submodule(LAYERS[0])
    handle = layer.register_forward_hook(lambda *_: None)
    with pytest.raises(InvalidInputError):
        predict(fast)
    handle.remove()
    assert torch.equal(predict(fast), want)


def test_a_moved_stage_does_not_take_a_replaced_layer_for_its_own(fast: Accelerated) -> None:
    wrapped(fast, LAYERS[0])
    with pytest.raises(InvalidInputError, match=LAYERS[0]):
        fast.restart()


def test_the_models_own_hooks_are_called_and_loops_refuse_them(fast: Accelerated) -> None:
    want = predict(fast)
    bound = bind(fast)
    seen: list[int] = []
    before = fast.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    after = fast.register_forward_hook(lambda module, args, out: out * 2)
    assert torch.equal(predict(fast), want * 2) and seen == [2]
    with pytest.raises(InvalidInputError, match="loops do not call"):
        bound.renew()
    before.remove()
    after.remove()
    bound.renew(text=fast.encode_text(**call_arguments("base")))
    assert torch.equal(predict(fast), want)


def test_what_the_plain_model_itself_may_not_carry() -> None:
    hooked_model = plain_model()
    hooked_model.register_forward_hook(lambda *_: None)
    with pytest.raises(
        InvalidInputError, match=r"a forward hook on the model itself.*what accelerate\(\) returns"
    ):
        accelerate(hooked_model)
    own_forward = plain_model()
    own_forward.__class__ = type("Mine", (Text2ImUNet,), {"forward": lambda self, *args, **kwargs: None})
    with pytest.raises(InvalidInputError, match=r"Mine with a forward\(\) of its own"):
        accelerate(own_forward)
    own_forward.__class__ = type("Mine", (Text2ImUNet,), {})
    assert isinstance(accelerate(own_forward, dtype="fp32", image_size=SIZE), Accelerated)


@pytest.mark.parametrize(
    ("path", "layer", "what"),
    [
        ("middle_block.0.in_layers.1", nn.SiLU(), "a SiLU"),
        ("middle_block.0.out_layers.1", nn.GELU(), "a GELU"),
        ("middle_block.0.in_layers.2", nn.Conv2d(32, 32, 3, padding=2, dilation=2), r"padding=\(2, 2\)"),
        ("middle_block.0.in_layers.2", nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular"), "circular"),
        ("middle_block.1.attention", nn.Identity(), "a Identity"),
        ("transformer.resblocks.0.mlp", Doubled(nn.Identity()), "Doubled"),
    ],
)
def test_layers_that_fit_but_compute_something_else(path: str, layer: nn.Module, what: str) -> None:
    model = plain_model()
    replace(model, path, layer)
    with pytest.raises(InvalidInputError, match=rf"{what} in {path}"):
        accelerate(model)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("padding_mode", "circular"),
        ("padding", (0, 0)),
        ("dilation", (2, 2)),
        ("stride", (2, 2)),
        ("groups", 2),
    ],
)
def test_a_convolution_that_is_set_otherwise_is_named(
    fast: Accelerated, attribute: str, value: object
) -> None:
    bound, want = bind(fast), predict(fast)
    path = "middle_block.0.in_layers.2"
    layer = fast.get_submodule(path)
    before = getattr(layer, attribute)
    setattr(layer, attribute, value)
    refused_by_name(fast, bound, path)
    with pytest.raises(InvalidInputError, match=rf"got {attribute}=.* instead of .* in {path}"):
        predict(fast)
    setattr(layer, attribute, before)
    assert torch.equal(predict(fast), want)


def test_a_convolution_with_a_conv_forward_of_its_own_is_named(fast: Accelerated) -> None:
    bound = bind(fast)
    layer: Any = fast.get_submodule(LAYERS[0])
    layer._conv_forward = lambda *args: None
    refused_by_name(fast, bound, LAYERS[0])


@pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_hooks_for_all_modules_are_refused(fast: Accelerated, register: str) -> None:
    bound, want = bind(fast), predict(fast)
    handle = getattr(nn.modules.module, register)(lambda *_: None)
    try:
        for call in (lambda: predict(fast), bound.renew, lambda: bind(fast)):
            with pytest.raises(InvalidInputError, match=rf"{register}\).*model\.plain\(\)"):
                call()
        predict(fast.plain())  # type: ignore[operator]
    finally:
        handle.remove()
    assert torch.equal(predict(fast), want)


@pytest.mark.filterwarnings("ignore")  # tracing is on its way out of torch
def test_a_trace_is_refused(fast: Accelerated) -> None:
    given = call_arguments("base")
    with pytest.raises(BackendError, match=r"trace model\.plain\(\)"):
        torch.jit.trace(lambda x: fast(x, TIMES, **given), (states(),), check_trace=False)
