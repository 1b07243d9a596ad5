"""GlidePipeline: what most people call."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from glide_fast.checkpoints import save_pipeline_directory
from glide_fast.errors import invalid
from glide_fast.pipelines import clip_component
from glide_fast.pipelines.checks import require_flag
from glide_fast.pipelines.components import CLIP, Components
from glide_fast.pipelines.image_to_image import start_pictures
from glide_fast.pipelines.images import ImageInput, quantise, write_images
from glide_fast.pipelines.inpaint import known_pictures
from glide_fast.pipelines.loading import load_parts
from glide_fast.pipelines.memory import peak_memory, start_measuring
from glide_fast.pipelines.options import BASE, DEFAULTS, UPSAMPLER, CallOptions, Clip, shows_options
from glide_fast.pipelines.output import PipelineOutput
from glide_fast.pipelines.plan import make_plan
from glide_fast.pipelines.sampling import Pictures, sample
from glide_fast.pipelines.saved_settings import check_settings
from glide_fast.pipelines.settings import STAGES, settings_of
from glide_fast.pipelines.stage import Stage
from glide_fast.pipelines.upsample import low_res_pictures
from glide_fast.pipelines.words import unknown_words, vocabulary, warn_about_prompts
from glide_fast.runtime.autocast import autocast_off
from glide_fast.runtime.fair_lock import FairLock, joins
from glide_fast.runtime.placement import refuse_half_on_cpu, resolve_device, resolve_dtype
from glide_fast.runtime.precision import fastest_dtype
from glide_fast.runtime.recording import CudaGraphs
from glide_fast.text.checks import require_utf8

if sys.version_info >= (3, 11):
    from typing import Unpack
else:
    from typing_extensions import Unpack  # torch needs it too

_HOST = torch.device("cpu")

P = ParamSpec("P")
R = TypeVar("R")


def _alone(method: Callable[Concatenate[GlidePipeline, P], R]) -> Callable[Concatenate[GlidePipeline, P], R]:
    """A decorator for methods that must not run at the same time on one pipeline: each waits until those before it are over.

    In a callback of a call that runs one of the pipeline's models, the method raises ReentrantCallError.
    """

    @functools.wraps(method)
    def run(self: GlidePipeline, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for stage in self.stages:  # another pipeline's call may run the same model
            stage.lock.refuse_within(method)
        return self.lock.run(method, self, *args, **kwargs)

    return run


class GlidePipeline:
    """Text to image, inpainting, image to image and upsampling with GLIDE's two stages.

    >>> pipe = GlidePipeline.from_pretrained("small")           # doctest: +SKIP
    >>> pipe("a red cube", seed=7).images[0].save("out.png")  # doctest: +SKIP

    An image depends on its prompt, its seed and the settings, and not on the other images of its batch: the seeds in a result,
    passed back one by one, give the same pictures. They are equal bit for bit from an accelerated pipeline on a CPU (fp32, or
    bf16 with AVX-512); otherwise, as on another device or in another precision, up to rounding.

    Threads may share a pipeline: its calls take turns, in the order they came, and so do the methods that move, convert, release
    or save it. In a callback of a running call they raise :class:`~glide_fast.errors.ReentrantCallError` (saving does not).

    Args:
        base: the first stage, or None for a pipeline that only upsamples.
        upsampler: the second stage, or None for pictures of the base model's size.
        clip: a noise-aware CLIP for ``clip_guidance_scale``.
        settings: defaults of a call (the keys of :data:`glide_fast.pipelines.options.DEFAULTS`), and anything else that is to be
            saved with the pipeline.

    Raises:
        InvalidInputError: if both stages are None, or an upsampler is passed as ``base``, or a base model as ``upsampler``.
    """

    def __init__(
        self,
        base: Stage | None,
        upsampler: Stage | None = None,
        clip: Clip | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if base is None and upsampler is None:
            raise invalid("base", None, "a base model, an upsampler, or both")
        for name, stage in ((BASE, base), (UPSAMPLER, upsampler)):
            if stage is not None and not isinstance(stage, Stage):
                raise invalid(
                    name, type(stage).__name__, "a Stage, or GlidePipeline.from_pretrained with a name"
                )
        if base is not None and base.upsamples:
            raise invalid("base", "an upsampler (super_res)", "a base model")
        if upsampler is not None and not upsampler.upsamples:
            raise invalid("upsampler", "a base model", "an upsampler (super_res)")
        self.base, self.upsampler, self.clip = base, upsampler, clip
        self.settings: dict[str, Any] = dict(settings or {})
        self.lock = FairLock()
        self.name: str | None = None
        """What :meth:`from_pretrained` loaded, a model's or directory's name; it is recorded in pictures' files."""
        self._sequential_on: torch.device | None = None  # with sequential stages, the device that they share

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        accelerate: bool = True,
        cache_dir: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> GlidePipeline:
        """Load a pipeline.

        Args:
            name: a directory that :meth:`save_pretrained` wrote, or one of a single UNet (trained or converted), which makes a
                pipeline of one stage; a model that ships (:func:`glide_fast.weights.available`); or
                "official", "official-inpaint" or "official-clip" (with the noise-aware CLIP), which download the released models.
            device: where to run; None takes the GPU if there is one.
            dtype: the type of the networks' weights and activations: fp32, bf16 or fp16 (not on a CPU). None is what the device
                is fastest in: fp16 on a GPU, bf16 on CPUs that multiply it, fp32 on others. The diffusion state is always fp32.
            accelerate: run on fused operations and captured loops (:mod:`glide_fast.runtime`). False keeps the plain models,
                which can be trained and taken apart; a ``dtype`` of None is then fp16 on a GPU and fp32 elsewhere.
            cache_dir: where downloads are kept; default :func:`glide_fast.checkpoints.default_cache_dir`.
            progress: show download bars.

        Raises:
            InvalidInputError: for an unknown name, or arguments outside what is accepted.
            CheckpointError: for files that are no pipeline, or do not fit together.
            DownloadError: for a download that failed.
        """
        accelerate, progress = require_flag("accelerate", accelerate), require_flag("progress", progress)
        target = resolve_device(device)
        fastest = dtype is None and accelerate
        precision = fastest_dtype(target) if fastest else resolve_dtype(dtype, target)

        def ready(stage: Stage) -> None:
            if accelerate:
                stage.accelerate(target, precision)
            else:
                stage.to(target, precision)

        parts = load_parts(name, ready, progress=progress, cache_dir=cache_dir)
        pipeline = cls(parts.base, parts.upsampler, parts.clip, parts.settings)
        pipeline.name = Path(name).resolve().name
        return pipeline.accelerate(target, precision) if accelerate else pipeline.to(target, precision)

    @_alone
    def accelerate(
        self, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
    ) -> GlidePipeline:
        """Replace plain models by accelerated ones, which run on fused operations and captured loops.

        Args:
            device, dtype: where and in which type to run; None keeps what the pipeline has.

        Returns:
            The pipeline itself, changed.
        """
        target = self.device if device is None else resolve_device(device)
        precision = self.dtype if dtype is None else resolve_dtype(dtype, target)
        refuse_half_on_cpu(precision, target)
        for stage in self.stages:
            with self._at_home(stage):
                stage.accelerate(target, precision)
        self._share_recorder(target)
        return self._to(target, precision)

    def _share_recorder(self, device: torch.device) -> None:
        recorder = CudaGraphs(device) if device.type == "cuda" else None
        for stage in self.stages:
            stage.recorder = recorder

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Stages are copied without their recorder.
        if self.accelerated and all(stage.recorder is None for stage in self.stages):
            self._share_recorder(self.device)

    @property
    def accelerated(self) -> bool:
        """Whether every stage is."""
        return self.components.accelerated

    @property
    def stages(self) -> list[Stage]:
        """The stages that the pipeline has, in the order they run."""
        return self.components.stages

    @property
    def components(self) -> Components:
        """The pipeline's present models and settings."""
        return Components(self.base, self.upsampler, self.clip, self.settings, self.name)

    @property
    def known_words(self) -> tuple[str, ...] | None:
        """The words that a pipeline with a small vocabulary was trained on; None if every stage reads any word."""
        known = vocabulary(self.stages)
        return None if known is None else known.words

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt, as typed, that are not in :attr:`known_words`; a call would warn about these."""
        return unknown_words(self.stages, require_utf8(prompt, "prompt"))

    @_alone
    def release(self) -> None:
        """Free the memory of captured loops and their buffers; the next call makes them again."""
        self.release_stages()

    def release_stages(self) -> None:
        """As :meth:`release`, for a call that is running."""
        for stage in self.stages:
            stage.release()

    @_alone
    def refresh(self) -> None:
        """Forget all that was computed from the weights; the next call computes it again from the weights of that time.

        Calls notice by themselves when weights were changed, in whatever way; this is for code that would rather not rely on
        it. Captured loops are kept: each call writes their buffers anyway.
        """
        for stage in self.stages:
            stage.refresh()

    @_alone
    def enable_sequential_stages(self) -> None:
        """Keep only the model that runs on the GPU, and the other in host memory, for GPUs with about 4 GB.

        Each call then moves both models once and captures its loops again, which takes time; pictures stay the same. On a CPU
        this changes nothing.
        """
        if self._sequential_on is None:
            self._sequential_on = self.device
            for stage in self.stages[1:]:
                stage.move(_HOST)

    @_alone
    def disable_sequential_stages(self) -> None:
        """Keep all models on the device again, as before :meth:`enable_sequential_stages`."""
        target, self._sequential_on = self._sequential_on, None
        if target is not None:
            for stage in self.stages:
                stage.move(target)

    @_alone
    def enable_whole_loop_capture(self, enabled: bool = True) -> None:
        """Record all steps of a loop as one, for calls with neither a progress bar nor a callback.

        The GPU then goes from step to step without waiting for Python. A recording takes about as long to make as a picture, and
        more memory than that of a single step, so it pays off over many calls of one shape; pictures stay the same. On a CPU
        nothing is recorded.

        Args:
            enabled: False records single steps again.
        """
        require_flag("enabled", enabled)
        for stage in self.stages:
            if stage.whole_loop != enabled:
                stage.release()
                stage.whole_loop = enabled

    @property
    def sequential_stages(self) -> bool:
        """Whether only the model that runs is on the device."""
        return self._sequential_on is not None

    def bring(self, stage: Stage) -> None:
        """Move ``stage`` to the device before it runs, and with sequential stages the others off it."""
        if self._sequential_on is not None:
            for other in self.stages:
                if other is not stage:
                    other.move(_HOST)
            stage.move(self._sequential_on)

    @contextlib.contextmanager
    def _at_home(self, stage: Stage) -> Iterator[None]:
        """A block in which ``stage`` is on the device, wherever it was before and is afterwards."""
        if self._sequential_on is None:
            yield
            return
        self.bring(stage)
        yield
        if stage is not self._first:
            stage.move(_HOST)

    @joins
    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write the pipeline to a directory that :meth:`from_pretrained` reads, whole or not at all.

        Weights are written in the precision that they have.

        Raises:
            InvalidInputError: for settings that no call could use.
            CheckpointError: where the directory cannot be written.
        """
        settings = {**DEFAULTS, **self.settings}
        check_settings(settings)
        components: dict[str, Any] = {}
        for name, stage in ((BASE, self.base), (UPSAMPLER, self.upsampler)):
            if stage is not None:
                components[name] = stage.component()
        if self.clip is not None:
            components[CLIP] = clip_component.to_component(self.clip)
        save_pipeline_directory(directory, settings, components)

    @_alone
    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
    ) -> GlidePipeline:
        """Move the pipeline, and convert its precision.

        Args:
            device, dtype: None keeps what the pipeline has.

        Returns:
            The pipeline itself, changed.
        """
        target = self.device if device is None else resolve_device(device)
        precision = self.dtype if dtype is None else resolve_dtype(dtype, target)
        return self._to(target, precision)

    def _to(self, target: torch.device, precision: torch.dtype) -> GlidePipeline:
        refuse_half_on_cpu(precision, target)
        for stage in self.stages:
            with self._at_home(stage):
                stage.to(target, precision)
        if self._sequential_on is not None:
            self._sequential_on = target
        if self.clip is not None:
            clip_component.move(self.clip, target)
        return self

    @property
    def device(self) -> torch.device:
        """Where the stages run."""
        return self._first.device if self._sequential_on is None else self._sequential_on

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first stage's weights and activations."""
        return self._first.model.dtype

    @property
    def _first(self) -> Stage:
        stage = self.base or self.upsampler
        assert stage is not None
        return stage

    def require_base(self) -> Stage:
        """The base model; InvalidInputError for a pipeline without one."""
        return self.components.require_base()

    def __repr__(self) -> str:
        parts = [
            f"{name}={stage.image_size} px"
            for name, stage in ((BASE, self.base), (UPSAMPLER, self.upsampler))
            if stage
        ]
        clip = [] if self.clip is None else ["clip"]
        return f"GlidePipeline({', '.join(parts + clip)}, {self.device}, {self.dtype})"

    @_alone
    @shows_options
    def __call__(self, prompt: str | Sequence[str], **options: Unpack[CallOptions]) -> PipelineOutput:
        """Make pictures of prompts.

        Args:
            prompt: one or a list; an empty string asks for anything. Words beyond the model's context are cut, with a
                ``PromptTruncatedWarning``; words that the model was not trained on are named in an ``UnknownWordsWarning``.
            options: see below, or :class:`~glide_fast.pipelines.options.SamplingOptions`.

        Returns:
            :class:`~glide_fast.pipelines.output.PipelineOutput` with ``images``, ``low_res``, ``prompts``, ``seeds``,
            ``settings`` and ``peak_memory``; its method ``save`` writes PNG files.

        Raises:
            InvalidInputError: before any work.
            OutOfMemoryError: where not even one image fits. (Batches that do not fit are sampled in parts, with a warning.)
        """
        self.require_base()
        return self._make(prompt, Pictures, options)

    @_alone
    @shows_options
    def inpaint(
        self,
        prompt: str | Sequence[str],
        image: ImageInput,
        *,
        keep_mask: ImageInput | None = None,
        repaint_mask: ImageInput | None = None,
        **options: Unpack[CallOptions],
    ) -> PipelineOutput:
        """Repaint part of a picture from a prompt; the rest is kept, pixel for pixel, in both stages.

        A model trained for inpainting is shown the masked picture. A plain one is only held to the known region, and fits what
        it paints less well to its surroundings.

        Args:
            prompt: one or a list, paired with the pictures; one of either serves all of the other.
            image: square pictures of any size (see :mod:`glide_fast.pipelines.images`), resized to each stage, bicubic.
            keep_mask: 1, True or 255 where the picture stays as it is; or else
            repaint_mask: 1, True or 255 where it is painted anew. Of the picture's size; resized by nearest pixel.
            options: as of a call.

        Raises:
            InvalidInputError: before any work.
        """
        self.require_base()
        return self._make(prompt, lambda: known_pictures(image, keep_mask, repaint_mask), options)

    @_alone
    @shows_options
    def image_to_image(
        self,
        prompt: str | Sequence[str],
        image: ImageInput,
        strength: float = 0.6,
        **options: Unpack[CallOptions],
    ) -> PipelineOutput:
        """Change a picture towards a prompt: it is noised part of the way and sampled from there.

        Args:
            prompt: one or a list, paired with the pictures; one of either serves all of the other.
            image: square pictures of any size (see :mod:`glide_fast.pipelines.images`), resized to the base model's, bicubic.
            strength: share of the process to go back, above 0 and up to 1, where nothing of the picture is left; so many of
                ``num_inference_steps`` are taken.
            options: as of a call.

        Raises:
            InvalidInputError: before any work.
        """
        base = self.require_base()
        return self._make(prompt, lambda: start_pictures(base, image, strength), options)

    @_alone
    @shows_options
    def upsample(
        self, image: ImageInput, prompt: str | Sequence[str] = "", **options: Unpack[CallOptions]
    ) -> PipelineOutput:
        """Enlarge pictures with the upsampler alone.

        Args:
            image: pictures of the base model's size (see :mod:`glide_fast.pipelines.images`).
            prompt: what they show, one or a list, paired with the pictures.
            options: as of a call; those of the base model have no effect.

        Raises:
            InvalidInputError: before any work.
        """
        return self._make(prompt, lambda: low_res_pictures(self.components, image), options)

    def _make(
        self, prompt: str | Sequence[str], read: Callable[[], Pictures], options: CallOptions
    ) -> PipelineOutput:
        """The pictures of a call: checks, the base model unless there are pictures to enlarge, and the upsampler if there is one.

        Args:
            read: reads and checks the caller's pictures.
        """
        start_measuring(self.device)
        # What one call keeps, the next one writes to, perhaps in a thread of another mode.
        with autocast_off(self.device), torch.inference_mode(False), torch.no_grad():
            refuse_half_on_cpu(self.dtype, self.device)
            pictures, components = read(), self.components
            plan = make_plan(components, prompt, options, pictures=len(pictures))
            pictures = pictures[plan.sources]
            stages = STAGES if pictures.low_res is None else (UPSAMPLER,)
            warn_about_prompts(components, plan, base=BASE in stages)
            settings = settings_of(components, plan, stages)
            if pictures.start is not None:
                settings["strength"] = pictures.strength
            low_res = pictures.low_res
            if low_res is None:
                base = self.require_base()
                self.bring(base)
                low_res = quantise(sample(BASE, base, plan, pictures, self.release_stages))
            large = None
            if self.upsampler is not None:
                self.bring(self.upsampler)
                pictures = dataclasses.replace(pictures, low_res=low_res)
                large = sample(UPSAMPLER, self.upsampler, plan, pictures, self.release_stages)
            # Only now, because this waits for the device.
            small = write_images(low_res, plan.options.output_type)
            return PipelineOutput(
                images=small if large is None else write_images(large, plan.options.output_type),
                low_res=small,
                prompts=plan.prompts,
                seeds=plan.seeds,
                peak_memory=peak_memory(self.device),
                settings=settings,
            )
