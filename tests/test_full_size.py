"""The released and the paper's models at their full size: parameter counts, and one step from a checkpoint on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import golden
from support.onednn import TYPES

from glide_fast.checkpoints import infer_options, load_into, read_state_dict
from glide_fast.diffusion import rules
from glide_fast.models.config import preset
from glide_fast.models.factory import build, create_gaussian_diffusion
from glide_fast.models.text2im import Text2ImUNet
from glide_fast.ops import guided_step
from glide_fast.text.gpt2 import get_encoder


def on_meta(name: str) -> Text2ImUNet:
    """A model without memory behind its parameters."""
    with torch.device("meta"):
        return build(preset(name))[0]


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("base", 385_030_726),
        ("upsample", 398_361_286),
        ("base-inpaint", 385_037_638),
        ("upsample-inpaint", 398_368_198),
    ],
)
def test_released_models_have_the_released_sizes(name: str, parameters: int) -> None:
    assert count(on_meta(name)) == parameters


@pytest.mark.parametrize(
    ("name", "billions", "tolerance"),
    [
        ("paper-base", 3.5, 0.04),
        # The paper gives its text encoder's width but not its depth.
        ("paper-upsample", 1.5, 0.04),
    ],
)
def test_paper_presets_have_about_the_papers_sizes(name: str, billions: float, tolerance: float) -> None:
    """Nichol et al. 2021, section 4.1, whose numbers are rounded."""
    assert count(on_meta(name)) / 1e9 == pytest.approx(billions, rel=tolerance)


def test_paper_base_splits_into_text_and_picture_as_the_paper_says() -> None:
    model = on_meta("paper-base")
    text = count(model.transformer)
    assert text / 1e9 == pytest.approx(1.2, rel=0.04)
    assert (count(model) - text - count(model.token_embedding)) / 1e9 == pytest.approx(2.3, rel=0.04)


def released_names(case: str) -> set[str]:
    """The official state-dict names of a small recorded model, without the blocks' numbers."""
    return {without_numbers(name) for name in golden.facts()[f"unet/{case}"]["keys"]}


def without_numbers(name: str) -> str:
    return re.sub(r"(blocks)\.\d+", r"\1", name)


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A torch file with every key of the model, matrices in bf16 and vectors in fp32; gone after the test."""
    path = tmp_path / "synthetic.pt"
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in on_meta(request.param).state_dict().items():
        matrix = tensor.dim() > 1
        # Uniform with the variance that keeps activations of order one.
        bound = (3 / tensor[0].numel()) ** 0.5 if matrix else 0.1
        value = torch.empty(tensor.shape, dtype=torch.bfloat16 if matrix else torch.float32)
        state[name] = value.uniform_(-bound, bound, generator=generator)
    torch.save(state, path)
    del state
    yield path
    path.unlink()


@pytest.mark.parametrize(
    ("name", "case", "guidance_scale", "checkpoint"),
    [("base", "base", 3.0, "base"), ("upsample", "upsampler", None, "upsample")],
    indirect=["checkpoint"],
)
def test_one_step(name: str, case: str, guidance_scale: float | None, checkpoint: Path) -> None:
    options = preset(name)
    # Of the upsampler a quarter of the side: every layer is the released one's, at a sixteenth of the time.
    size = 64
    state = read_state_dict(checkpoint)
    assert {without_numbers(key) for key in state} == released_names(case)
    assert infer_options(state).items() <= options.items()

    model = on_meta(name)
    diffusion = create_gaussian_diffusion(options["diffusion_steps"], options["noise_schedule"], "")
    # Converted before there is anything to convert: the fp32 weights would be 1.5 GB that nobody asked for.
    dtype = TYPES[-1]
    model.convert_to(dtype)
    load_into(model, state, source=str(checkpoint))
    model.eval()
    del state
    assert next(model.input_blocks.parameters()).dtype == dtype
    assert model.out[2].weight.dtype == torch.float32

    encoder = get_encoder()
    rows = [encoder.padded_tokens_and_mask(encoder.encode("a red cube on top of a blue cube"), 128)]
    if guidance_scale is not None:
        rows.append(encoder.padded_tokens_and_mask([], 128))
    torch.manual_seed(0)
    x, noise = torch.randn(2, 1, 3, size, size)
    kwargs = {
        "tokens": torch.tensor([tokens for tokens, _ in rows]),
        "mask": torch.tensor([mask for _, mask in rows]),
    }
    if options["super_res"]:
        kwargs["low_res"] = torch.rand(1, 3, 16, 16) * 2 - 1
    step = 500
    with torch.inference_mode():
        out = model(x.expand(len(rows), -1, -1, -1), torch.full((len(rows),), step), **kwargs)
        after = guided_step(
            x,
            out,
            torch.from_numpy(rules.ddpm(diffusion)).float(),
            torch.tensor(step),
            noise,
            guidance_scale=guidance_scale,
        )
    assert out.shape == (len(rows), 6, size, size)
    assert out.dtype == torch.float32
    assert out.std() > 0.01
    if guidance_scale is not None:
        assert not torch.equal(out[0], out[1])  # the prompt reached the picture
    assert after.x.shape == x.shape
    assert after.x.isfinite().all()
    assert after.x0.abs().max() <= 1
    assert not torch.equal(after.x, x)
