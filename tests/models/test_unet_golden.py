"""One forward of every recorded configuration, and the base model's gradients, against the official implementation."""

from __future__ import annotations

import pytest
import torch
from support import golden

from glide_fast.models.factory import build

CASES = sorted(key.split("/")[1] for key in golden.facts() if key.startswith("unet/") and key.count("/") == 1)


def inputs(case: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    fact = golden.facts()[f"unet/{case}"]
    options, batch = fact["options"], fact["batch"]
    size = options["image_size"]
    tokens, mask, timesteps = golden.text_inputs(case, batch, options["text_ctx"])
    kwargs = {"tokens": tokens, "mask": mask}
    if options["super_res"]:
        kwargs["low_res"] = golden.tensor("low" + case, batch, 3, 64, 64).clamp(-1, 1)
    if options["inpaint"]:
        kwargs["inpaint_image"] = golden.tensor("img" + case, batch, 3, size, size).clamp(-1, 1)
        kwargs["inpaint_mask"] = (golden.tensor("msk" + case, batch, 1, size, size) > 0).float()
    return golden.tensor("x" + case, batch, 3, size, size), timesteps, kwargs


@pytest.mark.parametrize("case", CASES)
def test_forward(case: str) -> None:
    fact = golden.facts()[f"unet/{case}"]
    model, _ = build(fact["options"])
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == fact["keys"]
    assert sum(p.numel() for p in model.parameters()) == fact["n_params"]
    golden.fill(model).eval()
    x, timesteps, kwargs = inputs(case)
    with torch.no_grad():
        text = model.encode_text(kwargs["tokens"], kwargs["mask"])
        out = model(x, timesteps, **kwargs)
        del kwargs["tokens"], kwargs["mask"]
        known_before = model(x, timesteps, text=text, **kwargs)
    assert golden.error(f"unet/{case}/out", out) < 1e-5
    assert golden.error(f"unet/{case}/xf_proj", text["xf_proj"]) < 1e-5
    assert golden.error(f"unet/{case}/xf_out", text["xf_out"]) < 1e-5
    torch.testing.assert_close(known_before, out)


def test_gradients() -> None:
    model, _ = build(golden.facts()["unet/base"]["options"] | {"dropout": 0.0})
    golden.fill(model)
    x, timesteps, kwargs = inputs("base")
    loss = model(x, timesteps, **kwargs).square().mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(golden.facts()["grad"]["loss"], rel=1e-4)
    parameters = dict(model.named_parameters())
    names = [key.removeprefix("grad/") for key in golden.facts() if key.startswith("grad/")]
    assert names
    for name in names:
        gradient = parameters[name].grad
        assert gradient is not None
        assert golden.error(f"grad/{name}", gradient) < 1e-4, name
