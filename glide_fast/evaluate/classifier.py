"""A small convolutional classifier of single objects: colour, shape and emoji concept.

It reads pictures at 64 px. Smaller and larger ones are brought there first (:func:`to_input`), and it is
trained on both kinds, so that the 32 px pictures of a base model and the 128 px ones of an upsampler can be
judged by the same network.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from glide_fast.checkpoints import load_into, write_state_dict
from glide_fast.errors import CheckpointError, invalid

INPUT_SIZE = 64
FORMAT = "glide-fast-judge-1"


@dataclass(frozen=True)
class JudgeSpec:
    """What a classifier was trained to tell apart, and how well it does on real renders.

    Attributes:
        colours, shapes, concepts: the names each head answers with, in the order of its outputs.
        width: channels after the first convolution (24 gives 300,000 parameters).
        steps: optimiser steps it was trained for.
        ceiling: accuracies on real held-out renders, by the size ("32", "128") the renders were reduced to.
    """

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    concepts: tuple[str, ...]
    width: int = 24
    steps: int = 0
    ceiling: dict[str, dict[str, float]] = field(default_factory=dict)


def to_input(pictures: Tensor) -> Tensor:
    """Bring pictures to the classifier's size and range.

    Args:
        pictures: uint8 [N, H, W, 3], H equal to W.

    Returns:
        float32 [N, 3, 64, 64] in [0, 1]; larger pictures are averaged, smaller ones enlarged bilinearly.
    """
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise invalid("pictures", f"{pictures.dtype} {list(pictures.shape)}", "uint8 [N, H, W, 3]")
    if pictures.shape[1] != pictures.shape[2]:
        raise invalid("pictures", list(pictures.shape), "square pictures")
    scaled = pictures.permute(0, 3, 1, 2).float() / 255.0
    size = scaled.shape[-1]
    if size > INPUT_SIZE:
        return F.interpolate(scaled, size=INPUT_SIZE, mode="area")
    if size < INPUT_SIZE:
        return F.interpolate(scaled, size=INPUT_SIZE, mode="bilinear", align_corners=False)
    return scaled


class AttributeClassifier(nn.Module):
    """Six convolutions, a pool over the picture and one linear head for each attribute.

    ``forward`` takes float32 [N, 3, 64, 64] in [0, 1] and gives the logits of "colour", "shape" and "concept",
    except those for which the spec has no names.
    """

    def __init__(self, spec: JudgeSpec) -> None:
        super().__init__()
        self.spec = spec
        w = spec.width
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, w, 2), (w, 2 * w, 2), (2 * w, 2 * w, 1), (2 * w, 4 * w, 2)):
            layers += _block(inputs, outputs, stride)
        layers += _block(4 * w, 4 * w, 1) + _block(4 * w, 6 * w, 2)
        self.trunk = nn.Sequential(*layers)
        features = 2 * 6 * w
        names = {"colour": spec.colours, "shape": spec.shapes, "concept": spec.concepts}
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(n)) for name, n in names.items() if n})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        maps = self.trunk(pictures * 2.0 - 1.0)
        # The mean sees how much of a colour there is, the maximum whether a detail is anywhere.
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @torch.inference_mode()
    def predict(self, pictures: Tensor, batch: int = 256) -> dict[str, list[str]]:
        """The most likely colour, shape and concept of each picture (uint8 [N, H, W, 3], any size)."""
        self.eval()
        names = {"colour": self.spec.colours, "shape": self.spec.shapes, "concept": self.spec.concepts}
        answers: dict[str, list[str]] = {name: [] for name in names}
        for part in pictures.split(batch):
            for name, logits in self(to_input(part)).items():
                answers[name] += [names[name][i] for i in logits.argmax(dim=1).tolist()]
        return answers


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def save_classifier(path: str | Path, model: AttributeClassifier, spec: JudgeSpec) -> None:
    """Write weights and ``spec`` as one safetensors file, whole or not at all; CheckpointError where that fails."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "spec": json.dumps(asdict(spec))}
    write_state_dict(path, model.state_dict(), metadata)


def load_classifier(path: str | Path) -> AttributeClassifier:
    """Read a classifier that :func:`save_classifier` wrote, ready to judge.

    Raises:
        InvalidInputError: no such file.
        CheckpointError: the file is damaged or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise invalid("classifier", str(path), "a file from `python -m glide_fast.evaluate.attributes train`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"classifier: {path} is damaged or no safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"classifier: {path} has format {metadata.get('format')!r}, not {FORMAT!r}")
    fields = json.loads(metadata["spec"])
    for name in ("colours", "shapes", "concepts"):
        fields[name] = tuple(fields[name])
    model = AttributeClassifier(JudgeSpec(**fields))
    load_into(model, tensors, source=f"classifier: {path}")
    return model.eval()
