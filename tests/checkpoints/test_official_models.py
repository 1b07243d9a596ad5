"""An official-looking .pt of a real model, through the directory format, into a model built from what was read."""

from __future__ import annotations

import pytest
import torch
from checkpoints.official_keys import options_of

from glide_fast.checkpoints import convert_official, load_into, read_directory
from glide_fast.errors import CheckpointError
from glide_fast.models.config import complete
from glide_fast.models.factory import create_model_and_diffusion

LEAVE_NO_TRACE = ("num_heads", "num_head_channels", "xf_heads", "use_fp16", "noise_schedule")


@pytest.mark.parametrize("case", ["upsampler_inpaint", "conv_resample", "no_padding_embedding"])
def test_half_precision_file_to_directory_to_model(tmp_path, case):
    options = options_of(case)
    model, _ = create_model_and_diffusion(**complete(options))
    torch.save({name: tensor.half() for name, tensor in model.state_dict().items()}, tmp_path / "official.pt")
    given = {name: options[name] for name in LEAVE_NO_TRACE}
    convert_official(tmp_path / "official.pt", tmp_path / "model", given)
    kind, read, state = read_directory(tmp_path / "model")
    again, _ = create_model_and_diffusion(**complete(read))
    load_into(again, state, source="model")
    assert kind == "unet"
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].half().float())


def test_a_real_model_refuses_another(tmp_path):
    with torch.device("meta"):
        base, _ = create_model_and_diffusion(**complete(options_of("base")))
        inpaint, _ = create_model_and_diffusion(**complete(options_of("inpaint")))
    with pytest.raises(
        CheckpointError, match=r"a\.pt does not fit Text2ImUNet.*\n.*\(64, 7, 3, 3\).*\n.*inpainting"
    ):
        load_into(base, inpaint.state_dict(), source="a.pt")
