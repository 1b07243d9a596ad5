"""What a call of the CUDA kernels costs, predicted: the chain of waits from launch to drain, and the bytes, in microseconds.

It orders candidate plans so that the likeliest are measured first, and chooses where nothing was measured. Every constant is
of an NVIDIA H100: latencies and rates of its memory as published microbenchmarks give them, instructions counted in the machine
code, and the rest fitted to a sweep over plans of earlier kernels (``benchmarks/results/nvidia-h100-053c154``; ``python -m
benchmarks.norm_model --check`` says how well it reproduces them). Of other devices only the number of multiprocessors counts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

CYCLES_PER_US = 1980.0
LAUNCH_US = 2.1
"""An empty kernel in a graph, measured."""
L2_BYTES_PER_CYCLE = 64.0
"""From L2 into one multiprocessor."""
SHARED_BYTES_PER_CYCLE = 128.0
SECTOR = 32
FEW_WAVES = 4
"""Below, the last wave is as long as the others; above, blocks have come apart."""
COPY_BYTES_PER_US = 2.995e6
"""Read and written together, by a copy that L2 does not hold, measured."""
L2_BYTES_PER_US = 5.5e6
"""The same where L2 holds it."""
L2_BYTES = 50 * 2**20
WARP_SIZE = 32
SCHEDULERS = 4
REGISTERS = 65536
WARPS = 64
SHARED_BYTES = 228 * 1024


class Shape(NamedTuple):
    """Of one call."""

    samples: int
    rows: int
    channels: int
    groups: int
    element_bytes: int
    silu: bool = True
    read: float = 1.0  # bytes read, by those of x
    written: float = 1.0  # bytes written, by those of x


class Layout(NamedTuple):
    """A plan as the native library completes it; see ``csrc/group_norm_act/plan.h``."""

    one_pass: bool
    held: bool
    slab: int
    chunks: int
    threads: int
    vector: int
    lanes: int
    chunk_rows: int
    slabs: int
    shared_bytes: int


class Kernels(NamedTuple):
    """Cycles of the parts of a chain.

    Those "of a vector" are of the 8 fp16 (or 4 fp32) elements that a thread takes at a time.
    """

    registers: int  # of a thread
    start: float  # parameters, geometry, the code's first fetch, drain
    load: float  # from a request to its arrival
    batch: int  # requests of a thread that are under way at a time
    issue_in: float  # instructions of a vector, from arrival to moments
    issue_out: float  # the same, to the store; without SiLU
    issue_silu: float
    wait_in: float  # a vector's dependent instructions, were there only one warp
    wait_out: float
    merges_channels: bool  # whether a lane merges channels one by one, or vectors
    merge: float  # moments of a warp's lanes, and the barrier before
    merge_item: float  # each further part that a lane merges
    exchange: float  # the cluster's barriers
    exchange_block: float  # each block of the cluster
    second: float  # a second launch
    parts: float  # the second kernel's merge
    parts_item: float


KERNELS_053C154 = Kernels(
    registers=110, start=3400, load=2360, batch=4, issue_in=630, issue_out=0, issue_silu=80, wait_in=450, wait_out=106,
    merges_channels=True, merge=1160, merge_item=405, exchange=570, exchange_block=320, second=0, parts=1370, parts_item=170,
)  # fmt: skip
"""Of the kernels of commit 053c154, fitted to the sweep: Welford's recurrence, divisions in the merge, remote reads in a row."""

KERNELS = Kernels(
    registers=116, start=1800, load=1000, batch=4, issue_in=140, issue_out=80, issue_silu=100, wait_in=150, wait_out=106,
    merges_channels=False, merge=350, merge_item=40, exchange=900, exchange_block=5, second=0, parts=900, parts_item=60,
)  # fmt: skip
"""Of the kernels here. Nothing of them was measured: instructions counted, at the two cycles each that the fit above implies, and
the latencies of published microbenchmarks."""


