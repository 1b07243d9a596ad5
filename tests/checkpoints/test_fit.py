"""Strict loading: all or nothing, and an error that names what does not fit and why."""

from __future__ import annotations

import re

import pytest
import torch
from checkpoints.official_keys import CLIP_IMAGE, CLIP_TEXT, UNETS, meta, model_of, small
from torch import Tensor, nn

from glide_fast.checkpoints import load_into
from glide_fast.errors import CheckpointError, InvalidInputError


def failure(model: nn.Module, state: object, source: str = "base.pt") -> str:
    """The message of a load that must fail, after checking that it left the model alone."""
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    with pytest.raises(CheckpointError) as caught:
        load_into(model, state, source=source)  # type: ignore[arg-type]
    after = model.state_dict(keep_vars=True)
    assert after.keys() == before.keys()
    for name, (tensor, values) in before.items():
        assert after[name] is tensor
        assert tensor.is_meta or torch.equal(tensor, values)
    return str(caught.value)


def holds(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(
        torch.equal(model.state_dict()[name], value.to(torch.float32)) for name, value in state.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_loads_and_casts_in_place(dtype):
    state = {name: tensor.to(dtype) for name, tensor in small(UNETS["base"]).items()}
    model = model_of(state)
    places = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    load_into(model, state, source="base.pt")
    assert holds(model, state)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == places
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_fp32_checkpoint_into_fp16_model():
    state = {"weight": torch.tensor([[1.5, 2.25]]), "bias": torch.tensor([3.0])}
    model = nn.Linear(2, 1).half()
    load_into(model, state, source="x")
    assert model.weight.dtype == torch.float16
    assert torch.equal(model.weight.float(), state["weight"])


def test_buffers_and_whole_numbers():
    model = nn.BatchNorm1d(2)
    state = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    load_into(model, state, source="x")
    assert model.num_batches_tracked == 1
    state["num_batches_tracked"] = torch.tensor(1.0)
    assert "num_batches_tracked: torch.float32, the model has torch.int64" in failure(model, state)


def test_model_on_the_meta_device_gets_memory_of_its_own():
    state = {"weight": torch.ones(3, 2, dtype=torch.float16), "bias": torch.zeros(3)}
    model = nn.Linear(2, 3, device="meta")
    load_into(model, state, source="x")
    assert model.weight.dtype == torch.float32
    assert model.weight.requires_grad
    assert holds(model, state)
    state["bias"].fill_(9.0)
    assert model.bias.sum() == 0


def test_names_what_is_missing_unexpected_and_of_another_shape():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {
        "0.weight": torch.ones(3, 4),
        "0.bias": torch.ones(3),
        "1.weight": torch.ones(1, 3),
        "2.weight": torch.ones(1),
    }
    assert failure(model, state, "mine.pt").splitlines() == [
        "mine.pt does not fit Sequential, which is unchanged:",
        "  1 missing key: 1.bias",
        "  1 unexpected key: 2.weight",
        "  1 differing shape: 0.weight: (3, 4), the model has (3, 2)",
    ]


def test_long_lists_are_cut_and_counted():
    state = {f"layer{n}": torch.ones(1) for n in range(20)}
    text = failure(model_of(state), {f"other{n}": torch.ones(1) for n in range(9)})
    assert "20 missing keys: layer0, layer1, layer2, layer3, layer4, layer5, and 14 more" in text
    assert "9 unexpected keys: other0, other1, other2, other3, other4, other5, and 3 more" in text
    text = failure(model_of(state), {name: torch.ones(2) for name in state})
    assert text.count("(2,), the model has (1,)") == 6
    assert "and 14 more" in text


@pytest.mark.parametrize(
    ("given", "wanted", "cause"),
    [
        (
            "inpaint",
            "base",
            r"GLIDE's inpainting base model \(7 input channels\), the model is GLIDE's base model \(3\)",
        ),
        (
            "base",
            "inpaint",
            r"GLIDE's base model \(3 input channels\), the model is GLIDE's inpainting base model \(7\)",
        ),
        (
            "upsampler",
            "base",
            r"GLIDE's upsampler \(6 input channels\), the model is GLIDE's base model \(3\)",
        ),
        ("upsampler_inpaint", "upsampler", r"GLIDE's inpainting upsampler \(10 input channels\)"),
        ("no_final_ln", "base", "xf_final_ln is False, the model's True"),
        ("no_padding_embedding", "base", "xf_padding is False, the model's True"),
        ("conv_resample", "base", "resblock_updown is False, the model's True"),
        ("plain_norm", "base", "use_scale_shift_norm is False, the model's True"),
        ("custom_mult", "base", "channel_mult is '1,2,2,3', the model's ''"),
        ("image_128", "base", "image_size is 128, the model's 64.*num_channels is 32, the model's 64"),
    ],
)
def test_another_official_model(given, wanted, cause):
    text = failure(model_of(meta(UNETS[wanted]), device="meta"), meta(UNETS[given]))
    assert re.search(f"Likely cause: .*{cause}", text.replace("\n", " "))


def test_shapes_of_an_inpainting_checkpoint_are_named():
    text = failure(model_of(meta(UNETS["base"]), device="meta"), meta(UNETS["inpaint"]), "base_inpaint.pt")
    assert text.startswith("base_inpaint.pt does not fit")
    assert "1 differing shape: input_blocks.0.0.weight: (64, 7, 3, 3), the model has (64, 3, 3, 3)" in text


def test_another_kind_of_model():
    text = failure(model_of(meta(UNETS["base"]), device="meta"), meta(CLIP_TEXT))
    assert "this is the checkpoint of the CLIP text encoder, the model is a UNet" in text
    text = failure(model_of(meta(CLIP_TEXT), device="meta"), meta(CLIP_IMAGE))
    assert "this is the checkpoint of the CLIP image encoder, the model is the CLIP text encoder" in text


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.diffusion_model."])
def test_prefix(prefix):
    state = small(UNETS["base"])
    text = failure(model_of(state), {prefix + name: tensor for name, tensor in state.items()})
    assert f"every key starts with {prefix!r}" in text


@pytest.mark.parametrize("key", ["state_dict", "model", "ema"])
def test_nested(key):
    state = small(UNETS["base"])
    text = failure(model_of(state), {key: state, "step": 3})
    assert f"the state dict is nested under {key!r}; pass state[{key!r}]" in text


def test_incomplete_checkpoint_says_so():
    keys = {name: shape for name, shape in UNETS["base"].items() if not name.startswith("output_blocks.3")}
    text = failure(model_of(meta(UNETS["base"]), device="meta"), meta(keys))
    assert "the checkpoint is incomplete (output_blocks.3 is missing)" in text


def test_unknown_misfit_has_no_invented_cause():
    assert "Likely cause" not in failure(nn.Linear(2, 3), {"gamma": torch.ones(1)})


def test_values_that_are_not_tensors():
    text = failure(nn.Linear(1, 1), {"weight": [[1.0]], "bias": torch.ones(1)})
    assert "weight: list, the model has a tensor" in text
    assert "holds a list, not a state dict" in failure(nn.Linear(1, 1), [1])


def test_not_a_model():
    with pytest.raises(InvalidInputError, match="model: got 'dict'"):
        load_into({}, {}, source="x")  # type: ignore[arg-type]
