"""Compiles the Triton kernels of GLIDE's calls before anything runs, so that a first picture does not wait for them.

    python -m glide_fast.kernels.compile_ahead            # for the device that is here, one prompt in fp16
    python -m glide_fast.kernels.compile_ahead --batches  # for every batch size of GLIDE's cases

Triton keeps what it compiled on the disk, under a name that stands for a kernel's source, its arguments' types and alignment, and
the compiler's version. Calls are made on tensors without memory, and Triton is stopped where it would compile: what it was about
to compile is then compiled in parallel, one process a core, and found on the disk when the same call is made for real.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from glide_fast.ops import dependent_launch
from glide_fast.ops.backends import ops
from glide_fast.ops.case import fake_calls
from glide_fast.runtime.features import ALL

H100 = {"backend": "cuda", "arch": 90, "warp_size": 32}
"""The fields of Triton's ``GPUTarget`` for an NVIDIA H100."""
ADDRESSED = ("guided_step",)
"""Ops that compare the addresses of their tensors before they launch anything."""
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class Configuration(NamedTuple):
    """One specialisation of a kernel: what Triton's own ``JITFunction.preload`` compiles again."""

    module: str
    kernel: str
    data: str  # JSON, as Triton writes it
    target: str  # the fields of a GPUTarget, as JSON


class Compiled(NamedTuple):
    """``error`` is empty where it compiled."""

    configuration: Configuration
    shared_bytes: int = 0
    error: str = ""


class _NoDevice:
    """Triton's driver for a target that need not be here."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def pretend(fields: dict[str, Any]) -> None:
    """From here on in this process Triton compiles for this target, and launches nothing."""
    driver.set_active(_NoDevice(GPUTarget(**fields)))


def keep_in(keep: Callable[[Configuration], object]) -> None:
    """From here on in this process no kernel is compiled or launched: ``keep`` gets what would have been compiled."""
    target = json.dumps(vars(driver.active.get_current_target()))

    def instead(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        keep(Configuration(fn.module, fn.name, compile["specialization_data"], target))
        return True  # that is, do not compile: the call then returns without a launch

    triton.knobs.runtime.jit_cache_hook = instead


@contextmanager
def recording(fields: dict[str, Any]) -> Iterator[dict[Configuration, None]]:
    """Within the block nothing is compiled or launched; the dictionary has what would have been, in order."""
    found: dict[Configuration, None] = {}
    hook, before = (
        triton.knobs.runtime.jit_cache_hook,
        driver._active,
    )  # None before Triton looked for a device
    pretend(fields)
    try:
        keep_in(lambda one: found.setdefault(one))
        with dependent_launch.allowed(ALL.dependent_launch and fields["arch"] >= 90):
            yield found
    finally:
        triton.knobs.runtime.jit_cache_hook = hook
        driver.set_active(before)


def without_memory(call: Any) -> Any:
    """The same call of an op, on tensors of the same shapes and strides that have no memory."""

    def emptied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    names = [field.name for field in dataclasses.fields(call) if field.init]
    return type(call)(**{name: emptied(getattr(call, name)) for name in names})


def launched(
    names: Sequence[str], dtype: torch.dtype, fields: dict[str, Any], *, every_batch: bool = False
) -> list[Configuration]:
    """What the Triton backends of these ops launch for GLIDE's calls on a target."""
    found: dict[Configuration, None] = {}
    for name in names:
        backend = ops()[name].backend("triton")
        with recording(fields) as seen:
            for call in fake_calls(name, dtype, "cuda", one_prompt=not every_batch):
                backend.run(without_memory(call))
        found |= seen
    return list(found)


def _compile(configuration: Configuration) -> Compiled:
    try:
        pretend(json.loads(configuration.target))
        kernel = getattr(importlib.import_module(configuration.module), configuration.kernel)
        return Compiled(configuration, kernel.preload(configuration.data).metadata.shared)
    except Exception as error:
        return Compiled(configuration, error=f"{type(error).__name__}: {error}")


def compile_all(configurations: list[Configuration], workers: int = 0) -> Iterator[Compiled]:
    """As they are done, on ``workers`` processes (0: as many as this one may use cores)."""
    workers = workers or len(os.sched_getaffinity(0))
    # Fresh processes: a fork of one that has spoken to a device cannot.
    with ProcessPoolExecutor(min(workers, max(1, len(configurations))), get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_compile, configuration) for configuration in configurations]):
            yield done.result()


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 where something does not compile, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="of activations")
    parser.add_argument("--batches", action="store_true", help="every batch size, not one prompt alone")
    parser.add_argument(
        "--op",
        action="append",
        help="an op whose Triton kernels are compiled; text_attention and resample unless one is named",
    )
    parser.add_argument(
        "--arch", type=int, help="compute capability, 90 for 9.0; that of the device that is here"
    )
    options = parser.parse_args(arguments)
    if options.arch is None and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; name one with --arch, 90 for an NVIDIA H100")
    fields = dict(H100)
    if options.arch is not None:
        fields["arch"] = options.arch
    else:
        major, minor = torch.cuda.get_device_capability()
        fields["arch"] = 10 * major + minor
    chosen = options.op or ["text_attention", "resample"]
    known = [name for name, op in ops().items() if "triton" in op.names and name not in ADDRESSED]
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"--op: got {', '.join(unknown)}; accepted: {', '.join(known)}")
    found = launched(chosen, DTYPES[options.dtype], fields, every_batch=options.batches)
    failed = 0
    for done in compile_all(found):
        if done.error:
            failed += 1
            print(f"{done.configuration.kernel} does not compile: {done.error}", file=sys.stderr)
    print(f"{len(found) - failed} of {len(found)} configurations for sm_{fields['arch']} are on the disk")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
