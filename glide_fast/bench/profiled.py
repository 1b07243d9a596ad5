"""Where the time of a step goes: the time of its op calls, and the time that they would take at the device's measured limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from glide_fast.bench import ceilings, contestants
from glide_fast.bench.cost import Cost, cost, linear
from glide_fast.bench.measurement import quantity
from glide_fast.bench.parts.step import OneStep
from glide_fast.bench.record import Row
from glide_fast.bench.settings import Settings
from glide_fast.bench.subject import Subject
from glide_fast.bench.timing import Effort, interleaved
from glide_fast.bench.trace import NOTHING_ELSEWHERE, PREFIX, STEP, Elsewhere, Kernel, Trace
from glide_fast.bench.work import Work
from glide_fast.errors import BackendError
from glide_fast.ops.backends import Backend, Choice, listen
from glide_fast.ops.described import described, first_tensor

_EFFORT = Effort(warm=1, samples=5, sample_seconds=1e-3, seconds=5, least=3)
COPY_MEGABYTES = 256
"""The size of the copy that measures bandwidth; larger than any cache."""
GAP = 0.03
"""On a GPU the sum of the parts may differ from the step's time by this fraction of it; beyond, there is a warning."""


@dataclass(frozen=True)
class Item:
    """All calls in a step of one op with the same shapes, type and backend.

    Attributes:
        seconds: the time of these calls in one step; on a GPU that of the device.
        cost: the least cost of these calls in one step.
        least: the seconds that this cost takes at the device's measured limits.
    """

    op: str
    backend: str
    shape: str
    dtype: torch.dtype
    calls: int
    cost: Cost
    seconds: float = 0.0
    least: float = 0.0

    def divided(self, steps: int) -> Item:
        """The item of one step, from that of ``steps`` equal steps."""
        spent = Cost(self.cost.bytes // steps, self.cost.flops // steps)
        return replace(self, calls=self.calls // steps, cost=spent)


class Limits(NamedTuple):
    """The device's best rates, measured in this run."""

    bandwidth: float  # bytes a second, of a copy
    peaks: dict[torch.dtype, float]  # FLOPs a second, of the best matrix product

    def seconds(self, spent: Cost, dtype: torch.dtype) -> float:
        """The least time for this cost."""
        return spent.seconds(self.bandwidth, self.peaks.get(dtype, self.peaks[torch.float32]))


@dataclass(frozen=True)
class Profile:
    """The time of a step by op calls; ``str()`` is a table, :meth:`rows` the same for a CSV.

    Attributes:
        step: seconds of the whole step, as it runs outside the profiler (replayed, on a GPU).
        profiled: seconds of the step under the profiler; on a GPU the sum of all that it ran.
        items: by time, longest first.
        kernels: the kernels of a step on a GPU, longest first.
        unlaunched: seconds of kernels on a GPU whose launch the profiler missed, so that they belong to no op.
        elsewhere: kernels that a GPU ran in a step for other threads of the process; not part of ``profiled``.
    """

    title: str
    step: float
    profiled: float
    limits: Limits
    items: tuple[Item, ...]
    kernels: tuple[Kernel, ...] = ()
    unlaunched: float = 0.0
    elsewhere: Elsewhere = NOTHING_ELSEWHERE

    @property
    def gap(self) -> float | None:
        """The excess of the parts' sum over the step's time, as a fraction of it. None on a CPU, which the profiler slows."""
        return self.profiled / self.step - 1 if self.kernels else None

    @property
    def warning(self) -> str:
        """Reasons not to rely on these times; "" if there are none."""
        warnings = []
        if self.gap is not None and self.gap > GAP:
            warnings.append(
                f"the parts add up to {self.gap:.1%} more than the step takes without the profiler (it slows kernels, or some "
                "ran side by side)"
            )
        elif self.gap is not None and self.gap < -GAP:
            warnings.append(
                f"the parts add up to {-self.gap:.1%} less than the step takes without the profiler ({self._with_elsewhere}the "
                "device waited between kernels, or the profiler missed some)"
            )
        if self.unlaunched:
            warnings.append(
                f"{quantity(self.unlaunched, 's')} of kernels whose launch the profiler missed are in everything else"
            )
        return "; ".join(warnings)

    @property
    def _with_elsewhere(self) -> str:
        """The gap, in words, with the kernels of other threads added to the parts, since they take the device's time as well."""
        if not self.elsewhere.launches:
            return ""
        gap = (self.profiled + self.elsewhere.seconds) / self.step - 1
        more = "more" if gap > 0 else "less"
        seconds = quantity(self.elsewhere.seconds, "s")
        return f"{abs(gap):.1%} {more} with the {seconds} of other threads' kernels; "

    @property
    def least(self) -> float:
        """Seconds of the step if every op ran at the device's limits and nothing else took time."""
        return sum(item.least for item in self.items)

    @property
    def whole(self) -> float:
        """Seconds that shares refer to: on a GPU of all that it ran; on a CPU of the step without the profiler, which slows it.

        Where the parts took longer than that step, they are the whole.
        """
        return self.profiled if self.kernels else max(self.step, sum(item.seconds for item in self.items))

    @property
    def other(self) -> float:
        """Seconds of the step that no op accounts for: copies, lookups, and on a CPU Python."""
        return max(0.0, self.whole - sum(item.seconds for item in self.items))

    def rows(self) -> list[Row]:
        """One row an item."""
        return [
            {
                "model": self.title,
                "op": item.op,
                "backend": item.backend,
                "shape": item.shape,
                "dtype": str(item.dtype).removeprefix("torch."),
                "calls": str(item.calls),
                "seconds": f"{item.seconds:.6g}",
                "share": f"{item.seconds / self.whole:.4f}",
                "bytes": str(item.cost.bytes),
                "flops": str(item.cost.flops),
                "least_seconds": f"{item.least:.6g}",
                "of_ceiling": f"{item.least / item.seconds:.4f}" if item.seconds else "",
                "step_seconds": f"{self.step:.6g}",
                "profiled_seconds": f"{self.profiled:.6g}",
                "gap": "" if self.gap is None else f"{self.gap:.4f}",
                "elsewhere_launches": str(self.elsewhere.launches),
                "elsewhere_seconds": f"{self.elsewhere.seconds:.6g}",
                "warning": self.warning,
            }
            for item in self.items
        ]

    def __str__(self) -> str:
        return self.table()

    def table(self, most: int = 25) -> str:
        """A table for people: the ``most`` longest items, then the sum of each op, then the step."""
        peaks = ", ".join(
            f"{rate / 1e12:.3g} TFLOP/s {str(dtype).removeprefix('torch.')}"
            for dtype, rate in self.limits.peaks.items()
        )
        lines = [
            f"{self.title}: {quantity(self.step, 's')} a step, {quantity(self.profiled, 's')} under the profiler",
            *([f"WARNING: {self.warning}"] if self.warning else []),
            f"measured ceilings: copy {self.limits.bandwidth / 1e9:.3g} GB/s, matrix products {peaks}",
            "",
            f"{'time':>9} {'share':>6} {'calls':>5} {'MB':>8} {'GFLOP':>8} {'ceiling':>7}  op",
        ]
        lines += [self._line(item, f"{item.op} [{item.backend}] {item.shape}") for item in self.items[:most]]
        if len(self.items) > most:
            lines.append(f"{'':>9} and {len(self.items) - most} more")
        lines.append("")
        lines += [self._line(item, item.op) for item in self._by_op()]
        lines.append(f"{self._time(self.other)} {self.other / self.whole:6.1%} {'':31}  everything else")
        if self.elsewhere.launches:
            launches = f"{self.elsewhere.launches} launch{'es' if self.elsewhere.launches > 1 else ''}"
            lines.append(
                f"{self._time(self.elsewhere.seconds)} {'':38}  elsewhere: {launches} of other threads, in no sum above"
            )
        lines.append("")
        lines.append(
            f"at the ceilings this step would take {quantity(self.least, 's')}: it runs at {self.least / self.step:.0%} of them"
        )
        if self.kernels:
            lines += ["", f"{'time':>9} {'calls':>5}  kernel"]
            lines += [f"{self._time(s)} {calls:5}  {name[:90]}" for name, calls, s in self.kernels[:most]]
        return "\n".join(lines)

    @staticmethod
    def _time(seconds: float) -> str:
        return f"{quantity(seconds, 's'):>9}" if seconds > 0 else f"{'0':>9}"

    def _line(self, item: Item, name: str) -> str:
        ceiling = f"{item.least / item.seconds:7.0%}" if item.seconds else " " * 7
        return (
            f"{self._time(item.seconds)} {item.seconds / self.whole:6.1%} {item.calls:5} "
            f"{item.cost.bytes / 1e6:8.1f} {item.cost.flops / 1e9:8.2f} {ceiling}  {name}"
        )

    def _by_op(self) -> list[Item]:
        sums: dict[str, Item] = {}
        for item in self.items:
            before = sums.get(item.op)
            if before is None:
                sums[item.op] = replace(item, shape="", backend="")
                continue
            sums[item.op] = replace(
                before,
                calls=before.calls + item.calls,
                cost=Cost(before.cost.bytes + item.cost.bytes, before.cost.flops + item.cost.flops),
                seconds=before.seconds + item.seconds,
                least=before.least + item.least,
            )
        return sorted(sums.values(), key=lambda item: -item.seconds)


class _CallRecords:
    """Marks every op call for the profiler, and adds up the costs of the calls."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}

    def note(self, op: str, backend: str, shape: str, dtype: torch.dtype, spent: Cost) -> str:
        """Add a call; returns the label it has in the profile."""
        label = f"{PREFIX}{op} [{backend}] {shape} {str(dtype).removeprefix('torch.')}"
        item = self.items.get(label) or Item(op, backend, shape, dtype, 0, Cost(0, 0))
        total = Cost(item.cost.bytes + spent.bytes, item.cost.flops + spent.flops)
        self.items[label] = replace(item, calls=item.calls + 1, cost=total)
        return label

    def __call__(self, choice: Choice) -> Backend[Any]:
        """The chosen backend with a mark around it."""
        dtype = first_tensor(choice).dtype
        label = self.note(choice.op.name, choice.backend.name, described(choice), dtype, cost(choice))

        def marked(*arguments: Any, **options: Any) -> Any:
            with torch.profiler.record_function(label):
                return choice.backend.run(*arguments, **options)

        return replace(choice.backend, run=marked)


class _Products(TorchFunctionMode):
    """Marks the matrix products that are no op's: projections on a GPU, scales and shifts at each step."""

    def __init__(self, records: _CallRecords) -> None:
        super().__init__()
        self._records = records

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear:
            x, weight = args[0], args[1]
            inputs, outputs, added = weight.shape[1], weight.shape[0], False
        elif func is torch.Tensor.addmm_:
            x, weight = args[1], args[2]
            inputs, outputs, added = weight.shape[0], weight.shape[1], True
        else:
            return func(*args, **(kwargs or {}))
        rows = x.numel() // inputs
        spent = linear(rows, inputs, outputs, x.element_size(), added=added)
        shape = f"{rows}x{inputs} to {outputs}{' + residual' if added else ''}"
        with torch.profiler.record_function(self._records.note("linear", "torch", shape, x.dtype, spent)):
            return func(*args, **(kwargs or {}))


def limits(device: torch.device, dtypes: Sequence[torch.dtype], megabytes: int, side: int) -> Limits:
    """Measure the ceilings; ``side`` of the one product tried, or 0 for the best of several sizes."""
    sides = (side,) if side else ceilings.SIDES[device.type]
    with torch.inference_mode():
        copied = ceilings.bandwidths(device.type, _EFFORT, megabytes << 20)["copy"][0] * 1e9
        peaks = {
            dtype: max(ceilings.product(dtype, side, device.type, _EFFORT) for side in sides) * 1e12
            for dtype in dict.fromkeys(dtypes)
        }
    return Limits(copied, peaks)


def profile(
    subject: Subject,
    settings: Settings,
    trace: Path | None = None,
    *,
    megabytes: int = 0,
    side: int = 0,
) -> Profile:
    """Take a step of the accelerated model apart.

    Args:
        trace: write a trace of one step here, for chrome://tracing or ui.perfetto.dev.
        megabytes, side: the sizes of the copy and of the matrix products that measure the device's limits; 0 stands for
            :data:`COPY_MEGABYTES`, and for the best of several sides.
    """
    work = Work(subject, settings.batch, settings.target_device)
    contestant = contestants.ours(subject, work, settings.target_dtype)
    whole = OneStep(contestant, work)
    whole.record()
    timing = interleaved({"step": whole}, work.device.type, settings.effort)["step"]
    found = limits(work.device, (contestant.dtype, torch.float32), megabytes or COPY_MEGABYTES, side)

    step = OneStep(contestant, work)  # launch by launch: a replay tells of no ops
    records = _CallRecords()
    with listen(records), _Products(records):
        step()  # the profiler's own first use is slow, and so may be the step's
    repeats = settings.samples
    activities = [torch.profiler.ProfilerActivity.CPU]
    if work.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    records = _CallRecords()
    with torch.profiler.profile(activities=activities) as profiler, listen(records), _Products(records):
        for _ in range(repeats):
            with torch.profiler.record_function(STEP):
                step()
        if work.device.type == "cuda":
            torch.cuda.synchronize()
    recorded = Trace.of(profiler)
    if trace is not None:
        _write_trace(step, records, activities, trace)
    dtype = str(contestant.dtype).removeprefix("torch.")
    title = f"{subject.name}, {work}, {dtype} on {work.device}"
    items = {label: item.divided(repeats) for label, item in records.items.items()}
    return taken_apart(title, timing.median / 1e6, found, items, recorded, work.device)


def taken_apart(
    title: str,
    step: float,
    limits: Limits,
    items: Mapping[str, Item],
    recorded: Trace,
    device: torch.device,
) -> Profile:
    """A step's profile.

    Args:
        step: seconds of the step outside the profiler.
        items: by mark, of one step; the seconds in them are not read.
        recorded: the same step under the profiler.
        device: of the step; on a GPU the times are those of its kernels, on a CPU those of the calls.

    Raises:
        BackendError: nothing of what a GPU ran was recorded.
    """
    if device.type == "cuda" and not recorded.kernels:
        raise BackendError(
            "torch's profiler recorded no kernel: CUPTI does not work here (another profiler is attached, or the driver "
            "lets administrators profile only)"
        )
    took = recorded.device if device.type == "cuda" else recorded.host
    timed = [
        replace(item, seconds=took.get(mark, 0.0), least=limits.seconds(item.cost, item.dtype))
        for mark, item in items.items()
    ]
    timed.sort(key=lambda item: -item.seconds)
    return Profile(
        title,
        step,
        took[STEP],
        limits,
        tuple(timed),
        recorded.kernels,
        recorded.unlaunched,
        recorded.elsewhere,
    )


def _write_trace(step: OneStep, records: _CallRecords, activities: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with torch.profiler.profile(activities=activities) as profiler, listen(records), _Products(records):
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    profiler.export_chrome_trace(str(file))
