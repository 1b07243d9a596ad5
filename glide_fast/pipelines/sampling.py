"""Sampling from one stage: from a plan and pictures to the pictures it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from tqdm.auto import tqdm

from glide_fast.diffusion.noise import BASE_STREAMS, UPSAMPLER_STREAMS
from glide_fast.diffusion.respacing import SpacedDiffusion
from glide_fast.diffusion.sampling import SamplingLoop
from glide_fast.models.text2im import TextEmbedding
from glide_fast.pipelines.conditioning import doubled
from glide_fast.pipelines.images import resize_images, resize_masks
from glide_fast.pipelines.options import BASE, UPSAMPLER, share_of_steps
from glide_fast.pipelines.output import StepEnd
from glide_fast.pipelines.parts import Attempt, collect_garbage
from glide_fast.pipelines.plan import Plan
from glide_fast.pipelines.stage import Stage
from glide_fast.runtime.captured import CapturedLoop
from glide_fast.runtime.model import Accelerated

_FAST27 = 27


@dataclass(frozen=True)
class Pictures:
    """The pictures that a stage reads besides noise: fp32 tensors ``[N, C, H, W]``, one for each image, or None.

    Attributes:
        known: the pictures whose part is kept, in [-1, 1], of any size.
        known_mask: the size of ``known``, one channel, 1 where ``known`` is kept.
        start: in [-1, 1] and of the stage's size; noise is added to it, and sampling begins there.
        strength: the fraction of the process that is run from ``start``.
        low_res: the pictures that the upsampler enlarges, in [-1, 1].
    """

    known: torch.Tensor | None = None
    known_mask: torch.Tensor | None = None
    start: torch.Tensor | None = None
    strength: float = 1.0
    low_res: torch.Tensor | None = None

    def __len__(self) -> int:
        """How many there are; one where there is none, as for a call without pictures."""
        return next((len(tensor) for tensor in self._tensors().values()), 1)

    def __getitem__(self, chosen: slice | Sequence[int]) -> Pictures:
        """Some of them."""
        some: dict[str, Any] = {name: tensor[chosen] for name, tensor in self._tensors().items()}
        return replace(self, **some)

    def _tensors(self) -> dict[str, torch.Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


@dataclass(frozen=True)
class LoopInputs:
    """The arguments to build and to run the loop of one stage.

    Attributes:
        process: the diffusion process, respaced to the loop's steps.
        fixed: arguments of :class:`~glide_fast.diffusion.sampling.SamplingLoop` that stay the same for all runs of a loop.
        renewed: arguments of ``SamplingLoop`` whose values each run may change; it cannot add or leave out one.
        conditioning: the network's inputs besides state and timestep, for a batch that is doubled with guidance; each run may
            change the values.
        score: the score function of CLIP guidance for the prompts of this run, or None.
    """

    process: SpacedDiffusion
    fixed: Mapping[str, Any]
    renewed: Mapping[str, Any]
    conditioning: Mapping[str, Any]
    score: Any = None

    @property
    def total(self) -> int:
        """Steps of a run."""
        first: int | None = self.fixed.get("first")
        return self.process.num_timesteps if first is None else first + 1


def sample(
    name: str, stage: Stage, plan: Plan, pictures: Pictures, release: Callable[[], object]
) -> torch.Tensor:
    """All images of a plan from one stage, at once or in parts as large as fit into memory.

    Args:
        name: of the stage, "base" or "upsampler".
        pictures: one an image, in the plan's order.
        release: gives memory back that is kept for speed only; called before a part that did not fit is tried in halves.

    Returns:
        fp32 ``[N, 3, size, size]`` in [-1, 1], on the stage's device.

    Raises:
        OutOfMemoryError: where one image alone does not fit.
    """
    count, images, done = len(plan.seeds), [], 0
    while done < count:
        chosen = slice(done, min(count, done + (stage.part_size or count)))
        size = chosen.stop - done
        with Attempt(stage, name, size) as attempt:
            images.append(stage.lock.run(_sample, name, stage, plan.part(chosen), pictures[chosen]))
            done = chosen.stop
        if attempt.failed:
            release()
            collect_garbage(stage.device)
    return images[0] if len(images) == 1 else torch.cat(images)


def _sample(name: str, stage: Stage, plan: Plan, pictures: Pictures) -> torch.Tensor:
    """As :func:`sample`, in one part."""
    inputs = _base(stage, plan, pictures) if name == BASE else _upsampler(stage, plan, pictures)
    known, mask = _known(stage, pictures)
    if known is not None and mask is not None:
        inputs = _with_known(stage, inputs, known, mask)
    seeds = torch.tensor(plan.seeds, dtype=torch.int64, device=stage.device)
    options = plan.options
    with tqdm(total=inputs.total, desc=name, unit="step", disable=not options.progress) as bar:

        def on_step(index: int, total: int, x0: torch.Tensor) -> None:
            bar.update()
            if options.callback_on_step_end is not None:
                options.callback_on_step_end(StepEnd(name, index, total, x0, plan.first))

        watched = options.progress or options.callback_on_step_end is not None
        loop = _loop(stage, inputs, seeds, options.fixed_in_loop(name))
        images = loop.run(on_step if watched else None).clamp(-1, 1)
    if known is None or mask is None:
        return images
    # Rules that extrapolate at their last step do not end on the known region by themselves.
    return torch.where(mask.bool(), known, images)


def _base(stage: Stage, plan: Plan, pictures: Pictures) -> LoopInputs:
    options = plan.options
    process = stage.process(str(options.num_inference_steps))
    text = stage.prompts.encode(plan.prompts)
    renewed: dict[str, Any] = {}
    if options.guidance_scale != 1.0:  # a scale of 1 is the conditional prediction itself, at half the cost
        renewed["guidance_scale"] = options.guidance_scale
        text = doubled(text, stage.prompts.encode(plan.negative_prompts))
    score = None
    if options.clip is not None:
        score = options.clip.cond_fn(plan.prompts, options.clip_guidance_scale or 0.0)
    fixed = options.loop_arguments(BASE) | {"streams": BASE_STREAMS}
    if pictures.start is not None:
        fixed["first"] = share_of_steps(pictures.strength, process.num_timesteps) - 1
        renewed["image"] = pictures.start.to(stage.device)
    return LoopInputs(process, fixed, renewed, _present(text=text), score)


def _upsampler(stage: Stage, plan: Plan, pictures: Pictures) -> LoopInputs:
    """Without guidance, as GLIDE does."""
    options, low_res = plan.options, pictures.low_res
    assert low_res is not None
    fixed = options.loop_arguments(UPSAMPLER) | {"streams": UPSAMPLER_STREAMS}
    renewed = {}
    steps = options.upsample_steps
    whole = options.upsample_strength == 1.0
    if not whole:
        fixed["first"] = options.upsampler_steps_taken - 1
        renewed["image"] = resize_images(low_res, stage.image_size).to(stage.device)
    fits = stage.steps >= 5 * 10  # fast27 takes ten steps of one fifth of the process
    # fast27 spends its steps on the noisiest and the cleanest fifth; a run that starts midway would miss the first.
    respacing = "fast27" if steps == _FAST27 and fits and whole else str(steps)
    conditioning = _present(text=stage.prompts.encode(plan.prompts), low_res=low_res.to(stage.device))
    return LoopInputs(stage.process(respacing), fixed, renewed, conditioning)


def _present(**conditioning: TextEmbedding | torch.Tensor | None) -> dict[str, Any]:
    return {name: value for name, value in conditioning.items() if value is not None}


def _known(stage: Stage, pictures: Pictures) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The known pictures and their mask at the size and on the device of ``stage``."""
    if pictures.known is None or pictures.known_mask is None:
        return None, None
    size, device = stage.image_size, stage.device
    return resize_images(pictures.known, size).to(device), resize_masks(pictures.known_mask, size).to(device)


