"""Explaining which backend runs each op, and why: in one step, and in the work before the loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch

from glide_fast.models.conditioning import WiderInput
from glide_fast.ops import arena, backends, guided_step
from glide_fast.ops.backends import Choice, in_words, listen
from glide_fast.ops.described import described, first_tensor
from glide_fast.ops.guided_step import Column, Step
from glide_fast.plans import table
from glide_fast.plans.device import Device
from glide_fast.runtime.engine import Engine

BEFORE, EACH = "before the loop", "each step"


class Row(NamedTuple):
    """Calls of one op with the same shapes, type and backend."""

    when: str  # BEFORE or EACH
    op: str
    shape: str
    dtype: str
    backend: str
    why: str
    calls: int


@dataclass(frozen=True)
class Explained:
    """The rows in the order of the calls, those of one op together; ``str()`` is a table for people."""

    rows: tuple[Row, ...]
    head: str
    memory: str
    """Where the tensors of a step are allocated, in words."""
    plans: tuple[str, ...] = ()
    """The files of measured plans for the device, and which of their rows are used; or why there is none."""

    def __str__(self) -> str:
        lines = [self.head, f"A step's tensors: {self.memory}"]
        lines += [f"Measured plans: {words}" for words in self.plans]
        for when, part in groupby(self.rows, lambda row: row.when):
            lines += ["", f"{when[0].upper()}{when[1:]}"]
            for (op, backend, why), group in groupby(part, lambda row: (row.op, row.backend, row.why)):
                members = list(group)
                lines.append(f"  {op}: {backend}, {sum(row.calls for row in members)} calls ({why})")
                lines += [f"    {row.calls:4} x  {row.dtype:9} {row.shape}" for row in members]
        return "\n".join(lines)


class Calls:
    """Counts the calls of ops."""

    def __init__(self) -> None:
        self._counts: Counter[Row] = Counter()

    @contextmanager
    def during(self, when: str) -> Iterator[None]:
        """A block that counts the calls within it under ``when``."""
        with listen(lambda choice: self._count(when, choice)):
            yield

    def _count(self, when: str, choice: Choice) -> None:
        dtype = str(first_tensor(choice).dtype).removeprefix("torch.")
        row = Row(when, choice.op.name, described(choice), dtype, choice.backend.name, why(choice), 0)
        self._counts[row] += 1

    def rows(self) -> tuple[Row, ...]:
        """The counted calls, those before the loop first; calls of one op, backend and reason are neighbours."""
        rows = [row._replace(calls=calls) for row, calls in self._counts.items()]
        positions: dict[tuple[str, ...], int] = {}
        for row in rows:
            positions.setdefault((row.when, row.op, row.backend, row.why), len(positions))
        return tuple(
            sorted(
                rows, key=lambda row: (row.when != BEFORE, positions[row.when, row.op, row.backend, row.why])
            )
        )


def why(choice: Choice) -> str:
    """Why this backend runs: it was measured to be the fastest, or the reasons of the preferred backends that cannot."""
    if choice.op.forced() is not None:
        return "forced"
    if choice.backend.measured is not None:
        return in_words(choice.backend.measured)
    reasons = []
    for verdict in choice.op.explain(choice.facts).verdicts:
        if verdict.chosen:
            break
        reasons.append(f"{verdict.backend}: {verdict.reason}")
    return "; ".join(reasons) or "first choice"


def explain(model: Engine, batch: int | None = None) -> Explained:
    """Run one step of ``model`` on arbitrary values and return which backend ran each op, and why.

    Args:
        batch: rows of the network's call; None is the batch that the weights are laid out for.

    Returns:
        :class:`Explained`; ``str()`` of it is a table, ``rows`` the same for programs.
    """
    laid_out_for, size = model.accelerated_for
    batch = batch or laid_out_for
    device = next(model.parameters()).device
    calls = Calls()
    channels = model.out_channels // 2
    shape = (channels, size, size)
    conditioning: dict[str, Any] = _pictures(model, batch, shape, device)
    with torch.inference_mode():
        with calls.during(BEFORE):
            if getattr(model, "xf_width", 0):
                # New tensors: for those of an earlier call the model would remember the result and run nothing.
                tokens = torch.zeros(batch, model.text_ctx, dtype=torch.long, device=device)
                conditioning["text"] = model.encode_text(tokens, torch.ones_like(tokens, dtype=torch.bool))
            bound = model.bind([0], batch, shape, **conditioning)
        inputs = bound.empty_inputs(batch, shape).zero_()
        rows = torch.zeros(batch, dtype=torch.long, device=device)
        with calls.during(EACH):
            out = bound(inputs, rows, rows)
            with backends.bound(bound.forced_backends):
                _update(out, inputs, batch, guided="low_res" not in conditioning and batch % 2 == 0)
    dtype = str(model.dtype).removeprefix("torch.")
    head = f"{type(model).__name__}, {batch} x {size} px, {dtype} on {device}"
    return Explained(calls.rows(), head, _memory(model, device), table.table_of(Device.of(device)).in_words())


def _memory(model: Engine, device: torch.device) -> str:
    if device.type != "cpu":
        return "torch's memory, or a captured loop's own"
    missing = arena.why_missing() if model.features.arena else "the model was made without it"
    if missing is not None:
        return f"the C library's, asked for at each step (no memory that steps use again: {missing})"
    return f"in {arena.state().held / 2**20:.0f} MiB that all steps of all models in this process share"


def _pictures(model: Engine, batch: int, shape: tuple[int, int, int], device: torch.device) -> dict[str, Any]:
    channels, size, _ = shape
    pictures: dict[str, Any] = {}
    for name in model.picture_names if isinstance(model, WiderInput) else ():
        of_mask, of_low_res = name.endswith("mask"), name == "low_res"
        side = max(1, size // 4) if of_low_res else size
        pictures[name] = torch.zeros(batch, 1 if of_mask else channels, side, side, device=device)
    return pictures


def _update(out: torch.Tensor, inputs: torch.Tensor, batch: int, *, guided: bool) -> None:
    """Run the part of a step that follows the network's prediction."""
    count = batch // 2 if guided else batch
    state = torch.zeros(count, out.shape[1] // 2, *out.shape[2:], device=out.device)
    positions = torch.zeros(count, dtype=torch.long, device=out.device)
    guided_step(
        state,
        out,
        torch.zeros(1, Column.COUNT, device=out.device),
        positions,
        seeds=positions,
        guidance_scale=torch.ones(1, device=out.device) if guided else None,
        inputs=inputs,
        out=Step.like(state, None),
    )
