"""Schedules, respacing, tables, losses and whole sampling loops against the official implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support import golden
from support.rounding import Network, assert_within, relative, rounded_once_more

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
    """Two threads, as the recording ran: the order of a convolution's sums depends on their number."""
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


def assert_as_recorded(
    key: str, sample: Callable[[Network], torch.Tensor], network: Network, tolerance: float = 1e-4
) -> None:
    """Hold what ``sample(network)`` draws to the recording ``key``.

    The first step at t = 999 multiplies rounding by sqrt(1 / abar) = 20,000, and another processor's convolutions add in another
    order. Where a result is not within ``tolerance``, it has to be within what that rounding does to this very loop.
    """
    got = sample(network)
    assert_within(
        golden.error(key, got), tolerance, lambda: relative(sample(rounded_once_more(network)), got)
    )


def test_a_loop_that_is_not_the_recorded_one_is_noticed() -> None:
    """On whatever processor: the tolerance that follows from rounding does not hide another guidance scale."""
    want = golden.tensor("x0", 1, 3, 8, 8)

    def sample(scale: float) -> Callable[[Network], torch.Tensor]:
        return lambda network: scale * network(want, torch.zeros(1))

    def recorded(key: str, got: torch.Tensor) -> float:
        return relative(got, want)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden, "error", recorded)
        assert_as_recorded("", sample(1 + 1e-5), lambda x, ts: x)
        # A network that multiplies its input's rounding by 20,000 may differ by so much, and not by more.
        amplified: Network = lambda x, ts: x + 2e4 * (x - want)  # noqa: E731
        assert_as_recorded("", sample(1 + 1e-3), amplified)
        with pytest.raises(AssertionError):
            assert_as_recorded("", sample(1 + 1e-3), lambda x, ts: x)
        with pytest.raises(AssertionError):
            assert_as_recorded("", sample(1 + 2e-2), amplified)


def in_doubles(diffusion: Any, method: str, x: torch.Tensor, out: torch.Tensor, t: int) -> torch.Tensor:
    """A step's mean by the formulas of Ho et al. 2020 (eq. 7) and Song et al. 2021 (eq. 12, eta 0), clipped."""
    abar, before = diffusion.alphas_cumprod[t], diffusion.alphas_cumprod_prev[t]
    x, eps = x.double(), out[:, :3].double()
    clean = ((x - (1 - abar) ** 0.5 * eps) / abar**0.5).clamp(-1, 1)
    if method == "p_sample":
        beta = 1 - abar / before
        scale = 1 / (1 - abar)
        return scale * (beta * before**0.5 * clean + (1 - before) * (1 - beta) ** 0.5 * x)
    direction = (x - abar**0.5 * clean) / (1 - abar) ** 0.5
    return before**0.5 * clean + (1 - before) ** 0.5 * direction


@pytest.mark.parametrize("method", ["p_sample", "ddim_sample"])
@pytest.mark.parametrize("seed", [0, 17, 4711])
def test_each_step_of_a_loop_is_the_formulas(method: str, seed: int) -> None:
    """To 1e-5, step by step, from the states that the loop itself went through; and it draws what the official one does."""
    diffusion = create_gaussian_diffusion(1000, "squaredcos_cap_v2", "10")
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def network(x: torch.Tensor, ts: torch.Tensor) -> torch.Tensor:
        out = torch.cat([0.9 * x + 0.3 * torch.tanh(x.roll(1, -1)), torch.sin(3 * x)], dim=1)
        calls.append((x, out))
        return out

    torch.manual_seed(seed)
    states = [
        s["sample"]
        for s in getattr(diffusion, f"{method}_loop_progressive")(network, (2, 3, 8, 8), device="cpu")
    ]
    torch.manual_seed(seed)
    assert torch.equal(calls[0][0], torch.randn(2, 3, 8, 8))
    assert len(states) == len(calls) == 10
    for step, ((x, out), after) in enumerate(zip(calls, states, strict=True)):
        t = 9 - step
        want = in_doubles(diffusion, method, x, out, t)
        noise = torch.randn(
            2, 3, 8, 8
        ).double()  # both loops draw at every step, also where it counts for nothing
        if method == "p_sample" and t > 0:
            low = diffusion.posterior_log_variance_clipped[t]
            high = float(torch.tensor(diffusion.betas[t]).log())
            share = (out[:, 3:].double() + 1) / 2
            want = want + (0.5 * (share * high + (1 - share) * low)).exp() * noise
        assert relative(after, want) < 1e-5, step


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
    options: dict[str, Any] = {
        "device": "cpu",
        "clip_denoised": True,
        "progress": False,
        "model_kwargs": kwargs,
        **extra,
    }

    def sample(network: Network) -> torch.Tensor:
        torch.manual_seed(seed)
        drawn: torch.Tensor = getattr(diffusion, method)(network, (4, 3, 64, 64), **options)
        return drawn[:2]

    assert_as_recorded(f"loop/{name}", sample, guided, tolerance)


@pytest.mark.usefixtures("as_recorded")
def test_loops_with_cond_fn(base: Any) -> None:
    model, diffusion, _, kwargs = base
    kwargs = {key: value[:2] for key, value in kwargs.items()}
    torch.manual_seed(3)
    for method in ("p_sample_loop", "ddim_sample_loop"):
        before = torch.get_rng_state()  # the recording ran one after the other

        def sample(network: Network, method: str = method, before: torch.Tensor = before) -> torch.Tensor:
            torch.set_rng_state(before)
            drawn: torch.Tensor = getattr(diffusion, method)(
                network,
                (2, 3, 64, 64),
                device="cpu",
                cond_fn=lambda x, t, **_: -0.5 * (x - 0.3),
                model_kwargs=kwargs,
            )
            return drawn

        assert_as_recorded(f"loop/cond_fn_{method}", sample, model)
