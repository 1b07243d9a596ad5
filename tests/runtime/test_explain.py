"""What a model says about the backends of its ops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.small_unets import SIZE, tiny_model

from glide_fast.ops import backends
from glide_fast.ops.backends import Choice, force, listen, ops
from glide_fast.runtime import accelerate
from glide_fast.runtime.explain import BEFORE, EACH
from glide_fast.runtime.model import Accelerated


def accelerated(kind: str = "base") -> Accelerated:
    model = accelerate(tiny_model(kind), dtype="fp32", image_size=SIZE)
    assert isinstance(model, Accelerated)
    return model


def test_every_kind_of_model_explains_itself(kind: str) -> None:
    explained = accelerated(kind).explain()
    each = [row for row in explained.rows if row.when == EACH]
    assert {"convolution", "group_norm_act", "text_attention", "guided_step"} <= {row.op for row in each}
    assert any(row.when == BEFORE for row in explained.rows) is (kind != "no-text")
    assert all(row.backend in ops()[row.op].names and row.calls > 0 for row in explained.rows)


def test_the_calls_are_those_of_a_step() -> None:
    model = accelerated()
    told: list[Choice] = []
    states = torch.zeros(2, 3, SIZE, SIZE)
    tokens = torch.zeros(2, 8, dtype=torch.long)
    with listen(told.append), torch.no_grad():
        text = model.encode_text(tokens, tokens == 0)
        model(states, torch.tensor([1, 1]), text=text)
    explained = model.explain(batch=2)
    assert sum(row.calls for row in explained.rows) == len(told) + 1  # the guided step


def test_it_tells_why_the_better_ones_declined() -> None:
    rows = accelerated().explain().rows
    attention = next(row for row in rows if row.op == "text_attention")
    assert "triton: the tensors are on cpu" in attention.why
    with force(group_norm_act="reference"):
        rows = accelerated().explain().rows
    norms = [row for row in rows if row.op == "group_norm_act"]
    assert {(row.backend, row.why) for row in norms} == {("reference", "forced")}


def test_every_row_is_of_the_environment_when_the_loop_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_environment", {})  # as after the first call of an op
    monkeypatch.setenv(backends.ENVIRONMENT, "reference")
    rows = accelerated().explain().rows
    assert {row.backend for row in rows if row.op == "guided_step"} == {"reference"}
    assert {row.backend for row in rows} == {"reference"}


def test_backends_are_those_of_the_environment_when_a_model_or_a_loop_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states, tokens = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, 8, dtype=torch.long)
    first, rows = torch.tensor([1]), torch.zeros(1, dtype=torch.long)

    def ran_on(op: str, run: Callable[[], object]) -> set[str]:
        ran: list[Choice] = []
        with listen(ran.append), torch.inference_mode():
            run()
        return {choice.backend.name for choice in ran if choice.op.name == op}

    def norms(run: Callable[[], object]) -> set[str]:
        return ran_on("group_norm_act", run)

    monkeypatch.setenv(backends.ENVIRONMENT, "reference")
    model = accelerated()
    with torch.inference_mode():
        text = model.encode_text(tokens, tokens == 0)
        bound = model.bind([1], 1, (3, SIZE, SIZE), text=text)
    inputs = bound.empty_inputs(1, (3, SIZE, SIZE)).zero_()
    monkeypatch.delenv(backends.ENVIRONMENT)
    assert norms(lambda: model(states, first, text=text)) == {"reference"}
    assert ran_on("text_attention", lambda: model.encode_text(tokens + 1, tokens == 0)) == {"reference"}
    assert norms(lambda: bound(inputs, rows, rows)) == {"reference"}
    with torch.inference_mode():
        later = model.bind([1], 1, (3, SIZE, SIZE), text=text)
    best = norms(lambda: later(inputs, rows, rows))
    assert best == norms(lambda: accelerated()(states, first, text=text)) != {"reference"}
    with force(group_norm_act="reference"):
        assert norms(lambda: later(inputs, rows, rows)) == {"reference"}


@pytest.mark.parametrize("batch", [1, 4])
def test_the_table_names_batch_and_shapes(batch: int) -> None:
    text = str(accelerated().explain(batch))
    assert text.startswith(f"AcceleratedText2ImUNet, {batch} x {SIZE} px, float32 on cpu")
    assert f"{batch}x3x{SIZE}x{SIZE} to 16, 3x3 + bias" in text
    assert ("+ guidance" in text) is (batch == 4)
