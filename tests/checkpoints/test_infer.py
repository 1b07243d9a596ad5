"""Options read back from shapes, against the options that the recorded models were built with."""

from __future__ import annotations

import pytest
import torch
from checkpoints.official_keys import CLIP_IMAGE, CLIP_TEXT, UNETS, meta, options_of

from glide_fast.checkpoints import infer_kind, infer_options
from glide_fast.errors import CheckpointError

INFERRED = [
    *("image_size", "num_channels", "num_res_blocks", "channel_mult", "attention_resolutions", "text_ctx"),
    *("xf_width", "xf_layers", "xf_final_ln", "xf_padding", "use_scale_shift_norm", "resblock_updown"),
    *("inpaint", "super_res"),
]


def unet_keys(
    channel_mult: tuple[int, ...],
    num_res_blocks: int,
    attended: tuple[int, ...],
    width: int = 32,
    text: int = 16,
) -> dict[str, list[int]]:
    """The tensors that decide options, in the official layout; an independent account of it."""
    keys = {"time_embed.0.weight": [4 * width, width], "input_blocks.0.0.weight": [width, 3, 3, 3]}

    def block(name: str, out: int, attention: bool) -> None:
        keys[f"{name}.0.in_layers.2.weight"] = [out, out, 3, 3]
        keys[f"{name}.0.emb_layers.1.weight"] = [2 * out, 4 * width]
        keys[f"{name}.0.out_layers.3.weight"] = [out, out, 3, 3]
        if attention:
            keys[f"{name}.1.qkv.weight"] = [3 * out, out, 1]

    index = 1
    for level, mult in enumerate(channel_mult):
        for _ in range(num_res_blocks):
            block(f"input_blocks.{index}", mult * width, level in attended)
            index += 1
        if level < len(channel_mult) - 1:
            block(f"input_blocks.{index}", mult * width, False)
            index += 1
    index = 0
    for level, mult in reversed(list(enumerate(channel_mult))):
        for position in range(num_res_blocks + 1):
            block(f"output_blocks.{index}", mult * width, level in attended)
            if level and position == num_res_blocks:
                layer = 2 if level in attended else 1
                keys[f"output_blocks.{index}.{layer}.in_layers.2.weight"] = [mult * width, mult * width, 3, 3]
            index += 1
    if text:
        keys |= {"token_embedding.weight": [50257, text], "positional_embedding": [24, text]}
        keys |= {f"transformer.resblocks.{layer}.ln_1.weight": [text] for layer in range(12)}
    return keys


@pytest.mark.parametrize("case", UNETS)
def test_recorded_models(case):
    options = options_of(case)
    state = meta(UNETS[case])
    assert infer_kind(state) == "unet"
    assert infer_options(state) == {name: options[name] for name in INFERRED}


