"""An op as one operator registered with torch, for tools that record operators instead of running them, such as torch.compile.

The backend is chosen when the operator runs. Its gradients are those of the reference, computed again from the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from glide_fast.ops import backends, recompute, schema
from glide_fast.ops.layout import laid_out_as


class CustomOp:
    """``glide_fast::<operator>``, for an op that returns one tensor; subclasses return others.

    Args:
        name: of the op, and of its :class:`~glide_fast.ops.backends.Op`.
        call: the op's class of arguments. It has ``facts()``, and ``empty_result()``: uninitialised memory of the shape, type and
            strides that the operator promises.
        reference: the maths in plain torch, as a function of a ``call``; gradients are taken of this function.
        operator: the operator's name where it is not the op's.
        returns: the type that the operator returns, in the notation of torch's schemas.
        fixed: arguments that the operator does not take, and the value of each.
    """

    def __init__(
        self,
        name: str,
        call: type[Any],
        reference: Callable[[Any], Any],
        *,
        operator: str = "",
        returns: str = "Tensor",
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        self._name, self._call, self._reference, self._fixed = name, call, reference, fixed or {}
        self.names = tuple(name for name in schema.arguments(call) if name not in self._fixed)
        self._tensors = schema.tensors(call)
        # Called with all arguments, by position.
        self.operator = torch.library.custom_op(
            f"glide_fast::{operator or name}",
            self._run,
            mutates_args=(),
            schema=f"({schema.of_operator(call, without=self._fixed)}) -> {returns}",
        )
        self.operator.register_fake(lambda *arguments: self.empty(self._call_with(arguments)))
        self.operator.register_autograd(self._backward, setup_context=self._save)

    def __call__(self, call: Any) -> Any:
        """Run the operator on the arguments in ``call``."""
        return self.operator(*[getattr(call, name) for name in self.names])

    def compiled(self, call: Any) -> Any:
        """The result under ``torch.compile``: on a GPU by this operator, elsewhere by the reference, which the compiler fuses."""
        return self(call) if call.tensors[0].is_cuda else self._reference(call)

    def empty(self, call: Any) -> Any:
        """Uninitialised memory of the shape, type and strides that the operator promises for its result."""
        return call.empty_result()

    def returned(self, call: Any, result: Any) -> Any:
        """The backend's ``result`` in the strides that the operator promises."""
        return laid_out_as(self.empty(call), result)

    def _call_with(self, arguments: tuple[Any, ...]) -> Any:
        return self._call(**dict(zip(self.names, arguments, strict=True)), **self._fixed)

    def _run(self, *arguments: Any) -> Any:
        call = self._call_with(arguments)
        return self.returned(call, backends.named(self._name).run_chosen(call))

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        options = dict(zip(self.names, inputs, strict=True))
        ctx.save_for_backward(*(options.pop(name) for name in self._tensors))
        ctx.options = {**options, **self._fixed}

    def _backward(self, ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved: dict[str, torch.Tensor | None] = dict(zip(self._tensors, ctx.saved_tensors, strict=True))
        differentiable = {n: t for n, t in saved.items() if t is not None and t.is_floating_point()}

        def again(*tensors: torch.Tensor) -> Any:
            changed = dict(zip(differentiable, tensors, strict=True))
            return self._reference(self._call(**{**ctx.options, **saved, **changed}))

        outputs: Any = upstream if len(upstream) > 1 else upstream[0]
        products = recompute.gradients(again, tuple(differentiable.values()), outputs)
        found = dict(zip(differentiable, products, strict=True))
        return tuple(found.get(name) for name in self.names)
