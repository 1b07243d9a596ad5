"""An op as one operator of torch's, for what records operators instead of running them: torch.compile, export, make_fx.

The backend is chosen when the operator runs. Its gradients are those of the reference, computed again from the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from glide_fast.ops import backends, recompute, schema


class CustomOp:
    """``glide_fast::<name>``, for an op that returns one tensor.

    Args:
        name: of the op, and of its :class:`~glide_fast.ops.backends.Op`.
        call: its record of arguments. It has ``facts()``, and ``empty_result()``: uninitialised memory of the shape, type and
            strides that the operator promises.
        reference: the maths in plain torch, from such a record; what is differentiated.
    """

    def __init__(self, name: str, call: type[Any], reference: Callable[[Any], torch.Tensor]) -> None:
        self._name, self._call, self._reference = name, call, reference
        self._names, self._tensors = schema.arguments(call), schema.tensors(call)
        # Called with all arguments, by position.
        self.operator = torch.library.custom_op(
            f"glide_fast::{name}",
            self._run,
            mutates_args=(),
            schema=f"({schema.of_operator(call)}) -> Tensor",
        )
        self.operator.register_fake(self._promise)
        self.operator.register_autograd(self._backward, setup_context=self._save)

    def __call__(self, call: Any) -> torch.Tensor:
        """The result of a call, by the operator."""
        result: torch.Tensor = self.operator(*(getattr(call, name) for name in self._names))
        return result

    def _run(self, *arguments: Any) -> torch.Tensor:
        call = self._call(*arguments)
        result: torch.Tensor = backends.ops()[self._name].choose(call.facts(), call).run(call)
        promised: torch.Tensor = call.empty_result()
        return result if result.stride() == promised.stride() else promised.copy_(result)

    def _promise(self, *arguments: Any) -> torch.Tensor:
        result: torch.Tensor = self._call(*arguments).empty_result()
        return result

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        given = dict(zip(self._names, inputs, strict=True))
        ctx.save_for_backward(*(given.pop(name) for name in self._tensors))
        ctx.options = given

    def _backward(self, ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved: dict[str, torch.Tensor | None] = dict(zip(self._tensors, ctx.saved_tensors, strict=True))
        differentiable = {n: t for n, t in saved.items() if t is not None and t.is_floating_point()}

        def again(*tensors: torch.Tensor) -> torch.Tensor:
            changed = dict(zip(differentiable, tensors, strict=True))
            return self._reference(self._call(**{**ctx.options, **saved, **changed}))

        products = recompute.gradients(again, tuple(differentiable.values()), upstream)
        found = dict(zip(differentiable, products, strict=True))
        return tuple(found.get(name) for name in self._names)
