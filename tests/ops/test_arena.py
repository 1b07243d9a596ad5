"""Memory that steps use again: what of torch lies in it, for how long, and what it costs nobody else."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glide_fast.ops import arena, native

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    arena.why_missing() is not None, reason=f"this build has no memory for steps: {arena.why_missing()}"
)


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    """Each test begins with an arena that holds nothing."""
    gc.collect()
    arena.trim()
    assert arena.state()[:2] == (0, 0)
    yield
    gc.collect()


def test_tensors_within_a_scope_lie_in_it_and_others_do_not() -> None:
    before = torch.empty(1000)
    with arena.scope(CPU):
        within = torch.empty(1000)
        assert arena.state().live == 4032  # a multiple of 64
        with arena.outside():
            kept = torch.empty(1000)
        with arena.scope(CPU):
            nested = torch.empty(10)
        also = torch.empty(10)
        assert arena.state().live == 4032 + 2 * 64
    after = torch.empty(1000)
    assert arena.state().live == 4032 + 2 * 64
    for tensor in (before, within, kept, nested, also, after):
        assert torch.equal(tensor.fill_(3.0), torch.full_like(tensor, 3.0))
    del within, nested, also
    assert arena.state().live == 0


def test_an_error_leaves_the_scope() -> None:
    with pytest.raises(ValueError, match="stop"), arena.scope(CPU):
        raise ValueError("stop")
    kept = torch.empty(1000)
    assert arena.state().live == 0 and kept.numel() == 1000


def test_other_threads_and_devices_are_left_alone() -> None:
    made: list[torch.Tensor] = []
    with arena.scope(CPU):
        thread = threading.Thread(target=lambda: made.append(torch.empty(1000)))
        thread.start()
        thread.join()
    with arena.scope(torch.device("cuda")):
        made.append(torch.empty(1000))
    assert arena.state().live == 0


def test_a_tensor_may_be_freed_by_another_thread() -> None:
    with arena.scope(CPU):
        made = [torch.empty(1000)]
    thread = threading.Thread(target=made.clear)
    thread.start()
    thread.join()
    assert arena.state().live == 0


def test_what_outlives_a_scope_keeps_its_values_through_the_next() -> None:
    with arena.scope(CPU):
        kept = torch.arange(5000.0)
    for _ in range(3):
        with arena.scope(CPU):
            others = [torch.full((5000,), -1.0) for _ in range(4)]
        del others
    arena.trim()
    assert torch.equal(kept, torch.arange(5000.0))


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_same_work_finds_the_same_memory(sizes: list[int], draw: object) -> None:
    def work() -> list[int]:
        held: list[torch.Tensor] = []
        places = []
        with arena.scope(CPU):
            for i, size in enumerate(sizes):
                held.append(torch.full((size,), i, dtype=torch.uint8))
                places.append(held[-1].data_ptr())
                if size % 3 == 0:
                    held.pop(size % len(held))
            for tensor in held:
                assert tensor.numel() == 0 or tensor.min() == tensor.max()
        return places

    first = work()
    grown = arena.state().grown
    assert work() == first
    assert arena.state() == (arena.state().held, 0, grown, arena.state().outside)


def test_onednn_takes_its_results_and_scratch_from_it() -> None:
    x = torch.randn(1, 32, 24, 24).to(memory_format=torch.channels_last)
    weight = torch.randn(32, 32, 3, 3)

    def convolved() -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, None, (1, 1), (1, 1), (1, 1), 1, "none", [], ""
        )
        return result

    want = convolved()
    with arena.scope(CPU):
        got = convolved()
        assert arena.state().live >= got.numel() * 4
    assert arena.state().held > got.numel() * 4 + weight.numel() * 4  # the weight was packed in it as well
    assert torch.equal(got, want)


def test_tensors_grow_are_copied_and_are_shared_as_ever() -> None:
    with arena.scope(CPU):
        tensor = torch.arange(10)
        tensor.resize_(1000)
        assert torch.equal(tensor[:10], torch.arange(10))
        copy = tensor.untyped_storage().clone()
        shared = torch.arange(10).share_memory_()
    assert copy.nbytes() == 8000 and shared.is_shared()
    assert torch.equal(torch.empty(0), torch.empty(0))


def test_a_library_that_does_not_fit_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_load", arena._load.__wrapped__)
    for record, said in (
        ({"torch": "2.0.0"}, "it was built for torch 2.0.0, and this is torch"),
        ({"torch": None, "torch_why_not": "no torch was there"}, "it was not built: no torch was there"),
        ({"native": True}, "older than the sources: install glide_fast again"),
    ):
        monkeypatch.setattr(native, "build_record", lambda record=record: record)
        monkeypatch.setattr(native, "why_missing", lambda: None)
        assert said in str(arena.why_missing())
    with arena.scope(CPU), arena.outside():
        tensor = torch.empty(1000)
    assert tensor.numel() == 1000 and arena.state() == (0, 0, 0, 0)
    arena.trim()
    # The record may be of another build than the file.
    monkeypatch.setattr(native, "build_record", lambda: {"torch": torch.__version__})
    library = SimpleNamespace(torch="2.0.0", install=lambda: True)
    monkeypatch.setattr(arena.importlib, "import_module", lambda name: library)
    assert "built for torch 2.0.0" in str(arena.why_missing())
    library.torch, library.install = torch.__version__, lambda: False
    assert "sets no addresses aside" in str(arena.why_missing())


def test_a_fork_while_another_thread_allocates_can_allocate() -> None:
    code = """
import os, threading, torch
from glide_fast.ops import arena
stop = threading.Event()
def churn():
    with arena.scope(torch.device("cpu")):
        while not stop.is_set():
            torch.empty(1000)
thread = threading.Thread(target=churn)
thread.start()
with arena.scope(torch.device("cpu")):
    for _ in range(20):
        child = os.fork()
        if child == 0:
            torch.empty(1000)
            os._exit(0 if arena.state().outside == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_where_addresses_are_limited_most_are_left_to_others() -> None:
    code = """
import resource, torch
from glide_fast.ops import arena
def addresses():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = addresses() + (4 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = addresses()
with arena.scope(torch.device("cpu")):
    kept = torch.ones(1000)
assert arena.state().live == 4032 and addresses() - before < limit // 3
torch.empty(1 << 30, dtype=torch.uint8)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
