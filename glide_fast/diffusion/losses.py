"""Likelihood terms of the variational bound (Ho et al. 2020, eq. 5 and 13)."""

from __future__ import annotations

import math

import torch


def normal_kl(
    mean1: torch.Tensor, logvar1: torch.Tensor, mean2: torch.Tensor, logvar2: torch.Tensor
) -> torch.Tensor:
    """KL divergence in nats, elementwise, of one diagonal Gaussian from another."""
    return 0.5 * (
        -1.0
        + logvar2
        - logvar1
        + torch.exp(logvar1 - logvar2)
        + (mean1 - mean2).square() * torch.exp(-logvar2)
    )


def _normal_cdf(x: torch.Tensor) -> torch.Tensor:
    """The tanh approximation that the released training code uses (Page 1977), so that losses compare."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def discretized_gaussian_log_likelihood(
    x: torch.Tensor, *, means: torch.Tensor, log_scales: torch.Tensor
) -> torch.Tensor:
    """Log probability in nats, elementwise, of 8-bit ``x`` in [-1, 1] under a Gaussian integrated over each bin.

    Bins are 2/255 wide; the outermost two extend to infinity.
    """
    centered = x - means
    inverse_std = torch.exp(-log_scales)
    upper = _normal_cdf(inverse_std * (centered + 1.0 / 255.0))
    lower = _normal_cdf(inverse_std * (centered - 1.0 / 255.0))
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1.0 - lower, upper - lower))
    return probability.clamp(min=1e-12).log()


def learned_range_bound(
    x_start: torch.Tensor,
    t: torch.Tensor,
    true_mean: torch.Tensor,
    true_log_variance: torch.Tensor,
    mean: torch.Tensor,
    log_variance: torch.Tensor,
) -> torch.Tensor:
    """One term of the variational bound in bits per dimension, ``[N]``.

    The KL of the posterior from the model where t > 0, the decoder's negative log likelihood where t = 0.
    """
    kl = normal_kl(true_mean, true_log_variance, mean, log_variance)
    nll = -discretized_gaussian_log_likelihood(x_start, means=mean, log_scales=0.5 * log_variance)
    bits = torch.where((t == 0).view(-1, *([1] * (kl.dim() - 1))), nll, kl)
    return bits.flatten(1).mean(1) / math.log(2.0)