def _resident(layout: Layout, kernels: Kernels) -> int:
    """Blocks of a multiprocessor at a time."""
    warps = -(-layout.threads // WARP_SIZE)
    by_registers = REGISTERS // (warps * -(-kernels.registers * WARP_SIZE // 256) * 256)
    by_shared = SHARED_BYTES // (layout.shared_bytes + 1024)
    return max(1, min(by_registers, by_shared, WARPS // warps, 32))


def microseconds(
    shape: Shape, layout: Layout, kernels: Kernels = KERNELS, multiprocessors: int = 132
) -> float:
    """The time of one call, its input in L2 as far as that holds it."""
    blocks = shape.samples * layout.slabs * layout.chunks
    resident = min(_resident(layout, kernels), -(-blocks // multiprocessors))
    waves = blocks / (multiprocessors * resident)
    if waves < FEW_WAVES:
        waves = math.ceil(waves)
    warps = max(1.0, resident * layout.threads / WARP_SIZE / SCHEDULERS)
    vectors = -(-layout.chunk_rows // layout.lanes)
    batches = -(-vectors // kernels.batch)
    row = layout.slab * shape.element_bytes
    # Whole sectors cross the bus; one more where a row ends inside of one.
    sectors = -(-row // SECTOR) + (row % SECTOR > 0 and row % SECTOR != SECTOR // 2)
    fetch = layout.chunk_rows * sectors * SECTOR * resident / L2_BYTES_PER_CYCLE
    through_shared = layout.one_pass and not layout.held
    keep = 2 * layout.chunk_rows * row * resident / SHARED_BYTES_PER_CYCLE if through_shared else 0.0
    issue_out = kernels.issue_out + (kernels.issue_silu if shape.silu else 0.0)

    arrive = max(
        batches * kernels.load + vectors * kernels.wait_in,
        vectors * warps * kernels.issue_in,
        fetch * shape.read,
    )
    leave = max(vectors * kernels.wait_out, vectors * warps * issue_out, fetch * shape.written)
    width = shape.channels // shape.groups
    groups = max(1, layout.slab // width)
    per_warp = -(-groups * WARP_SIZE // layout.threads)
    if kernels.merges_channels:
        items = per_warp * -(-width * layout.lanes // WARP_SIZE)
    else:
        columns = -(-width // layout.vector) + (width % layout.vector > 0)
        items = per_warp * columns * -(-min(layout.lanes, layout.chunk_rows) // WARP_SIZE)
    merge = per_warp * kernels.merge + items * kernels.merge_item
    if layout.one_pass:
        exchange = kernels.exchange + layout.chunks * kernels.exchange_block if layout.chunks > 1 else 0.0
        chain = kernels.start + arrive + merge + exchange + leave + keep
        launches = 1.0
    else:
        parts = per_warp * (kernels.parts + -(-layout.chunks // WARP_SIZE) * kernels.parts_item)
        again = max(batches * kernels.load, fetch * shape.read)
        chain = 2 * kernels.start + arrive + merge + parts + max(again, leave)
        launches = 2.0
    memory = _memory_us(shape, layout.one_pass)
    launch = LAUNCH_US + (kernels.second / CYCLES_PER_US if launches > 1 else 0.0)
    # Where there are many blocks, one's waits are hidden behind the bytes of others.
    body = waves * chain / CYCLES_PER_US
    return launch + (body**4 + memory**4) ** 0.25


def _memory_us(shape: Shape, one_pass: bool) -> float:
    """Of the bytes alone."""
    x = shape.samples * shape.rows * shape.channels * shape.element_bytes
    moved = x * (shape.read + shape.written)
    held = moved <= 0.6 * L2_BYTES
    once = moved / (L2_BYTES_PER_US if held else COPY_BYTES_PER_US)
    return once if one_pass else once + x * shape.read / L2_BYTES_PER_US
