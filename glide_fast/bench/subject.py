"""The models that are measured: a preset with random weights, or the models of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from glide_fast.errors import invalid
from glide_fast.models.config import PRESETS, Options, complete, preset
from glide_fast.models.factory import build
from glide_fast.models.text2im import Text2ImUNet
from glide_fast.models.uninitialised import Uninitialised


@dataclass
class Subject:
    """A plain fp32 model on the CPU, in evaluation mode, with the options it was built from.

    Attributes:
        settings: the settings of the pipeline that the model is from.
    """

    name: str
    model: Text2ImUNet
    options: Options
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def upsamples(self) -> bool:
        """Whether it reads a low-resolution picture."""
        return bool(self.options["super_res"])

    @property
    def image_size(self) -> int:
        """Pixels on a side."""
        return int(self.options["image_size"])


def random_model(options: Options, seed: int = 0) -> Text2ImUNet:
    """A model with random weights whose activations stay of order one, so that errors and times are like those of a trained one.

    Matrices are uniform with variance 1 / fan-in, biases are zero, weights of norms are one. GLIDE's own initialisation sets
    whole layers to zero, and takes seconds longer.
    """
    with Uninitialised():
        model, _ = build(complete(options) | {"use_fp16": False})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                bound = (3 / parameter[0].numel()) ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return model.eval()


def subjects(names: Sequence[str]) -> list[Subject]:
    """The models with these names: a preset is one model with random weights, a pipeline (by name or directory) has one or two.

    Raises:
        InvalidInputError: for a name that is none of them.
    """
    found: list[Subject] = []
    for name in names:
        if name in PRESETS:
            options = complete(preset(name))
            found.append(Subject(name, random_model(options), options))
            continue
        from glide_fast.pipelines import GlidePipeline

        parts = GlidePipeline.from_pretrained(
            name, device="cpu", dtype="fp32", accelerate=False, progress=False
        )
        label = Path(name).name
        for role, stage in (("base", parts.base), ("upsampler", parts.upsampler)):
            if stage is not None:
                found.append(Subject(f"{label} {role}", stage.model, stage.options, parts.settings))
    if not found:
        raise invalid("model", list(names), f"a preset ({', '.join(PRESETS)}), small, or a directory")
    return found
