"""Numbers recorded from the official implementation, and the rule by which both sides fill weights and inputs by name."""

from __future__ import annotations

import functools
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

DIRECTORY = Path(__file__).resolve().parent.parent / "golden"


@functools.cache
def facts() -> dict[str, Any]:
    return json.loads((DIRECTORY / "golden.json").read_text())


@functools.cache
def _arrays() -> Any:
    return np.load(DIRECTORY / "golden.npz")


def normal(label: str, shape: tuple[int, ...] | list[int]) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(label.encode())))
    return rng.standard_normal(shape, dtype=np.float32)


def tensor(label: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(normal(label, shape))


def weight(name: str, shape: torch.Size) -> torch.Tensor:
    a = normal(name, tuple(shape))
    if "embedding" in name or name.split(".")[-1] in {"w_voc", "w_pos", "w_t"}:
        a = a * np.float32(0.1)
    elif len(shape) >= 2:
        a = a / np.float32(np.sqrt(np.prod(shape[1:])))
    elif name.endswith(("weight", ".g")):
        a = 1 + np.float32(0.1) * a
    else:
        a = a * np.float32(0.1)
    return torch.from_numpy(np.asarray(a, dtype=np.float32))


def fill(model: torch.nn.Module) -> torch.nn.Module:
    model.load_state_dict({name: weight(name, value.shape) for name, value in model.state_dict().items()})
    return model


def text_inputs(case: str, batch: int, ctx: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, mask and timesteps of a case, drawn from one stream in this order."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(("tok" + case).encode())))
    tokens = rng.integers(0, 50256, (batch, ctx))
    mask = np.arange(ctx) < rng.integers(0, ctx + 1, (batch, 1))
    tokens = np.where(mask, tokens, 50256)
    timesteps = rng.integers(0, 1000, (batch,))
    return torch.from_numpy(tokens), torch.from_numpy(mask), torch.from_numpy(timesteps)


def error(key: str, got: torch.Tensor | np.ndarray) -> float:
    """Relative L2 error over the sampled values of a key, and over the norm of the whole."""
    flat = torch.as_tensor(got).detach().double().reshape(-1)
    want = torch.from_numpy(_arrays()[key + "/values"]).double()
    sampled = flat[torch.from_numpy(_arrays()[key + "/index"])]
    norm = facts()[key]["norm"]
    return max(float((sampled - want).norm() / want.norm()), abs(float(flat.norm()) - norm) / norm)
