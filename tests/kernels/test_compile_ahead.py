"""What is compiled ahead is what the same calls, made for real, would compile."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from glide_fast.kernels import compile_ahead
from glide_fast.kernels.compile_ahead import H100, Compiled, Configuration, launched, recording
from triton.runtime import driver

from glide_fast.ops.case import fake_calls
from glide_fast.ops.resample import triton as resample
from glide_fast.ops.text_attention import triton as text_attention
from glide_fast.ops.text_attention.arguments import Call
from glide_fast.runtime.features import Features


def names(found: list[Configuration]) -> dict[str, int]:
    kernels = [one.kernel for one in found]
    return {kernel: kernels.count(kernel) for kernel in kernels}


def test_one_prompt_wants_few_kernels_and_every_batch_more() -> None:
    one = launched(["text_attention", "resample"], torch.float16, H100)
    every = launched(["text_attention"], torch.float16, H100, every_batch=True)
    # Attention with and without text; each way of resizing, with and without what is added on the way.
    assert names(one) == {"attend": 2, "resize": 4}
    assert names(every)["attend"] > names(one)["attend"]


def test_a_call_with_memory_would_compile_the_same() -> None:
    """Whose tensors lie at addresses that divide by 16, as torch's do."""
    call = min(fake_calls("text_attention", torch.float16, "cuda"), key=lambda call: call.qkv.numel())
    assert call.encoder_kv is not None
    qkv, text = (torch.zeros(t.shape[::2] + t.shape[1:2], dtype=t.dtype) for t in (call.qkv, call.encoder_kv))
    picture = torch.zeros(2, 192, 64, 64, dtype=torch.float16).to(memory_format=torch.channels_last)
    with recording(H100) as found:
        text_attention.run(Call(qkv.transpose(1, 2), call.heads, text.transpose(1, 2)))
        resample.run(resample.Call(picture, "nearest_x2"))
    assert len(found) == 2
    # On the CPU no kernel is launched early, which is all that may differ.
    ahead = {
        _without_early_launch(one) for one in launched(["text_attention", "resample"], torch.float16, H100)
    }
    assert {_without_early_launch(one) for one in found} <= ahead


def _without_early_launch(one: Configuration) -> Configuration:
    data = one.data.replace('"launch_pdl": true', '"launch_pdl": false')
    return one._replace(data=data[: data.index('"key"')].replace("true", "false"))


@pytest.mark.parametrize("feature", [True, False])
def test_kernels_are_launched_early_where_the_target_can_and_a_model_does(
    feature: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_ahead, "ALL", Features(dependent_launch=feature))
    for arch, early in ((80, False), (90, feature)):
        found = launched(["resample"], torch.float16, H100 | {"arch": arch})
        assert {'"launch_pdl": true' in one.data for one in found} == {early}
        assert all(f'"arch": {arch}' in one.target for one in found)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is compiled but what is broken, and no process is started; test_kernel_recorder.py has both."""
    before = driver._active

    def compile_all(found: list[Configuration]) -> Iterator[Compiled]:
        for one in found:
            yield compile_ahead._compile(one) if one.kernel == "no_such_kernel" else Compiled(one)

    monkeypatch.setattr(compile_ahead, "compile_all", compile_all)
    yield
    driver.set_active(before)


@pytest.mark.usefixtures("one_process")
def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert compile_ahead.main(["--arch", "90", "--op", "resample", "--dtype", "bf16"]) == 0
    assert capsys.readouterr().out == "4 of 4 configurations for sm_90 are on the disk\n"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, reason in (
        (["--arch", "90", "--op", "resampel"], "got resampel; accepted: "),
        ([], "torch finds no CUDA device"),
    ):
        with pytest.raises(SystemExit):
            compile_ahead.main(arguments)
        assert reason in capsys.readouterr().err


@pytest.mark.usefixtures("one_process")
def test_what_does_not_compile_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Configuration("glide_fast.kernels.resample", "no_such_kernel", "{}", json.dumps(H100))
    monkeypatch.setattr(compile_ahead, "launched", lambda *arguments, **options: [broken])
    assert compile_ahead.main(["--arch", "90"]) == 1
    captured = capsys.readouterr()
    assert "no_such_kernel does not compile: AttributeError" in captured.err
    assert captured.out.startswith("0 of 1 ")
