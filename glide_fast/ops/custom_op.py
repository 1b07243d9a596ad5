"""An op as one operator of torch's, for what records operators instead of running them: torch.compile, export, make_fx.

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
        call: its record of arguments. It has ``facts()``, and ``empty_result()``: uninitialised memory of the shape, type and
            strides that the operator promises.
        reference: the maths in plain torch, from such a record; what is differentiated.
        operator: the operator's name where it is not the op's.
        returns: what the operator returns, as a schema has it.
        fixed: arguments that the operator does not take, with the values that they have in it.
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
        """The result of a call, by the operator."""
        return self.operator(*[getattr(call, name) for name in self.names])

    def compiled(self, call: Any) -> Any:
        """The call under ``torch.compile``: on a CPU the reference, which the compiler fuses; on a device one operator."""
        return self(call) if call.tensors[0].is_cuda else self._reference(call)

    def empty(self, call: Any) -> Any:
        """Memory as the operator promises it for what it returns."""
        return call.empty_result()

    def returned(self, call: Any, result: Any) -> Any:
        """What the operator returns, of what a backend returned."""
        return laid_out_as(self.empty(call), result)

    def _call_with(self, arguments: tuple[Any, ...]) -> Any:
        return self._call(**dict(zip(self.names, arguments, strict=True)), **self._fixed)

    def _run(self, *arguments: Any) -> Any:
        call = self._call_with(arguments)
        return self.returned(call, backends.named(self._name).run_chosen(call))

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        given = dict(zip(self.names, inputs, strict=True))
        ctx.save_for_backward(*(given.pop(name) for name in self._tensors))
        ctx.options = {**given, **self._fixed}

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
