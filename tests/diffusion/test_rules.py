"""Step rules against their papers' formulas, written out here in double precision and in the papers' own coordinates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from glide_fast.diffusion import rules
from glide_fast.diffusion.gaussian import GaussianDiffusion
from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.errors import InvalidInputError
from glide_fast.ops.guided_step import HISTORY, Column, guided_step

SHAPE = (2, 3, 4, 4)
EpsFn = Callable[[torch.Tensor, int], torch.Tensor]


def respaced(steps: int, schedule: str = "squaredcos_cap_v2") -> SpacedDiffusion:
    return SpacedDiffusion(space_timesteps(1000, str(steps)), betas=get_named_beta_schedule(schedule, 1000))


def random_eps(seed: int) -> EpsFn:
    """A network's stand-in: random, but a function of the state, so that errors do not stay where they arise."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(2000, *SHAPE, generator=generator, dtype=torch.float64)
    return lambda x, row: 0.7 * torch.tanh(x) + offsets[row]


def run_table(
    diffusion: GaussianDiffusion,
    rule: rules.Rule,
    x: torch.Tensor,
    eps: EpsFn,
    *,
    noises: torch.Tensor | None = None,
    first: int | None = None,
    last: int = 0,
) -> torch.Tensor:
    """Take rows ``first`` to ``last`` of a rule's table through the op, in double precision and without clipping."""
    first = diffusion.num_timesteps - 1 if first is None else first
    table = torch.from_numpy(rule.build(diffusion, first))
    history = torch.zeros(HISTORY, *x.shape, dtype=x.dtype) if rule.multistep else None
    for row in range(first, last - 1, -1):
        out = torch.cat([eps(x, row), torch.zeros_like(x)], dim=1)
        noise = torch.zeros_like(x) if noises is None else noises[row]
        step = guided_step(
            x,
            out,
            table,
            torch.tensor(row),
            noise,
            clip=False,
            history=history,
            remember_eps=rule.remember_eps,
        )
        x, history = step.x, step.history
    return x


