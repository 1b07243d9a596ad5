"""Wrong config.json and pipeline.json: refused before anything is built, by an error that names file and field."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.tiny import MODEL

from glide_fast.checkpoints.directory import open_directory
from glide_fast.errors import CheckpointError, InvalidInputError
from glide_fast.models.clip import create_clip_model
from glide_fast.models.clip_config import FIELDS as CLIP_FIELDS
from glide_fast.models.config import DIFFUSION_FIELDS, MODEL_FIELDS
from glide_fast.pipelines import GlidePipeline, Stage, clip_component, stage
from glide_fast.pipelines.agreement import clip_config, unet_options
from glide_fast.pipelines.loading import load_parts
from glide_fast.pipelines.options import DEFAULTS as SETTINGS
from glide_fast.weights.bundle import bundle

FILES = {"base": "base/config.json", "upsampler": "upsampler/config.json", "clip": "clip/config.json"}
ABSENT = object()
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, 4, 7, 8, 16, 100, -1, -2, 10**9, 10**30, 10**400, -(10**400)),
    *(0.0, -0.5, 0.3, 1.0, 1.5, 1e30, -1e300, 1e308),
    *(
        "",
        "x",
        "1",
        "1,2",
        "8",
        "1,1",
        "0",
        "-1",
        "1,,2",
        "9" * 5000,
        "1," * 3000,
        "ddim3",
        "linear",
        "true",
        "\ud800",
        "\0",
    ),
    *([], [1], [1, 2], [[1]], ["x"], [0.9, 0.1], {}, {"a": 1}, [10**9], [None], ABSENT),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "pipeline"
    small = {"n_embd": 16, "n_head_text": 2, "n_head_state_text": 8, "n_xf_blocks_text": 1, "n_vocab": 300}
    small |= {"image_size": 16, "n_head_image": 2, "n_head_state_image": 8, "n_xf_blocks_image": 1}
    clip = create_clip_model(small, device="cpu")
    base = Stage.fresh(MODEL | {"vocab_rows": 8})
    upsampler = Stage.fresh(MODEL | {"vocab_rows": 8, "super_res": True})
    GlidePipeline(base, upsampler, clip, settings={"note": {"any": [1, "thing"]}}).save_pretrained(path)
    return path


@pytest.fixture
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted is stood in for; only the checks run."""

    def stand_in(*_: object, **__: object) -> Any:
        return object()

    monkeypatch.setattr(Stage, "from_state", stand_in)
    monkeypatch.setattr(clip_component, "from_directory", stand_in)
    monkeypatch.setattr(stage.ModelDirectory, "read", stand_in)


