"""Training the judge on real renders, spoiled the way that generated pictures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from glide_fast.data.dataset import area_mean
from glide_fast.errors import invalid
from glide_fast.evaluate.classifier import INPUT_SIZE, AttributeClassifier, JudgeSpec, to_input
from glide_fast.evaluate.targets import ABSENT, Target, labels


def reduced(pictures: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pictures shrunk to ``size`` by an exact mean; pictures that are not larger are returned unchanged."""
    return pictures if pictures.shape[1] <= size else area_mean(pictures, pictures.shape[1] // size)


def augmented(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Half of a batch each gets what generated pictures suffer from: low resolution, blur, a colour cast, noise.

    Args:
        pictures: float32 [N, 3, 64, 64] in [0, 1].
        generator: source of the randomness.

    Returns:
        the same shape and range.
    """

    def half() -> Tensor:
        return torch.rand(len(pictures), 1, 1, 1, generator=generator) < 0.5

    small = F.avg_pool2d(pictures, 2)
    out = torch.where(
        half(), F.interpolate(small, size=pictures.shape[-1], mode="bilinear", align_corners=False), pictures
    )
    softened = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    strength = torch.rand(len(out), 1, 1, 1, generator=generator)
    out = torch.where(half(), torch.lerp(out, softened, strength), out)
    cast = 0.10 * (torch.rand(len(out), 3, 1, 1, generator=generator) - 0.5)
    out = torch.where(half(), out + cast, out)
    amount = 0.08 * torch.rand(len(out), 1, 1, 1, generator=generator)
    out = torch.where(half(), out + amount * torch.randn(out.shape, generator=generator), out)
    return out.clamp(0.0, 1.0)


def train_classifier(
    pictures: NDArray[np.uint8],
    targets: Sequence[Target],
    spec: JudgeSpec,
    *,
    epochs: int = 4,
    batch: int = 128,
    learning_rate: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> AttributeClassifier:
    """Train a classifier on real renders; Ctrl-C ends the training early and keeps the weights trained so far.

    Args:
        pictures: uint8 [N, S, S, 3], at least 64 px, since both resolutions are scaled from them.
        targets: N targets.
        spec: the names to tell apart.
        epochs, batch, learning_rate: AdamW with a one-cycle schedule.
        seed: of the weights, the order and the augmentation.
        progress: show a progress bar.

    Returns:
        the classifier, its ``spec.steps`` set.
    """
    if len(pictures) != len(targets) or not len(pictures):
        raise invalid("pictures", f"{len(pictures)} pictures, {len(targets)} targets", "as many, at least 1")
    if epochs < 1 or batch < 2:
        raise invalid("epochs, batch", (epochs, batch), "at least 1 epoch and 2 pictures a batch")
    if pictures.shape[1] < INPUT_SIZE:
        raise invalid("pictures", list(pictures.shape), f"pictures of at least {INPUT_SIZE} px")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AttributeClassifier(spec)
    small = torch.from_numpy(np.ascontiguousarray(reduced(pictures, INPUT_SIZE)))
    wanted = labels(targets, spec)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    per_epoch = max(1, len(small) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * per_epoch)
    model.train()
    steps = 0
    try:
        with tqdm(total=epochs * per_epoch, unit="step", desc="classifier", disable=not progress) as bar:
            for _ in range(epochs):
                order = torch.randperm(len(small), generator=generator)
                for step in range(per_epoch):
                    rows = order[step * batch : (step + 1) * batch]
                    logits = model(augmented(to_input(small[rows]), generator))
                    loss = _loss(logits, {name: wanted[name][rows] for name in wanted})
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
                    schedule.step()
                    steps += 1
                    bar.update()
                    bar.set_postfix(loss=f"{loss.item():.3f}")
    except KeyboardInterrupt:
        typer.echo(f"interrupted after {steps} steps; keeping the classifier as it is", err=True)
    model.spec = replace(spec, steps=steps)
    return model.eval()


def _loss(logits: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    total = torch.zeros(())
    for name, values in logits.items():
        # A batch without one of the attributes would otherwise divide by zero.
        if (wanted[name] != ABSENT).any():
            total = total + F.cross_entropy(values, wanted[name], ignore_index=ABSENT)
    return total
