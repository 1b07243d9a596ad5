"""The sampling loop: against the official-style loops, by rule, and what a picture may and may not depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from glide_fast.diffusion.noise import BASE_STREAMS, UPSAMPLER_STREAMS, philox_normal
from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.rules import RULES
from glide_fast.diffusion.sampling import SamplingLoop
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.errors import InvalidInputError
from glide_fast.ops import backends, group_norm_act
from glide_fast.ops.backends import Choice, force, listen

SHAPE = (3, 8, 8)
SEEDS = torch.tensor([11, 2**40, 0])


def process(steps: int = 8) -> SpacedDiffusion:
    return SpacedDiffusion(
        space_timesteps(1000, str(steps)), betas=get_named_beta_schedule("squaredcos_cap_v2", 1000)
    )


def network(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Depends on the state, on its neighbourhood and on the original timestep; each image by itself."""
    t = (timesteps.float() / 1000).view(-1, 1, 1, 1)
    return torch.cat([0.8 * x + 0.1 * x.roll(1, -1) * (1 - t), torch.tanh(x.flip(1)) * t], dim=1)


def doubled(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Conditional half first: the two halves answer differently to equal states."""
    conditional, unconditional = x.chunk(2)
    assert torch.equal(conditional, unconditional)
    a, b = timesteps.chunk(2)
    return torch.cat([network(conditional, a), 0.5 * network(unconditional, b)])


def run(**options: Any) -> torch.Tensor:
    steps = options.pop("steps", 8)
    denoiser = doubled if options.get("guidance_scale") is not None else network
    return SamplingLoop(denoiser, process(steps), options.pop("seeds", SEEDS), SHAPE, **options).run()


def test_ddim_equals_the_official_loop() -> None:
    noise = philox_normal(SEEDS, 0, SHAPE, stream=BASE_STREAMS.start)
    want = process().ddim_sample_loop(network, (3, *SHAPE), noise=noise, device="cpu")
    torch.testing.assert_close(run(rule="ddim"), want, rtol=1e-5, atol=1e-5)


def test_guidance_equals_the_official_wrapper() -> None:
    noise = philox_normal(SEEDS, 0, SHAPE, stream=BASE_STREAMS.start)

    def wrapped(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        half = x[:3]
        out = doubled(torch.cat([half, half]), timesteps)
        conditional, unconditional = out[:, :3].chunk(2)
        eps = unconditional + 3.0 * (conditional - unconditional)
        return torch.cat([torch.cat([eps, eps]), out[:, 3:]], dim=1)

    want = process().ddim_sample_loop(wrapped, (6, *SHAPE), noise=torch.cat([noise, noise]), device="cpu")[:3]
    torch.testing.assert_close(run(rule="ddim", guidance_scale=3.0), want, rtol=1e-5, atol=1e-5)


def test_ddpm_equals_the_official_steps_with_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    diffusion = process()
    x = philox_normal(SEEDS, 0, SHAPE, stream=BASE_STREAMS.start)
    for row in range(7, -1, -1):
        noise = philox_normal(SEEDS, row, SHAPE, stream=BASE_STREAMS.step)
        monkeypatch.setattr(torch, "randn_like", lambda _, noise=noise: noise)
        x = diffusion.p_sample(network, x, torch.full((3,), row))["sample"]
    torch.testing.assert_close(run(rule="ddpm"), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("guidance_scale", [None, 2.0])
def test_a_seed_gives_the_same_picture_in_any_batch(rule: str, guidance_scale: float | None) -> None:
    together = run(rule=rule, guidance_scale=guidance_scale)
    for i in range(3):
        alone = run(rule=rule, guidance_scale=guidance_scale, seeds=SEEDS[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 0.01


@pytest.mark.parametrize("rule", list(RULES))
def test_a_loop_can_run_again(rule: str) -> None:
    loop = SamplingLoop(network, process(), SEEDS.clone(), SHAPE, rule=rule)
    first = loop.run()
    again = loop.run()
    assert torch.equal(first, again)
    loop.seeds.copy_(SEEDS.flip(0))
    torch.testing.assert_close(loop.run(), first.flip(0))
    assert torch.equal(first, again), "a result must not be the loop's own buffer"
    assert not again.is_inference()


def test_stages_use_different_noise() -> None:
    base, upsampler = run(rule="ddim"), run(rule="ddim", streams=UPSAMPLER_STREAMS)
    assert (base - upsampler).abs().max() > 0.01


def test_noise_scale_multiplies_the_start_only() -> None:
    loop = SamplingLoop(network, process(), SEEDS, SHAPE, noise_scale=0.5)
    loop.reset()
    assert torch.equal(loop.x, 0.5 * philox_normal(SEEDS, 0, SHAPE, stream=BASE_STREAMS.start))


def test_starting_from_an_image() -> None:
    diffusion, image = process(), torch.rand(3, *SHAPE) * 2 - 1
    loop = SamplingLoop(network, diffusion, SEEDS, SHAPE, image=image, first=4)
    loop.reset()
    noise = philox_normal(SEEDS, 0, SHAPE, stream=BASE_STREAMS.start)
    torch.testing.assert_close(loop.x, diffusion.q_sample(image, torch.full((3,), 4), noise=noise))

    seen: list[tuple[int, int]] = []
    loop.run(lambda index, total, x0: seen.append((index, total)))
    assert seen == [(i, 5) for i in range(5)]


@pytest.mark.parametrize("rule", list(RULES))
def test_the_network_is_told_original_timesteps(rule: str) -> None:
    told: list[list[int]] = []

    def listening(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        told.append(timesteps.tolist())
        return network(x, timesteps)

    SamplingLoop(listening, process(5), SEEDS[:2], SHAPE, rule=rule).run()
    assert told == [[t, t] for t in (999, 749, 500, 250, 0)]


@pytest.mark.parametrize("rule", list(RULES))
def test_the_known_region_is_kept(rule: str) -> None:
    known = torch.rand(3, *SHAPE) * 2 - 1
    mask = torch.zeros(3, 1, 8, 8)
    mask[..., :3] = 1
    sample = run(rule=rule, known=known, known_mask=mask)
    if rule == "plms":  # its last step extrapolates from earlier predictions
        assert (sample - known)[..., :3].abs().mean() < 0.3 * (sample - known)[..., 3:].abs().mean()
    else:
        torch.testing.assert_close(sample[..., :3], known[..., :3], rtol=1e-5, atol=1e-5)
    assert (sample - run(rule=rule))[..., 3:].abs().max() > 1e-3, "what is known must inform the rest"


def test_a_score_can_differentiate_and_moves_the_sample() -> None:
    def score(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        assert timesteps.shape == (3,)
        with torch.enable_grad():
            y = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(-((y - 0.3) ** 2).sum(), y)
        return gradient

    noise = philox_normal(SEEDS, 0, SHAPE, stream=BASE_STREAMS.start)
    want = process().ddim_sample_loop(
        network, (3, *SHAPE), noise=noise, device="cpu", cond_fn=lambda x, t, **_: score(x, t)
    )
    got = run(rule="ddim", score=score)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert (got - run(rule="ddim")).abs().max() > 0.01


def test_a_callback_sees_predictions_and_may_stop() -> None:
    seen: list[torch.Tensor] = []

    class Stop(Exception):
        pass

    def callback(index: int, total: int, x0: torch.Tensor) -> None:
        assert total == 8
        seen.append(x0)
        if index == 2:
            raise Stop

    loop = SamplingLoop(network, process(), SEEDS, SHAPE)
    with pytest.raises(Stop):
        loop.run(callback)
    assert len(seen) == 3
    assert all(x0.shape == (3, *SHAPE) and x0.abs().max() <= 1 for x0 in seen)
    assert torch.equal(loop.run(), run()), "a stopped loop starts afresh"


def test_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    run(rule="ddpm")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rule": "heun"}, "rule"),
        ({"first": 8}, "first"),
        ({"first": -1}, "first"),
        ({"known": torch.zeros(3, *SHAPE)}, "known_mask"),
        ({"known": torch.zeros(1, *SHAPE), "known_mask": torch.zeros(3, 1, 8, 8)}, "known"),
        ({"known": torch.zeros(3, *SHAPE), "known_mask": torch.zeros(3, 3, 8, 8)}, "known_mask"),
        ({"image": torch.zeros(3, 3, 4, 4)}, "image"),
    ],
)
def test_bad_input(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{named}:"):
        run(**options)


class NothingReadBack(TorchDispatchMode):
    """Fails on whatever makes the host wait for a device."""

    READING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.READING, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("guided", [False, True])
def test_a_step_reads_nothing_back_and_keeps_its_buffers(rule: str, guided: bool) -> None:
    """What capturing a step and replaying it asks for: the index is on the device, addresses do not change."""
    known = torch.rand(3, *SHAPE) * 2 - 1
    options: dict[str, Any] = {"rule": rule, "known": known, "known_mask": torch.ones(3, 1, 8, 8).tril()}
    seen: set[int] = set()

    def denoiser(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.add(x.data_ptr())
        if not guided:
            return network(x, timesteps)
        (a, b), (s, t) = x.chunk(2), timesteps.chunk(2)
        return torch.cat([network(a, s), 0.5 * network(b, t)])

    loop = SamplingLoop(denoiser, process(), SEEDS, SHAPE, guidance_scale=2.0 if guided else None, **options)
    loop.reset()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NothingReadBack():
        torch.ones(2)[torch.tensor(0)]  # indexing with a scalar tensor is what the loop avoids
    with torch.inference_mode(), NothingReadBack():
        for _ in range(loop.total):
            loop.advance()
    assert len(seen) == 1
    stepped = loop.x.clone()
    assert torch.equal(stepped, loop.run())


def test_the_step_runs_by_the_environment_when_the_loop_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(loop: SamplingLoop) -> set[str]:
        choices: list[Choice] = []
        with listen(choices.append):
            loop.run()
        assert {choice.op.name for choice in choices} == {"group_norm_act", "guided_step"}
        return {choice.backend.name for choice in choices}

    def normed(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return network(group_norm_act(x, torch.ones(3), torch.zeros(3), 3), timesteps)

    monkeypatch.setattr(backends, "_environment", {})  # as after the first call of an op
    monkeypatch.setenv(backends.ENVIRONMENT, "reference")
    loop = SamplingLoop(normed, process(2), SEEDS, SHAPE)
    monkeypatch.delenv(backends.ENVIRONMENT)
    assert ran(loop) == {"reference"}
    with force(guided_step="cpu"):
        assert "cpu" in ran(loop)
    monkeypatch.setattr(backends, "_environment", {"guided_step": "reference"})
    assert ran(SamplingLoop(normed, process(2), SEEDS, SHAPE)) != {"reference"}