@pytest.fixture
def changed(saved: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Writes a file of the saved pipeline anew, until the test ends."""
    whole = {path: path.read_bytes() for path in saved.rglob("*.json")}

    def write(name: str, content: bytes) -> None:
        (
            saved / name
        ).unlink()  # file systems flush what is written over, which takes longer than all else here
        (saved / name).write_bytes(content)

    yield write
    for path, content in whole.items():
        path.write_bytes(content)


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


CHECKS = {FILES["base"]: unet_options, FILES["upsampler"]: unet_options, FILES["clip"]: clip_config}


def refusal(path: Path, file: str) -> str | None:
    """What loading says of one of the pipeline's files, None where it says nothing; any other error fails the test."""
    try:
        if file in CHECKS:
            CHECKS[file](open_directory((path / file).parent))
        else:
            load_parts(path)
    except (CheckpointError, InvalidInputError) as error:
        assert len(str(error)) < 1500
        return str(error)
    return None


def with_field(document: dict[str, Any], where: tuple[str, ...], value: Any) -> dict[str, Any]:
    document = json.loads(json.dumps(document))
    inner = document
    for name in where[:-1]:
        inner = inner[name]
    if value is ABSENT:
        inner.pop(where[-1], None)
    else:
        inner[where[-1]] = value
    return document


def fields(saved: Path) -> list[tuple[str, tuple[str, ...]]]:
    found: list[tuple[str, tuple[str, ...]]] = []
    for part, file in (("base", FILES["base"]), ("clip", FILES["clip"])):
        options = CLIP_FIELDS if part == "clip" else MODEL_FIELDS | DIFFUSION_FIELDS
        found += [(file, ("options", name)) for name in [*options, "unheard_of"]]
        found += [(file, (name,)) for name in ("format", "version", "kind", "options")]
    found += [("pipeline.json", ("settings", name)) for name in SETTINGS]
    found += [("pipeline.json", ("components", name)) for name in (*FILES, "prior")]
    return [
        *found,
        *(("pipeline.json", (name,)) for name in ("format", "version", "kind", "settings", "components")),
    ]


def test_the_tables_are_of_what_is_saved(saved: Path) -> None:
    for part, table in (("base", MODEL_FIELDS | DIFFUSION_FIELDS), ("clip", CLIP_FIELDS)):
        assert table.keys() == json.loads((saved / FILES[part]).read_text())["options"].keys()
    assert json.loads((saved / "pipeline.json").read_text())["settings"].keys() >= SETTINGS.keys()


@pytest.mark.usefixtures("nothing_is_built")
def test_every_field_with_every_wrong_value(saved: Path, changed: Callable[[str, bytes], None]) -> None:
    accepted = refused = 0
    for file, where in fields(saved):
        before = (saved / file).read_bytes()
        document = json.loads(before)
        for value in VALUES:
            changed(file, encoded(with_field(document, where, value)))
            said = refusal(saved, file)
            if said is None:
                accepted += 1
                continue
            refused += 1
            assert Path(file).name in said, (where, value, said)
            assert (
                where[-1].removesuffix("s") in said or "not valid JSON" in said or where[-1] == "options"
            ), (value, said)
        changed(file, before)
    assert accepted > 200
    assert refused > 3000


@pytest.mark.usefixtures("nothing_is_built")
def test_random_documents(saved: Path, changed: Callable[[str, bytes], None]) -> None:
    """Several fields changed at once, and bytes changed anywhere."""
    draw = random.Random(20)
    places = {
        file: [w for name, w in fields(saved) if name == file and len(w) == 2] for file in FILES.values()
    }
    places["pipeline.json"] = [w for name, w in fields(saved) if name == "pipeline.json" and len(w) == 2]
    places[FILES["upsampler"]] = places[FILES["base"]]
    refused = 0
    for _ in range(500):
        file = draw.choice([*FILES.values(), "pipeline.json"])
        before = (saved / file).read_bytes()
        document = json.loads(before)
        if draw.random() < 0.6:
            for _ in range(draw.randint(2, 4)):
                where = draw.choice(places[file])
                document = with_field(document, where, draw.choice(VALUES))
            content = encoded(document)
        else:
            content = bytearray(before)
            for _ in range(draw.randint(1, 3)):
                content[draw.randrange(len(content))] = draw.choice(b'[]{}",:0123456789.eE-\\ux\xff\x00 tfnN')
            content = (
                bytes(content[: draw.randint(1, len(content))]) if draw.random() < 0.2 else bytes(content)
            )
        changed(file, content)
        refused += refusal(saved, file) is not None
        changed(file, before)
    assert refused > 350


def test_what_is_accepted_can_be_built_and_run(saved: Path, changed: Callable[[str, bytes], None]) -> None:
    """So that no relation between options is left out: what passes and is not fixed by the weights makes a model that runs."""
    file = FILES["base"]
    document = json.loads((saved / file).read_bytes())
    ran = 0
    free = (
        "num_heads",
        "num_head_channels",
        "num_heads_upsample",
        "xf_heads",
        "norm_groups",
        "attention_resolutions",
    )
    for name in (*free, *DIFFUSION_FIELDS):
        before = ran
        for value in VALUES:
            if ran == before + 3:
                break
            changed(file, encoded(with_field(document, ("options", name), value)))
            try:
                built = Stage.from_directory(open_directory(saved / "base"))
            except CheckpointError:
                continue
            ran += 1
            x, t = torch.zeros(1, 3, 16, 16), torch.zeros(1, dtype=torch.long)
            tokens, mask = torch.zeros(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.bool)
            with torch.no_grad():
                assert built.model(x, t, tokens=tokens, mask=mask).shape == (1, 6, 16, 16)
    assert ran > 12


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b'{"a":' * 150_000, "nested more than 32 deep"),
        (b"[" * 40 + b"]" * 40, "nested more than 32 deep"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested more than 32 deep"),
        (b'{"format": "glide_fast", "format": "glide_fast"}', "the name 'format' occurs twice"),
        (b'{"format": NaN}', "NaN is no JSON value"),
        (b'{"format": -Infinity}', "-Infinity is no JSON value"),
        (b'{"format": 1e999}', "the number 1e999 is too large"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b" " * 1_000_001, "has more than 1,000,000 bytes"),
        (b"\xff\xfe{\x00}\x00", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'"' + b"a" * 900_000 + b'"', 'does not say "format"'),
    ],
)
@pytest.mark.parametrize("file", ["pipeline.json", "base/config.json"])
def test_files_that_are_no_document(
    saved: Path, changed: Callable[[str, bytes], None], file: str, content: bytes, said: str
) -> None:
    changed(file, content)
    with pytest.raises(CheckpointError, match=said) as refused:
        load_parts(saved)
    assert file in str(refused.value)