def _with_known(stage: Stage, inputs: LoopInputs, known: torch.Tensor, mask: torch.Tensor) -> LoopInputs:
    """The inputs of a loop that keeps ``known`` where ``mask`` is 1; a model trained for inpainting is shown both."""
    conditioning = dict(inputs.conditioning)
    if stage.inpaints:
        copies = _copies(inputs)
        conditioning["inpaint_image"] = known.repeat(copies, 1, 1, 1)
        conditioning["inpaint_mask"] = mask.repeat(copies, 1, 1, 1)
    renewed = {**inputs.renewed, "known": known, "known_mask": mask}
    return replace(inputs, renewed=renewed, conditioning=conditioning)


def _copies(inputs: LoopInputs) -> int:
    """How often the network reads each state: twice with guidance, with the prompt and without."""
    return 2 if "guidance_scale" in inputs.renewed else 1


def _loop(
    stage: Stage, inputs: LoopInputs, seeds: torch.Tensor, options: tuple[Any, ...]
) -> SamplingLoop | CapturedLoop:
    """A loop that is ready to run: one kept from an earlier call, with new values, or a new one.

    Args:
        options: the values that a kept loop cannot change
            (:meth:`glide_fast.pipelines.options.SamplingOptions.fixed_in_loop`).
    """
    shape = (3, stage.image_size, stage.image_size)
    arguments: dict[str, Any] = {**inputs.fixed, **inputs.renewed, "score": inputs.score}
    model = stage.model
    if not isinstance(model, Accelerated):
        return SamplingLoop(_plain(stage, inputs.conditioning), inputs.process, seeds, shape, **arguments)

    def make() -> CapturedLoop:
        rows = _copies(inputs) * len(seeds)
        bound = model.bind(inputs.process.timestep_map, rows, shape, **inputs.conditioning)
        if inputs.fixed["cache_interval"] > 1:
            bound.remember_deep()
        loop = SamplingLoop(bound, inputs.process, seeds, shape, **arguments)
        return CapturedLoop(loop, stage.recorder, model.addresses, whole_loop=stage.whole_loop)

    if inputs.score is not None:  # a function of this run's prompts
        return make()
    # How many images and steps, the options, and which inputs there are; their values are renewed.
    key = (
        len(seeds),
        inputs.total,
        options,
        *(tuple(sorted(each)) for each in (inputs.renewed, inputs.conditioning)),
    )
    loop, new = stage.loops.get(key, make)
    if not new:
        loop.renew(inputs.conditioning, seeds, inputs.renewed)
    return loop


def _plain(stage: Stage, conditioning: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
    """The denoiser of a model that is not accelerated."""
    model = stage.model.eval()

    def first(value: Any, count: int) -> Any:
        if isinstance(value, Mapping):
            return {name: part[:count] for name, part in value.items()}
        return value[:count]

    def denoise(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        # Steps without guidance read the conditional half of a doubled batch.
        return model(x, timesteps, **{name: first(value, len(x)) for name, value in conditioning.items()})

    return denoise
