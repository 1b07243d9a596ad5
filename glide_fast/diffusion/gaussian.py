"""The Gaussian diffusion process with a learned-range variance: distributions, losses and the official sampling loops.

Follows Ho et al. 2020 and Nichol & Dhariwal 2021. The sampling methods have the released package's names and arguments and draw
from torch's global generator in its order; :mod:`glide_fast.diffusion.sampling` is the loop that pipelines use. Both take their
steps from :mod:`glide_fast.ops.guided_step` with the tables of :mod:`glide_fast.diffusion.rules`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from glide_fast.diffusion import rules
from glide_fast.diffusion.losses import learned_range_bound
from glide_fast.diffusion.process import Process
from glide_fast.diffusion.schedules import Array
from glide_fast.errors import invalid
from glide_fast.ops.guided_step import Column
from glide_fast.ops.guided_step.reference import Prediction, advance, column, eps_from_x0, predict

Model = Callable[..., Any]
Kwargs = Mapping[str, Any]


def extract(values: Array, t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``values[t]`` in fp32, shaped ``[N, 1, ...]`` to broadcast against ``like``."""
    picked = torch.from_numpy(values).to(t.device)[t].float()
    return picked.view(-1, *([1] * (like.dim() - 1)))


class GaussianDiffusion(Process):
    """What can be done with a process: distributions, losses, sampling. See :class:`~glide_fast.diffusion.process.Process`."""

    def __init__(self, *, betas: Any) -> None:
        super().__init__(betas=betas)
        self._tables: dict[tuple[Any, ...], torch.Tensor] = {}

    def _rows(self, rule: Callable[..., Array], t: torch.Tensor, *options: float) -> torch.Tensor:
        """Rows ``t`` of a rule's table on the device of ``t``; each table is copied to a device only once."""
        key = (rule, options, t.device)
        if key not in self._tables:
            table = rule(self, *options)
            self._tables[key] = torch.from_numpy(table).float().to(t.device)
        return self._tables[key][t]

    def _wrap(self, function: Model) -> Model:
        """Hook for processes whose model counts time differently; see SpacedDiffusion."""
        return function

    # The forward process.

    def q_mean_variance(
        self, x_start: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, variance and log variance of ``q(x_t | x_0)``, each of the shape of ``x_start``."""
        mean = extract(self.sqrt_alphas_cumprod, t, x_start) * x_start
        variance = extract(1.0 - self.alphas_cumprod, t, x_start).expand_as(x_start).clone()
        return (
            mean,
            variance,
            extract(self.log_one_minus_alphas_cumprod, t, x_start).expand_as(x_start).clone(),
        )

    def q_sample(
        self, x_start: torch.Tensor, t: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Noise ``x_start`` ``[N, C, ...]`` to steps ``t`` ``[N]`` (0 is one step of noise); new noise if ``noise`` is None."""
        if noise is None:
            noise = torch.randn_like(x_start)
        if noise.shape != x_start.shape:
            raise invalid("noise", tuple(noise.shape), f"the shape of x_start, {tuple(x_start.shape)}")
        return (
            extract(self.sqrt_alphas_cumprod, t, x_start) * x_start
            + extract(self.sqrt_one_minus_alphas_cumprod, t, x_start) * noise
        )

    def q_posterior_mean_variance(
        self, x_start: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, variance and clipped log variance of ``q(x_{t-1} | x_t, x_0)`` (Ho et al. 2020, eq. 6 and 7)."""
        mean = (
            extract(self.posterior_mean_coef1, t, x_t) * x_start
            + extract(self.posterior_mean_coef2, t, x_t) * x_t
        )
        variance = extract(self.posterior_variance, t, x_t).expand_as(x_t).clone()
        return mean, variance, extract(self.posterior_log_variance_clipped, t, x_t).expand_as(x_t).clone()

    # The reverse process.

    def p_mean_variance(
        self,
        model: Model,
        x: torch.Tensor,
        t: torch.Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        model_kwargs: Kwargs | None = None,
    ) -> dict[str, Any]:
        """Run the network and describe ``p(x_{t-1} | x_t)``.

        Args:
            model: called as ``model(x, t, **model_kwargs)``; returns ``[N, 2 C, ...]``, or a pair of that and anything.
            x: ``[N, C, ...]``; t: ``[N]`` steps of this process.
            clip_denoised: clamp the predicted x0 to [-1, 1], after ``denoised_fn``.
            denoised_fn: applied to the predicted x0 before it is used.

        Returns:
            ``mean``, ``variance``, ``log_variance``, ``pred_xstart`` (all ``[N, C, ...]``), and ``extra``, the pair's other half.
        """
        output = self._wrap(model)(x, t, **(model_kwargs or {}))
        extra = None
        if isinstance(output, tuple):
            output, extra = output
        if output.shape != (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
            raise invalid("model output", tuple(output.shape), f"twice the channels of x, {tuple(x.shape)}")
        rows = self._rows(rules.ddpm, t)
        x0, log_variance = predict(x, output, rows)
        if denoised_fn is not None:
            x0 = denoised_fn(x0)
        if clip_denoised:
            x0 = x0.clamp(-1, 1)
        return {
            "mean": self.q_posterior_mean_variance(x0, x, t)[0],
            "variance": torch.exp(log_variance),
            "log_variance": log_variance,
            "pred_xstart": x0,
            "extra": extra,
        }

    def _predict_xstart_from_eps(self, x_t: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        return (
            extract(self.sqrt_recip_alphas_cumprod, t, x_t) * x_t
            - extract(self.sqrt_recipm1_alphas_cumprod, t, x_t) * eps
        )

    def _predict_eps_from_xstart(
        self, x_t: torch.Tensor, t: torch.Tensor, pred_xstart: torch.Tensor
    ) -> torch.Tensor:
        return eps_from_x0(x_t, pred_xstart, self._rows(rules.ddpm, t))

    def condition_mean(
        self,
        cond_fn: Model,
        p_mean_var: Kwargs,
        x: torch.Tensor,
        t: torch.Tensor,
        model_kwargs: Kwargs | None = None,
    ) -> torch.Tensor:
        """The mean moved by ``variance * cond_fn(x, t)`` (Dhariwal & Nichol 2021, algorithm 1)."""
        gradient = self._wrap(cond_fn)(x, t, **(model_kwargs or {}))
        return p_mean_var["mean"].float() + p_mean_var["variance"] * gradient.float()

    def condition_score(
        self,
        cond_fn: Model,
        p_mean_var: Kwargs,
        x: torch.Tensor,
        t: torch.Tensor,
        model_kwargs: Kwargs | None = None,
    ) -> dict[str, Any]:
        """``p_mean_var`` with the score moved by ``cond_fn(x, t)`` (Dhariwal & Nichol 2021, algorithm 2)."""
        gradient = self._wrap(cond_fn)(x, t, **(model_kwargs or {}))
        rows = self._rows(rules.ddim, t, 0.0)
        x0 = p_mean_var["pred_xstart"] + column(rows, Column.SCORE_TO_X0, x) * gradient
        return {**p_mean_var, "pred_xstart": x0, "mean": self.q_posterior_mean_variance(x0, x, t)[0]}

    def p_sample(
        self,
        model: Model,
        x: torch.Tensor,
        t: torch.Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        cond_fn: Model | None = None,
        model_kwargs: Kwargs | None = None,
    ) -> dict[str, torch.Tensor]:
        """One DDPM step from ``x`` at ``t``; ``cond_fn(x, t, **model_kwargs)`` is a score added to the mean.

        Returns ``sample`` and ``pred_xstart``, both ``[N, C, ...]``.
        """
        out = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        # Drawn before cond_fn runs and even at the last step: the official stream of random numbers is part of the contract.
        noise = torch.randn_like(x)
        if cond_fn is not None:
            out["mean"] = self.condition_mean(cond_fn, out, x, t, model_kwargs)
        std = column(self._rows(rules.ddpm, t), Column.LEARNED_NOISE, x) * torch.exp(
            0.5 * out["log_variance"]
        )
        return {"sample": out["mean"] + std * noise, "pred_xstart": out["pred_xstart"]}

    def ddim_sample(
        self,
        model: Model,
        x: torch.Tensor,
        t: torch.Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        cond_fn: Model | None = None,
        model_kwargs: Kwargs | None = None,
        eta: float = 0.0,
    ) -> dict[str, torch.Tensor]:
        """One DDIM step, used as :meth:`p_sample`; ``cond_fn`` moves the score, ``eta`` sets the noise."""
        out = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if cond_fn is not None:
            out = self.condition_score(cond_fn, out, x, t, model_kwargs)
        prediction = Prediction(out["pred_xstart"], out["log_variance"])
        step = advance(x, prediction, self._rows(rules.ddim, t, eta), torch.randn_like(x))
        return {"sample": step.x, "pred_xstart": step.x0}

    def ddim_reverse_sample(
        self,
        model: Model,
        x: torch.Tensor,
        t: torch.Tensor,
        clip_denoised: bool = True,
        denoised_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        cond_fn: Model | None = None,
        model_kwargs: Kwargs | None = None,
        eta: float = 0.0,
    ) -> dict[str, torch.Tensor]:
        """One step of DDIM's ODE towards noise, from t to t + 1 (Song et al. 2021, section 4.3)."""
        if eta != 0.0:
            raise invalid("eta", eta, "0: only the deterministic path can be reversed")
        out = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        if cond_fn is not None:
            out = self.condition_score(cond_fn, out, x, t, model_kwargs)
        eps = self._predict_eps_from_xstart(x, t, out["pred_xstart"])
        abar_next = extract(self.alphas_cumprod_next, t, x)
        return {
            "sample": out["pred_xstart"] * abar_next.sqrt() + (1 - abar_next).sqrt() * eps,
            "pred_xstart": out["pred_xstart"],
        }

    def _loop(
        self,
        step: Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]],
        model: Model,
        shape: Sequence[int],
        noise: torch.Tensor | None,
        device: torch.device | str | None,
        progress: bool,
    ) -> Iterator[dict[str, torch.Tensor]]:
        if not isinstance(shape, tuple | list):
            raise invalid("shape", shape, "a tuple or list (N, C, H, W)")
        if device is None:
            device = next(model.parameters()).device  # type: ignore[attr-defined]
        x = torch.randn(*shape, device=device) if noise is None else noise
        for i in tqdm(range(self.num_timesteps - 1, -1, -1), disable=not progress):
            with torch.no_grad():
                out = step(x, torch.full((shape[0],), i, device=device, dtype=torch.long))
            yield out
            x = out["sample"]

    def p_sample_loop_progressive(
        self,
        model: Model,
        shape: Sequence[int],
        noise: torch.Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        cond_fn: Model | None = None,
        model_kwargs: Kwargs | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Yield :meth:`p_sample`'s result after every step; arguments of :meth:`p_sample_loop`."""
        return self._loop(
            lambda x, t: self.p_sample(model, x, t, clip_denoised, denoised_fn, cond_fn, model_kwargs),
            model,
            shape,
            noise,
            device,
            progress,
        )

    def p_sample_loop(
        self,
        model: Model,
        shape: Sequence[int],
        noise: torch.Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        cond_fn: Model | None = None,
        model_kwargs: Kwargs | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> torch.Tensor:
        """Sample a batch with DDPM.

        Args:
            model: the network; if ``device`` is None the loop runs on the device of its parameters.
            shape: ``(N, C, H, W)``.
            noise: starting state of that shape; drawn if None.
            clip_denoised, denoised_fn, cond_fn, model_kwargs: of :meth:`p_sample`.
            device: where to sample.
            progress: show a bar.

        Returns:
            ``[N, C, H, W]``, not differentiable.
        """
        steps = self.p_sample_loop_progressive(
            model, shape, noise, clip_denoised, denoised_fn, cond_fn, model_kwargs, device, progress
        )
        return _last(steps)

    def ddim_sample_loop_progressive(
        self,
        model: Model,
        shape: Sequence[int],
        noise: torch.Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        cond_fn: Model | None = None,
        model_kwargs: Kwargs | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        eta: float = 0.0,
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Yield :meth:`ddim_sample`'s result after every step; arguments of :meth:`p_sample_loop`, and ``eta``."""
        return self._loop(
            lambda x, t: self.ddim_sample(
                model, x, t, clip_denoised, denoised_fn, cond_fn, model_kwargs, eta
            ),
            model,
            shape,
            noise,
            device,
            progress,
        )

    def ddim_sample_loop(
        self,
        model: Model,
        shape: Sequence[int],
        noise: torch.Tensor | None = None,
        clip_denoised: bool = True,
        denoised_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        cond_fn: Model | None = None,
        model_kwargs: Kwargs | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        eta: float = 0.0,
    ) -> torch.Tensor:
        """Sample a batch with DDIM; arguments of :meth:`p_sample_loop`, and ``eta``."""
        steps = self.ddim_sample_loop_progressive(
            model, shape, noise, clip_denoised, denoised_fn, cond_fn, model_kwargs, device, progress, eta
        )
        return _last(steps)

    # Training.

    def training_losses(
        self,
        model: Model,
        x_start: torch.Tensor,
        t: torch.Tensor,
        model_kwargs: Kwargs | None = None,
        noise: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The learned-range hybrid loss (Nichol & Dhariwal 2021, eq. 16), each value ``[N]``.

        ``mse`` is the squared error of eps; ``vb`` the variational bound in bits per dimension with the mean frozen, scaled by
        ``num_timesteps / 1000`` so that it does not drown the first; ``loss`` their sum.
        """
        if noise is None:
            noise = torch.randn_like(x_start)
        x_t = self.q_sample(x_start, t, noise)
        output = self._wrap(model)(x_t, t, **(model_kwargs or {}))
        eps, v = output.split(x_start.shape[1], dim=1)
        mse = (noise - eps).square().flatten(1).mean(1)
        vb = self._vb_terms(x_start, x_t, t, eps.detach(), v) * (self.num_timesteps / 1000.0)
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def _vb_terms(
        self, x_start: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        rows = self._rows(rules.ddpm, t)
        x0, log_variance = predict(x_t, torch.cat([eps, v], dim=1), rows)
        mean = self.q_posterior_mean_variance(x0, x_t, t)[0]
        true_mean, _, true_log_variance = self.q_posterior_mean_variance(x_start, x_t, t)
        return learned_range_bound(x_start, t, true_mean, true_log_variance, mean, log_variance)


def _last(samples: Iterator[dict[str, torch.Tensor]]) -> torch.Tensor:
    return deque(samples, maxlen=1).pop()["sample"]
