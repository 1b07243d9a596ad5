"""Which implementation of an op runs, why, and how to force one.

An op owns an :class:`Op` and registers its implementations best first. The facts that a choice rests on (device, type,
layout, whether gradients are wanted, ...) are a hashable value of the op's own type; the choice is the first backend that
has no reason to decline them, and is remembered for each distinct value. A sampling loop makes all choices when it is built
(:func:`glide_fast.ops.dry_run.dry_run`), a model that is called without a loop at the first call.

Forcing: ``GLIDE_FAST_BACKEND=reference`` for every op, ``GLIDE_FAST_BACKEND=group_norm_act=cpu,text_attention=reference``
for some, or :func:`force` in code, which goes before the environment. A forced backend that declines raises instead of
falling back. A name for every op is meant for those that have such a backend: the others keep their own choice.

Measured choices: where a file of plans was measured on this device (:mod:`glide_fast.plans`) and has a row for the call, that
row's backend runs with that row's plan, unless a backend is forced, or the row's declines the call. Calls of an op without
rows are not looked at for it.

The environment is read once for all direct calls of ops (at the first one), once for a model (when it is accelerated) and once
for a loop (when it is bound). A later change of it reaches only models and loops that are built afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch

from glide_fast.errors import BackendError
from glide_fast.ops import plain_tensor
from glide_fast.plans import table
from glide_fast.plans.device import Device
from glide_fast.plans.file import Plan, with_plan
from glide_fast.plans.signature import aligned, shapes, signature
from glide_fast.plans.table import Measured

ENVIRONMENT = "GLIDE_FAST_BACKEND"

Facts = TypeVar("Facts", bound=Hashable)
_ANY = "*"
_CHOICES = 1000
"""Choices that an op remembers; facts hold sizes, and a process that runs for long may see ever new ones."""

Setting = Mapping[str, str]
"""The backend that is forced, by op; ``"*"`` stands for every op that has such a backend."""

_forced: ContextVar[Setting | None] = ContextVar("glide_fast_forced_backends", default=None)
_bound: ContextVar[Setting | None] = ContextVar("glide_fast_bound_backends", default=None)
_environment: Setting | None = None
"""What the environment said at the first call of an op; None before."""


class Arguments(Protocol):
    """The checked arguments of one call of an op, as ``glide_fast.ops.<op>.arguments.Call`` holds them."""

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """Every tensor argument in the order of the op's signature; None for one that is absent."""

    def facts(self) -> Any:
        """What the choice of a backend rests on."""


@dataclass(frozen=True)
class Backend(Generic[Facts]):
    """One implementation of an op.

    ``supports`` gives None or the reason why it cannot serve a call with these facts, ``worth`` None or the reason why a later
    one is the better choice where nobody forces this one; the answers may depend on nothing else that changes while the process
    runs. ``run`` takes the call (:class:`Arguments`) and returns the op's result.

    Attributes:
        plans: every plan that ``run(call, plan=...)`` takes for a call, the best guess first; None for a backend that has none.
        as_measured: None, or why the operands are not held as they were when this backend was measured; a row is not used then.
        plan: the plan that ``run`` is to use; None for its own rule.
        measured: the row of a file that this choice comes from; None for a choice by rules.
    """

    name: str
    supports: Callable[[Facts], str | None]
    worth: Callable[[Facts], str | None]
    run: Callable[..., Any]
    plans: Callable[[Any], Iterable[Plan]] | None = None
    as_measured: Callable[[Facts], str | None] = lambda facts: None
    plan: Plan | None = None
    measured: Measured | None = None

    def declines(self, facts: Facts, forced: str | None) -> str | None:
        """Why it does not run where ``forced`` is forced, or nothing is (None); None where it can."""
        reason = self.supports(facts)
        return reason if reason is not None or forced == self.name else self.worth(facts)


class Verdict(NamedTuple):
    """What became of one backend in a choice: ``reason`` says why it declined, ``chosen`` that it is the one to run."""

    backend: str
    reason: str | None
    chosen: bool


class Explanation(NamedTuple):
    """Every backend of an op, in order of preference; ``str()`` is for people.

    Attributes:
        measured: the row of a file of plans that decided; None where rules did.
        unmeasured: why no row decided; None where one did, where a backend is forced, and where no call was asked about.
    """

    op: str
    forced: str | None
    verdicts: tuple[Verdict, ...]
    measured: Measured | None = None
    unmeasured: str | None = None

    def __str__(self) -> str:
        head = f"{self.op}:" if self.forced is None else f"{self.op} (forced: {self.forced}):"
        lines = [
            f"  {'*' if v.chosen else ' '} {v.backend}: {'can run' if v.reason is None else v.reason}"
            for v in self.verdicts
        ]
        if self.measured is not None:
            lines.append(f"  {in_words(self.measured)}")
        elif self.unmeasured is not None:
            lines.append(f"  not measured: {self.unmeasured}")
        return "\n".join([head, *lines])


