"""The choice of a backend: preference, reasons, forcing."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from glide_fast.errors import BackendError
from glide_fast.ops import backends, plain_tensor
from glide_fast.ops.backends import Backend, Choice, Op, bound, force, listen, read_environment

asked: list[int] = []


def fast_supports(width: int) -> str | None:
    asked.append(width)
    return None if width % 8 == 0 else f"width {width} is no multiple of 8"


@pytest.fixture
def op(monkeypatch: pytest.MonkeyPatch) -> Op[int]:
    """An op on one fact, a width, whose first backend wants a multiple of 8."""
    monkeypatch.setattr(backends, "_ops", {})
    monkeypatch.delenv(backends.ENVIRONMENT, raising=False)
    monkeypatch.setattr(backends, "_environment", None)
    asked.clear()
    op: Op[int] = Op("double")
    op.register("fast", lambda x: ("fast", 2 * x), fast_supports)
    op.register("reference", lambda x: ("reference", 2 * x))
    return op


def test_the_first_backend_without_a_reason_runs(op: Op[int]) -> None:
    assert op.choose(16).run(3) == ("fast", 6)
    assert op.choose(9).run(3) == ("reference", 6)
    assert op.names == ("fast", "reference")


def test_a_choice_is_made_once_for_the_same_facts(op: Op[int]) -> None:
    for _ in range(5):
        op.choose(16)
        op.choose(9)
    assert sorted(asked) == [9, 16]


def test_choices_of_ever_new_facts_do_not_pile_up(op: Op[int]) -> None:
    assert {op.choose(width).name for width in range(2500)} <= set(op.names)
    assert len(op._choices) <= 1000


def test_a_later_registration_is_seen(op: Op[int]) -> None:
    late: Op[int] = Op("late")
    with pytest.raises(BackendError, match="none is registered"):
        late.choose(1)
    late.register("only", lambda: None)
    assert late.choose(1).name == "only"


def test_explain_names_every_backend_and_why(op: Op[int]) -> None:
    explanation = op.explain(9)
    assert [(v.backend, v.chosen) for v in explanation.verdicts] == [("fast", False), ("reference", True)]
    assert explanation.verdicts[0].reason == "width 9 is no multiple of 8"
    assert str(explanation).splitlines() == [
        "double:",
        "    fast: width 9 is no multiple of 8",
        "  * reference: can run",
    ]
    with force("fast"):
        forced = op.explain(9)
    assert forced.forced == "fast" and not any(v.chosen for v in forced.verdicts)


@pytest.mark.parametrize("setting", ["reference", "double=reference", " double = reference , "])
def test_the_environment_forces(op: Op[int], monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT, setting)
    assert op.choose(16).name == "reference"


def test_the_environment_is_read_at_the_first_call_and_where_something_is_bound(
    op: Op[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT, "reference")
    assert op.choose(16).name == "reference"
    reference = read_environment()
    monkeypatch.setenv(backends.ENVIRONMENT, "fast")
    assert op.choose(16).name == "reference"
    with bound(read_environment()):
        assert op.choose(16).name == "fast"
        with bound(reference):
            assert op.choose(16).name == "reference"
            with force("fast"):
                assert op.choose(16).name == "fast"
        assert op.choose(16).name == "fast" and op.explain(16).forced == "fast"
    assert op.choose(16).name == "reference"


def test_nothing_reads_the_environment_after_the_first_call(
    op: Op[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    op.choose(16)
    monkeypatch.setattr(backends, "os", None)
    assert op.choose(16).name == "fast" and op.choose(9).name == "reference"


def test_a_setting_that_cannot_be_read_is_told_at_every_call(
    op: Op[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT, "triple=fast")
    for _ in range(2):
        with pytest.raises(BackendError, match="no op is named triple"):
            op.choose(16)
    with pytest.raises(BackendError, match="no op is named triple"):
        read_environment()


class OneTensor(NamedTuple):
    """A call of an op whose only argument is a tensor."""

    x: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        return (self.x,)

    class Facts(NamedTuple):
        unreadable: str | None

    def facts(self) -> Facts:
        return self.Facts(plain_tensor.why_not(("x",), self.tensors))


def test_a_call_runs_by_its_backend_or_where_torch_records_as_one_operator(op: Op[int]) -> None:
    recorded: Op[OneTensor.Facts] = Op("recorded", operator=lambda call: ("operator", call))
    recorded.register("only", lambda call: ("only", call))
    alone: Op[OneTensor.Facts] = Op("alone")
    alone.register("only", lambda call: ("only", call))
    call = OneTensor(torch.ones(2))
    assert recorded.run(call) == ("only", call) == recorded.run_chosen(call)
    with FakeTensorMode():
        assert recorded.run(call) == ("operator", call)
        assert alone.run(call) == ("only", call) == recorded.run_chosen(call)
    assert backends.named("recorded") is recorded
    with pytest.raises(BackendError, match="no op is named triple"):
        backends.named("triple")


def test_force_goes_before_the_environment_and_inner_before_outer(
    op: Op[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT, "double=reference")
    with force("fast"):
        assert op.choose(16).name == "fast"
        with force(double="reference"):
            assert op.choose(16).name == "reference"
            with force("fast"):
                assert op.choose(16).name == "fast"
        assert op.choose(16).name == "fast"
    assert op.choose(16).name == "reference"


def test_force_ends_with_an_exception(op: Op[int]) -> None:
    with pytest.raises(ZeroDivisionError), force("reference"):
        raise ZeroDivisionError
    assert op.choose(16).name == "fast"


def test_a_forced_backend_that_declines_raises_its_reason(op: Op[int]) -> None:
    with force("fast"), pytest.raises(BackendError, match=r"'fast' of double .* width 9 is no multiple of 8"):
        op.choose(9)
    assert op.choose(9).name == "reference"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("slow", "no op has a backend 'slow'; there are fast, reference"),
        ("double=slow", "double has no backend 'slow'; it has fast, reference"),
        ("triple=fast", "no op is named triple; the ops are double"),
        ("double=", "got 'double='; accepted: a backend, or op=backend"),
        ("=fast", "got '=fast'"),
    ],
)
def test_settings_that_name_nothing(
    op: Op[int], monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT, setting)
    with pytest.raises(BackendError, match=message):
        op.choose(16)


def test_a_name_for_every_op_leaves_alone_those_that_have_no_such_backend(
    op: Op[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    other: Op[int] = Op("other")
    other.register("slow", print)
    other.register("reference", print)
    monkeypatch.setenv(backends.ENVIRONMENT, "slow")
    assert op.choose(16).name == "fast" and op.explain(16).forced is None
    assert other.choose(16).name == "slow"
    with force("fast"):
        assert op.choose(16).name == "fast" and other.choose(16).name == "slow"
        with pytest.raises(BackendError, match="no multiple of 8"):
            op.choose(9)
    with force("fastest"), pytest.raises(BackendError, match="no op has a backend 'fastest'"):
        other.choose(16)


def test_a_backend_that_is_not_worth_it_runs_where_it_is_forced(op: Op[int]) -> None:
    picky: Op[int] = Op("picky")
    picky.register("odd", print, fast_supports, lambda width: "16 is a bad size" if width == 16 else None)
    picky.register("reference", print)
    assert [picky.choose(width).name for width in (8, 9, 16)] == ["odd", "reference", "reference"]
    assert picky.explain(16).verdicts[0].reason == "16 is a bad size"
    with force("odd"):
        assert picky.choose(16).name == "odd" and picky.explain(16).verdicts[0].reason is None
        with pytest.raises(BackendError, match="no multiple of 8"):
            picky.choose(9)


def test_names_are_unique(op: Op[int]) -> None:
    with pytest.raises(ValueError, match="an op named double"):
        Op("double")
    with pytest.raises(ValueError, match="a backend fast already"):
        op.register("fast", print)
    with pytest.raises(BackendError, match="no op is named triple"), force(triple="fast"):
        raise AssertionError("the block must not run")


def test_when_every_backend_declines_all_reasons_are_given() -> None:
    op: Op[int] = Op("picky")
    try:
        op.register("a", print, lambda facts: "too cold")
        op.register("b", print, lambda facts: "too hot")
        with pytest.raises(BackendError, match="no backend of picky can run: a: too cold; b: too hot"):
            op.choose(1)
    finally:
        del backends._ops["picky"]


def test_a_listener_is_told_of_every_call(op: Op[int]) -> None:
    told: list[Choice] = []
    with listen(told.append):
        for width in (16, 16, 9):
            op.choose(width, 3)
    op.choose(16, 4)
    assert [(c.op, c.facts, c.backend.name, c.call) for c in told] == [
        (op, 16, "fast", 3),
        (op, 16, "fast", 3),
        (op, 9, "reference", 3),
    ]
    assert told[0].backend.run(told[0].call) == ("fast", 6)


def test_a_listener_may_put_another_backend_in_place(op: Op[int]) -> None:
    def timed(choice: Choice) -> Backend[int]:
        return dataclasses.replace(choice.backend, run=lambda x: ("timed", *choice.backend.run(x)))

    with listen(timed):
        assert op.choose(16).run(3) == ("timed", "fast", 6)
    assert op.choose(16).run(3) == ("fast", 6)
