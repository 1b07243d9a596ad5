"""A convolution weight kept in the layout that a CPU's kernels read, behind the face of an ordinary tensor.

A convolution on the CPU puts its weight into a blocked layout before each call. For GLIDE's deep levels that costs up to a
third of the call. :class:`PackedWeight` does it once and keeps only the blocked copy, so that a model takes no more memory. The
layout is oneDNN's, or that of Winograd's kernel (:mod:`glide_fast.ops.convolution.winograd_weight`) where that was asked for.
"""

from __future__ import annotations

import copy
import functools
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from glide_fast.errors import BackendError, InvalidInputError, invalid
from glide_fast.ops import arena
from glide_fast.ops.convolution import winograd_weight
from glide_fast.ops.convolution.window import Window, as_kernel, window

DTYPES = (torch.float32, torch.bfloat16)
"""The types that oneDNN packs and convolves here."""


@functools.cache
def why_missing() -> str | None:
    """Why oneDNN cannot be used on this machine; None where it can."""
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"oneDNN's packed convolutions were never run on a {platform.machine()} processor"
    return None


@functools.cache
def _no_bfloat16() -> str | None:
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return "oneDNN convolves bfloat16 from AVX-512 (BW, VL, DQ) on, which this processor lacks"


def why_not(dtype: torch.dtype, device: torch.device | str = "cpu") -> str | None:
    """Why oneDNN convolves no tensors of this type on this device; None if it does."""
    kind = torch.device(device).type
    if kind != "cpu":
        return f"the tensors are on {kind}, not on the CPU"
    if dtype == torch.float16:
        return "float16 convolutions on a CPU are hundreds of times slower than bfloat16 and float32 ones"
    if dtype not in DTYPES:
        return f"the tensors are {dtype}; oneDNN takes float32 and bfloat16"
    missing = why_missing()
    return _no_bfloat16() if missing is None and dtype == torch.bfloat16 else missing


class Geometry(NamedTuple):
    """The convolution that a weight is packed for."""

    input_shape: tuple[int, int, int, int]
    window: Window


class _Store:
    """The one copy that a weight, its ``.data`` and its views share: packed, in tiles, or plain where neither takes it."""

    def __init__(self, dense: torch.Tensor, geometry: Geometry, tile: bool) -> None:
        self.geometry, self.tile = geometry, tile
        self.version = 0
        self._keep(dense)

    def _keep(self, dense: torch.Tensor) -> None:
        self.packed: torch.Tensor | None = None
        self.tiles: torch.Tensor | None = None
        self.plain: torch.Tensor | None = None
        if self.tile and _tiles(dense, dense.device, self.geometry):
            with torch.inference_mode(False), torch.no_grad():
                self.tiles = winograd_weight.tiled(dense)
        elif why_not(dense.dtype, dense.device) is None:
            self.packed = _pack(dense, self.geometry)
        else:
            with torch.inference_mode(False), torch.no_grad():
                self.plain = torch.empty_like(dense, memory_format=torch.contiguous_format).copy_(dense)
        self._served = {(self.geometry, torch.get_num_threads())}
        self.like = torch.empty(dense.shape, dtype=dense.dtype, device="meta")
        self.device = dense.device

    def packed_for(self, geometry: Geometry) -> torch.Tensor | None:
        """The packed copy in the layout that this convolution reads; None where the values are kept plain, or in tiles.

        Tiles that Winograd's kernel cannot use for this convolution are given up for oneDNN's layout.

        oneDNN's choice of a layout depends on all of the geometry and on the number of threads, and in a layout that it
        would not choose it convolves up to 200 times more slowly. So the first call of each kind checks, and packs anew if it
        must.
        """
        kind = (geometry, torch.get_num_threads())
        if self.tiles is not None and not _tiles(self.like, self.device, geometry):
            with arena.outside():
                dense = self.dense()
                self.geometry, self.tile = geometry, False
                self._keep(dense)
            self.version += 1
        if self.packed is None or kind in self._served:
            return self.packed
        with arena.outside():
            fresh = _pack(self.dense(), geometry)
        if _same_layout(fresh, self.packed):
            self._served.add(kind)
        else:
            self.packed, self.geometry, self._served = fresh, geometry, {kind}
            self.version += 1
        return self.packed

    def dense(self) -> torch.Tensor:
        """A fresh, contiguous plain tensor."""
        if self.tiles is not None:
            return winograd_weight.untiled(self.tiles, self.like.shape)
        if self.packed is None:
            assert self.plain is not None
            return self.plain.clone()
        return self.packed.to_dense().view(self.like.shape)

    def write(self, dense: torch.Tensor) -> None:
        """Take new values of the same shape and type."""
        self._keep(dense)
        self.version += 1


