"""An accelerated model in other hands: accelerated again, known by its class, pickled, copied, saved, compiled."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.official import official_twin
from support.small_unets import SIZE, call_arguments, states, tiny_model
from torch import nn

from glide_fast.errors import InvalidInputError
from glide_fast.models.unet import UNetModel
from glide_fast.ops.convolution.packed_weight import PackedWeight
from glide_fast.runtime import accelerate
from glide_fast.runtime.features import ALL
from glide_fast.runtime.model import Accelerated

TIMES = torch.tensor([3, 700])


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Threads only get in each other's way on layers this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def accelerated(kind: str = "base", **options: Any) -> Accelerated:
    fast = accelerate(tiny_model(kind), **({"dtype": "fp32", "image_size": SIZE} | options))
    assert isinstance(fast, Accelerated)
    return fast


def predict(model: Any, kind: str = "base", batch: int = 2) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(states(batch), torch.arange(batch) * 100, **call_arguments(kind, batch))
    return out


# Accelerated again.


def test_an_accelerated_model_is_given_back_itself() -> None:
    fast = accelerated()
    assert accelerate(fast) is fast
    assert accelerate(fast, dtype="fp32", device="cpu", image_size=SIZE, batch=2, features=ALL) is fast


@pytest.mark.parametrize("changes", [{"dtype": "bf16"}, {"batch": 1}, {"image_size": 32}])
def test_or_laid_out_anew_where_it_is_wanted_otherwise(changes: dict[str, Any]) -> None:
    fast = accelerated()
    kept = predict(fast)
    other: Any = accelerate(fast, **changes)
    assert other is not fast and isinstance(other, Accelerated)
    want = accelerated(**changes)
    assert (other.dtype, other.accelerated_for) == (want.dtype, want.accelerated_for)
    assert torch.equal(predict(other), predict(want))
    assert torch.equal(predict(fast), kept)


def test_other_features_lay_it_out_anew() -> None:
    fast = accelerated()
    other: Any = accelerate(fast, features=dataclasses.replace(ALL, packed_weights=False))
    assert not any(isinstance(p, PackedWeight) for p in other.parameters())
    assert accelerate(other) is other, "and are kept"


# Known by its class.


@pytest.mark.parametrize("kind", ["base", "upsampler", "inpaint", "upsampler-inpaint", "no-text"])
def test_an_official_model_stays_one_of_its_class(kind: str) -> None:
    """The official forward raises in this test; so does everything else that is found in the official classes."""
    model = tiny_model(kind, vocab_rows=0)
    theirs = official_twin(model)
    fast = accelerate(theirs, dtype="fp32", image_size=SIZE)
    for official in type(theirs).__mro__:
        assert isinstance(fast, official)
    assert isinstance(fast, UNetModel) and isinstance(fast, Accelerated)
    got, want = predict(fast, kind), predict(model, kind)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)
    fast.convert_to_fp32()
    if hasattr(fast, "del_cache"):
        fast.del_cache()
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), accelerate(fast, batch=1)):
        assert isinstance(twin, type(theirs))
        torch.testing.assert_close(predict(twin, kind), want, rtol=2e-5, atol=2e-5)
    plain = fast.plain()  # type: ignore[operator]
    assert isinstance(model, type(plain)) and torch.equal(predict(plain, kind), want)


# Pickled and copied.


def through_a_file(model: Any, path: Path) -> Any:
    torch.save(model, path)
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["base", "upsampler"])
def test_copies_predict_the_same_and_have_weights_of_their_own(kind: str, dtype: str, tmp_path: Path) -> None:
    fast = accelerated(kind, dtype=dtype)
    want = predict(fast, kind)
    twins = [
        copy.copy(fast),
        copy.deepcopy(fast),
        pickle.loads(pickle.dumps(fast)),
        through_a_file(fast, tmp_path / "model.pt"),
    ]
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    for twin in twins:
        assert type(twin) is type(fast) and not twin.training
        assert (twin.dtype, twin.accelerated_for, twin.features) == (
            fast.dtype,
            fast.accelerated_for,
            fast.features,
        )
        assert torch.equal(predict(twin, kind), want)


def test_a_copy_of_copies_and_of_two_that_are_one() -> None:
    fast = accelerated()
    pair = copy.deepcopy([fast, fast])
    assert pair[0] is pair[1] is not fast
    again = pickle.loads(pickle.dumps(pair))
    assert again[0] is again[1]
    assert torch.equal(predict(again[0]), predict(fast))


def test_copies_keep_the_models_own_hooks() -> None:
    fast = accelerated()
    want = predict(fast)
    fast.register_forward_hook(doubling)
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), accelerate(fast, batch=1)):
        assert torch.equal(predict(twin), want * 2)


def doubling(module: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
    return out * 2


def test_fp16_of_a_gpu_is_restored_on_a_cpu_in_a_type_it_computes() -> None:
    from glide_fast.runtime.accelerate import restored
    from glide_fast.runtime.precision import fastest_dtype

    fast = accelerated()
    _, arguments, _ = fast.__reduce_ex__(4)
    plain, official, _, *rest = arguments
    plain.convert_to_fp16()
    again = restored(plain, official, torch.float16, *rest)
    assert again.dtype == fastest_dtype(torch.device("cpu"))
    torch.testing.assert_close(predict(again), predict(fast), rtol=0.05, atol=0.05)


def test_the_plain_model_holds_nothing_of_the_engine() -> None:
    fast = accelerated()
    plain, model = fast.plain(), tiny_model("base")
    assert vars(plain).keys() == vars(model).keys()
    assert not any(module._state_dict_hooks for module in plain.modules())
    assert all(type(parameter) is nn.Parameter for parameter in plain.parameters())
    buffer = io.BytesIO()
    torch.save(plain.state_dict(), buffer)
    assert buffer.tell() < 1.2 * sum(p.nbytes for p in plain.parameters()) + 10**6


# Saved by safetensors.


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_safetensors_saves_and_loads_it(dtype: str, tmp_path: Path) -> None:
    fast = accelerated(dtype=dtype)
    want = predict(fast)
    safetensors.torch.save_model(fast, str(tmp_path / "model.safetensors"))
    other: Any = accelerate(tiny_model("base", seed=5), dtype=dtype, image_size=SIZE)
    assert not torch.equal(predict(other), want)
    assert safetensors.torch.load_model(other, str(tmp_path / "model.safetensors")) == (set(), [])
    assert torch.equal(predict(other), want)
    plain = tiny_model("base", seed=5)
    safetensors.torch.load_model(plain, str(tmp_path / "model.safetensors"))
    if dtype == "fp32":
        torch.testing.assert_close(predict(plain), want, rtol=2e-5, atol=2e-5)


# Under autocast.


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("base", "fp32"), ("base", "bf16"), ("upsampler-inpaint", "fp32"), ("no-text", "fp32")],
)
def test_autocast_changes_nothing(kind: str, dtype: str) -> None:
    fast, arguments = accelerated(kind, dtype=dtype), call_arguments(kind)
    other = torch.bfloat16 if dtype == "fp32" else torch.float16
    want = predict(fast, kind)
    fast.refresh()
    with torch.autocast("cpu", dtype=other):
        made = accelerated(kind, dtype=dtype)
        assert torch.equal(predict(fast, kind), want)
        text = None
        if "tokens" in arguments:
            tokens, mask = arguments.pop("tokens"), arguments.pop("mask")
            text = fast.encode_text(tokens, mask)
            assert text["xf_out"].dtype == fast.text_dtype
            text = text | {"keys": fast.text_keys(text)}  # type: ignore[assignment]
        bound = fast.bind([900, 3], 2, (3, SIZE, SIZE), text=text, **arguments)
        inputs = bound.empty_inputs(2, (3, SIZE, SIZE)).copy_(states())
        rows = torch.tensor([1, 1])
        with torch.no_grad():
            got = bound(inputs, TIMES, rows).clone()
    with torch.no_grad():
        again = fast.bind([900, 3], 2, (3, SIZE, SIZE), text=text, **arguments)
        assert torch.equal(again(inputs, TIMES, rows), got)
    assert torch.equal(predict(fast, kind), want)
    assert torch.equal(predict(made, kind), want)


# Compiled.


def test_torch_compile_runs_it_as_it_is_and_compiles_nothing_again_and_again() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    fast = accelerated()
    compiled: Any = torch.compile(fast, backend="eager")
    counters.clear()
    assert torch.equal(predict(compiled), predict(fast))
    frames = counters["frames"]["total"]
    assert counters["stats"]["unique_graphs"] == 0
    for batch in (1, 3, 4, 5, 6, 7, 8, 9, 10, 2):
        assert torch.equal(predict(compiled, batch=batch), predict(fast, batch=batch))
    assert counters["frames"]["total"] <= frames + 2
    assert counters["stats"]["unique_graphs"] == 0
    torch._dynamo.reset()
    with torch.no_grad(), pytest.raises(torch._dynamo.exc.Unsupported, match=r"model\.plain\(\)"):
        torch.compile(fast, backend="eager", fullgraph=True)(states(), TIMES, **call_arguments("base"))


def test_a_compiled_function_may_call_it() -> None:
    fast = accelerated()
    arguments = call_arguments("base")

    def step(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = fast(x * 2, TIMES, **arguments)
        return out[:, :3] + 1

    with torch.no_grad():
        want = step(states())
        got = torch.compile(step, backend="eager")(states())
    assert torch.equal(got, want)


def test_accelerating_loads_nothing_that_it_does_not_use() -> None:
    """The compiler takes seconds, distributed tensors one, what downloads and what only CLIP reads some tenths."""
    import subprocess
    import sys

    code = (
        "import sys, torch, glide_fast.pipelines; from glide_fast import accelerate; from glide_fast.models.factory import build;"
        "from support.small_unets import tiny_model, states, call_arguments;"
        "m = accelerate(tiny_model('base'), image_size=16);"
        "m(states(), torch.tensor([1, 2]), **call_arguments('base'));"
        "found = {'torch._dynamo', 'torch.distributed.tensor', 'requests', 'ftfy'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_hooks_of_a_plain_model_are_still_refused() -> None:
    plain = accelerated().plain()
    plain.register_forward_hook(doubling)
    with pytest.raises(InvalidInputError, match="forward hook"):
        accelerate(plain)


class Recorder:
    """Holds the model that it hooks, as feature extractors do."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.calls = 0

    def hook(self, module: nn.Module, args: Any, out: Any) -> None:
        self.calls += 1


