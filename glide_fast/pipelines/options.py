"""What a call of a pipeline may vary besides prompt and pictures: declared here, once.

Everything else about an option follows from its field in :class:`SamplingOptions`: the signatures and documentation of the
pipeline's methods, the checks of a call and of saved settings, what a picture's file records, the command line's options, and
whether a captured loop serves another value.

Importing this loads no torch, so that the command line can describe its options at once.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar

from glide_fast.errors import invalid
from glide_fast.limits import MOST_IMAGES
from glide_fast.pipelines.checks import (
    require_choice,
    require_flag,
    require_integer,
    require_number,
    require_strength,
)

if TYPE_CHECKING:
    from glide_fast.diffusion.plan import Interval
    from glide_fast.pipelines.output import StepCallback
    from glide_fast.pipelines.seeds import Generator, Seed

BASE, UPSAMPLER = "base", "upsampler"
"""The stages of a pipeline, in the order they run."""

Check = Callable[[str, Any], Any]
"""``check(name, value)``: the value as a run uses it; InvalidInputError naming the option if no call could use it."""


class Clip(Protocol):
    """A noise-aware CLIP, such as :class:`glide_fast.models.clip.CLIPModel` or the official one."""

    def cond_fn(self, prompts: list[str], grad_scale: float) -> Any: ...


class Loop(Enum):
    """Whether a sampling loop that is kept from call to call can be used for another value of an option."""

    FIXED = "another value needs a loop of its own: it decides which steps are taken and how"
    RENEWED = "a kept loop serves any value: it is written into the loop's buffers before each run"
    OUTSIDE = "no loop depends on it, or the loop that does is never kept"


class Recorded(Enum):
    """When an option's value is written into the files of the pictures that it decides."""

    ALWAYS = "always"
    CHANGED = "where it is not the usual value"


@dataclass(frozen=True)
class Declared:
    """The declaration of an option, besides its name, type and usual value.

    Attributes:
        help: a sentence for the command line and for Python.
        more: further sentences for Python alone.
        loop: see :class:`Loop`.
        stages: the stages whose pictures depend on the option.
        argument: for a fixed option, its name as an argument of :class:`~glide_fast.diffusion.sampling.SamplingLoop`.
        check: see :data:`Check`; None where the check needs more than the value (:mod:`glide_fast.pipelines.plan`).
        setting: for an option whose default a pipeline's settings may change (a call's None stands for that default): when its
            value is recorded. None for other options; :mod:`glide_fast.pipelines.settings` records some of those, too.
        flag: the option's name on the command line; None where there is no such option, or the command declares it itself.
        metavar: the name of the option's value on the command line; None shows the type.
    """

    help: str
    more: str
    loop: Loop
    stages: tuple[str, ...]
    argument: str | None
    check: Check | None
    setting: Recorded | None
    flag: str | None
    metavar: str | None


def declare(
    help: str,
    more: str = "",
    *,
    loop: Loop,
    stages: tuple[str, ...] = (BASE, UPSAMPLER),
    argument: str | None = None,
    check: Check | None = None,
    setting: Recorded | None = None,
    flag: str | None = None,
    metavar: str | None = None,
) -> Mapping[str, Declared]:
    """Metadata of a field of :class:`SamplingOptions`; arguments as the attributes of :class:`Declared`."""
    return {"declared": Declared(help, more, loop, stages, argument, check, setting, flag, metavar)}


def _integer(high: int | None) -> Check:
    return lambda name, value: require_integer(name, value, 1, high)


def _factor(name: str, value: Any) -> float:
    return require_number(name, value, 0)


def _sampler(name: str, value: Any) -> str:
    from glide_fast.diffusion.rules import RULES

    return require_choice(name, value, tuple(RULES))


def _interval(name: str, value: Any) -> Interval | None:
    from glide_fast.diffusion.plan import check_interval

    return check_interval(value, name)


def _output_type(name: str, value: Any) -> str:
    from glide_fast.pipelines.images import OUTPUT_TYPES

    return require_choice(name, value, OUTPUT_TYPES)


