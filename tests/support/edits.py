"""The ways in which scripts change a weight in place, and one weight of every class that a model has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from glide_fast.ops.convolution.packed_weight import PackedWeight

Edit = Callable[[Any, torch.Tensor], None]
"""``edit(parameter, delta)`` adds ``delta``."""


def _replace_data(parameter: Any, delta: torch.Tensor) -> None:
    parameter.data = parameter.data + delta


def _add(parameter: Any, delta: torch.Tensor) -> None:
    parameter.data.add_(delta)


def _augmented(parameter: Any, delta: torch.Tensor) -> None:
    parameter.data += delta


def _copy(parameter: Any, delta: torch.Tensor) -> None:
    parameter.data.copy_(parameter.data + delta)


def _index(parameter: Any, delta: torch.Tensor) -> None:
    parameter.data[...] = parameter.data + delta


def _several(parameter: Any, delta: torch.Tensor) -> None:
    torch._foreach_add_([parameter.data], [delta])


def _in_inference_mode(parameter: Any, delta: torch.Tensor) -> None:
    with torch.inference_mode():
        parameter.data += delta


def _replaced_in_inference_mode(parameter: Any, delta: torch.Tensor) -> None:
    with torch.inference_mode():
        parameter.data = parameter.data + delta


def _from_a_vector(parameter: Any, delta: torch.Tensor) -> None:
    vector = (parameter.detach() + delta).flatten()  # parameters_to_vector takes no channels-last weights
    torch.nn.utils.vector_to_parameters(vector, [parameter])


COUNTED: dict[str, Edit] = {
    "p.data = p.data + d": _replace_data,
    "p.data.add_(d)": _add,
    "p.data += d": _augmented,
    "p.data.copy_": _copy,
    "p.data[...] =": _index,
    "foreach": _several,
    "p.data += d in inference mode": _in_inference_mode,
    "p.data = in inference mode": _replaced_in_inference_mode,
    "vector_to_parameters": _from_a_vector,
}
"""Edits that every call notices."""


def _numpy(parameter: Any, delta: torch.Tensor) -> None:
    parameter.detach().numpy()[...] += delta.numpy()


def _dlpack(parameter: Any, delta: torch.Tensor) -> None:
    torch.utils.dlpack.from_dlpack(parameter.detach()).add_(delta)


def _storage(parameter: Any, delta: torch.Tensor) -> None:
    alias = torch.empty(0, dtype=parameter.dtype)
    alias.set_(parameter.untyped_storage(), parameter.storage_offset(), parameter.shape, parameter.stride())
    alias.add_(delta)


def _detached_data(parameter: Any, delta: torch.Tensor) -> None:
    parameter.detach().data.add_(delta)


RAW: dict[str, Edit] = {
    "numpy": _numpy,
    "dlpack": _dlpack,
    "storage": _storage,
    "p.detach().data": _detached_data,
}
"""Edits that no counter of torch shows, of weights that lie in plain memory."""


CLASSES = {
    "norm": "input_blocks.1.0.out_layers.0.weight",
    "FiLM": "middle_block.0.emb_layers.1.weight",
    "FiLM bias": "middle_block.0.emb_layers.1.bias",
    "text keys": "middle_block.1.encoder_kv.weight",
    "text transformer": "transformer.resblocks.0.mlp.c_fc.weight",
    "text norm": "transformer.resblocks.0.ln_1.weight",
    "text projection": "transformer_proj.weight",
    "token embedding": "token_embedding.weight",
    "position": "positional_embedding",
    "timestep embedding": "time_embed.2.weight",
    "first convolution": "input_blocks.0.0.weight",
    "first bias": "input_blocks.0.0.bias",
    "shortcut": "output_blocks.0.0.skip_connection.weight",
    "shortcut bias": "output_blocks.0.0.skip_connection.bias",
    "3x3 convolution": "middle_block.0.in_layers.2.weight",
    "projection": "middle_block.1.proj_out.weight",
    "last convolution": "out.2.weight",
}
"""A weight of each class by its name, in models of one residual block a level."""

BEHIND_UPSAMPLING = {
    "upsampled convolution": "in_layers.2.weight",
    "upsampled convolution's bias": "in_layers.2.bias",
}


def names(model: torch.nn.Module) -> dict[str, str]:
    """A weight of each class that this model has."""
    known = {name for name, _ in model.named_parameters()}
    found = {what: name for what, name in CLASSES.items() if name in known}
    upsampling = next(
        (
            path
            for path, m in model.named_modules()
            if getattr(m, "updown", False) and "output_blocks" in path
        ),
        None,
    )
    if upsampling is not None:
        found |= {what: f"{upsampling}.{leaf}" for what, leaf in BEHIND_UPSAMPLING.items()}
    return found


def delta_for(parameter: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A change like that of a merged adapter: of rank one if the weight is a matrix, about half as large as the weight."""
    generator = torch.Generator().manual_seed(seed)
    shape = parameter.shape
    down = torch.randn(1, shape[1:].numel(), generator=generator)
    up = torch.randn(shape[0], 1, generator=generator)
    size = 0.5 * float(parameter.detach().float().std(correction=0)) + 0.05
    return (up @ down).view(shape).to(parameter.dtype) * size


def in_plain_memory(parameter: torch.Tensor) -> bool:
    """Whether the weight has plain memory, which can be written to without torch's noticing."""
    return not isinstance(parameter, PackedWeight)