def recorder_of(module: nn.Module) -> Any:
    (hook,) = module._forward_hooks.values()
    return hook.__self__  # type: ignore[attr-defined]


def test_a_hook_whose_object_holds_the_model_comes_along() -> None:
    fast: Any = accelerated()
    mine = Recorder(fast)
    fast.register_forward_hook(mine.hook)
    want = predict(fast)
    pair = copy.deepcopy([fast, mine])
    assert recorder_of(pair[0]) is pair[1]
    for twin in (
        pair[0],
        pickle.loads(pickle.dumps(fast)),
        accelerate(fast, batch=1),
        fast.plain(),
    ):
        theirs = recorder_of(twin)
        assert theirs is not mine and theirs.model is twin
        torch.testing.assert_close(predict(twin), want, rtol=2e-5, atol=2e-5)
        assert theirs.calls == 2
    assert mine.calls == 1
    shallow = copy.copy(fast)
    shallow.register_forward_hook(lambda *_: None)
    assert len(fast._forward_hooks) == 1


def test_a_hooked_layer_whose_hook_holds_the_model_comes_along_to_the_plain_model() -> None:
    fast: Any = accelerated()
    fast.middle_block[0].register_forward_hook(Recorder(fast).hook)
    plain = fast.plain()
    predict(plain)
    recorder = recorder_of(plain.middle_block[0])
    assert recorder.model is plain and recorder.calls == 1


def test_the_plain_model_made_in_inference_mode_is_an_ordinary_one() -> None:
    fast: Any = accelerated()
    with torch.inference_mode():
        plain = fast.plain()
    assert not any(tensor.is_inference() for tensor in (*plain.parameters(), *plain.buffers()))
    assert all(parameter.requires_grad for parameter in plain.parameters())
