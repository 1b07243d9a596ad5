"""Names that no file can have, pipes, devices and directories in a file's place: refused before any work."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glide_fast.cli.files import read_picture
from glide_fast.cli.paths import read, require_free_files
from glide_fast.errors import InvalidInputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")

LONG, NUL = "x" * 300 + ".png", "a\0b.png"


@pytest.mark.parametrize("path", [LONG, NUL])
@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("sample", "a", "--model", "nowhere", "-o"), "--output"),
        (("sample", "--model", "nowhere", "-o", "d", "--prompts"), "--prompts"),
        (("inpaint", "picture.png", "picture.png", "a", "--white", "keep", "-o"), "--output"),
        (("upsample",), "IMAGE"),
        (("train", "--out"), "--out"),
        (("train", "--out", "run", "--data"), "--data"),
        (("convert",), "CHECKPOINT"),
        (("bundle", "base", "out", "--settings"), "--settings"),
        (("bench", "step", "--csv"), "--csv"),
        (("profile", "--trace"), "--trace"),
    ],
)
def test_names_that_no_file_can_have(
    invoke: Any, tmp_path: Path, arguments: tuple[str, ...], option: str, path: str
) -> None:
    rest = ("out",) if arguments == ("convert",) else ()
    result = invoke(*arguments, path, *rest)
    assert result.exit_code == 2
    assert option in result.stderr.splitlines()[-1]  # typer itself refuses a NUL, in some of its versions
    assert "File name too long" in result.stderr or "null byte" in result.stderr
    assert os.listdir(tmp_path) == []


def test_numbered_names_that_become_too_long(invoke: Any, tmp_path: Path) -> None:
    longest = "x" * 251 + ".png"
    require_free_files("output", [tmp_path / longest], overwrite=False)
    for more in (("--no-grid", "--num-images", 2), ("--low-res",)):
        result = invoke("sample", "a", "--model", "nowhere", "-o", longest, *more)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: --output: got 'xxx")
        assert "File name too long" in result.stderr


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
@pytest.mark.parametrize(
    ("make", "sort"), [(os.mkfifo, "a named pipe"), (os.mkdir, "a directory")], ids=["pipe", "directory"]
)
def test_what_is_no_file_is_never_replaced(
    invoke: Any, tmp_path: Path, more: tuple[str, ...], make: Any, sort: str
) -> None:
    make(tmp_path / "a-2.png")
    result = invoke("sample", "a", "--model", "no", "-o", "a.png", "--no-grid", "--num-images", 2, *more)
    assert result.exit_code == 2
    wanted = f"error: --output: got 'a-2.png'; accepted: the name of a file (it is {sort})\n"
    assert result.stderr == wanted
    (tmp_path / "prompts.txt").write_text("a\n")
    (tmp_path / "d").mkdir()
    make(tmp_path / "d/0001.png")
    result = invoke("sample", "--prompts", "prompts.txt", "--model", "no", "-o", "d", *more)
    assert f"got 'd/0001.png'; accepted: the name of a file (it is {sort})" in result.stderr
    make(tmp_path / "t.csv")
    result = invoke("bench", "step", "--csv", "t.csv", *more)
    assert result.stderr == f"error: --csv: got 't.csv'; accepted: the name of a file (it is {sort})\n"


def test_a_link_into_a_directory_that_is_not_there(invoke: Any, tmp_path: Path) -> None:
    (tmp_path / "out.png").symlink_to(tmp_path / "missing/out.png")
    result = invoke("sample", "a", "--model", "nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --output: got ")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("sample", "--model", "nowhere", "-o", "d", "--prompts", "pipe"), "--prompts"),
        (("inpaint", "pipe", "pipe", "a", "--white", "keep"), "IMAGE"),
        (("upsample", "pipe"), "IMAGE"),
        (("train", "--out", "run", "--model-options", "pipe"), "--model-options"),
        (("convert", "pipe", "out"), "CHECKPOINT"),
        (("bundle", "base", "out", "--settings", "pipe"), "--settings"),
    ],
)
def test_a_named_pipe_is_not_waited_for(
    invoke: Any, tmp_path: Path, arguments: tuple[str, ...], option: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {option}: got 'pipe'; accepted: ")
    assert result.stderr.endswith("(it is a named pipe)\n")
    assert os.listdir(tmp_path) == ["pipe"]


def test_an_endless_device_is_not_read() -> None:
    with pytest.raises(InvalidInputError, match="it is a device"):
        read("prompts", Path("/dev/zero"), "a file")


def test_what_a_shell_pipes_in_is_read(tmp_path: Path) -> None:
    """``--prompts <(...)`` gives the program /dev/fd/N."""
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    reader, writer = os.pipe()
    content = (tmp_path / "red.png").read_bytes()
    thread = threading.Thread(target=lambda: (os.write(writer, content), os.close(writer)))
    thread.start()
    try:
        assert read_picture(Path(f"/dev/fd/{reader}"), "image").getpixel((0, 0)) == (255, 0, 0)
    finally:
        thread.join()
        os.close(reader)