@pytest.mark.parametrize("num_res_blocks", [1, 2, 3])
@pytest.mark.parametrize("attended", [(), (0,), (1, 2, 3), (0, 3)])
@pytest.mark.parametrize(
    "channel_mult", [(1, 2, 3, 4), (1, 1, 2, 2), (2, 2), (3,), (1, 1, 2, 2, 4, 4), (1, 2, 3, 4, 5)]
)
def test_depths_and_attention(channel_mult, attended, num_res_blocks):
    options = infer_options(meta(unet_keys(channel_mult, num_res_blocks, attended)))
    size = 2 ** (len(channel_mult) + 2)
    default = channel_mult in {(1, 2, 3, 4), (1, 1, 2, 2, 4, 4)}
    assert options["num_res_blocks"] == num_res_blocks
    assert options["channel_mult"] == ("" if default else ",".join(map(str, channel_mult)))
    assert options["image_size"] == size
    levels = [level for level in attended if level < len(channel_mult)]
    assert options["attention_resolutions"] == (",".join(str(size // 2**level) for level in levels) or "1")
    assert ("resblock_updown" in options) == (len(channel_mult) > 1)
    assert options["xf_layers"] == 12


def test_without_text():
    options = infer_options(meta(unet_keys((1, 2, 3, 4), 1, (1,), text=0)))
    assert options["xf_width"] == 0
    assert "text_ctx" not in options


def test_clip():
    text, image = meta(CLIP_TEXT), meta(CLIP_IMAGE)
    assert infer_kind(text) == "clip_text"
    assert infer_options(text) == {
        "n_vocab": 49408,
        "max_text_len": 77,
        "n_xf_blocks_text": 2,
        "n_embd": 32,
    }
    assert infer_kind(image) == "clip_image"
    assert infer_options(image) == {
        "image_size": 64,
        "patch_size": 8,
        "n_timesteps": 1000,
        "n_xf_blocks_image": 2,
        "n_embd": 32,
    }


def test_clip_for_clean_images():
    keys = {name: shape for name, shape in CLIP_IMAGE.items() if name != "blocks.input.w_t"}
    assert infer_kind(meta(keys)) == "clip_image"
    assert infer_options(meta(keys))["n_timesteps"] == 0


def test_compact_vocabulary():
    keys = UNETS["base"] | {"token_embedding.weight": [300, 64], "token_embedding.index": [50257]}
    assert infer_options(meta(keys))["vocab_rows"] == 300


def test_unknown_keys():
    assert infer_kind({"weight": torch.ones(1)}) is None
    with pytest.raises(CheckpointError, match=r"no model known here \(weight, bias\)"):
        infer_options({"weight": torch.ones(1), "bias": torch.ones(1)})
    with pytest.raises(CheckpointError, match="no keys at all"):
        infer_options({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input_blocks.0.0.weight": [64, 5, 3, 3]},
            r"reads 5 channels; known: 3 \(base model\), 6 \(upsampler\)",
        ),
        ({"input_blocks.0.0.weight": [64]}, "misshapen"),
        ({"input_blocks.1.0.out_layers.3.weight": [65, 64, 3, 3]}, r"level widths \[65, 128, 192, 256\]"),
        ({"output_blocks.9.0.in_layers.2.weight": [1]}, r"output_blocks\.8 is missing"),
        ({"output_blocks.8.0.in_layers.2.weight": [1]}, "do not form levels of equal depth"),
        ({"transformer.resblocks.3.ln_1.weight": [64]}, r"transformer\.resblocks\.2 is missing"),
    ],
)
def test_misshapen_unet(change, message):
    keys = UNETS["base"] | change
    with pytest.raises(CheckpointError, match=message):
        infer_options(meta(keys))


@pytest.mark.parametrize(
    "missing",
    ["positional_embedding", "input_blocks.3.0.out_layers.3.weight", "input_blocks.1.0.emb_layers.1.weight"],
)
def test_incomplete_unet(missing):
    keys = dict(UNETS["base"])
    del keys[missing]
    with pytest.raises(CheckpointError, match=rf"{missing}.* is missing or misshapen"):
        infer_options(meta(keys))


def test_clip_with_an_odd_number_of_patches():
    keys = CLIP_IMAGE | {"blocks.input.w_pos": [60, 32]}
    with pytest.raises(CheckpointError, match="59 patches are no square image"):
        infer_options(meta(keys))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output_blocks.999999999999.0.in_layers.2.weight": [1]}, r"output_blocks\.8 is missing"),
        ({"output_blocks.x.0.weight": [1]}, r"output_blocks\.8 is missing"),
        ({"transformer.resblocks." + "9" * 5000 + ".w": [1]}, r"transformer\.resblocks\.\d is missing"),
        ({"time_embed.0.weight": [0, 0]}, "misshapen"),
        ({"time_embed.0.weight": []}, "misshapen"),
    ],
)
def test_hostile_names_and_shapes(change, said):
    with pytest.raises(CheckpointError, match=said):
        infer_options(meta(UNETS["base"] | change))


def test_hostile_clip():
    with pytest.raises(CheckpointError, match="no square image"):
        infer_options(meta(CLIP_IMAGE | {"blocks.input.w_pos": [0, 32]}))
    with pytest.raises(CheckpointError, match="misshapen"):
        infer_options(meta(CLIP_IMAGE | {"blocks.input.patch_proj": [8]}))
