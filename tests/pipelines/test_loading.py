"""Where pipelines come from and go to: directories, shipped models, released checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import golden
from support.tiny import write_pipeline

from glide_fast import weights
from glide_fast.checkpoints import atomic, read_pipeline_directory, save_directory, save_pipeline_directory
from glide_fast.errors import CheckpointError, InvalidInputError
from glide_fast.models.clip import CLIPModel
from glide_fast.pipelines import GlidePipeline, Stage, clip_component, loading


def make(pipe: GlidePipeline, **options: Any) -> torch.Tensor:
    return pipe("a red circle", **{"seed": 5, "output_type": "pt", "progress": False} | options).images


def test_round_trip(pipe: GlidePipeline, tmp_path: Path) -> None:
    pipe.settings |= {"sampler": "plms", "guidance_scale": 2.0, "trained_on": "shapes"}
    pipe.save_pretrained(tmp_path / "saved")
    again = GlidePipeline.from_pretrained(tmp_path / "saved", device="cpu", accelerate=False)
    assert again.settings | pipe.settings == again.settings
    assert again.settings["upsample_temp"] == 0.997
    assert again.clip is None
    assert torch.equal(make(again), make(pipe))
    assert not torch.equal(make(again), make(pipe, sampler="ddpm"))
    again.save_pretrained(tmp_path / "saved")
    assert torch.equal(
        make(GlidePipeline.from_pretrained(str(tmp_path / "saved"), device="cpu", accelerate=False)),
        make(pipe),
    )


def test_a_state_dict_is_taken_over_and_nothing_is_held_twice(base: Stage) -> None:
    """No fp32 model on the way: what is converted comes straight from the file's tensors, which are let go."""
    whole = {name: value.clone() for name, value in base.model.state_dict().items()}
    half = {name: value.bfloat16() if value.dim() > 1 else value for name, value in whole.items()}
    state = dict(half)
    types: set[torch.dtype] = set()

    def ready(stage: Stage) -> None:
        assert state == {}
        types.update(p.dtype for p in stage.model.input_blocks.parameters() if p.dim() == 4)
        assert stage.model.out[2].weight.dtype == torch.float32
        stage.accelerate(torch.device("cpu"), torch.float32)

    stage = Stage.from_state(base.options, state, source="a file", ready=ready)
    assert types == {torch.bfloat16}
    for name, value in stage.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, half[name].float()), name

    cut = dict(whole)
    del cut["out.2.bias"]
    before = dict(cut)
    with pytest.raises(CheckpointError, match=r"a file does not fit .*\n.*out\.2\.bias"):
        Stage.from_state(base.options, cut, source="a file", ready=ready)
    assert cut.keys() == before.keys()


@pytest.mark.parametrize("mmap", [False, True])
def test_weights_read_without_mapping_have_memory_of_their_own(
    base_only: GlidePipeline, tmp_path: Path, mmap: bool
) -> None:
    base_only.save_pretrained(tmp_path / "saved")
    _, _, state = read_pipeline_directory(tmp_path / "saved").read("base", mmap=mmap)
    assert base_only.base is not None
    for name, value in base_only.base.model.state_dict().items():
        assert torch.equal(state[name], value), name
    if not mmap:
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in state.values())


def test_one_stage_and_a_clip(base: Stage, clip: CLIPModel, settings: dict[str, Any], tmp_path: Path) -> None:
    pipe = GlidePipeline(base, clip=clip, settings=settings)
    pipe.save_pretrained(tmp_path / "saved")
    again = GlidePipeline.from_pretrained(tmp_path / "saved", device="cpu", accelerate=False)
    assert again.upsampler is None
    options = {"clip_guidance_scale": 5.0}
    assert torch.equal(make(again, **options), make(pipe, **options))
    assert not torch.equal(make(again, **options), make(again))
    assert repr(again) == "GlidePipeline(base=16 px, clip, cpu, torch.float32)"


