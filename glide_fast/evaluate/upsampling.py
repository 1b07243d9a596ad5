"""How well an upsampler restores pictures: ``python -m glide_fast.evaluate.upsampling --data data/val``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from glide_fast.data.dataset import SceneDataset, area_mean
from glide_fast.pipelines import GlidePipeline
from glide_fast.pipelines.images import resize_images


def psnr(pictures: torch.Tensor, originals: torch.Tensor) -> float:
    """Mean over pictures ``[N, 3, H, W]`` in [0, 1] of the peak signal-to-noise ratio in dB."""
    error = (pictures - originals).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error)).mean())


def compare(pipeline: GlidePipeline, data: SceneDataset, count: int) -> dict[str, float]:
    """PSNR of bicubic enlargement and of the upsampler, as set up, from noise alone, and from noise with DDPM."""
    images = np.array(data.images[:count])
    assert pipeline.upsampler is not None
    size = pipeline.upsampler.image_size
    originals = _floats(area_mean(images, images.shape[1] // size))
    low_res = _floats(area_mean(images, images.shape[1] // (size // 4)))
    bicubic = (resize_images(low_res * 2 - 1, size) + 1) / 2
    result = {"bicubic": psnr(bicubic, originals)}
    for name, options in (
        ("as set up", {}),
        ("from noise", {"upsample_strength": 1.0}),
        ("from noise, ddpm", {"upsample_strength": 1.0, "upsample_sampler": "ddpm"}),
    ):
        upsampled = pipeline.upsample(low_res, data.captions[:count], seed=0, output_type="pt", **options)
        result[name] = psnr(torch.as_tensor(upsampled.images), originals)
    return result


def _floats(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def main(
    data: Annotated[Path, typer.Option(help="Data set that the model was not trained on.")],
    model: Annotated[str, typer.Option(help="Model, as for glide-fast sample.")] = "small",
    count: Annotated[int, typer.Option(help="Pictures.")] = 48,
) -> None:
    """Print PSNR in dB as JSON."""
    result = compare(GlidePipeline.from_pretrained(model), SceneDataset(data), count)
    print(json.dumps({"pictures": count} | {name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    typer.run(main)
