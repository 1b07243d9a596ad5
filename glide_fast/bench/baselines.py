"""The alternatives to glide_fast: each baseline builds a denoiser from a plain model, or says why it cannot here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from glide_fast.bench.contest import Unable
from glide_fast.bench.stock import stock
from glide_fast.bench.subject import Subject
from glide_fast.bench.work import Work
from glide_fast.diffusion.denoiser import Denoiser
from glide_fast.errors import invalid
from glide_fast.models.config import EXTENSIONS

EXCUSES: tuple[type[Exception], ...] = (Unable, RuntimeError, ValueError, TypeError, ImportError)
"""The errors that count as "cannot run" for a baseline, since torch and other packages may fail for reasons of theirs."""
_PROCESS = ("diffusion_steps", "noise_schedule", "timestep_respacing")


class Baseline(NamedTuple):
    """One alternative to glide_fast."""

    name: str  # on the command line
    title: str  # in tables
    make: Callable[[Subject, Work], Denoiser]  # builds its denoiser
    asked: bool  # whether it runs only when named, since it compiles for minutes


def released_dtype(device: torch.device) -> torch.dtype:
    """The type that the released code runs in: fp16 on a GPU, fp32 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.float32


def half_dtype(device: torch.device) -> torch.dtype:
    """The type in which torch is fastest: fp16 on a GPU, bf16 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def _released(work: Work, subject: Subject) -> nn.Module:
    return stock(subject.model, dtype=released_dtype(work.device), device=work.device)


def _tuned(work: Work, subject: Subject) -> nn.Module:
    return stock(subject.model, dtype=half_dtype(work.device), device=work.device, tuned=True)


def _encoded(model: Any, work: Work) -> dict[str, Any]:
    """The prompt, encoded now, as arguments of the model's call."""
    if work.tokens is None:
        return {}
    with torch.no_grad():
        return {"text": model.encode_text(work.tokens, work.mask)}


def _first(value: Any, count: int) -> Any:
    if isinstance(value, dict):
        return {name: part[:count] for name, part in value.items()}
    return value[:count]