def test_only_our_clip_can_be_saved(base: Stage, tmp_path: Path) -> None:
    class Other:
        def cond_fn(self, prompts: list[str], grad_scale: float) -> Any: ...

    with pytest.raises(InvalidInputError, match=r"^clip"):
        GlidePipeline(base, clip=Other()).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_precision_and_device_are_chosen_on_loading(base_only: GlidePipeline, tmp_path: Path) -> None:
    base_only.save_pretrained(tmp_path / "saved")
    loaded = GlidePipeline.from_pretrained(tmp_path / "saved", device="cpu", dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded.device == torch.device("cpu")
    # What was converted is saved as it is, and read into fp32 again where that is asked for.
    loaded.save_pretrained(tmp_path / "rounded")
    again = GlidePipeline.from_pretrained(tmp_path / "rounded", device="cpu", dtype="fp32")
    assert again.base is not None
    assert loaded.base is not None
    assert again.dtype == torch.float32
    for name, value in again.base.model.state_dict().items():
        assert value.dtype != torch.bfloat16
        torch.testing.assert_close(
            value, loaded.base.model.state_dict()[name].to(value.dtype), rtol=0, atol=0
        )
    with pytest.raises(InvalidInputError, match="fp16 on a CPU"):
        GlidePipeline.from_pretrained(tmp_path / "saved", device="cpu", dtype="fp16")


def test_one_unet_is_a_pipeline_of_one_stage(pipe: GlidePipeline, tmp_path: Path) -> None:
    """What training exports and what converting an official file writes can be sampled from as it is."""
    assert pipe.base is not None
    assert pipe.upsampler is not None
    save_directory(tmp_path / "base", *pipe.base.component())
    base = GlidePipeline.from_pretrained(tmp_path / "base", device="cpu", accelerate=False)
    assert base.upsampler is None
    assert torch.equal(
        make(base, num_inference_steps=4), make(GlidePipeline(pipe.base, settings=pipe.settings))
    )

    save_directory(tmp_path / "upsampler", *pipe.upsampler.component())
    upsampler = GlidePipeline.from_pretrained(tmp_path / "upsampler", device="cpu", accelerate=False)
    assert upsampler.base is None
    assert repr(upsampler) == "GlidePipeline(upsampler=32 px, cpu, torch.float32)"

    save_directory(tmp_path / "clip", "clip_text", {}, {"w": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="of kind 'clip_text', where a 'unet' is needed"):
        GlidePipeline.from_pretrained(tmp_path / "clip", device="cpu", accelerate=False)


def test_a_save_killed_between_its_renames_loses_nothing(base_only: GlidePipeline, tmp_path: Path) -> None:
    base_only.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved").rename(tmp_path / ".saved.previous")
    assert torch.equal(
        make(GlidePipeline.from_pretrained(tmp_path / "saved", device="cpu", accelerate=False)),
        make(base_only),
    )


@pytest.mark.parametrize("name", ["no-such-model", "", "a/b/c", None, 7])
def test_unknown_names_list_what_there_is(name: Any) -> None:
    with pytest.raises(
        InvalidInputError,
        match=r"name: got .*'official', 'official-inpaint', 'official-clip'.*save_pretrained",
    ):
        GlidePipeline.from_pretrained(name, device="cpu", accelerate=False)


def test_foreign_and_incomplete_directories(pipe: GlidePipeline, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        GlidePipeline.from_pretrained(tmp_path, device="cpu", accelerate=False)

    pipe.save_pretrained(tmp_path / "cut")
    (tmp_path / "cut" / "base" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="base"):
        GlidePipeline.from_pretrained(tmp_path / "cut", device="cpu", accelerate=False)

    assert pipe.base is not None
    kind, options, state = pipe.base.component()
    save_pipeline_directory(tmp_path / "kind", {}, {"base": ("clip_text", options, state)})
    with pytest.raises(CheckpointError, match="'clip_text'"):
        GlidePipeline.from_pretrained(tmp_path / "kind", device="cpu", accelerate=False)
    save_pipeline_directory(tmp_path / "names", {}, {"prior": (kind, options, state)})
    with pytest.raises(CheckpointError, match="prior"):
        GlidePipeline.from_pretrained(tmp_path / "names", device="cpu", accelerate=False)
    state.pop("out.2.weight")
    save_pipeline_directory(tmp_path / "keys", {}, {"base": (kind, options, state)})
    with pytest.raises(CheckpointError, match=r"out\.2\.weight"):
        GlidePipeline.from_pretrained(tmp_path / "keys", device="cpu", accelerate=False)


def test_shipped_models(base_only: GlidePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline directory beside the weights module is available by its name, before a directory of the same name."""
    for name in weights.available():
        assert json.loads((weights.path(name) / "pipeline.json").read_text())["components"]
    folder = tmp_path / "folder"
    base_only.save_pretrained(folder / "toy")
    (folder / "not a model").mkdir()
    monkeypatch.setattr(weights, "_FOLDER", folder)
    (tmp_path / "elsewhere" / "toy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert weights.available() == ["toy"]
    assert weights.path("toy") == folder / "toy"
    assert torch.equal(
        make(GlidePipeline.from_pretrained("toy", device="cpu", accelerate=False)), make(base_only)
    )
    with pytest.raises(CheckpointError):
        GlidePipeline.from_pretrained("./toy", device="cpu", accelerate=False)
    with pytest.raises(InvalidInputError, match="name: got 'other'; accepted: one of 'toy'"):
        weights.path("other")


def test_released_models(
    base: Stage, upsampler: Stage, clip: CLIPModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The released names load the released checkpoints; the network and the sizes are stood in for by tiny ones."""
    asked: list[str] = []
    tiny = {
        "base": base,
        "upsample": upsampler,
        "base-inpaint": Stage.fresh(base.options | {"inpaint": True}),
        "upsample-inpaint": Stage.fresh(upsampler.options | {"inpaint": True}),
    }
    for name in ("base-inpaint", "upsample-inpaint"):
        golden.fill(tiny[name].model)
    encoders = {"clip/text-enc": clip.text_encoder, "clip/image-enc": clip.image_encoder}

    def load(
        name: str, device: str, progress: bool, cache_dir: Any, *, mmap: bool = True
    ) -> dict[str, torch.Tensor]:
        asked.append(name)
        return tiny[name].model.state_dict() if name in tiny else encoders[name].state_dict()

    monkeypatch.setattr(loading, "load_checkpoint", load)
    monkeypatch.setattr(clip_component, "load_checkpoint", load)
    monkeypatch.setattr(loading, "preset", lambda name: tiny[name].options)
    create = clip_component.create_clip_model
    monkeypatch.setattr(
        clip_component, "create_clip_model", lambda device: create(clip.config, device=device)
    )

    options = {"num_inference_steps": 3, "upsample_steps": 2}
    official = GlidePipeline.from_pretrained("official", device="cpu", accelerate=False)
    assert asked == ["base", "upsample"]
    assert torch.equal(make(official, **options), make(GlidePipeline(base, upsampler), **options))

    asked.clear()
    inpainting = GlidePipeline.from_pretrained("official-inpaint", device="cpu", accelerate=False)
    assert asked == ["base-inpaint", "upsample-inpaint"]
    assert inpainting.settings == {"guidance_scale": 5.0, "upsample_sampler": "ddpm"}
    assert inpainting.base is not None
    assert inpainting.base.inpaints

    asked.clear()
    guided = GlidePipeline.from_pretrained("official-clip", device="cpu", accelerate=False)
    assert sorted(asked) == ["base", "clip/image-enc", "clip/text-enc", "upsample"]
    want = GlidePipeline(base, upsampler, clip)
    assert torch.equal(
        make(guided, clip_guidance_scale=9.0, **options), make(want, clip_guidance_scale=9.0, **options)
    )


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_pipeline_that_is_saved_anew_while_it_is_loaded_is_of_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    """The base has been read when another process replaces base and upsampler."""
    if not can_exchange:
        monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    path = write_pipeline(tmp_path / "tiny")
    newer = GlidePipeline.from_pretrained(path, device="cpu", accelerate=False)
    with torch.no_grad():
        for stage in newer.stages:
            for value in stage.model.parameters():
                value.fill_(0.25)
    read, real = [], Stage.from_directory

    def from_directory(*arguments: Any, **options: Any) -> Stage:
        stage = real(*arguments, **options)
        read.append(stage)
        if len(read) == 1:
            newer.save_pretrained(path)
        return stage

    monkeypatch.setattr(Stage, "from_directory", from_directory)
    found = GlidePipeline.from_pretrained(path, device="cpu", accelerate=False)
    for stage in found.stages:
        assert all(bool((value == 0.25).all()) for value in stage.model.parameters())
