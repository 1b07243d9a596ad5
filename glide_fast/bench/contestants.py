"""The contestants of a model's step or loop: glide_fast, glide_fast without one of its features, and the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from glide_fast.bench.baselines import Baseline, half_dtype, released_dtype
from glide_fast.bench.contest import OURS, Unable
from glide_fast.bench.subject import Subject
from glide_fast.bench.work import Work
from glide_fast.diffusion.denoiser import LoopDenoiser, PlainDenoiser
from glide_fast.ops import arena
from glide_fast.ops.convolution import winograd_weight
from glide_fast.runtime.accelerate import accelerate
from glide_fast.runtime.bound import Bound
from glide_fast.runtime.features import ALL, Features
from glide_fast.runtime.model import Accelerated


@dataclass(frozen=True)
class Contestant:
    """A network for :class:`~glide_fast.diffusion.sampling.SamplingLoop`, and how the rest of the step is run.

    Attributes:
        forced: a backend for each of some ops (:func:`glide_fast.ops.backends.force`).
        captured: whether the step is captured and replayed, on a GPU.
        tabulated: whether the update's coefficients are computed before the loop.
        drawn: whether torch draws the noise at each step, as in the released loop; otherwise the noise comes from seeds.
    """

    name: str
    denoiser: LoopDenoiser
    dtype: torch.dtype
    forced: Mapping[str, str] = field(default_factory=dict)
    captured: bool = False
    drawn: bool = False
    tabulated: bool = True

    @property
    def ours(self) -> bool:
        """Whether this is glide_fast, perhaps without one of its features."""
        return self.name.startswith(OURS)


class _TextAtEachStep:
    """A bound model that encodes its prompt again at every call."""

    def __init__(self, bound: Bound, work: Work) -> None:
        self._bound, self._work = bound, work

    def empty_inputs(self, count: int, shape: tuple[int, int, int]) -> torch.Tensor:
        """Memory for the network's inputs, from the bound model."""
        return self._bound.empty_inputs(count, shape)

    def __call__(
        self, inputs: torch.Tensor, timesteps: torch.Tensor, rows: torch.Tensor, *, shallow: bool = False
    ) -> torch.Tensor:
        """Encode, then predict."""
        if self._work.tokens is not None:
            self._bound.tell(self._bound.model.encode_text(self._work.tokens, self._work.mask))
        return self._bound(inputs, timesteps, rows, shallow=shallow)


def accelerated(
    subject: Subject, work: Work, dtype: torch.dtype, features: Features = ALL, *, take: bool = False
) -> Accelerated:
    """The subject's model, accelerated."""
    model = accelerate(
        subject.model,
        dtype=dtype,
        device=work.device,
        batch=work.batch,
        image_size=subject.image_size,
        take=take,
        features=features,
    )
    assert isinstance(model, Accelerated)
    return model


def bind(model: Accelerated, work: Work) -> Bound:
    """The model bound to the work's prompt, pictures and timesteps, as a loop uses it."""
    conditioning: dict[str, Any] = dict(work.pictures)
    if work.tokens is not None:
        with torch.inference_mode():
            conditioning["text"] = model.encode_text(work.tokens, work.mask)
    return model.bind(work.process.timestep_map, work.batch, work.shape, **conditioning)


def ours(subject: Subject, work: Work, dtype: torch.dtype) -> Contestant:
    """glide_fast with all of its features."""
    bound = bind(accelerated(subject, work, dtype), work)
    return Contestant(OURS, bound, dtype, captured=True)


class Ablation(NamedTuple):
    """One feature to leave out, or one that is off by default to switch on."""

    name: str
    features: Features = ALL
    forced: Mapping[str, str] = {}
    captured: bool = True
    """Whether the step can still be replayed on a GPU."""
    tabulated: bool = True
    """Whether the update reads a table; otherwise its coefficients are computed and sent to the device at each step."""