def in_words(measured: Measured) -> str:
    """The row behind a choice, such as ``measured: cuda (slab 48), 8.3 us; next triton, 9.1 us (nvidia-h100.json)``."""
    row = measured.row
    second = "" if row.runner_up is None else f"; next {row.runner_up}"
    return f"measured: {row.fastest}{second} ({measured.path.name})"


class Op(Generic[Facts]):
    """The backends of one op, in order of preference.

    Args:
        name: the op's name.
        operator: runs a call (:class:`Arguments`) as one operator of torch, for graphs that torch records; see :meth:`run`.
    """

    def __init__(self, name: str, operator: Callable[[Any], Any] | None = None) -> None:
        if name in _ops:
            raise ValueError(f"an op named {name} exists already")
        self.name = name
        self._operator = operator
        self._backends: list[Backend[Facts]] = []
        self._choices: dict[tuple[Facts, str | None, int], Backend[Facts] | _ByShape] = {}
        _ops[name] = self

    @property
    def names(self) -> tuple[str, ...]:
        """The registered backends, best first."""
        return tuple(backend.name for backend in self._backends)

    def backend(self, name: str) -> Backend[Facts]:
        """The registered backend of this name; BackendError where there is none."""
        for backend in self._backends:
            if backend.name == name:
                return backend
        raise BackendError(f"{self.name} has no backend {name!r}; it has {', '.join(self.names)}")

    def register(
        self,
        name: str,
        run: Callable[..., Any],
        supports: Callable[[Facts], str | None] = lambda facts: None,
        worth: Callable[[Facts], str | None] = lambda facts: None,
        *,
        plain_only: bool = False,
        plans: Callable[[Any], Iterable[Plan]] | None = None,
        as_measured: Callable[[Facts], str | None] = lambda facts: None,
    ) -> None:
        """Add a backend after those already there.

        Args:
            plain_only: it reads tensors by their addresses, or knows no other use of torch's than computing values. It declines
                where the facts' ``unreadable`` gives a reason (:func:`glide_fast.ops.plain_tensor.why_not`).
            plans, as_measured: see :class:`Backend`.
        """
        if name in self.names:
            raise ValueError(f"{self.name} has a backend {name} already")
        if plain_only:
            supports = _plain_only(supports)
        self._backends.append(Backend(name, supports, worth, run, plans, as_measured))
        self._choices.clear()

    def run(self, call: Arguments) -> Any:
        """The result of a call: by the chosen backend, or as one operator where torch records operators instead of running them.

        Raises:
            BackendError: as :meth:`choose`.
        """
        facts = call.facts()
        if facts.unreadable is not None and self._operator and plain_tensor.as_one_node(call.tensors):
            return self._operator(call)
        return self.choose(facts, call).run(call)

    def run_chosen(self, call: Arguments) -> Any:
        """The result of a call by the chosen backend; what the op's operator does once its tensors have values."""
        return self.choose(call.facts(), call).run(call)

    def choose(self, facts: Facts, call: Any = None) -> Backend[Facts]:
        """The backend for calls with these facts; ``call`` (:class:`Arguments`) is for measured choices and :func:`listen`.

        Raises:
            BackendError: one is forced that is unknown or declines, or every backend declines.
            InvalidInputError: ``GLIDE_FAST_PLANS`` names what is no file of plans.
        """
        forced, threads = self.forced(), torch.get_num_threads()  # a file of plans is for a number of threads
        choices = self._choices  # whoever forgets choices replaces them
        try:
            found = choices[facts, forced, threads]
        except KeyError:
            found = self._decide(facts, forced)
            if forced is None and self._may_be_measured(facts):
                found = _ByShape(self, facts, found)
            if len(choices) >= _CHOICES:
                choices.clear()
            choices[facts, forced, threads] = found
        backend: Backend[Facts] = found.of(call) if type(found) is _ByShape else found  # type: ignore[assignment]
        listener = _listener.get()
        if listener is None:
            return backend
        instead = listener(Choice(self, facts, backend, call))
        return instead if isinstance(instead, Backend) else backend

    def explain(self, facts: Facts, call: Any = None) -> Explanation:
        """Each backend and why it declines these facts; of a ``call`` also which row of a file decided, or why none did.

        Never raises for facts that no backend takes.
        """
        forced = self.forced()
        row, unmeasured = (
            (None, None) if call is None or forced is not None else self.measured_choice(facts, call)
        )
        wanted = forced or (None if row is None else row.name)
        verdicts: list[Verdict] = []
        for backend in self._backends:
            # What a measurement says goes before what a rule says of a backend's worth.
            reason = backend.declines(facts, wanted)
            chosen = backend.name == wanted if wanted else not any(v.chosen for v in verdicts)
            verdicts.append(Verdict(backend.name, reason, reason is None and chosen))
        return Explanation(
            self.name, forced, tuple(verdicts), None if row is None else row.measured, unmeasured
        )

    def measured_choice(self, facts: Facts, call: Any) -> tuple[Backend[Facts] | None, str | None]:
        """The backend of the row for a call, with its plan; or None, and why no row decides."""
        reason = _why_unlike_measured(facts)
        if reason is not None:
            return None, reason
        device = Device.of(call.tensors[0].device)
        rows = table.table_of(device)
        found = rows.rows(self.name).get(signature(call)) if rows.rows(self.name) else None
        if found is None:
            return None, rows.why_none(self.name)
        fastest = found.row.fastest
        if fastest.backend not in self.names:
            return None, f"{found.path.name}: there is no backend {fastest.backend} here"
        backend = self.backend(fastest.backend)
        reason = backend.supports(facts) or backend.as_measured(facts)
        if reason is not None:
            return None, f"{found.path.name}: {backend.name} was fastest, and declines here: {reason}"
        if fastest.plan is None:
            return replace(backend, measured=found), None
        if backend.plans is None or not any(_same(fastest.plan, plan) for plan in backend.plans(call)):
            return None, f"{found.path.name}: {backend.name} has no such plan:{with_plan(fastest.plan)}"
        run = partial(backend.run, plan=fastest.plan)
        return replace(backend, run=run, plan=fastest.plan, measured=found), None

    def _may_be_measured(self, facts: Facts) -> bool:
        device = getattr(facts, "device", None)
        if device is None or _why_unlike_measured(facts) is not None:
            return False
        return table.any_rows(self.name, device)

    def forced(self) -> str | None:
        """The backend that code or the environment forces for this op, or None.

        Raises:
            BackendError: one is forced for every op that none of them has.
        """
        code, environment = _forced.get(), _bound.get()
        if environment is None:
            environment = _environment if _environment is not None else _read_once()
        if not code and not environment:
            return None
        for choices in (code or {}, environment):
            own, general = choices.get(self.name), choices.get(_ANY)
            if own is not None:
                return own
            if general in self.names:
                return general
            if general is not None:
                _check_backend(general)
        return None

    def _decide(self, facts: Facts, forced: str | None) -> Backend[Facts]:
        if forced is not None and forced not in self.names:
            raise BackendError(f"{self.name} has no backend {forced!r}; it has {', '.join(self.names)}")
        reasons = []
        for backend in self._backends:
            if forced is not None and backend.name != forced:
                continue
            reason = backend.declines(facts, forced)
            if reason is None:
                return backend
            reasons.append(f"{backend.name}: {reason}")
        if forced is not None:
            raise BackendError(
                f"backend {forced!r} of {self.name} is forced but cannot run: {'; '.join(reasons)}"
            )
        raise BackendError(f"no backend of {self.name} can run: {'; '.join(reasons) or 'none is registered'}")


