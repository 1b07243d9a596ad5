"""Every public name of the official modules, with its parameters' names, order and defaults."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import torch
from torch import nn

from glide_fast.models.clip_config import clip_defaults

# Functions, classes (parameters of the constructor) and methods ("Class.method"), without self. None: only the name counts.
OFFICIAL: dict[str, dict[str, str | None]] = {
    "download": {
        "MODEL_PATHS": None,
        "default_cache_dir": "",
        "fetch_file_cached": "url, progress=True, cache_dir=None, chunk_size=4096",
        "load_checkpoint": "checkpoint_name, device, progress=True, cache_dir=None, chunk_size=4096",
    },
    "fp16_util": {
        "convert_module_to_f16": "layer",  # officially `l`; both are called by Module.apply, with no name
        "convert_module_to_f32": "layer",
    },
    "nn": {
        "GroupNorm32": "num_groups, num_channels, swish, eps=1e-5",
        "GroupNorm32.forward": "x",
        "conv_nd": "dims, *args, **kwargs",
        "linear": "*args, **kwargs",
        "avg_pool_nd": "dims, *args, **kwargs",
        "zero_module": "module",
        "scale_module": "module, scale",
        "normalization": "channels, swish=0.0",
        "timestep_embedding": "timesteps, dim, max_period=10000",
    },
    "xf": {
        "convert_module_to_f16": "layer",
        "LayerNorm.forward": "x",
        "MultiheadAttention": "n_ctx, width, heads",
        "MultiheadAttention.forward": "x",
        "MLP": "width",
        "MLP.forward": "x",
        "QKVMultiheadAttention": "n_heads, n_ctx",
        "QKVMultiheadAttention.forward": "qkv",
        "ResidualAttentionBlock": "n_ctx, width, heads",
        "ResidualAttentionBlock.forward": "x",
        "Transformer": "n_ctx, width, layers, heads",
        "Transformer.forward": "x",
    },
    "unet": {
        "TimestepBlock": None,
        "TimestepEmbedSequential.forward": "x, emb, encoder_out=None",
        "Upsample": "channels, use_conv, dims=2, out_channels=None",
        "Upsample.forward": "x",
        "Downsample": "channels, use_conv, dims=2, out_channels=None",
        "Downsample.forward": "x",
        "ResBlock": "channels, emb_channels, dropout, out_channels=None, use_conv=False, use_scale_shift_norm=False, dims=2, "
        "use_checkpoint=False, up=False, down=False",
        "ResBlock.forward": "x, emb",
        "AttentionBlock": "channels, num_heads=1, num_head_channels=-1, use_checkpoint=False, encoder_channels=None",
        "AttentionBlock.forward": "x, encoder_out=None",
        "QKVAttention": "n_heads",
        "QKVAttention.forward": "qkv, encoder_kv=None",
        "UNetModel": "in_channels, model_channels, out_channels, num_res_blocks, attention_resolutions, dropout=0, "
        "channel_mult=(1, 2, 4, 8), conv_resample=True, dims=2, num_classes=None, use_checkpoint=False, use_fp16=False, "
        "num_heads=1, num_head_channels=-1, num_heads_upsample=-1, use_scale_shift_norm=False, resblock_updown=False, "
        "encoder_channels=None",
        "UNetModel.convert_to_fp16": "",
        "UNetModel.convert_to_fp32": "",
        "UNetModel.forward": "x, timesteps, y=None",
        "SuperResUNetModel": None,
        "SuperResUNetModel.forward": "x, timesteps, low_res=None, **kwargs",
        "InpaintUNetModel": None,
        "InpaintUNetModel.forward": "x, timesteps, inpaint_image=None, inpaint_mask=None, **kwargs",
        "SuperResInpaintUNetModel": None,
        "SuperResInpaintUNetModel.forward": "x, timesteps, inpaint_image=None, inpaint_mask=None, low_res=None, **kwargs",
    },
    "text2im_model": {
        "Text2ImUNet": "text_ctx, xf_width, xf_layers, xf_heads, xf_final_ln, tokenizer, *args, cache_text_emb=False, "
        "xf_ar=0.0, xf_padding=False, share_unemb=False, **kwargs",
        "Text2ImUNet.convert_to_fp16": "",
        "Text2ImUNet.get_text_emb": "tokens, mask",
        "Text2ImUNet.del_cache": "",
        "Text2ImUNet.forward": "x, timesteps, tokens=None, mask=None",
        "SuperResText2ImUNet": "*args, **kwargs",
        "SuperResText2ImUNet.forward": "x, timesteps, low_res=None, **kwargs",
        "InpaintText2ImUNet": "*args, **kwargs",
        "InpaintText2ImUNet.forward": "x, timesteps, inpaint_image=None, inpaint_mask=None, **kwargs",
        "SuperResInpaintText2ImUnet": "*args, **kwargs",
        "SuperResInpaintText2ImUnet.forward": "x, timesteps, inpaint_image=None, inpaint_mask=None, low_res=None, **kwargs",
    },
    "gaussian_diffusion": {
        "get_beta_schedule": "beta_schedule, *, beta_start, beta_end, num_diffusion_timesteps",
        "get_named_beta_schedule": "schedule_name, num_diffusion_timesteps",
        "betas_for_alpha_bar": "num_diffusion_timesteps, alpha_bar, max_beta=0.999",
        "GaussianDiffusion": "*, betas",
        "GaussianDiffusion.q_mean_variance": "x_start, t",
        "GaussianDiffusion.q_sample": "x_start, t, noise=None",
        "GaussianDiffusion.q_posterior_mean_variance": "x_start, x_t, t",
        "GaussianDiffusion.p_mean_variance": "model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None",
        "GaussianDiffusion.condition_mean": "cond_fn, p_mean_var, x, t, model_kwargs=None",
        "GaussianDiffusion.condition_score": "cond_fn, p_mean_var, x, t, model_kwargs=None",
        "GaussianDiffusion.p_sample": "model, x, t, clip_denoised=True, denoised_fn=None, cond_fn=None, model_kwargs=None",
        "GaussianDiffusion.p_sample_loop": "model, shape, noise=None, clip_denoised=True, denoised_fn=None, cond_fn=None, "
        "model_kwargs=None, device=None, progress=False",
        "GaussianDiffusion.p_sample_loop_progressive": "model, shape, noise=None, clip_denoised=True, denoised_fn=None, "
        "cond_fn=None, model_kwargs=None, device=None, progress=False",
        "GaussianDiffusion.ddim_sample": "model, x, t, clip_denoised=True, denoised_fn=None, cond_fn=None, model_kwargs=None, "
        "eta=0.0",
        "GaussianDiffusion.ddim_reverse_sample": "model, x, t, clip_denoised=True, denoised_fn=None, cond_fn=None, "
        "model_kwargs=None, eta=0.0",
        "GaussianDiffusion.ddim_sample_loop": "model, shape, noise=None, clip_denoised=True, denoised_fn=None, cond_fn=None, "
        "model_kwargs=None, device=None, progress=False, eta=0.0",
        "GaussianDiffusion.ddim_sample_loop_progressive": "model, shape, noise=None, clip_denoised=True, denoised_fn=None, "
        "cond_fn=None, model_kwargs=None, device=None, progress=False, eta=0.0",
    },
    "respace": {
        "space_timesteps": "num_timesteps, section_counts",
        "SpacedDiffusion": "use_timesteps, *, betas",  # officially **kwargs, of which betas is the only one
    },
    "model_creation": {
        "model_and_diffusion_defaults": "",
        "model_and_diffusion_defaults_upsampler": "",
        "create_model_and_diffusion": "image_size, num_channels, num_res_blocks, channel_mult, num_heads, num_head_channels, "
        "num_heads_upsample, attention_resolutions, dropout, text_ctx, xf_width, xf_layers, xf_heads, xf_final_ln, xf_padding, "
        "diffusion_steps, noise_schedule, timestep_respacing, use_scale_shift_norm, resblock_updown, use_fp16, cache_text_emb, "
        "inpaint, super_res",
        "create_model": "image_size, num_channels, num_res_blocks, channel_mult, attention_resolutions, num_heads, "
        "num_head_channels, num_heads_upsample, use_scale_shift_norm, dropout, text_ctx, xf_width, xf_layers, xf_heads, "
        "xf_final_ln, xf_padding, resblock_updown, use_fp16, cache_text_emb, inpaint, super_res",
        "create_gaussian_diffusion": "steps, noise_schedule, timestep_respacing",
    },
    "clip.model_creation": {
        "default_config_path": "",
        "create_clip_model": "config_path=None, device=None, tokenizer=None",
        "CLIPModel": "config, text_encoder, image_encoder, logit_scale, device, tokenizer",
        "CLIPModel.encode_prompts": "prompts",
        "CLIPModel.text_embeddings": "prompts",
        "CLIPModel.image_embeddings": "images, t",
        "CLIPModel.cond_fn": "prompts, grad_scale",
    },
    # The official default of `device` is cuda, which fails where there is none; here None finds out.
    "clip.encoders": {
        "image_channel_means": None,
        "image_channel_stds": None,
        "TextEmbedding": "n_vocab, n_context, n_state, device=None",
        "TextEmbedding.forward": "x",
        "ImageEmbedding": "image_size, patch_size, n_state, n_timestep=0, device=None",
        "ImageEmbedding.forward": "x, t=None",
        "AttentionResblock": "n_state, n_resblocks, attn_fn, device=None",
        "AttentionResblock.forward": "m",
        "FullyConnectedResblock": "n_state, n_resblocks, device=None",
        "FullyConnectedResblock.forward": "m",
        "TransformerBlock": "n_state, n_resblocks, attn_fn, device=None",
        "TransformerBlock.forward": "x",
        "TextFeatureExtractor": "n_state, n_embd, device=None",
        "TextFeatureExtractor.forward": "text, text_len, return_probe_features=False",
        "ImageFeatureExtractor": "n_state, n_embd, device=None",
        "ImageFeatureExtractor.forward": "x, return_probe_features=False",
        "TextEncoder": "n_bpe_vocab, max_text_len, n_embd, n_head, n_xf_blocks, n_head_state=64, device=None",
        "TextEncoder.forward": "text, text_len, return_probe_features=False",
        "ImageEncoder": "image_size, patch_size, n_embd, n_head, n_xf_blocks, n_head_state=64, n_timestep=0, device=None",
        "ImageEncoder.forward": "image, timesteps=None, return_probe_features=False",
    },
    "tokenizer.bpe": {
        "bytes_to_unicode": "",
        "get_pairs": "word",
        "Encoder": "encoder, bpe_merges, errors='replace'",
        "Encoder.padded_tokens_and_mask": "tokens, text_ctx",
        "Encoder.bpe": "token",
        "Encoder.encode": "text",
        "Encoder.decode": "tokens",
        "Encoder.n_vocab": None,
        "Encoder.end_token": None,
        "get_encoder": "",
    },
    "tokenizer.simple_tokenizer": {
        "default_bpe": "",
        "bytes_to_unicode": "",
        "get_pairs": "word",
        "basic_clean": "text",
        "whitespace_clean": "text",
        "SimpleTokenizer": "bpe_path=None",  # officially default_bpe()'s value; None means the same
        "SimpleTokenizer.start_token": None,
        "SimpleTokenizer.end_token": None,
        "SimpleTokenizer.padded_tokens_and_len": "tokens, text_ctx",
        "SimpleTokenizer.bpe": "token",
        "SimpleTokenizer.encode": "text",
        "SimpleTokenizer.decode": "tokens",
    },
}

NAMES = [(module, name) for module, names in OFFICIAL.items() for name in names]


def parameters(function: Any) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.name != "self"]


def resolve(module: str, dotted: str) -> Any:
    found: Any = importlib.import_module(f"glide_fast.compat.{module}")
    for part in dotted.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[f"{module}.{name}" for module, name in NAMES])
def test_name_and_parameters(module: str, name: str) -> None:
    ours = resolve(module, name)
    official = OFFICIAL[module][name]
    if official is None:
        return
    want = parameters(eval(f"lambda {official}: None"))  # of this file's own text
    got = parameters(ours)
    if name.endswith("sample_loop") and any(p.kind is p.VAR_KEYWORD for p in got):
        # Handed on as it comes: the progressive method of the same name says what is taken.
        got = parameters(resolve(module, name + "_progressive"))
    described = [(p.name, p.kind, p.default) for p in want]
    assert [(p.name, p.kind, p.default) for p in got if p.name in {p.name for p in want}] == described
    # What is ours alone must not come between, and must not be needed.
    for p in got:
        if p.name not in {p.name for p in want}:
            assert p.default is not p.empty
            assert p.kind is p.KEYWORD_ONLY or got.index(p) >= sum(
                w.kind is w.POSITIONAL_OR_KEYWORD for w in want
            )


@pytest.mark.parametrize("module", OFFICIAL)
def test_modules_export_what_they_serve(module: str) -> None:
    served = importlib.import_module(f"glide_fast.compat.{module}")
    top_level = {name.partition(".")[0] for name in OFFICIAL[module]}
    assert top_level <= set(served.__all__)
    assert all(hasattr(served, name) for name in served.__all__)


def test_the_configuration_file_holds_the_released_values() -> None:
    creation = importlib.import_module("glide_fast.compat.clip.model_creation")
    assert creation.create_clip_model(creation.default_config_path(), device="meta").config == clip_defaults()


def test_options_in_the_official_order_build_the_model_that_names_build() -> None:
    creation = importlib.import_module("glide_fast.compat.model_creation")
    options = creation.model_and_diffusion_defaults() | {
        "num_channels": 32,
        "xf_width": 16,
        "xf_layers": 1,
        "xf_heads": 2,
    }
    options |= {"num_head_channels": 32, "timestep_respacing": "7"}
    with torch.device("meta"):
        by_name, diffusion = creation.create_model_and_diffusion(**options)
        by_order, diffusion_by_order = creation.create_model_and_diffusion(*options.values())
    assert diffusion.timestep_map == diffusion_by_order.timestep_map
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (by_name, by_order)]
    assert shapes[0] == shapes[1]


def test_small_helpers() -> None:
    served = importlib.import_module("glide_fast.compat.nn")
    layer = served.scale_module(served.linear(3, 2), 0.0)
    assert torch.equal(layer(torch.ones(1, 3)), torch.zeros(1, 2))
    norm = served.normalization(64, swish=1.0)
    x = torch.randn(2, 64, 4)
    torch.testing.assert_close(norm(x), nn.functional.silu(nn.functional.group_norm(x, 32)))
    half = importlib.import_module("glide_fast.compat.xf").convert_module_to_f16
    block = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Conv1d(1, 1, 1))
    half(block)  # one module at a time, for Module.apply
    assert block[0].weight.dtype == torch.float32
    block.apply(half)
    assert [layer.weight.dtype for layer in block] == [torch.float16, torch.float32, torch.float32]
    pairs = importlib.import_module("glide_fast.compat.tokenizer.bpe").get_pairs
    assert pairs("hello") == {("h", "e"), ("e", "l"), ("l", "l"), ("l", "o")}


@pytest.mark.parametrize(
    ("name", "channels"),
    [("SuperResUNetModel", 6), ("InpaintUNetModel", 7), ("SuperResInpaintUNetModel", 10)],
)
def test_unets_with_a_picture_beside_the_input(name: str, channels: int) -> None:
    served = importlib.import_module("glide_fast.compat.unet")
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_res_blocks": 1, "attention_resolutions": (), "channel_mult": (1, 1)}
    model = getattr(served, name)(in_channels=3, model_channels=32, out_channels=6, **options)
    assert model.input_blocks[0][0].in_channels == channels
    assert getattr(served, name)(3, 32, 6, 1, (), 0, (1, 1)).input_blocks[0][0].in_channels == channels
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([5])
    given: dict[str, torch.Tensor] = {}
    if "SuperRes" in name:
        given["low_res"] = torch.randn(1, 3, 4, 4)
    if "Inpaint" in name:
        given |= {"inpaint_image": torch.randn(1, 3, 8, 8), "inpaint_mask": torch.ones(1, 1, 8, 8)}
    with torch.no_grad():
        out = model(x, t, **given)
        assert out.shape == (1, 6, 8, 8)
        for key, value in given.items():
            assert not torch.allclose(model(x, t, **(given | {key: value * 0.5})), out)