ABLATIONS = (
    Ablation("text encoded at each step", Features(cached_text=False)),
    Ablation("scales and shifts computed at each step", Features(tabulated_films=False)),
    Ablation("low-res picture read at each step", Features(share=False)),
    # This computes the coefficients of all steps at each step. Values that the host sends cannot be part of a captured graph, so
    # on a GPU this row is to be compared with that of a step launched kernel by kernel.
    Ablation("coefficients computed at each step", captured=False, tabulated=False),
    Ablation("weights not packed", Features(packed_weights=False)),
    Ablation("sums in passes of their own", Features(fused_sums=False)),
    Ablation("upsampled pictures convolved as they are", Features(by_places=False)),
    Ablation("all products of 3x3 convolutions", Features(winograd=False)),
    Ablation("no convolution as a product of windows", Features(windows=False)),
    Ablation("last convolution by cuDNN", Features(output_convolution=False)),
    Ablation("memory asked for at each step", Features(arena=False)),
    Ablation("shortcuts beside the main branch", Features(side_stream=True)),
    Ablation("kernels set up before the last one ends", Features(dependent_launch=True)),
    Ablation("norms in plain torch", forced={"group_norm_act": "reference"}),
    Ablation("attention in plain torch", forced={"text_attention": "reference"}),
    Ablation("guided step in plain torch", forced={"guided_step": "reference"}),
    Ablation("step launched kernel by kernel", captured=False),
)
"""The features that a step is measured without, or with where they are off by default, one at a time."""


def ablated(subject: Subject, work: Work, dtype: torch.dtype, name: str) -> Contestant:
    """glide_fast without (or with) the feature called ``name`` in :data:`ABLATIONS`.

    Raises:
        Unable: for a feature that is not in use for this model, device or type.
    """
    left_out = next(ablation for ablation in ABLATIONS if ablation.name == name)
    features = left_out.features
    if not features.cached_text and work.tokens is None:
        raise Unable("this model reads no text")
    if not features.share and not work.pictures:
        raise Unable("this model reads no picture beside x")
    if work.device.type == "cuda" and not features.packed_weights:
        raise Unable("weights are packed on CPUs only")
    if work.device.type == "cuda" and not features.by_places:
        raise Unable("a GPU convolves upsampled pictures as they are")
    if not features.winograd and work.device.type == "cuda":
        raise Unable("the kernel of Winograd's algorithm is for CPUs")
    if not features.winograd and dtype != torch.bfloat16:
        raise Unable("the kernel of Winograd's algorithm is for bf16")
    if not features.winograd and (slow := winograd_weight.why_not_worth()) is not None:
        raise Unable(f"Winograd's kernel does not run here: {slow}")
    if not features.windows and (work.device.type != "cuda" or dtype == torch.float32):
        raise Unable("windows are for GPUs and half precision")
    if not features.output_convolution and work.device.type != "cuda":
        raise Unable("the kernel of the last convolution is for GPUs")
    if work.device.type == "cuda" and not features.arena:
        raise Unable("a captured step on a GPU has separate memory")
    if not features.arena and (missing := arena.why_missing()) is not None:
        raise Unable(f"this build has no memory for steps: {missing}")
    if work.device.type != "cuda" and (features.side_stream or features.dependent_launch):
        raise Unable("a CPU has no streams of kernels")
    if work.device.type != "cuda" and not left_out.captured and left_out.tabulated:
        raise Unable("steps are captured on GPUs only")
    bound = bind(accelerated(subject, work, dtype, features), work)
    denoiser: LoopDenoiser = bound if features.cached_text else _TextAtEachStep(bound, work)
    return Contestant(
        f"{OURS}, {name}",
        denoiser,
        dtype,
        left_out.forced,
        left_out.captured,
        tabulated=left_out.tabulated,
    )


def baseline(entry: Baseline, subject: Subject, work: Work) -> Contestant:
    """A baseline as a contestant; raises Unable where it cannot run."""
    half = entry.name in ("eager-half", "compile-strong", "inductor-frozen", "openvino")
    dtype = half_dtype(work.device) if half else released_dtype(work.device)
    denoiser = PlainDenoiser(entry.make(subject, work), work.device)
    return Contestant(entry.title, denoiser, dtype, {"guided_step": "reference"}, drawn=True)