def _plain_only(supports: Callable[[Facts], str | None]) -> Callable[[Facts], str | None]:
    def check(facts: Facts) -> str | None:
        unreadable: str | None = facts.unreadable  # type: ignore[attr-defined]
        return supports(facts) if unreadable is None else unreadable

    return check


def _why_unlike_measured(facts: Any) -> str | None:
    """Why rows say nothing of calls with these facts, whatever their sizes; None where they may."""
    if getattr(facts, "unreadable", None) is not None:
        return "its tensors are more than their memory"
    if getattr(facts, "gradients", False):
        return "gradients are wanted, and rows are measured without"
    return None


def _same(one: Plan, other: Plan) -> bool:
    """Whether two plans are equal, with values of the same types: True is not 1."""
    return one == other and all(type(one[name]) is type(other[name]) for name in one)


class _ByShape:
    """The choices for calls with the same facts, of an op that has rows: one for each shape and layout."""

    def __init__(self, op: Op[Any], facts: Any, otherwise: Backend[Any]) -> None:
        self._op, self._facts, self._otherwise = op, facts, otherwise
        self._found: dict[Any, Backend[Any]] = {}

    def of(self, call: Any) -> Backend[Any]:
        """The choice for a call; that of the rules where there is none."""
        if call is None:
            return self._otherwise
        key = (call.tensors[0].device, aligned(call), shapes(call))
        try:
            return self._found[key]
        except KeyError:
            backend, _ = self._op.measured_choice(self._facts, call)
            if len(self._found) >= _CHOICES:
                self._found.clear()
            return self._found.setdefault(key, backend or self._otherwise)


