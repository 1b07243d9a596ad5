"""Exit codes, messages, and what starting the program costs."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import MODEL

import glide_fast
from glide_fast.checkpoints import MODEL_PATHS, read_directory, write_state_dict
from glide_fast.cli import command
from glide_fast.models.factory import build

ROOT = Path(glide_fast.__file__).parents[1]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(arguments: Sequence[object], directory: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "glide_fast", *map(str, arguments)],
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_help_and_version_load_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from glide_fast.cli import app\n"
        "for arguments in (['--help'], ['--version'], ['sample', '--help'], ['train', '--help']):\n"
        "    result = CliRunner().invoke(app, arguments)\n"
        "    assert result.exit_code == 0, result.output\n"
        "print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr


def test_version_is_the_packages(invoke: Any) -> None:
    assert invoke("--version").stdout == f"glide-fast {glide_fast.__version__}\n"


def test_help_names_every_command_and_the_exit_codes(invoke: Any) -> None:
    text = " ".join(invoke("--help").stdout.split())
    for name in ("sample", "inpaint", "upsample", "train", "convert", "env"):
        assert f" {name} " in text
    assert "3 a checkpoint does not do" in text


def test_the_environment_is_printed_for_people_and_as_json(invoke: Any) -> None:
    lines = invoke("env").stdout
    assert torch.__version__ in lines
    assert "CUDA device" in lines
    values = json.loads(invoke("env", "--json").stdout)
    assert values["torch"] == torch.__version__
    assert values["python"] == platform.python_version()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_with_130_and_one_line(model: Path, tmp_path: Path) -> None:
    steps = ("--steps", 1000, "--num-images", 64, "--batch-size", 64)
    process = start(
        ["sample", "a red square", "--model", model, *steps],
        tmp_path,
        # A process started in the background of a script may ignore Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    shown = ""
    while "base" not in shown:
        shown += process.stderr.read(1)
        assert process.poll() is None, shown
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err
    assert out == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_kill_while_sampling_leaves_only_whole_pictures(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red square\n" * 200)
    arguments = ["sample", "--prompts", "prompts.txt", "--model", model, "-o", "pictures", "--batch-size", 2]
    process = start([*arguments, "-q"], tmp_path)
    pictures = tmp_path / "pictures"
    while not (pictures.exists() and len(list(pictures.glob("*.png"))) >= 3):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    done = sorted(pictures.glob("*.png"))
    assert 3 <= len(done) < 200
    from PIL import Image

    for file in done:
        with Image.open(file) as picture:
            picture.load()
            assert picture.text["prompt"] == "a red square"  # type: ignore[attr-defined]


def test_a_checkpoint_that_does_not_do_ends_with_3(invoke: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = invoke("sample", "a", "--model", tmp_path / "empty")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_a_download_that_fails_ends_with_4(
    invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIDE_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(MODEL_PATHS, "base", "http://127.0.0.1:9/base.pt")  # the port of nothing
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    result = invoke("sample", "a", "--model", "official")
    assert result.exit_code == 4
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_a_backend_that_cannot_run_ends_with_5(
    invoke: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIDE_FAST_BACKEND", "group_norm_act=abacus")
    monkeypatch.setattr("glide_fast.ops.backends._environment", None)  # it is read once a process
    result = invoke("sample", "a", "--model", model, "-q")
    assert result.exit_code == 5
    assert "abacus" in result.stderr


def test_anything_else_ends_with_1_and_a_traceback_only_on_request(
    invoke: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("glide_fast.pipelines.pipeline.sample", broken)
    result = invoke("sample", "a", "--model", model, "-q")
    assert result.exit_code == 1
    assert result.stderr == "error: RuntimeError: first line (glide-fast --debug shows where)\n"
    result = invoke("--debug", "sample", "a", "--model", model, "-q")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "in broken" in result.stderr
    assert os.listdir(tmp_path) == []


def test_want_of_memory_ends_with_6_in_any_command(invoke: Any, model: Path) -> None:
    rows = 10**12  # more bytes than an address can name
    result = invoke("explain", "--model", model, "--batch", rows)
    assert result.exit_code == 6
    assert result.stderr.startswith("error: out of memory; ")
    assert result.stderr.count("\n") == 1


def test_a_full_disk_is_said_and_leaves_no_half_picture(
    invoke: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    def full(self: object, file: Path, **options: object) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    result = invoke("sample", "a", "--model", model, "-q")
    assert result.exit_code == 1
    assert result.stderr == "error: the disk is full\n"
    assert os.listdir(tmp_path) == []


def test_errors_of_the_operating_system_name_the_file() -> None:
    code, line = command.describe(PermissionError(errno.EACCES, "Permission denied", "a.png"), {})
    assert (code, line) == (1, "error: a.png: Permission denied")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The weights of a tiny model, as a torch file of an official release holds them."""
    network, _ = build(MODEL | {"vocab_rows": 0, "use_fp16": False})
    torch.save(network.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_a_checkpoint_becomes_a_directory(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text('{"num_head_channels": 16, "norm_groups": 4, "xf_heads": 1}')
    result = invoke("convert", checkpoint, "converted", "--options", "options.json", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["directory"], report["kind"]) == ("converted", "unet")
    assert report["options"]["num_channels"] == 16
    assert report["options"]["norm_groups"] == 4
    kind, options, state = read_directory(tmp_path / "converted")
    assert (kind, options) == ("unet", report["options"])
    original = torch.load(checkpoint, weights_only=True)
    assert state.keys() == original.keys()
    assert all(torch.equal(state[name], original[name]) for name in state)


def test_a_directory_is_not_replaced_unless_asked(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text('{"num_head_channels": 16, "norm_groups": 4, "xf_heads": 1}')
    options = ("--options", "options.json")
    assert invoke("convert", checkpoint, "converted", *options).stdout == "converted\n"
    before = (tmp_path / "converted/model.safetensors").stat().st_mtime_ns
    result = invoke("convert", checkpoint, "converted")
    assert result.exit_code == 2
    assert result.stderr == "error: OUT_DIR: converted exists; accepted: another directory, or --overwrite\n"
    assert (tmp_path / "converted/model.safetensors").stat().st_mtime_ns == before
    assert invoke("convert", checkpoint, "converted", "--overwrite", *options).exit_code == 0
    (tmp_path / "converted/notes.txt").write_text("mine")
    assert (
        invoke("convert", checkpoint, "converted", "--overwrite", *options).exit_code == 3
    )  # what is not ours stays


def test_a_checkpoint_that_holds_several_things(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    options = {"num_head_channels": 16, "norm_groups": 4, "xf_heads": 1}
    (tmp_path / "options.json").write_text(json.dumps(options))
    weights = torch.load(checkpoint, weights_only=True)
    torch.save({"model": weights, "step": 3}, tmp_path / "run.pt")
    asked = ("convert", "run.pt", "out", "--options", "options.json")
    result = invoke(*asked)
    assert result.exit_code == 3
    assert "--key model" in result.stderr
    result = invoke(*asked, "--key", "model")
    assert result.exit_code == 0, result.output
    assert read_directory(tmp_path / "out")[2].keys() == weights.keys()


def test_a_file_in_a_models_place_names_the_command_that_converts_it(invoke: Any, checkpoint: Path) -> None:
    result = invoke("sample", "a", "--model", checkpoint)
    assert result.exit_code == 3
    assert "glide-fast convert" in result.stderr


def test_errors_about_entries_of_a_json_file_name_the_option(
    invoke: Any, checkpoint: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "settings.json").write_text('{"guidance_scale": "x"}')
    result = invoke("bundle", model / "base", "out", "--settings", "settings.json")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --settings['guidance_scale']: got 'x'; accepted: ")
    (tmp_path / "options.json").write_text('{"num_head_channels": "x"}')
    result = invoke("convert", checkpoint, "out", "--options", "options.json")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --options['num_head_channels']: got 'x'; accepted: ")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_converted_says_why(invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    write_state_dict(tmp_path / "foreign.safetensors", {"some.weight": torch.zeros(2)})
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:2000])
    for arguments, code, message in (
        (("foreign.safetensors",), 3, "error: foreign.safetensors cannot be converted: "),
        (("missing.pt",), 3, "error: missing.pt does not exist"),
        (("cut.pt",), 3, "error: cut.pt is a damaged or truncated torch checkpoint"),
        (
            (checkpoint, "--options", "list.json"),
            2,
            "error: --options: got 'list.json'; accepted: a JSON file with",
        ),
        ((checkpoint, "--options", "cut.pt"), 2, "error: --options: got 'cut.pt'; accepted: a JSON file ("),
        (
            (checkpoint, "--options", "no.json"),
            2,
            "error: --options: got 'no.json'; accepted: a JSON file (No such",
        ),
    ):
        result = invoke("convert", arguments[0], "out", *arguments[1:])
        assert result.exit_code == code
        assert result.stderr.startswith(message)
        assert not (tmp_path / "out").exists()
