"""Patches of Triton's interpreter: it treats bfloat16 as devices do, and prepares its language once for each launch.

It keeps bfloat16 as bare 16-bit integers: it multiplies those in a ``dot``, and cuts float32 off where devices round to nearest.
It replaces the functions of ``triton.language`` at every call of a function in a kernel, which takes a third of its time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


@functools.cache
def teach_bfloat16() -> None:
    """Patch the interpreter of this process, once."""
    from triton import language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def convert_float(value: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(value, source, target, rounding)
        wide = torch.from_numpy(np.array(value, dtype=np.float32, ndmin=1))
        return wide.bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(np.shape(value))

    def values(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle.data
        return (handle.data.astype(np.uint32) << 16).view(np.float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        product = np.matmul(values(a), values(b), dtype=d.data.dtype) + d.data
        return interpreter.TensorHandle(product, d.dtype.scalar)

    interpreter._convert_float = convert_float
    interpreter.InterpreterBuilder.create_dot = create_dot


@functools.cache
def prepare_once_a_launch() -> None:
    """Patch the interpreter of this process: within one launch, each module of the language is prepared only once.

    What a launch has replaced stays replaced until it ends: a second time changes nothing.
    """
    from triton import language as tl
    from triton.runtime import interpreter

    prepare, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    prepared: set[tuple[bool, bool]] = set()
    seen_by: dict[Callable[..., Any], tuple[bool, bool]] = {}

    def prepare_once(function: Callable[..., Any]) -> Any:
        if function not in seen_by:
            modules = {id(value) for value in function.__globals__.values()}
            seen_by[function] = id(tl) in modules, id(tl.core) in modules
        if seen_by[function] in prepared:
            return None  # only the outermost call, which is the launch, restores what it has replaced
        scope = prepare(function)
        prepared.add(seen_by[function])
        return scope

    def launch_anew(self: Any, *args: Any, **kwargs: Any) -> Any:
        prepared.clear()
        return launch(self, *args, **kwargs)

    interpreter._patch_lang = prepare_once
    interpreter.GridExecutor.__call__ = launch_anew