@contextmanager
def plans_from(setting: str) -> Iterator[None]:
    """Within the block, in all threads, use the files of plans that ``setting`` names, as GLIDE_FAST_PLANS would.

    For tuning and tests: choices that were made are forgotten when the block begins and when it ends.
    """
    before = table.change_setting(setting)
    _forget_choices()
    try:
        yield
    finally:
        table.change_setting(before)
        _forget_choices()


def _forget_choices() -> None:
    for op in _ops.values():
        op._choices = {}


class Choice(NamedTuple):
    """A call of an op and the backend that was chosen for it; ``backend.run(call)`` makes the call again.

    ``backend.plan`` is the plan that it runs with, and ``backend.measured`` the row of a file that it comes from.
    """

    op: Op[Any]
    facts: Any
    backend: Backend[Any]
    call: Any


Listener = Callable[[Choice], object]
_listener: ContextVar[Listener | None] = ContextVar("glide_fast_listener", default=None)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Within the block, tell ``listener`` of every call of an op before it runs, in place of outer blocks' listeners.

    A listener may return a :class:`Backend` to be run instead of the chosen one: the same with a clock around it, say.
    Calls that a captured graph replays, or that torch.compile has taken apart, are not calls of an op any more.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


_ops: dict[str, Op[Any]] = {}


def ops() -> Mapping[str, Op[Any]]:
    """Every op by name."""
    return dict(_ops)


def named(op: str) -> Op[Any]:
    """The op of this name.

    Raises:
        BackendError: there is none.
    """
    _check_ops((op,))
    return _ops[op]


def read_environment() -> Setting:
    """What GLIDE_FAST_BACKEND says now, for :func:`bound`; empty where it is not set.

    Raises:
        BackendError: it names an op that does not exist, or is not written as it should be.
    """
    return _parse(os.environ.get(ENVIRONMENT, ""))


def _read_once() -> Setting:
    """The environment for calls outside of :func:`bound`, read at the first of them."""
    global _environment
    _environment = read_environment()
    return _environment


@contextmanager
def bound(setting: Setting) -> Iterator[None]:
    """Within the block, ``setting`` (of :func:`read_environment`) holds in place of the environment; :func:`force` goes first.

    A model and a loop are built with the setting of that time, and run in such a block: their backends stay the same.
    """
    token = _bound.set(setting)
    try:
        yield
    finally:
        _bound.reset(token)


@contextmanager
def force(backend: str | None = None, **by_op: str) -> Iterator[None]:
    """Within the block, run ``backend`` for every op that has it, or ``op="backend"`` for some; inner blocks go first.

    Raises:
        BackendError: an op of that name does not exist. (That a backend cannot run is raised where the op is called.)
    """
    _check_ops(by_op)
    outer = {} if backend is not None else _forced.get() or {}
    token = _forced.set({**outer, **({} if backend is None else {_ANY: backend}), **by_op})
    try:
        yield
    finally:
        _forced.reset(token)


def _parse(setting: str) -> Setting:
    """``"reference"`` or ``"op=backend,op=backend"``, as in GLIDE_FAST_BACKEND."""
    choices: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in setting.split(","))):
        op, equals, backend = (piece.strip() for piece in part.partition("="))
        if equals and not (op and backend):
            raise BackendError(
                f"{ENVIRONMENT}: got {part!r}; accepted: a backend, or op=backend, separated by commas"
            )
        choices[op if equals else _ANY] = backend if equals else op
    _check_ops(op for op in choices if op != _ANY)
    return choices


def _check_backend(name: str) -> None:
    known = {backend for op in _ops.values() for backend in op.names}
    if name not in known:
        raise BackendError(f"no op has a backend {name!r}; there are {', '.join(sorted(known))}")


def _check_ops(names: Any) -> None:
    unknown = [name for name in names if name not in _ops]
    if unknown:
        raise BackendError(f"no op is named {', '.join(unknown)}; the ops are {', '.join(sorted(_ops))}")