def denoiser(model: Callable[..., torch.Tensor], conditioning: dict[str, Any]) -> Denoiser:
    """``model`` with its conditioning as a denoiser; a call with fewer states gets the first rows of the conditioning."""

    def predict(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            if len(x) == len(timesteps) and all(
                len(v) == len(x) for v in conditioning.values() if not isinstance(v, dict)
            ):
                return model(x, timesteps, **conditioning)
            return model(
                x, timesteps, **{name: _first(value, len(x)) for name, value in conditioning.items()}
            )

    return predict


def _laid_out(model: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def call(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return model(x.contiguous(memory_format=torch.channels_last), *args, **kwargs)

    return call


def eager(subject: Subject, work: Work) -> Denoiser:
    """Like the released code: its type, contiguous layout, the text encoded again at each step."""
    return denoiser(_released(work, subject), work.prompt | work.pictures)


def eager_cached_text(subject: Subject, work: Work) -> Denoiser:
    """Like :func:`eager`, with the text encoded once."""
    model = _released(work, subject)
    return denoiser(model, _encoded(model, work) | work.pictures)


def eager_half(subject: Subject, work: Work) -> Denoiser:
    """The best of eager torch: half precision, channels-last, fused attention, the text encoded once."""
    model = _tuned(work, subject)
    return denoiser(_laid_out(model), _encoded(model, work) | work.pictures)


def compiled(subject: Subject, work: Work) -> Denoiser:
    """``torch.compile`` of the released code, as most people would."""
    model = _released(work, subject)
    call = torch.compile(model, mode="max-autotune", dynamic=False)
    return denoiser(call, work.prompt | work.pictures)


def compiled_strong(subject: Subject, work: Work) -> Denoiser:
    """``torch.compile`` of the tuned model with CUDA graphs."""
    if work.device.type != "cuda":
        raise Unable("its CUDA graphs need a GPU; on a CPU the strongest compiled one is inductor-frozen")
    model = _tuned(work, subject)
    call = torch.compile(model, mode="max-autotune", dynamic=False)
    return denoiser(_laid_out(call), _encoded(model, work) | work.pictures)


def inductor_frozen(subject: Subject, work: Work) -> Denoiser:
    """``torch.compile`` of the tuned bf16 model with its weights frozen, so that Inductor packs them."""
    if work.device.type != "cpu":
        raise Unable("freezing is for CPUs; on a GPU the strongest compiled one is compile-strong")
    import torch._inductor.config as inductor

    model = _tuned(work, subject)
    compiled_model = torch.compile(model, dynamic=False)
    patched = inductor.patch(freezing=True)  # type: ignore[no-untyped-call]

    def call(*args: Any, **kwargs: Any) -> torch.Tensor:
        with patched:  # torch compiles at the first call
            return compiled_model(*args, **kwargs)  # type: ignore[no-any-return]

    return denoiser(_laid_out(call), _encoded(model, work) | work.pictures)


class _WithConditioning(nn.Module):
    """A model that holds its conditioning, for converters that accept tensors only."""

    def __init__(self, model: nn.Module, conditioning: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.conditioning = model, conditioning

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self.model(x, timesteps, **self.conditioning)  # type: ignore[no-any-return]


def openvino(subject: Subject, work: Work) -> Denoiser:
    """OpenVINO with bf16 where the CPU has it, the text encoded once."""
    if importlib.util.find_spec("openvino") is None:
        raise Unable("openvino is not installed (pip install openvino)")
    if work.device.type != "cpu":
        raise Unable("measured on CPUs only")
    ov: Any = importlib.import_module("openvino")
    model = stock(subject.model, dtype=torch.float32, device=work.device)
    whole = _WithConditioning(model, _encoded(model, work) | work.pictures)
    with torch.no_grad():
        converted = ov.convert_model(
            whole, example_input=(work.x, work.timesteps), input=[tuple(work.x.shape), (work.batch,)]
        )
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    run = ov.Core().compile_model(converted, "CPU", settings | {"INFERENCE_PRECISION_HINT": "bf16"})

    def predict(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(run((x.contiguous().numpy(), timesteps.numpy()))[0])

    return predict


def official(subject: Subject, work: Work) -> Denoiser:
    """The released package itself, as its notebooks call it."""
    spec = importlib.util.find_spec("glide_text2im")
    if spec is None:
        raise Unable(
            "glide_text2im is not installed (pip install git+https://github.com/openai/glide-text2im)"
        )
    if spec.origin is None or "glide_fast" in spec.origin:
        raise Unable("glide_text2im is glide_fast's own façade here")
    changed = [name for name, usual in EXTENSIONS.items() if subject.options.get(name, usual) != usual]
    if changed:
        raise Unable(f"this model uses {', '.join(changed)}, which the package has not")
    creation: Any = importlib.import_module("glide_text2im.model_creation")
    wanted = {k: v for k, v in subject.options.items() if k not in (*EXTENSIONS, *_PROCESS)}
    half = work.device.type == "cuda"
    model = creation.create_model(**wanted | {"use_fp16": half})
    model.load_state_dict(subject.model.state_dict())
    model.eval().to(work.device)
    if half:
        model.convert_to_fp16()
    return denoiser(model, work.prompt | work.pictures)


BASELINES: tuple[Baseline, ...] = (
    Baseline("eager", "reference eager", eager, False),
    Baseline("eager-cached-text", "reference eager, text encoded once", eager_cached_text, False),
    Baseline("eager-half", "eager half precision, channels-last", eager_half, False),
    Baseline("official", "official package", official, False),
    Baseline("compile", "torch.compile max-autotune", compiled, True),
    Baseline("compile-strong", "torch.compile, strong", compiled_strong, True),
    Baseline("inductor-frozen", "frozen Inductor bf16", inductor_frozen, True),
    Baseline("openvino", "OpenVINO bf16", openvino, True),
)
"""Speed-ups are relative to the first."""


def chosen(names: Sequence[str]) -> list[Baseline]:
    """The baselines with these names. "default" stands for all that do not compile first, "all" for all, "none" for none.

    Raises:
        InvalidInputError: for an unknown name.
    """
    known = {baseline.name: baseline for baseline in BASELINES}
    wanted: list[str] = []
    for name in names:
        if name == "all":
            wanted += known
        elif name == "default":
            wanted += [baseline.name for baseline in BASELINES if not baseline.asked]
        elif name in known:
            wanted.append(name)
        elif name != "none":
            raise invalid("baselines", name, f"default, all, none, or some of {', '.join(known)}")
    return [baseline for baseline in BASELINES if baseline.name in wanted]