def _tiles(like: torch.Tensor, device: torch.device, geometry: Geometry) -> bool:
    """Whether Winograd's kernel takes a weight of this type and shape there."""
    if like.dim() != 4 or device.type != "cpu":
        return False
    outputs, channels = like.shape[:2]
    width = geometry.input_shape[3]
    return winograd_weight.why_not(like.dtype, channels, outputs, geometry.window, width) is None


def _pack(dense: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    (n, _, height, width), (_, stride, padding) = geometry
    # Made in inference mode, it could not be written to, or read with gradients, outside of it.
    with torch.inference_mode(False), torch.no_grad():
        packed: torch.Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            as_kernel(dense), padding, stride, (1, 1), 1, (n, dense.shape[1], height, width)
        )
        return packed


def _same_layout(a: torch.Tensor, b: torch.Tensor) -> bool:
    describe = torch.ops.mkldnn._get_mkldnn_serialized_md
    return torch.equal(describe(a), describe(b))


class _View(NamedTuple):
    """One step from a weight's dense value to a view of it, to be taken again on a fresh dense value."""

    function: Callable[..., Any]
    arguments: list[Any]  # flattened; the viewed tensor goes to ``position``
    spec: TreeSpec
    position: int
    output: int | None  # of a function that gives several views (split, unbind)

    def __call__(self, dense: torch.Tensor) -> torch.Tensor:
        flat = [*self.arguments]
        flat[self.position] = dense
        args, kwargs = tree_unflatten(flat, self.spec)
        result = self.function(*args, **kwargs)
        view: torch.Tensor = result if self.output is None else result[self.output]
        return view


