"""The calls of the three official notebooks, in their order, on small models; what they show is returned.

Weights come from files that stand in the download cache under the released names, so everything but the download itself is the
real path.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from PIL import Image
from support import golden

DEVICE = th.device("cpu")
# Settings that a notebook leaves at their defaults, with values that take a test less time.
SMALL = {
    "num_channels": 32,
    "num_res_blocks": 1,
    "num_head_channels": 32,
    "text_ctx": 24,
    "xf_width": 32,
    "xf_layers": 2,
    "xf_heads": 2,
    "use_fp16": False,
}
SMALL_BASE = SMALL | {"image_size": 16, "channel_mult": "1,2", "attention_resolutions": "8,4"}
SMALL_UP = SMALL | {"image_size": 32, "channel_mult": "1,1,2", "attention_resolutions": "8"}
SMALL_CLIP = """
image_size: 16
n_vocab: 49408
n_embd: 32
n_head_state_text: 16
n_head_text: 2
n_xf_blocks_text: 2
n_head_state_image: 16
n_head_image: 2
n_xf_blocks_image: 2
"""


def unchanged(model: Any) -> Any:
    """No line is added to a notebook."""
    return model


def load(package: str, added: Callable[[Any], Any] = unchanged) -> SimpleNamespace:
    """The names that the notebooks import; ``model = added(model)`` is a line more at the end of the cells that make a model."""

    def module(name: str) -> Any:
        return importlib.import_module(f"{package}.{name}")

    return SimpleNamespace(
        **vars(module("model_creation")),
        load_checkpoint=module("download").load_checkpoint,
        create_clip_model=module("clip.model_creation").create_clip_model,
        added=added,
    )


def write_cache(folder: Path) -> None:
    """Put small checkpoints there under the released file names, and a configuration for CLIP."""
    glide = load("glide_fast.compat")
    (folder / "clip.yaml").write_text(SMALL_CLIP)
    for inpaint, suffix in ((False, ""), (True, "_inpaint")):
        for name, options in (
            ("base", glide.model_and_diffusion_defaults() | SMALL_BASE),
            ("upsample", glide.model_and_diffusion_defaults_upsampler() | SMALL_UP),
        ):
            model, _ = glide.create_model_and_diffusion(**(options | {"inpaint": inpaint}))
            th.save(golden.fill(model).state_dict(), folder / f"{name}{suffix}.pt")
    clip = glide.create_clip_model(str(folder / "clip.yaml"), device=DEVICE)
    th.save(golden.fill(clip.image_encoder).state_dict(), folder / "clip_image_enc.pt")
    th.save(golden.fill(clip.text_encoder).state_dict(), folder / "clip_text_enc.pt")


def shrink_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that takes the official defaults as they are builds the models of :func:`write_cache`."""
    module = importlib.import_module("glide_fast.compat.model_creation")
    for name, small in (
        ("model_and_diffusion_defaults", SMALL_BASE),
        ("model_and_diffusion_defaults_upsampler", SMALL_UP),
    ):
        defaults = getattr(module, name)
        monkeypatch.setattr(
            module, name, functools.partial(lambda make, changes: make() | changes, defaults, small)
        )


def create(package: SimpleNamespace, name: str, *, inpaint: bool = False) -> tuple[dict[str, Any], Any, Any]:
    """The notebooks' second and third cells."""
    if name == "base":
        options = package.model_and_diffusion_defaults()
        options["timestep_respacing"] = "8"
        options.update(SMALL_BASE)
    else:
        options = package.model_and_diffusion_defaults_upsampler()
        options["timestep_respacing"] = "fast27"
        options.update(SMALL_UP)
    options["inpaint"] = inpaint
    model, diffusion = package.create_model_and_diffusion(**options)
    model.eval()
    model.to(DEVICE)
    model.load_state_dict(package.load_checkpoint(name + "-inpaint" * inpaint, DEVICE))
    model = package.added(model)
    return options, model, diffusion