@pytest.mark.parametrize("file", ["pipeline.json", "base/config.json", "base/model.safetensors"])
@pytest.mark.parametrize("make", ["pipe", "endless", "directory", "missing"])
def test_what_is_no_file(base_only: GlidePipeline, tmp_path: Path, file: str, make: str) -> None:
    base_only.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / file
    path.unlink()
    if make == "pipe":
        os.mkfifo(path)
    elif make == "endless":
        path.symlink_to("/dev/zero")
    elif make == "directory":
        path.mkdir()
    with pytest.raises(CheckpointError, match=path.name):
        load_parts(tmp_path / "saved")


@pytest.mark.parametrize(
    "where", [("base", "num_res_blocks"), ("base", "xf_layers"), ("clip", "n_xf_blocks_text")]
)
def test_a_billion_blocks_are_refused_by_the_weights(
    saved: Path, changed: Callable[[str, bytes], None], where: tuple[str, str]
) -> None:
    """Sizes that are allowed by themselves are held against the weights' shapes."""
    part, name = where
    document = json.loads((saved / FILES[part]).read_bytes())
    for value in (10**9, 60):
        changed(FILES[part], encoded(with_field(document, ("options", name), value)))
        with pytest.raises(CheckpointError, match=rf"config\.json: {name}(: got| is) {value}"):
            load_parts(saved)


def test_weights_that_state_sizes_for_nothing(base: Stage, tmp_path: Path) -> None:
    """Tensors without elements, and one that no model has."""
    GlidePipeline(base).save_pretrained(tmp_path / "saved")
    weights = tmp_path / "saved" / "base" / "model.safetensors"
    state = safetensors.torch.load_file(weights)
    empty = {
        name: value.new_empty([*value.shape[:-1], 0]) if value.dim() == 4 else value
        for name, value in state.items()
    }
    empty["time_embed.2.weight"] = torch.empty(0, 10**12)
    safetensors.torch.save_file(empty, weights)
    with pytest.raises(
        CheckpointError, match=r"config\.json: the sizes are of a model with .* parameters, and model"
    ):
        load_parts(tmp_path / "saved")
    safetensors.torch.save_file(state | {"more": torch.zeros(20_000_000, dtype=torch.uint8)}, weights)
    with pytest.raises(
        CheckpointError, match=r"config\.json: the sizes are of a model with .* parameters, and model"
    ):
        load_parts(tmp_path / "saved")


def test_settings_that_no_call_could_use_are_not_saved(base: Stage, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="sampler: got 'euler'"):
        GlidePipeline(base, settings={"sampler": "euler"}).save_pretrained(tmp_path / "saved")
    with pytest.raises(InvalidInputError, match=r"settings\['num_inference_steps'\]: got 0"):
        bundle(tmp_path / "none", tmp_path / "out", settings={"num_inference_steps": 0})
    assert list(tmp_path.iterdir()) == []


def test_stages_in_each_others_place(base: Stage, upsampler: Stage, tmp_path: Path) -> None:
    GlidePipeline(base, upsampler).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "base").rename(tmp_path / "saved" / "x")
    (tmp_path / "saved" / "upsampler").rename(tmp_path / "saved" / "base")
    (tmp_path / "saved" / "x").rename(tmp_path / "saved" / "upsampler")
    with pytest.raises(
        CheckpointError, match=r"base/config\.json: super_res is not false, as the component 'base' needs"
    ):
        load_parts(tmp_path / "saved")