class PackedWeight(torch.Tensor):
    """A convolution's weight that holds only the copy packed for a CPU's kernels, and stands where the dense parameter stood.

    Made by :meth:`pack`; ``nn.Parameter(packed, requires_grad=False)`` makes a parameter of it.
    :func:`glide_fast.ops.convolution` reads the packed copy, and has it packed anew for images of another size. Every other
    torch operation sees the dense value, unpacked for that call: right, at the price of a copy. Results are plain tensors,
    but for these:

    - ``.data``, ``.detach()`` and views (``w[0]``, ``w.flatten(1)``) share the weight, as in torch;
    - writes in place, to the weight or through one of those, pack it anew and raise :attr:`version`: ``load_state_dict`` and
      optimisers write like that. What would change its shape (``resize_``, ``t_``) is refused;
    - ``.data = values`` binds the weight to other values, as in torch: a ``.data`` taken before keeps the old ones, and gives
      them back when it is assigned. Another packed weight's ``.data`` is shared, other tensors are packed.

    An ordinary parameter cannot take it the other way: ``e.data = w.data`` raises torch's RuntimeError (incompatible tensor
    type). Write ``e.data.copy_(w.data)`` or ``e.data = w.dense()``. Never ``e.data = w`` or ``e.data = w.detach()``: torch
    accepts both, and reading ``e`` ends the process.

    ``.data = values`` and ``module.to(...)`` may change type and device; where oneDNN does not take the new ones
    (:func:`why_not`) the values are kept plain, and all works on without its speed. Gradients are those of the dense value;
    while they are wanted, convolutions unpack at every call: train the model that was not accelerated.

    ``copy.deepcopy`` gives another packed weight. Pickling, and so ``torch.save``, writes the dense value and gives back a
    plain tensor or parameter. ``state_dict()`` holds packed tensors, which safetensors cannot save, unless
    :func:`dense_state_dict_hook` was called. ``numpy()`` is a read-only copy; there is no storage and no ``data_ptr``.
    """

    _store: _Store
    _path: tuple[_View, ...]

    @classmethod
    def pack(
        cls,
        weight: torch.Tensor,
        *,
        input_shape: Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | None = None,
        tile: bool = False,
    ) -> PackedWeight:
        """Pack a weight for the convolution that is to come.

        Args:
            weight: ``[O, C, kh, kw]``, or ``[O, C, 1]`` or ``[O, C]`` for a 1x1 convolution; fp32 or bf16, on the CPU, in
                any strides. It is copied, not kept.
            input_shape: ``[N, C, H, W]`` of the inputs to expect; the first of another shape costs a check, or packing anew.
            stride, padding: as in :func:`glide_fast.ops.convolution`.
            tile: keep it as Winograd's kernel reads it where that takes it, else as oneDNN does. The kernel takes any number of
                images, of even widths from 8; at the first one of another width the weight is packed for oneDNN, and stays so.

        Raises:
            InvalidInputError: for shapes outside this contract.
            BackendError: neither takes this weight here; :func:`why_not` says beforehand whether oneDNN does.
        """
        geometry = Geometry(_checked(input_shape, weight), window(weight, stride, padding))
        if not (tile and _tiles(weight, weight.device, geometry)):
            reason = why_not(weight.dtype, weight.device)
            if reason is not None:
                raise BackendError(f"the weight cannot be packed for oneDNN: {reason}")
        dense = weight.dense() if isinstance(weight, PackedWeight) else weight.detach()
        return _whole(_Store(dense, geometry, tile))

    @property
    def version(self) -> int:
        """Rises each time the weight is packed anew (whoever wrote to it, or for a convolution of another size) or bound anew."""
        return self._store.version

    @property
    def geometry(self) -> Geometry:
        """The convolution that the weight is packed for."""
        return self._store.geometry

    @property
    def packed(self) -> torch.Tensor | None:
        """oneDNN's own tensor ``[O, C, kh, kw]``, to be read only; None for a view, and where the values are kept plain."""
        return None if self._path else self._store.packed

    @property
    def tiles(self) -> torch.Tensor | None:
        """The values as Winograd's kernel reads them, to be read only; None for a view, and in any other layout."""
        return None if self._path else self._store.tiles

    def packed_for(self, x: torch.Tensor, window: Window) -> torch.Tensor | None:
        """:attr:`packed`, in the layout in which oneDNN convolves ``x`` ``[N, C, H, W]`` fast; packed anew if it must be.

        Two sizes of images in turns have it packed at every call: give each a weight of its own.
        """
        n, channels, height, width = x.shape
        return None if self._path else self._store.packed_for(Geometry((n, channels, height, width), window))

    def dense(self) -> torch.Tensor:
        """The value as a fresh plain tensor, outside of autograd."""
        with torch.no_grad():
            return _walk(self._path, self._store.dense())

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        """As in torch: shares the weight, outside of autograd."""
        # torch does not let an ordinary tensor take the data of one of another backend. This one has no memory to take.
        return _wrapper(self._store, self._path, self, torch.device("meta"), dispatch_device=True)

    @data.setter
    def data(self, values: torch.Tensor) -> None:
        if values.shape != self.shape or self._path:
            whole = "the whole weight, not a view" if self._path else f"a tensor of shape {tuple(self.shape)}"
            raise invalid("data", tuple(values.shape), f"{whole}: a packed weight keeps its shape")
        old = self._store
        if isinstance(values, PackedWeight) and not values._path:
            store = values._store
        else:
            dense = values.dense() if isinstance(values, PackedWeight) else values.detach()
            store = _Store(dense, old.geometry, old.tile)
        if store is old:
            return
        # From another wrapper, which has no storage: torch would keep that of the values.
        torch.Tensor.data.__set__(self, _whole(store))  # type: ignore[attr-defined]
        # Never a version that this weight had before, also where it gets an earlier store back.
        store.version = max(old.version, store.version) + 1
        self._store = store

    def numpy(self, *, force: bool = False) -> np.ndarray[Any, Any]:
        """The dense value, read-only: what is written to the array could not reach the weight."""
        array: np.ndarray[Any, Any] = self.dense().requires_grad_(self.requires_grad).numpy(force=force)
        array.flags.writeable = False
        return array

    def data_ptr(self) -> int:
        """Raises BackendError: there are no plain values in memory to point to."""
        raise BackendError("a packed weight has no plain storage and so no data_ptr; take that of w.dense()")

    def tolist(self) -> Any:
        """The dense value as nested lists."""
        return self.dense().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        kept = (
            ", kept plain"
            if self._store.plain is not None
            else ", in tiles"
            if self._store.tiles is not None
            else ""
        )
        return f"PackedWeight(shape={tuple(self.shape)}, dtype={self.dtype}, version={self.version}{kept})"

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            dense = self.dense()
            made = dense if self._path else _whole(_Store(dense, self.geometry, self._store.tile))
            memo[id(self)] = made.requires_grad_(self.requires_grad)
            for name, value in self.__dict__.items():  # what makes it a parameter among them
                if name not in ("_store", "_path"):
                    setattr(made, name, copy.deepcopy(value, memo))
        copied: torch.Tensor = memo[id(self)]
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        dense = self.dense().requires_grad_(self.requires_grad)
        if isinstance(self, nn.Parameter):
            dense = nn.Parameter(dense, self.requires_grad)
        return dense.__reduce_ex__(protocol)

    def as_parameter(self) -> nn.Parameter:
        """This tensor itself as a parameter without gradient: ``nn.Parameter(packed, requires_grad=False)`` gives a view.

        torch loads all of its distributed tensors (a second of processor time) with the first operation on a subclass, and
        nn.Parameter makes that view by one. This does not.
        """
        self._is_param = True  # what isinstance(..., nn.Parameter) looks at
        return self  # type: ignore[return-value]

    # Results are not to be made packed weights again.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _ALIASES:
            (shared,) = args
            return _wrapper(shared._store, shared._path, shared, shared._store.device)
        if func is torch.ops.prim.device.default:  # of a `.data`
            return args[0]._store.device
        flat, spec = tree_flatten((args, kwargs or {}))
        # Views of one weight that meet in a call meet on one dense value.
        bases = {id(item._store): item._store.dense() for item in flat if isinstance(item, PackedWeight)}
        values = [
            _walk(item._path, bases[id(item._store)]) if isinstance(item, PackedWeight) else item
            for item in flat
        ]
        plain_args, plain_kwargs = tree_unflatten(values, spec)
        result = func(*plain_args, **plain_kwargs)

        packed = [
            (item, value) for item, value in zip(flat, values, strict=True) if isinstance(item, PackedWeight)
        ]
        written = {id(item) for item in _written(func, args, kwargs or {})}
        for item, value in packed:
            if id(item) in written and (value.shape != item.shape or value.dtype != item.dtype):
                raise InvalidInputError(
                    f"{func}: would make a packed weight of shape {tuple(item.shape)} one of {tuple(value.shape)}; "
                    "accepted: operations in place that keep the shape"
                )
        for store in {id(item._store): item._store for item, _ in packed if id(item) in written}.values():
            store.write(bases[id(store)])

        position = _viewed(func, flat)
        if position is not None:
            source = flat[position]
            rest = [None if index == position else item for index, item in enumerate(flat)]

            def wrap(view: torch.Tensor, output: int | None) -> PackedWeight:
                step = _View(func, rest, spec, position, output)
                return _wrapper(source._store, (*source._path, step), view, view.device)

            if isinstance(result, torch.Tensor):
                return wrap(result, None)
            return type(result)(wrap(view, output) for output, view in enumerate(result))
        originals = {id(value): item for item, value in packed}
        leaves, result_spec = tree_flatten(result)
        return tree_unflatten([originals.get(id(leaf), leaf) for leaf in leaves], result_spec)


_ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)


def _walk(path: tuple[_View, ...], dense: torch.Tensor) -> torch.Tensor:
    for step in path:
        dense = step(dense)
    return dense


def _wrapper(
    store: _Store,
    path: tuple[_View, ...],
    like: torch.Tensor,
    device: torch.device,
    dispatch_device: bool = False,
) -> PackedWeight:
    """A tensor without storage that looks like ``like``; with ``dispatch_device`` it says that it is where ``store`` is."""
    # A view of a tensor made outside of inference mode must not be an inference tensor.
    with torch.inference_mode(False):
        made: PackedWeight = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            PackedWeight,
            like.shape,
            strides=like.stride(),
            storage_offset=like.storage_offset(),
            dtype=like.dtype,
            device=device,
            dispatch_device=dispatch_device,
        )
    made._store, made._path = store, path
    return made


def _whole(store: _Store) -> PackedWeight:
    return _wrapper(store, (), store.like, store.device)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[PackedWeight]:
    """The packed weights that ``func`` writes to, as its schema says."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from (item for item in tree_flatten(given)[0] if isinstance(item, PackedWeight))


def _viewed(func: Any, flat: list[Any]) -> int | None:
    """Where in ``flat`` the packed weight stands of which ``func`` gives a view; None if it gives none of one."""
    if not any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns):
        return None
    # torch's views are of their first argument.
    return 0 if isinstance(flat[0], PackedWeight) else None


def _checked(input_shape: Sequence[int], weight: torch.Tensor) -> tuple[int, int, int, int]:
    shape = tuple(input_shape)
    channels = weight.shape[1] if weight.dim() > 1 else 0
    if len(shape) != 4 or shape[1] != channels or min(shape) < 1:
        raise invalid("input_shape", shape, f"[N, {channels}, H, W] of the inputs to expect")
    return shape


def dense_state_dict_hook(module: nn.Module) -> None:
    """Let ``state_dict()`` of this module and of every module in it give plain tensors for packed weights.

    They are copies, together as large as the packed weights, and so are weights that lie in the memory of a larger tensor:
    what is written into the dictionary's tensors reaches the model by ``load_state_dict``. With ``keep_vars=True`` the
    parameters themselves are given, as in torch. Calling it again changes nothing.
    """
    for part in module.modules():
        if _give_dense not in part._state_dict_hooks.values():
            part.register_state_dict_post_hook(_give_dense)


def forget_dense_state_dict_hook(module: nn.Module) -> None:
    """Undo :func:`dense_state_dict_hook`, of modules that hold no packed weights any more."""
    for part in module.modules():
        for key in [key for key, hook in part._state_dict_hooks.items() if hook is _give_dense]:
            del part._state_dict_hooks[key]


def _give_dense(module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    for name in (*module._parameters, *module._buffers):
        value = state.get(prefix + name)
        if isinstance(value, nn.Parameter) or not isinstance(value, torch.Tensor):
            continue
        if isinstance(value, PackedWeight):
            state[prefix + name] = value.dense()
        elif value.untyped_storage().nbytes() != value.nbytes:
            # Writers of files refuse parts of a storage, or write all of it.
            state[prefix + name] = value.clone(memory_format=torch.preserve_format)
