"""``python -m benchmarks.gpu.compile_kernels --share 0/8``: run every eighth of the calls that Triton could serve, once.

Triton keeps compiled kernels on the disk, so they need not be compiled when they are timed.
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks import contests, suites
from glide_fast import ops as public
from glide_fast.errors import BackendError
from glide_fast.ops.backends import force, ops


def compile_share(device: str, share: int, of: int, small: bool) -> tuple[int, int]:
    """Run every ``of``-th of the calls that Triton could serve; returns how many ran and how many Triton declined."""
    triton = [name for name in suites.found() if "triton" in ops()[name].names]
    calls = [size for name in triton for size in contests.sizes(name, device, quick=small, small=small)]
    ran = declined = 0
    for size in calls[share::of]:
        op = size.case.op
        try:
            with torch.inference_mode(), force(**{op: "triton"}):
                getattr(public, op)(**size.arguments())
            ran += 1
        except BackendError:
            declined += 1
    if device == "cuda":
        torch.cuda.synchronize()
    return ran, declined


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.compile_kernels", description=__doc__.split(": ")[1]
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="every N-th call, from the I-th on")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)
    share, of = map(int, options.share.split("/"))
    ran, declined = compile_share(options.device, share, of, options.small)
    print(f"{ran} calls compiled or found in the cache, {declined} not for Triton")
    return 0


if __name__ == "__main__":
    sys.exit(main())
