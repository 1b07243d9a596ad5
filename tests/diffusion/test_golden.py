"""Schedules, respacing, tables, losses and whole sampling loops against the official implementation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support import golden

from glide_fast.diffusion.respacing import space_timesteps
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.models.factory import build, create_gaussian_diffusion
from glide_fast.ops.backends import force
from glide_fast.text.gpt2 import get_encoder

FACTS = golden.facts()
RESPACINGS = [key.removeprefix("respace/") for key in FACTS if key.startswith("respace/")]


@pytest.mark.parametrize("key", [key for key in FACTS if key.startswith("betas/")])
def test_betas(key: str) -> None:
    _, name, steps = key.split("/")
    assert golden.error(key, get_named_beta_schedule(name, int(steps))) < 1e-7  # recorded in fp32


@pytest.mark.parametrize("respacing", RESPACINGS)
def test_respacing(respacing: str) -> None:
    want = FACTS[f"respace/{respacing}"]
    if isinstance(want, str):
        with pytest.raises(ValueError, match="timestep_respacing"):
            space_timesteps(1000, respacing)
        return
    diffusion = create_gaussian_diffusion(1000, "squaredcos_cap_v2", respacing)
    assert diffusion.timestep_map == want
    for key in FACTS:
        if key.startswith(f"tables/{respacing}/") and key.count("/") == 2:
            assert golden.error(key, getattr(diffusion, key.split("/")[2])) < 1e-7, key  # recorded in fp32


def test_training_losses() -> None:
    fact = FACTS["training_losses"]
    diffusion = create_gaussian_diffusion(1000, "squaredcos_cap_v2", "")
    fake = golden.tensor("fake", 4, 6, 16, 16) * 0.5
    losses = diffusion.training_losses(
        lambda x, t: fake,
        golden.tensor("x0", 4, 3, 16, 16).clamp(-1, 1),
        torch.tensor(fact["timesteps"]),
        noise=golden.tensor("nz", 4, 3, 16, 16),
    )
    for name in ("loss", "mse", "vb"):
        np.testing.assert_allclose(losses[name].numpy(), fact[name], rtol=1e-4)


@pytest.fixture
def as_recorded() -> Iterator[None]:
    """Two threads, as the recording ran.

    The first step at t = 999 multiplies rounding errors by sqrt(1 / abar) = 20,000, and the order of a convolution's sums, which
    the thread count decides, alone moves a loop's result by up to 1.7e-4.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    # Rounding is multiplied by thousands here: the text's attention adds in the recording's order.
    with force(text_attention="reference"):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base() -> Any:
    model, diffusion = build(FACTS["unet/base"]["options"] | {"timestep_respacing": "10"})
    golden.fill(model).eval()
    encoder = get_encoder()
    tokens = encoder.encode("a red cube on top of a blue cube")
    padded, mask = encoder.padded_tokens_and_mask(tokens, 24)
    empty, empty_mask = encoder.padded_tokens_and_mask([], 24)
    kwargs = {
        "tokens": torch.tensor([padded] * 2 + [empty] * 2),
        "mask": torch.tensor([mask] * 2 + [empty_mask] * 2, dtype=torch.bool),
    }

    def guided(x: torch.Tensor, ts: torch.Tensor, **kw: Any) -> torch.Tensor:
        # The wrapper of the official notebooks, word for word in what it computes.
        half = x[: len(x) // 2]
        out = model(torch.cat([half, half]), ts, **kw)
        eps, rest = out[:, :3], out[:, 3:]
        cond, uncond = eps.chunk(2)
        mixed = uncond + 3.0 * (cond - uncond)
        return torch.cat([torch.cat([mixed, mixed]), rest], dim=1)

    return model, diffusion, guided, kwargs


def known_rows() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, :20] = 1
    return golden.tensor("inp", 1, 3, 64, 64).clamp(-1, 1), mask


@pytest.mark.usefixtures("as_recorded")
@pytest.mark.parametrize("name", ["p_sample_loop", "ddim_sample_loop", "ddim_eta", "denoised_fn"])
def test_loop(base: Any, name: str) -> None:
    _, diffusion, guided, kwargs = base
    image, mask = known_rows()
    seed, method, extra, tolerance = {
        "p_sample_loop": (0, "p_sample_loop", {}, 1e-4),
        "ddim_sample_loop": (0, "ddim_sample_loop", {}, 1e-4),
        "ddim_eta": (1, "ddim_sample_loop", {"eta": 0.7, "clip_denoised": False}, 1e-3),
        "denoised_fn": (2, "p_sample_loop", {"denoised_fn": lambda x: x * (1 - mask) + image * mask}, 1e-4),
    }[name]
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "device": "cpu",
        "clip_denoised": True,
        "progress": False,
        "model_kwargs": kwargs,
        **extra,
    }
    sample = getattr(diffusion, method)(guided, (4, 3, 64, 64), **options)
    assert golden.error(f"loop/{name}", sample[:2]) < tolerance


@pytest.mark.usefixtures("as_recorded")
def test_loops_with_cond_fn(base: Any) -> None:
    model, diffusion, _, kwargs = base
    kwargs = {key: value[:2] for key, value in kwargs.items()}
    torch.manual_seed(3)
    for method in ("p_sample_loop", "ddim_sample_loop"):
        sample = getattr(diffusion, method)(
            model,
            (2, 3, 64, 64),
            device="cpu",
            cond_fn=lambda x, t, **_: -0.5 * (x - 0.3),
            model_kwargs=kwargs,
        )
        assert golden.error(f"loop/cond_fn_{method}", sample) < 1e-4