def start(seed: int = 7) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("steps", [2, 3, 12, 50])
@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
@pytest.mark.parametrize("skipped", [0, 1])
def test_plms_is_adams_bashforth_on_eps_with_the_ddim_transfer(
    steps: int, schedule: str, skipped: int
) -> None:
    diffusion, eps = respaced(steps, schedule), random_eps(1)
    first = steps - 1 - skipped

    abar = [1.0, *diffusion.alphas_cumprod]  # abar[row + 1] at a row, abar[row] after it
    x, remembered = start(), []
    for row in range(first, -1, -1):
        remembered.insert(0, eps(x, row))
        e = remembered
        mixed = (
            e[0]
            if len(e) == 1
            else (3 * e[0] - e[1]) / 2
            if len(e) == 2
            else (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
            if len(e) == 3
            else (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
        )
        clean = (x - math.sqrt(1 - abar[row + 1]) * mixed) / math.sqrt(abar[row + 1])
        x = math.sqrt(abar[row]) * clean + math.sqrt(1 - abar[row]) * mixed

    got = run_table(diffusion, rules.get_rule("plms"), start(), eps, first=first)
    # The noisiest step divides by sqrt(abar) of about 5e-5, which costs both sides some of their sixteen digits.
    assert relative(got, x) < 1e-9


@pytest.mark.parametrize("steps", [1, 2, 3, 12, 50])
@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
@pytest.mark.parametrize("skipped", [0, 1])
def test_dpm_solver_pp_2m_is_algorithm_2(steps: int, schedule: str, skipped: int) -> None:
    first = steps - 1 - skipped
    if first < 0:
        first = 0
    diffusion, eps = respaced(steps, schedule), random_eps(2)

    def alpha_sigma(row: int) -> tuple[float, float]:
        abar = 1.0 if row < 0 else float(diffusion.alphas_cumprod[row])
        return math.sqrt(abar), math.sqrt(1 - abar)

    def log_snr(row: int) -> float:
        alpha, sigma = alpha_sigma(row)
        return math.log(alpha) - math.log(sigma)

    x = start()
    buffer: torch.Tensor | None = None
    h_before = math.nan
    for row in range(first, -1, -1):
        alpha, sigma = alpha_sigma(row)
        alpha_s, sigma_s = alpha_sigma(row - 1)
        clean = (x - sigma * eps(x, row)) / alpha
        if row == 0:
            x = clean  # exp(-h) is 0, sigma_s is 0, alpha_s is 1
            break
        h = log_snr(row - 1) - log_snr(row)
        if buffer is None:
            d = clean
        else:
            r = h_before / h
            d = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * buffer
        x = sigma_s / sigma * x - alpha_s * math.expm1(-h) * d
        buffer, h_before = clean, h

    got = run_table(diffusion, rules.get_rule("dpm++2m"), start(), eps, first=first)
    assert relative(got, x) < 1e-9


@pytest.mark.parametrize("steps", [1, 12, 50])
@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
def test_euler_ancestral_is_the_loop_over_sigmas(steps: int, schedule: str) -> None:
    diffusion, eps = respaced(steps, schedule), random_eps(3)
    noises = torch.randn(steps, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    abar = np.append(1.0, diffusion.alphas_cumprod)
    sigmas = np.sqrt((1 - abar) / abar)
    y = start() / math.sqrt(abar[-1])  # the variance-exploding state
    for row in range(steps - 1, -1, -1):
        now, then = sigmas[row + 1], sigmas[row]
        denoised = y - now * eps(y * math.sqrt(abar[row + 1]), row)
        up = min(then, math.sqrt(then**2 * (now**2 - then**2) / now**2))
        down = math.sqrt(then**2 - up**2)
        y = y + (y - denoised) / now * (down - now)
        if then > 0:
            y = y + noises[row] * up

    got = run_table(diffusion, rules.get_rule("euler-a"), start(), eps, noises=noises)
    assert relative(got, y) < 1e-9


def test_euler_ancestral_keeps_its_digits_in_single_precision() -> None:
    """sigma is about 2e4 at the first step, where the loop over sigmas loses four of seven digits."""
    diffusion, eps = respaced(50), random_eps(3)
    table = rules.euler_ancestral(diffusion)
    exact, x = start(), start().float()
    for row in range(49, 25, -1):
        common = (torch.tensor(row), torch.zeros(SHAPE))
        exact = guided_step(
            exact,
            torch.cat([eps(exact, row), torch.zeros(SHAPE)], 1),
            torch.from_numpy(table),
            *common,
        ).x
        x = guided_step(
            x,
            torch.cat([eps(x.double(), row), torch.zeros(SHAPE)], 1).float(),
            torch.from_numpy(table).float(),
            *common,
        ).x
    assert relative(x.double(), exact) < 1e-5


# Gaussian data: the exact score is known, and so is the flow that the deterministic samplers approximate.

MEAN, STD = 0.4, 0.3


def smooth(steps: int) -> GaussianDiffusion:
    """``steps`` equal steps in time of a smooth schedule, from one noise level to another (row 0 is past the last)."""
    abar = np.cos(np.linspace(0.15, 0.85, steps + 1) * math.pi / 2) ** 2
    return GaussianDiffusion(betas=1 - abar / np.append(1.0, abar[:-1]))


def marginal(diffusion: GaussianDiffusion, row: int) -> tuple[float, float]:
    abar = float(diffusion.alphas_cumprod[row])
    return math.sqrt(abar) * MEAN, math.sqrt(abar * STD**2 + 1 - abar)


def exact_eps(diffusion: GaussianDiffusion) -> EpsFn:
    def eps(x: torch.Tensor, row: int) -> torch.Tensor:
        mean, std = marginal(diffusion, row)
        return math.sqrt(1 - float(diffusion.alphas_cumprod[row])) * (x - mean) / std**2

    return eps


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("plms", 2), ("dpm++2m", 2)])
def test_order_of_convergence(name: str, order: int) -> None:
    z = start()
    errors = []
    for steps in (20, 40, 80, 160):
        diffusion = smooth(steps)
        mean, std = marginal(diffusion, steps)
        end_mean, end_std = marginal(diffusion, 0)
        x = run_table(diffusion, rules.get_rule(name), mean + std * z, exact_eps(diffusion), last=1)
        errors.append(relative(x, end_mean + end_std * z))
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.25), (errors, orders)
    assert errors[-1] < 1e-2**order * 2


@pytest.mark.parametrize(("name", "bound"), [("ddim", 0.04), ("plms", 0.02), ("dpm++2m", 0.02)])
def test_whole_runs_end_on_the_data(name: str, bound: float) -> None:
    """The real schedule down to a clean image, its noisiest step and its last one (infinite lambda) included."""
    diffusion = respaced(100)
    z = start()
    x = run_table(diffusion, rules.get_rule(name), z, exact_eps(diffusion))
    assert relative(x, MEAN + STD * z) < bound


