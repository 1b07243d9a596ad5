"""The directory format: what is written, what is refused, and what survives a failure."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoints.official_keys import CLIP_TEXT, UNETS
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_fast.checkpoints import (
    convert_official,
    read_directory,
    read_pipeline_directory,
    save_directory,
    save_pipeline_directory,
)
from glide_fast.errors import CheckpointError, InvalidInputError

STATE = {"a": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.float16)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def same(read, written) -> bool:
    return read.keys() == written.keys() and all(
        torch.equal(read[name], written[name]) and read[name].dtype == written[name].dtype for name in written
    )


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_round_trip(tmp_path):
    save_directory(tmp_path / "deep" / "model", "unet", {"num_channels": 64, "channel_mult": (1, 2)}, STATE)
    kind, options, state = read_directory(tmp_path / "deep" / "model")
    assert kind == "unet"
    assert options == {"num_channels": 64, "channel_mult": [1, 2]}
    assert same(state, STATE)
    assert names(tmp_path / "deep" / "model") == ["config.json", "model.safetensors"]
    assert names(tmp_path / "deep") == ["model"]


@settings(max_examples=40, deadline=None)
@given(options=st.dictionaries(st.text(), JSON, max_size=4), kind=st.text(min_size=1))
def test_any_options_round_trip(tmp_path_factory, options, kind):
    path = tmp_path_factory.mktemp("any") / "model"
    save_directory(path, kind, options, {"a": torch.ones(1)})
    assert read_directory(path)[:2] == (kind, options)


def test_others_can_read_what_was_saved(tmp_path):
    (tmp_path / "ordinary").touch()
    save_pipeline_directory(tmp_path / "p", {}, {"base": ("unet", {}, STATE)})
    modes = {file.stat().st_mode for file in (tmp_path / "p").rglob("*") if file.is_file()}
    assert modes == {(tmp_path / "ordinary").stat().st_mode}


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    deep = []
    for _ in range(40):
        deep = [deep]
    endless = []
    endless.append(endless)
    for options, said in (
        ({"deep": deep}, r"options\['deep'\]: got \[\["),
        ({"endless": endless}, r"options\['endless'\]"),
        ({"twice": {1: "a", "1": "b"}}, r"options\['twice'\]"),
        ({"lone": "\ud800"}, r"options\['lone'\]"),
        ({"long": "a" * 600_000}, "options: got '600,.* bytes of JSON'; accepted: at most 500,000"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            save_directory(tmp_path / "m", "unet", options, STATE)
    assert names(tmp_path) == []


def test_paths_that_cannot_be(tmp_path):
    for path in ("a\0b", "\ud800", 5):
        for use in (
            read_directory,
            read_pipeline_directory,
            lambda path: save_directory(path, "unet", {}, STATE),
        ):
            with pytest.raises(InvalidInputError, match="path: got"):
                use(path)
    too_long = tmp_path / ("a" * 300)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_directory(too_long)
    with pytest.raises(CheckpointError, match="was not written: File name too long"):
        save_directory(too_long, "unet", {}, STATE)


def test_config_is_what_the_format_says(tmp_path):
    save_directory(tmp_path / "m", "clip_text", {"n_embd": 8}, STATE)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config == {"format": "glide_fast", "version": 1, "kind": "clip_text", "options": {"n_embd": 8}}
    assert same(safetensors.torch.load_file(tmp_path / "m" / "model.safetensors"), STATE)


def test_saving_again_replaces(tmp_path):
    for value in (1.0, 2.0):
        save_directory(tmp_path / "m", "unet", {"value": value}, {"a": torch.full((2,), value)})
    _, options, state = read_directory(tmp_path / "m")
    assert options == {"value": 2.0}
    assert state["a"].tolist() == [2.0, 2.0]
    assert names(tmp_path) == ["m"]


def test_empty_directory_is_taken(tmp_path):
    (tmp_path / "m").mkdir()
    save_directory(tmp_path / "m", "unet", {}, STATE)
    assert same(read_directory(tmp_path / "m")[2], STATE)


@pytest.mark.parametrize(
    "foreign", ["notes.txt", "config.json", "model.safetensors", "pipeline.json", ".hidden"]
)
def test_foreign_directory_is_refused(tmp_path, foreign):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / foreign).write_text("{}")
    with pytest.raises(CheckpointError, match=rf"holds what glide_fast did not write \({foreign}\)"):
        save_directory(tmp_path / "m", "unet", {}, STATE)
    assert (tmp_path / "m" / foreign).read_text() == "{}"


def test_added_files_are_not_deleted(tmp_path):
    save_directory(tmp_path / "m", "unet", {}, STATE)
    (tmp_path / "m" / "README.md").write_text("mine")
    with pytest.raises(CheckpointError, match=r"\(README\.md\), which saving would delete"):
        save_directory(tmp_path / "m", "unet", {}, STATE)
    save_pipeline_directory(tmp_path / "p", {}, {"base": ("unet", {}, STATE)})
    (tmp_path / "p" / "base" / "notes").write_text("mine")
    with pytest.raises(CheckpointError, match=r"base holds what glide_fast did not write \(notes\)"):
        save_pipeline_directory(tmp_path / "p", {}, {"base": ("unet", {}, STATE)})
    assert (tmp_path / "p" / "base" / "notes").read_text() == "mine"


def test_file_in_the_way(tmp_path):
    (tmp_path / "m").write_text("a file")
    with pytest.raises(CheckpointError, match="is a file and will not be replaced"):
        save_directory(tmp_path / "m", "unet", {}, STATE)
    with pytest.raises(CheckpointError, match="is a file; a directory is needed"):
        read_directory(tmp_path / "m")


@pytest.mark.parametrize(
    ("kind", "options", "state", "message"),
    [
        ("", {}, STATE, "kind: got ''"),
        (3, {}, STATE, "kind: got 3"),
        ("unet", [], STATE, "options: got 'list'"),
        ("unet", {1: 2}, STATE, "options: got 1; accepted: names that are str"),
        ("unet", {"size": torch.ones(1)}, STATE, r"options\['size'\]: got tensor"),
        ("unet", {"scale": float("nan")}, STATE, r"options\['scale'\]: got nan"),
        ("unet", {}, {}, "at least one tensor"),
        ("unet", {}, {"a": 3}, r"tensors\['a'\]: got 'int'"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, kind, options, state, message):
    with pytest.raises(InvalidInputError, match=message):
        save_directory(tmp_path / "m", kind, options, state)
    assert names(tmp_path) == []


def test_full_disk_leaves_the_old_model(tmp_path, monkeypatch):
    save_directory(tmp_path / "m", "unet", {}, STATE)
    real, calls = safetensors.torch.save_file, []

    def fill(tensors, file, **options) -> None:
        calls.append(file)
        real(tensors, file, **options)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fill)
    two = {"base": ("unet", {}, STATE), "upsampler": ("unet", {}, STATE)}
    with pytest.raises(CheckpointError, match=r"p was not written: the disk is full"):
        save_pipeline_directory(tmp_path / "p", {}, two)
    assert names(tmp_path) == ["m"]
    calls[:] = ["one"]
    with pytest.raises(CheckpointError, match=r"m was not written: the disk is full"):
        save_directory(tmp_path / "m", "unet", {"new": 1}, {"a": torch.zeros(1)})
    assert read_directory(tmp_path / "m")[1] == {}
    assert names(tmp_path) == ["m"]


def test_a_place_that_cannot_be_written_to(tmp_path, monkeypatch):
    save_directory(tmp_path / "m", "unet", {}, STATE)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        CheckpointError, match=r"m was not written: Read-only file system. What was there before is"
    ):
        save_directory(tmp_path / "m", "unet", {"new": 1}, STATE)
    assert read_directory(tmp_path / "m")[1] == {}


def test_missing_foreign_and_damaged(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_directory(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"not a glide_fast directory: it has no config\.json"):
        read_directory(tmp_path)
    save_directory(tmp_path / "m", "unet", {}, STATE)
    config = tmp_path / "m" / "config.json"
    whole = config.read_text()
    for text, message in [
        (whole[:20], "is not valid JSON"),
        ("[1]", 'does not say "format": "glide_fast"'),
        ('{"architectures": ["Other"]}', "was not written by glide_fast"),
        (whole.replace('"unet"', "3"), "lacks 'kind'"),
        (whole.replace("{}", "[]"), "lacks 'kind' .* or 'options'"),
        (
            whole.replace(": 1", ": 2"),
            r"has format version 2, and this glide_fast reads versions up to 1; update",
        ),
        (whole.replace(": 1", ": true"), "no usable version number: True"),
        (whole.replace(": 1", ': "1"'), "no usable version number: '1'"),
    ]:
        config.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_directory(tmp_path / "m")
    config.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        read_directory(tmp_path / "m")
    config.write_text(whole)
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        read_directory(tmp_path / "m")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not exist"):
        read_directory(tmp_path / "m")


def test_pipeline_round_trip(tmp_path):
    settings_written = {"guidance_scale": 3.0, "steps": {"base": 100, "upsampler": "fast27"}}
    components = {
        "base": ("unet", {"super_res": False}, STATE),
        "upsampler": ("unet", {"super_res": True}, {"b": torch.zeros(3)}),
    }
    save_pipeline_directory(tmp_path / "p", settings_written, components)
    pipeline = read_pipeline_directory(tmp_path / "p")
    assert pipeline.settings == settings_written
    assert list(pipeline.components) == ["base", "upsampler"]
    for name, (kind, options, state) in components.items():
        read = pipeline.read(name)
        assert read[:2] == (kind, options)
        assert same(read[2], state)
    assert same(read_directory(tmp_path / "p" / "base")[2], STATE)
    save_pipeline_directory(tmp_path / "p", {}, {"base": components["base"]})
    assert names(tmp_path / "p") == ["base", "pipeline.json"]
    assert names(tmp_path) == ["p"]


def test_pipeline_components_are_read_lazily(tmp_path):
    save_pipeline_directory(
        tmp_path / "p", {}, {"base": ("unet", {}, STATE), "clip": ("clip_text", {}, STATE)}
    )
    (tmp_path / "p" / "clip" / "model.safetensors").write_bytes(b"damaged")
    pipeline = read_pipeline_directory(tmp_path / "p")
    assert same(pipeline.read("base")[2], STATE)
    with pytest.raises(CheckpointError, match="safetensors"):
        pipeline.read("clip")
    with pytest.raises(CheckpointError, match="has no component 'upsampler'; it has: base, clip"):
        pipeline.read("upsampler")


def test_model_and_pipeline_are_told_apart(tmp_path):
    save_directory(tmp_path / "m", "unet", {}, STATE)
    save_pipeline_directory(tmp_path / "p", {}, {"base": ("unet", {}, STATE)})
    with pytest.raises(CheckpointError, match="is one model, not a pipeline"):
        read_pipeline_directory(tmp_path / "m")
    with pytest.raises(CheckpointError, match="is a whole pipeline, not one model"):
        read_directory(tmp_path / "p")


@pytest.mark.parametrize("name", ["", "..", "a/b", "/tmp", ".hidden", "a b", 3])
def test_bad_component_names(tmp_path, name):
    with pytest.raises(InvalidInputError, match="components: got"):
        save_pipeline_directory(tmp_path / "p", {}, {name: ("unet", {}, STATE)})
    assert names(tmp_path) == []


def test_no_components(tmp_path):
    with pytest.raises(InvalidInputError, match="at least one component"):
        save_pipeline_directory(tmp_path / "p", {}, {})


def test_bad_pipeline_files(tmp_path):
    save_pipeline_directory(tmp_path / "p", {}, {"base": ("unet", {}, STATE)})
    file = tmp_path / "p" / "pipeline.json"
    whole = file.read_text()
    for changes, message in [
        (
            {"components": {"base": "../../etc"}},
            r"puts component 'base' in '\.\./\.\./etc', not a sub directory",
        ),
        ({"components": {"base": 3}}, "not a sub directory"),
        ({"components": {"base": "gone"}}, "the sub directory 'gone' of component 'base' is missing"),
        ({"components": {}}, "lacks 'settings' or 'components'"),
        ({"settings": 3}, "lacks 'settings' or 'components'"),
        ({"version": 7}, "has format version 7"),
    ]:
        rewrite(file, **changes)
        with pytest.raises(CheckpointError, match=message):
            read_pipeline_directory(tmp_path / "p")
        file.write_text(whole)


def official(path: Path, case: str = "base") -> Path:
    """An official-looking fp16 .pt file of a recorded model."""
    torch.save({name: torch.ones(shape, dtype=torch.float16) for name, shape in UNETS[case].items()}, path)
    return path


def test_convert_official(tmp_path):
    source = official(tmp_path / "base_inpaint.pt", "inpaint")
    kind, options = convert_official(source, tmp_path / "out", {"num_head_channels": 64, "num_channels": 64})
    assert kind == "unet"
    read_kind, read_options, state = read_directory(tmp_path / "out")
    assert (read_kind, read_options) == (kind, options)
    assert options["num_head_channels"] == 64
    assert options["inpaint"] is True
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert {name: list(tensor.shape) for name, tensor in state.items()} == UNETS["inpaint"]


def test_convert_official_refuses_options_that_the_shapes_contradict(tmp_path):
    source = official(tmp_path / "base.pt")
    with pytest.raises(InvalidInputError, match=r"options\['num_channels'\]: got 192; accepted: 64"):
        convert_official(source, tmp_path / "out", {"num_channels": 192})
    assert names(tmp_path) == ["base.pt"]


def test_convert_official_refuses_what_could_not_be_loaded(tmp_path):
    source = official(tmp_path / "base.pt")
    with pytest.raises(InvalidInputError, match=r"options: got \['num_head_chanels'\]; accepted: only"):
        convert_official(source, tmp_path / "out", {"num_head_chanels": 64})
    with pytest.raises(InvalidInputError, match=r"options\['norm_groups'\]: got 7"):
        convert_official(source, tmp_path / "out", {"norm_groups": 7})
    state = torch.load(source, weights_only=True)
    state["extra"] = state.pop("out.2.weight")
    torch.save(state, source)
    with pytest.raises(
        CheckpointError, match=r"base\.pt does not fit.*\n.*missing key: out\.2\.weight\n.*key: extra"
    ):
        convert_official(source, tmp_path / "out", {"num_head_channels": 64})
    assert names(tmp_path) == ["base.pt"]


def test_convert_official_clip(tmp_path):
    torch.save({name: torch.ones(shape) for name, shape in CLIP_TEXT.items()}, tmp_path / "clip.pt")
    kind, options = convert_official(tmp_path / "clip.pt", tmp_path / "out")
    assert kind == "clip_text"
    assert options["n_embd"] == 32
    for wrong in ({"n_head_txt": 4}, {"n_head_text": "4"}):
        with pytest.raises(InvalidInputError, match=r"n_head_te?xt"):
            convert_official(tmp_path / "clip.pt", tmp_path / "other", wrong)


def test_convert_official_of_something_else(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(
        CheckpointError, match=r"other\.pt cannot be converted: the keys are those of no model"
    ):
        convert_official(tmp_path / "other.pt", tmp_path / "out")
    with pytest.raises(CheckpointError, match="does not exist"):
        convert_official(tmp_path / "none.pt", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(CheckpointError, match="which saving would delete"):
        convert_official(tmp_path / "other.pt", tmp_path / "out")
