"""Which parameters change type when a model is converted, as the released ``convert_to_fp16`` decides it.

Convolutions of the torso (and, through :func:`convert_linears`, the text transformer's matrices) are converted; norms,
the timestep embedding, FiLM's linear layers and the output convolution keep fp32.
"""

from __future__ import annotations

import torch
from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _convert(module: nn.Module, kinds: tuple[type[nn.Module], ...], dtype: torch.dtype) -> None:
    for layer in module.modules():
        if isinstance(layer, kinds):
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def convert_convolutions(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert weights and biases of every convolution below ``module`` to ``dtype``, in place."""
    _convert(module, CONVOLUTIONS, dtype)


def convert_linears(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert weights and biases of every linear layer and 2-d convolution below ``module`` to ``dtype``, in place."""
    _convert(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d), dtype)


def convert_module_to_f16(layer: nn.Module) -> None:
    """Convert one convolution to fp16; for ``module.apply``, as in the released ``fp16_util``."""
    if isinstance(layer, CONVOLUTIONS):
        convert_convolutions(layer, torch.float16)


def convert_module_to_f32(layer: nn.Module) -> None:
    """Convert one convolution back to fp32; for ``module.apply``."""
    if isinstance(layer, CONVOLUTIONS):
        convert_convolutions(layer, torch.float32)