def guided(model: Any, scale: float) -> Callable[..., th.Tensor]:
    """The notebooks' classifier-free guidance around a model."""

    def model_fn(x_t: th.Tensor, ts: th.Tensor, **kwargs: Any) -> th.Tensor:
        half = x_t[: len(x_t) // 2]
        model_out = model(th.cat([half, half], dim=0), ts, **kwargs)
        eps, rest = model_out[:, :3], model_out[:, 3:]
        cond_eps, uncond_eps = th.split(eps, len(eps) // 2, dim=0)
        half_eps = uncond_eps + scale * (cond_eps - uncond_eps)
        return th.cat([th.cat([half_eps, half_eps], dim=0), rest], dim=1)

    return model_fn


def text_kwargs(model: Any, options: dict[str, Any], texts: list[str]) -> dict[str, th.Tensor]:
    """Tokens and mask of each text; the notebooks give the empty text as an empty list of tokens."""
    rows = [
        model.tokenizer.padded_tokens_and_mask(
            model.tokenizer.encode(text) if text else [], options["text_ctx"]
        )
        for text in texts
    ]
    return {
        "tokens": th.tensor([tokens for tokens, _ in rows], device=DEVICE),
        "mask": th.tensor([mask for _, mask in rows], dtype=th.bool, device=DEVICE),
    }


def sample_base(
    created: tuple[dict[str, Any], Any, Any],
    prompt: str,
    scale: float,
    *,
    extra: dict[str, th.Tensor] | None = None,
) -> th.Tensor:
    """A picture sampled from the model and diffusion that :func:`create` returned."""
    options, model, diffusion = created
    model_kwargs = text_kwargs(model, options, [prompt, ""])
    for key, value in (extra or {}).items():
        model_kwargs[key] = value.repeat(2, 1, 1, 1)
    model.del_cache()
    samples: th.Tensor = diffusion.p_sample_loop(
        guided(model, scale),
        (2, 3, options["image_size"], options["image_size"]),
        device=DEVICE,
        clip_denoised=True,
        progress=True,
        model_kwargs=model_kwargs,
        cond_fn=None,
        denoised_fn=keeping(model_kwargs) if extra else None,
    )[:1]
    model.del_cache()
    return samples


def keeping(model_kwargs: dict[str, th.Tensor]) -> Callable[[th.Tensor], th.Tensor]:
    """The inpainting notebook's denoised_fn: overwrites the prediction by the known part of the picture."""
    return lambda x_start: (
        x_start * (1 - model_kwargs["inpaint_mask"])
        + model_kwargs["inpaint_image"] * model_kwargs["inpaint_mask"]
    )


def upsample(
    created: tuple[dict[str, Any], Any, Any],
    prompt: str,
    samples: th.Tensor,
    *,
    extra: dict[str, th.Tensor] | None = None,
) -> th.Tensor:
    """``samples`` enlarged by the model and diffusion that :func:`create` returned."""
    options, model, diffusion = created
    low_res = ((samples + 1) * 127.5).round() / 127.5 - 1
    model_kwargs = {"low_res": low_res, **text_kwargs(model, options, [prompt]), **(extra or {})}
    model.del_cache()
    shape = (1, 3, options["image_size"], options["image_size"])
    loop = diffusion.p_sample_loop if extra else diffusion.ddim_sample_loop
    more = {"denoised_fn": keeping(model_kwargs)} if extra else {}
    up_samples: th.Tensor = loop(
        model,
        shape,
        noise=th.randn(shape, device=DEVICE) * 0.997,
        device=DEVICE,
        clip_denoised=True,
        progress=True,
        model_kwargs=model_kwargs,
        cond_fn=None,
        **more,
    )[:1]
    model.del_cache()
    return up_samples


def picture(batch: th.Tensor) -> Image.Image:
    """The pictures as the notebooks' show_images would show them."""
    scaled = ((batch + 1) * 127.5).round().clamp(0, 255).to(th.uint8).cpu()
    return Image.fromarray(scaled.permute(2, 0, 3, 1).reshape([batch.shape[2], -1, 3]).numpy())


def text2im(package: SimpleNamespace, prompt: str = "an oil painting of a corgi") -> list[th.Tensor]:
    """text2im.ipynb."""
    samples = sample_base(create(package, "base"), prompt, 3.0)
    return [samples, upsample(create(package, "upsample"), prompt, samples)]


def meadow(folder: Path) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
    """A picture and the mask of its kept part (the upper third), for the base model and the upsampler."""
    path = folder / "grass.png"
    picture(golden.tensor("grass", 1, 3, 48, 48).clamp(-1, 1)).save(path)

    def read_image(size: int) -> th.Tensor:
        resized = Image.open(path).convert("RGB").resize((size, size), resample=Image.Resampling.BICUBIC)
        return th.from_numpy(np.array(resized))[None].permute(0, 3, 1, 2).float() / 127.5 - 1

    image, image_up = read_image(16), read_image(32)
    mask = th.ones_like(image)[:, :1]
    mask[:, :, 5:] = 0
    mask_up = F.interpolate(mask, (32, 32), mode="nearest")
    return (
        {"inpaint_image": image * mask, "inpaint_mask": mask},
        {"inpaint_image": image_up * mask_up, "inpaint_mask": mask_up},
    )


def inpaint(package: SimpleNamespace, folder: Path) -> list[th.Tensor]:
    """inpaint.ipynb, on a picture that is written to ``folder``."""
    prompt, (extra, extra_up) = "a corgi in a field", meadow(folder)
    samples = sample_base(create(package, "base", inpaint=True), prompt, 5.0, extra=extra)
    created = create(package, "upsample", inpaint=True)
    return [samples, upsample(created, prompt, samples, extra=extra_up)]


class ClipGuided:
    """clip_guided.ipynb, with the CLIP whose configuration lies in ``cache``."""

    def __init__(self, package: SimpleNamespace, cache: Path) -> None:
        self.package, self.prompt = package, "an oil painting of a corgi"
        self.created = create(package, "base")
        self.clip = package.create_clip_model(str(cache / "clip.yaml"), device=DEVICE)
        self.clip.image_encoder.load_state_dict(package.load_checkpoint("clip/image-enc", DEVICE))
        self.clip.text_encoder.load_state_dict(package.load_checkpoint("clip/text-enc", DEVICE))

    def sample(self, scale: float) -> th.Tensor:
        """The base model's picture."""
        options, model, diffusion = self.created
        th.manual_seed(0)
        model.del_cache()
        samples: th.Tensor = diffusion.p_sample_loop(
            model,
            (1, 3, options["image_size"], options["image_size"]),
            device=DEVICE,
            clip_denoised=True,
            progress=True,
            model_kwargs=text_kwargs(model, options, [self.prompt]),
            cond_fn=self.clip.cond_fn([self.prompt], scale),
        )
        model.del_cache()
        return samples

    def enlarge(self, samples: th.Tensor) -> th.Tensor:
        """The notebook's last cell."""
        th.manual_seed(1)
        return upsample(create(self.package, "upsample"), self.prompt, samples.clamp(-1, 1))

    def likeness(self, batch: th.Tensor) -> float:
        """Of picture and prompt, as CLIP sees it."""
        with th.no_grad():
            image = self.clip.image_embeddings(batch, th.tensor([0]))
            return float((image * self.clip.text_embeddings([self.prompt])).sum())