@pytest.mark.parametrize("name", ["ddpm", "euler-a"])
def test_ancestral_rules_converge_to_the_data_distribution(name: str) -> None:
    """With an exact score the state stays Gaussian; its mean and variance follow from the table without sampling."""
    errors = []
    for steps in (50, 100, 200):
        diffusion = respaced(steps)
        table = rules.get_rule(name).build(diffusion, steps - 1)
        mean, variance = marginal(diffusion, steps - 1)[0], marginal(diffusion, steps - 1)[1] ** 2
        for row in range(steps - 1, -1, -1):
            abar = float(diffusion.alphas_cumprod[row])
            at_mean, at_std = marginal(diffusion, row)
            slope = math.sqrt(abar) * STD**2 / at_std**2  # x0 given x is MEAN + slope (x - at_mean)
            gain = table[row, Column.X] + table[row, Column.X0] * slope
            mean = gain * mean + table[row, Column.X0] * (MEAN - slope * at_mean)
            # v of -1 chooses the posterior variance.
            std = table[row, Column.NOISE] + table[row, Column.LEARNED_NOISE] * math.exp(
                table[row, Column.MIN_LOG] / 2
            )
            variance = gain**2 * variance + std**2
        assert mean == pytest.approx(MEAN, abs=1e-6)
        errors.append(abs(math.sqrt(variance) / STD - 1))
    # Both are of first order.
    assert errors[2] < 0.6 * errors[1] < 0.36 * errors[0]
    assert errors[2] < 0.04


@pytest.mark.parametrize("name", list(rules.RULES))
def test_last_step_returns_x0(name: str) -> None:
    diffusion = respaced(20)
    rule = rules.get_rule(name)
    row = rule.build(diffusion, 0)[0]  # taken first: no rule has a history then
    assert row[Column.X] == pytest.approx(0, abs=1e-12)
    assert row[Column.X0] == pytest.approx(1)
    assert not row[[Column.NOISE, Column.LEARNED_NOISE]].any()
    assert not row[Column.HISTORY : Column.HISTORY + HISTORY].any()


@pytest.mark.parametrize("name", ["plms", "dpm++2m"])
@pytest.mark.parametrize("first", [19, 11])
def test_multistep_rules_start_without_history(name: str, first: int) -> None:
    """The first step taken is DDIM's; the second already looks back."""
    diffusion = respaced(20)
    table, ddim = rules.get_rule(name).build(diffusion, first), rules.ddim(diffusion)
    np.testing.assert_allclose(table[first], ddim[first], rtol=1e-9, atol=1e-12)
    assert table[first - 1, Column.HISTORY] != 0


@pytest.mark.parametrize("name", ["ddim", "plms", "dpm++2m", "euler-a"])
def test_a_score_shifts_eps(name: str) -> None:
    """x0 from eps - sigma score, the guidance of Song et al. 2020."""
    diffusion, rule = respaced(20), rules.get_rule(name)
    x, eps, score = start(1), start(2), start(3)
    table = torch.from_numpy(rule.build(diffusion, 19))
    history = torch.zeros(HISTORY, *SHAPE, dtype=torch.float64) if rule.multistep else None
    for row in (19, 8):
        sigma = float(diffusion.sqrt_one_minus_alphas_cumprod[row])
        both = [
            guided_step(
                x,
                torch.cat([e, torch.zeros_like(x)], 1),
                table,
                torch.tensor(row),
                torch.zeros_like(x),
                clip=False,
                score=s,
                history=history,
                remember_eps=rule.remember_eps,
            )
            for e, s in ((eps, score), (eps - sigma * score, None))
        ]
        assert relative(both[0].x0, both[1].x0) < 1e-9
        assert relative(both[0].x, both[1].x) < 1e-9


def test_which_rules_draw_noise() -> None:
    drawing = {name for name in rules.RULES if rules.draws_noise(rules.get_rule(name).build(respaced(5), 4))}
    assert drawing == {"ddpm", "euler-a"}


@pytest.mark.parametrize("name", ["k-lms", "", None, 3])
def test_unknown_rules_are_refused_with_the_list(name: object) -> None:
    with pytest.raises(InvalidInputError, match=r"sampler: .*'ddpm', 'ddim', 'plms', 'dpm\+\+2m', 'euler-a'"):
        rules.get_rule(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [-1, 5])
def test_first_step_out_of_range(first: int) -> None:
    for build in (rules.plms, rules.dpm_solver_pp_2m):
        with pytest.raises(InvalidInputError, match="first"):
            build(respaced(5), first)
