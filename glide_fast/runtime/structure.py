"""Checks that a model is built of the layers that the fused operations compute, and that its layers were not changed since.

An accelerated model reads the weights of its layers and does not call most of them. So a layer that was replaced or wrapped,
a hook, a parametrisation or another padding would have no effect; each is refused instead, by the layer's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from operator import contains, itemgetter
from typing import Any

from torch import nn
from torch.nn.modules import module as torchs_module
from torch.nn.utils import parametrize

from glide_fast.errors import InvalidInputError, invalid
from glide_fast.models.precision import CONVOLUTIONS
from glide_fast.models.strided import StridedConv1d, StridedConv2d, StridedConv3d

MODULE_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
)
"""Attributes of a module that hold its hooks."""

_HOOKS = {"_forward_hooks": "a forward hook", "_forward_pre_hooks": "a forward pre-hook"}

# Hooks that torch runs at the call of every module.
_GLOBAL_HOOKS = {
    "register_module_forward_hook": torchs_module._global_forward_hooks,
    "register_module_forward_pre_hook": torchs_module._global_forward_pre_hooks,
}

_GEOMETRY = ("stride", "padding", "dilation", "groups", "padding_mode")
_geometry_of = itemgetter(*_GEOMETRY)

# Methods that patches put on a layer itself, as those for seamless tiling do.
_METHODS = ("forward", "_conv_forward")

# Of the official package's layers and of ours, which have the same names.
_KNOWN = {
    *("TimestepEmbedSequential", "ResBlock", "AttentionBlock", "QKVAttention", "Upsample", "Downsample"),
    *("GroupNorm32", "Transformer", "ResidualAttentionBlock", "MultiheadAttention", "QKVMultiheadAttention"),
    *("MLP", "LayerNorm", "Linear", "CompactEmbedding"),
}
# A wrapper has the wrapped layer in it, and may have its name.
_LEAVES = {"GroupNorm32", "LayerNorm", "Linear", "QKVAttention", "QKVMultiheadAttention"}
_CONVS = {layer.__name__ for layer in CONVOLUTIONS}
_TORCHS = (
    *(*CONVOLUTIONS, StridedConv1d, StridedConv2d, StridedConv3d),
    *(nn.Linear, nn.Embedding, nn.Sequential, nn.ModuleList),
    *(nn.Identity, nn.SiLU, nn.GELU, nn.Dropout, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)
# What the fused operations take a block's layers to be, by the names of their types.
_LAYERS = {
    "ResBlock": {
        "in_layers.0": {"GroupNorm32"},
        "in_layers.1": {"Identity"},
        "in_layers.2": _CONVS,
        "emb_layers.0": {"SiLU"},
        "emb_layers.1": {"Linear"},
        "out_layers.0": {"GroupNorm32"},
        "out_layers.1": {"SiLU", "Identity"},
        "out_layers.2": {"Dropout"},
        "out_layers.3": _CONVS,
        "skip_connection": {"Identity", *_CONVS},
    },
    "AttentionBlock": {
        "norm": {"GroupNorm32"},
        "qkv": {"Conv1d"},
        "attention": {"QKVAttention"},
        "encoder_kv": {"Conv1d"},
        "proj_out": {"Conv1d"},
    },
}


def _own(module: nn.Module) -> str | None:
    """A change to a layer that changes its call (a hook, another ``forward``), in words; None if there is none."""
    for name, hook in _HOOKS.items():
        if module.__dict__.get(name):
            return hook
    for method in _METHODS:
        if method in module.__dict__:
            return f"a {method}() of the instance's own"
    if parametrize.is_parametrized(module):
        return f"a parametrisation of {', '.join(module.parametrizations)}"  # type: ignore[arg-type]
    return None


def _geometry(layer: Any, stride: int) -> str | None:
    """The convolution with the option that the fused operations do not compute, in words; None if there is none."""
    expected = {
        "stride": {stride},
        "padding": {size // 2 for size in layer.kernel_size},  # keeps the size
        "dilation": {1},
        "groups": {1},
        "padding_mode": {"zeros"},
    }
    for name, values in expected.items():
        value = getattr(layer, name)
        if set(value if isinstance(value, tuple) else [value]) != values:
            return f"a {type(layer).__name__} with {name}={value}"
    return None


def _unusual(path: str, module: nn.Module) -> Iterator[tuple[str, str]]:
    """Paths of the layers below ``module`` that the fused operations do not compute, and for each the reason in words."""
    own = _own(module)
    if own is not None:
        yield path, own
    elif isinstance(module, CONVOLUTIONS) and type(module) in _TORCHS:
        # The official downsampling layer holds its convolution as `op`.
        found = _geometry(module, stride=2 if path.endswith(".op") else 1)
        if found is not None:
            yield path, found
    elif type(module) not in _TORCHS and (
        type(module).__name__ not in _KNOWN or (type(module).__name__ in _LEAVES and module._modules)
    ):
        yield path, f"a {type(module).__module__}.{type(module).__name__}"
    for name, kinds in _LAYERS.get(type(module).__name__, {}).items():
        try:
            layer = module.get_submodule(name)
        except AttributeError:
            continue  # attention without text has no encoder_kv
        if type(layer).__name__ not in kinds:
            yield f"{path}.{name}", f"a {type(layer).__name__}"


def _refuse_global_hooks() -> None:
    for register, hooks in _GLOBAL_HOOKS.items():
        if hooks:
            raise InvalidInputError(
                f"model: got a hook for all modules (torch.nn.modules.module.{register}), and an accelerated model does not "
                "call most of its layers; accepted: no such hook. model.plain() is the plain model, which calls every layer"
            )


def refuse_unusual(model: nn.Module, official: frozenset[str]) -> None:
    """Refuse a model that was changed since its class built it: the fused operations would compute something else.

    Args:
        model: plain.
        official: names of classes whose ``forward`` is known.

    Raises:
        InvalidInputError: naming the layer that was changed.
    """
    own = _own(model)
    if own is not None:
        raise InvalidInputError(
            f"model: got {own} on the model itself; accepted: a plain one. Hooks may be put on what accelerate() returns"
        )
    for method in ("forward", "__call__"):
        owner = next(cls for cls in type(model).__mro__ if method in vars(cls))
        if owner is not nn.Module and owner.__name__ not in official:
            raise invalid(
                "model", f"{owner.__name__} with a {method}() of its own", "a class of the official package's"
            )
    for path, module in model.named_modules():
        for where, what in _unusual(path, module) if path else ():
            raise InvalidInputError(
                f"model: got {what} in {where}, which an accelerated model would not call; accepted: the layers that "
                "the official package builds. Merge it into the weights first (for a parametrisation: "
                "torch.nn.utils.parametrize.remove_parametrizations), or use the plain model"
            )


class Structure:
    """Notices when an accelerated model's layers are replaced, wrapped, hooked, parametrised, added, removed or reconfigured.

    Args:
        model: its present structure is the right one.
    """

    def __init__(self, model: nn.Module) -> None:
        self._paths, self._modules = zip(*model.named_modules(), strict=True)
        self._types = [type(module) for module in self._modules]
        below = self._modules[1:]
        # All of this is compared before each call, so it is kept for quick access; these dictionaries stay the same objects.
        self._hooks = [module.__dict__[name] for module in below for name in _HOOKS]
        self._attributes = [module.__dict__ for module in below]
        self._convolutions = [module.__dict__ for module in below if isinstance(module, CONVOLUTIONS)]
        self._geometries = self._geometry()
        self._inner = [module._modules for module in self._modules if module._modules]
        self._leaves = [module._modules for module in self._modules if not module._modules]
        self._children = self._present()

    def _present(self) -> list[nn.Module | None]:
        return list(chain.from_iterable(map(dict.values, self._inner)))

    def _geometry(self) -> list[tuple[Any, ...]]:
        return list(map(_geometry_of, self._convolutions))

    def check(self) -> None:
        """InvalidInputError, naming the layer, if the model was changed."""
        _refuse_global_hooks()
        if (
            any(self._hooks)
            or any(self._leaves)
            or self._present() != self._children
            or list(map(type, self._modules)) != self._types
            or any(map(contains, self._attributes, repeat("forward")))
            or any(map(contains, self._convolutions, repeat("_conv_forward")))
            or self._geometry() != self._geometries
        ):
            where, what = self._difference()
            raise InvalidInputError(
                f"model: got {what} in {where}, which an accelerated model does not call; accepted: the layers as accelerate() "
                "found them. model.plain() is the plain model, where it has its effect; merged into that one's weights it can "
                "be accelerated again"
            )

    def check_for_loop(self) -> None:
        """As :meth:`check`, before a loop. A loop does not call the model itself either, so hooks on it are refused, too."""
        self.check()
        own = _own(self._modules[0])
        if own is not None:
            raise InvalidInputError(
                f"model: got {own} on the model itself, which pipelines and bound loops do not call; accepted: hooks for "
                "direct calls. model.plain() is the plain model, whose hooks are always called"
            )

    def _difference(self) -> tuple[str, str]:
        """The path of a layer that was changed, and how."""
        now = dict(self._modules[0].named_modules())
        geometries = iter(self._geometries)
        for path, module, cls in zip(self._paths, self._modules, self._types, strict=True):
            name = path or "the model"
            own = _own(module) if path else None
            if own is not None:
                return name, own
            if isinstance(module, CONVOLUTIONS):
                for attribute, before in zip(_GEOMETRY, next(geometries), strict=True):
                    value = getattr(module, attribute)
                    if value != before:
                        return name, f"{attribute}={value!r} instead of {before!r}"
            if path not in now:
                return name, f"nothing, where a {cls.__name__} was"
            if now[path] is not module:
                return name, f"a {type(now[path]).__name__} in place of a {cls.__name__}"
            if type(module) is not cls:
                return name, f"a {type(module).__name__} in place of a {cls.__name__}"
        known = set(self._paths)
        added = next((path for path in now if path not in known), "")
        return added or "the model", f"a {type(now[added]).__name__} that was added"