def _callback(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise invalid(name, value, "a function of one StepEnd, or None")
    return value


_MOST_STEPS = 100_000


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The options of a call as a run uses them: checked, and with a value each.

    Defaults are GLIDE's usual values (Nichol et al. 2021, and its released notebooks).
    """

    num_inference_steps: int = field(
        default=100,
        metadata=declare(
            "Steps of the base model.",
            "From 1 to what it was trained on.",
            stages=(BASE,),
            flag="--steps",
            loop=Loop.FIXED,
            check=_integer(_MOST_STEPS),
            setting=Recorded.ALWAYS,
        ),
    )
    upsample_steps: int = field(
        default=27,
        metadata=declare(
            "Steps of the upsampler.",
            '27 is the released "fast27" spacing; other numbers are spaced evenly.',
            stages=(UPSAMPLER,),
            flag="--upsample-steps",
            loop=Loop.FIXED,
            check=_integer(_MOST_STEPS),
            setting=Recorded.ALWAYS,
        ),
    )
    guidance_scale: float = field(
        default=3.0,
        metadata=declare(
            "How strongly to follow the prompt; 1 is no guidance.",
            "Classifier-free guidance of the base model; 1 is the plain conditional model at half the cost, 0 ignores the "
            "prompt.",
            flag="--guidance-scale",
            loop=Loop.RENEWED,  # from none to some is another loop, whose key says whether there is guidance
            stages=(BASE,),
            check=_factor,
            setting=Recorded.ALWAYS,
        ),
    )
    negative_prompt: str | Sequence[str] | None = field(
        default=None,
        metadata=declare(
            "What to steer away from.",
            "Stands in for the empty prompt that guidance leads away from; one, or one for each prompt.",
            flag="--negative-prompt",
            loop=Loop.RENEWED,
            stages=(BASE,),
        ),
    )
    num_images_per_prompt: int = field(
        default=1,
        metadata=declare(
            "Pictures of each prompt.",
            "They are next to each other in the result.",
            loop=Loop.OUTSIDE,  # a loop has a number of images, whichever prompts they are of
            check=_integer(MOST_IMAGES),
        ),
    )
    generator: Generator | None = field(
        default=None,
        metadata=declare(
            "A ``torch.Generator`` that draws the seeds, or one for each image.",
            loop=Loop.RENEWED,
        ),
    )
    seed: Seed | None = field(
        default=None,
        metadata=declare(
            "Of the first picture; the others count up.",
            "Or one for each image; 0 <= seed < 2**63. Without generator and seed, torch's global generator draws new seeds. The "
            "result names them.",
            loop=Loop.RENEWED,
        ),
    )
    sampler: str = field(
        default="ddpm",
        metadata=declare(
            "Sampler of the base model: ddpm, ddim, plms, dpm++2m or euler-a.",
            stages=(BASE,),
            flag="--sampler",
            loop=Loop.FIXED,
            argument="rule",
            check=_sampler,
            setting=Recorded.ALWAYS,
        ),
    )
    upsample_sampler: str = field(
        default="ddim",
        metadata=declare(
            "Sampler of the upsampler.",
            stages=(UPSAMPLER,),
            loop=Loop.FIXED,
            argument="rule",
            check=_sampler,
            setting=Recorded.ALWAYS,
        ),
    )
    upsample_temp: float = field(
        default=0.997,
        metadata=declare(
            "Factor on the upsampler's starting noise.",
            loop=Loop.FIXED,
            argument="noise_scale",
            stages=(UPSAMPLER,),
            check=_factor,
            setting=Recorded.ALWAYS,
        ),
    )
    upsample_strength: float = field(
        default=1.0,
        metadata=declare(
            "Share of the upsampler's steps to take, above 0 and up to 1.",
            "1 is GLIDE's way, from noise alone. Less starts from the enlarged picture with that much noise: sooner done, and "
            "nearer to the base's colours.",
            loop=Loop.FIXED,
            stages=(UPSAMPLER,),
            check=require_strength,
            setting=Recorded.ALWAYS,
        ),
    )
    guidance_interval: Interval | None = field(
        default=None,
        metadata=declare(
            "Guide only in this part of the process, from 0 (clean) to 1 (noise); steps outside it cost half.",
            "A pair (low, high); None is everywhere.",
            flag="--guidance-interval",
            loop=Loop.FIXED,
            argument="guidance_interval",
            stages=(BASE,),
            check=_interval,
            setting=Recorded.CHANGED,
            metavar="LOW,HIGH",
        ),
    )
    cache_interval: int = field(
        default=1,
        metadata=declare(
            "Compute every n-th step in full and reuse its deep features in between; needs an accelerated pipeline.",
            "In both stages; 1 is all in full.",
            flag="--cache-interval",
            loop=Loop.FIXED,
            argument="cache_interval",
            check=_integer(None),
            setting=Recorded.CHANGED,
        ),
    )
    clip: Clip | None = field(
        default=None,
        metadata=declare(
            "A noise-aware CLIP that guides the base model; default the pipeline's own.",
            loop=Loop.OUTSIDE,
            stages=(BASE,),
        ),
    )
    clip_guidance_scale: float | None = field(
        default=None,
        metadata=declare(
            "Guidance by a noise-aware CLIP, of a model that has one.",
            "0 (and None without ``clip``) is off. Combines with ``guidance_scale``; the released example uses 3 with a "
            "``guidance_scale`` of 1.",
            flag="--clip-guidance-scale",
            loop=Loop.OUTSIDE,
            stages=(BASE,),
        ),
    )
    output_type: str = field(
        default="pil",
        metadata=declare(
            'What to return pictures as: "pil", "pt" (``[N, 3, H, W]`` in [0, 1]) or "np" (``[N, H, W, 3]`` in [0, 1]).',
            loop=Loop.OUTSIDE,
            check=_output_type,
        ),
    )
    callback_on_step_end: StepCallback | None = field(
        default=None,
        metadata=declare(
            "Called with a :class:`~glide_fast.pipelines.output.StepEnd` after each step.",
            "What it raises stops the run and reaches the caller.",
            loop=Loop.OUTSIDE,
            check=_callback,
        ),
    )
    progress: bool = field(
        default=True, metadata=declare("Show bars.", loop=Loop.OUTSIDE, check=require_flag)
    )

    @property
    def upsampler_steps_taken(self) -> int:
        """How many of ``upsample_steps`` the upsampler takes."""
        return share_of_steps(self.upsample_strength, self.upsample_steps)

    def fixed_in_loop(self, stage: str) -> tuple[Any, ...]:
        """The values that a kept loop of this stage cannot change: a part of its key."""
        return tuple(getattr(self, name) for name, _ in _fixed(stage))

    def loop_arguments(self, stage: str) -> dict[str, Any]:
        """Those of :meth:`fixed_in_loop` that are arguments of the stage's sampling loop."""
        return {
            declared.argument: getattr(self, name)
            for name, declared in _fixed(stage)
            if declared.argument is not None
        }


class CallOptions(TypedDict, total=False):
    """The options of a call for type checkers: :class:`SamplingOptions`, where None stands for the pipeline's setting."""

    num_inference_steps: int | None
    upsample_steps: int | None
    guidance_scale: float | None
    negative_prompt: str | Sequence[str] | None
    num_images_per_prompt: int
    generator: Generator | None
    seed: Seed | None
    sampler: str | None
    upsample_sampler: str | None
    upsample_temp: float | None
    upsample_strength: float | None
    guidance_interval: Interval | None
    cache_interval: int | None
    clip: Clip | None
    clip_guidance_scale: float | None
    output_type: str
    callback_on_step_end: StepCallback | None
    progress: bool


DECLARED: Mapping[str, Declared] = {each.name: each.metadata["declared"] for each in fields(SamplingOptions)}
"""By name, in order."""

DEFAULTS: Mapping[str, Any] = {
    each.name: each.default for each in fields(SamplingOptions) if each.metadata["declared"].setting
}
"""What a pipeline's settings may override, with GLIDE's usual values."""


def _fixed(stage: str) -> list[tuple[str, Declared]]:
    """The options that are fixed in a loop of this stage."""
    return [
        (name, declared)
        for name, declared in DECLARED.items()
        if declared.loop is Loop.FIXED and stage in declared.stages
    ]


def share_of_steps(strength: float, steps: int) -> int:
    """Steps of a run that takes the last ``strength`` of ``steps``: one at least."""
    return max(1, round(strength * steps))


def checked(
    arguments: Mapping[str, Any], settings: Mapping[str, Any], stricter: Mapping[str, Check]
) -> dict[str, Any]:
    """The value of each option, checked: that of the call, or else of the pipeline's settings, or else the usual one.

    Args:
        arguments: a call's keyword arguments; for options that settings may hold, None stands for the setting.
        settings: of the pipeline; entries that are not options are ignored.
        stricter: checks to use instead of the declared ones, by option.

    Raises:
        TypeError: for a keyword that is no option.
        InvalidInputError: naming the option.
    """
    for name in arguments:
        if name not in DECLARED:
            raise TypeError(f"got an unexpected keyword argument {name!r}; accepted: {', '.join(DECLARED)}")
    values: dict[str, Any] = {}
    for each in fields(SamplingOptions):
        declared = DECLARED[each.name]
        value = arguments.get(each.name, None if declared.setting else each.default)
        if value is None and declared.setting:
            value = settings.get(each.name, each.default)
        check = stricter.get(each.name, declared.check)
        values[each.name] = value if check is None else check(each.name, value)
    return values


F = TypeVar("F", bound=Callable[..., Any])


def shows_options(method: F) -> F:
    """A method with ``**options: Unpack[CallOptions]``, whose signature and documentation name each of them."""
    signature = inspect.signature(method)
    parameters = list(signature.parameters.values())[:-1]
    lines = []
    for each in fields(SamplingOptions):
        declared = DECLARED[each.name]
        annotation = f"{each.type}"
        if declared.setting and not annotation.endswith("| None"):
            annotation += " | None"
        usual = None if declared.setting else each.default
        parameters.append(
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=usual, annotation=annotation)
        )
        default = f"Usually {each.default!r}." if declared.setting else ""
        text = " ".join(filter(None, (f"{each.name}:", declared.help, declared.more, default)))
        lines.append(textwrap.fill(text, 120, initial_indent=" " * 4, subsequent_indent=" " * 8))
    method.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    if method.__doc__:  # not under python -OO
        heading = "Options (None is the pipeline's setting, or else the usual value):\n"
        method.__doc__ = f"{inspect.cleandoc(method.__doc__)}\n\n{heading}" + "\n".join(lines)
    return method
