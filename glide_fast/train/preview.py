"""Sample grids that show how far a run has come."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from glide_fast.checkpoints import atomic_write
from glide_fast.diffusion.respacing import SpacedDiffusion
from glide_fast.models.text2im import Text2ImUNet
from glide_fast.train.batches import Batch, caption_tokens

PREVIEW_STEPS = "25"
GUIDANCE_SCALE = 3.0


def save_grid(path: Path, pictures: torch.Tensor, columns: int) -> None:
    """Write pictures ``[N, 3, H, W]`` in [-1, 1] as one PNG, row by row, the last row filled up with black."""
    missing = -len(pictures) % columns
    pictures = torch.cat([pictures, pictures.new_full((missing, *pictures.shape[1:]), -1.0)])
    n, c, h, w = pictures.shape
    grid = (
        pictures.view(n // columns, columns, c, h, w)
        .permute(0, 3, 1, 4, 2)
        .reshape(n // columns * h, columns * w, c)
    )
    with atomic_write(path) as temporary:
        Image.fromarray(((grid.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()).save(temporary)


@torch.no_grad()
def base_preview(
    model: Text2ImUNet, diffusion: SpacedDiffusion, captions: list[str], size: int, seed: int
) -> torch.Tensor:
    """One picture ``[3, size, size]`` a caption, with classifier-free guidance."""
    n = len(captions)
    tokens, mask = caption_tokens([*captions, *[""] * n], model.text_ctx)
    device = next(model.parameters()).device
    text = model.encode_text(tokens.to(device), mask.to(device))

    def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out = model(torch.cat([x, x]), torch.cat([t, t]), text=text)
        conditional, unconditional = out.chunk(2)
        eps = unconditional[:, :3] + GUIDANCE_SCALE * (conditional[:, :3] - unconditional[:, :3])
        return torch.cat([eps, conditional[:, 3:]], 1)

    noise = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(device)
    return diffusion.ddim_sample_loop(guided, (n, 3, size, size), noise=noise, device=device).cpu()


@torch.no_grad()
def upsampler_preview(
    model: Text2ImUNet, diffusion: SpacedDiffusion, batch: Batch, seed: int
) -> torch.Tensor:
    """For each picture of the batch: the low-resolution input enlarged, the sample, the original."""
    device = next(model.parameters()).device
    x0, low_res = batch.x0, batch.inputs["low_res"]
    text = model.encode_text(batch.inputs["tokens"].to(device), batch.inputs["mask"].to(device))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    sample = diffusion.ddim_sample_loop(
        lambda x, t: model(x, t, text=text, low_res=low_res.to(device)),
        tuple(x0.shape),
        noise=noise,
        device=device,
    )
    enlarged = torch.nn.functional.interpolate(low_res, x0.shape[2:], mode="nearest")
    return torch.stack([enlarged, sample.cpu(), x0], 1).flatten(0, 1)
