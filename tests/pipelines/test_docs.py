"""The examples of docs/runtime.md and docs/threads.md, each page run as one program, and README's pipeline and commands."""

from __future__ import annotations

import re
from pathlib import Path

import PIL.Image
import pytest
import typer
from support.tiny import write_pipeline

from glide_fast.cli import app

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "runtime.md"


def run(page: Path) -> int:
    """Run a page's examples; how many it has."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    exec(compile("\n".join(blocks), str(page), "exec"), {})
    return len(blocks)


def test_the_page_on_threads_runs() -> None:
    assert run(ROOT / "docs" / "threads.md") == 1


def test_the_examples_run() -> None:
    assert run(PAGE) == 5
    named = set(
        re.findall(r"`((?:runtime|diffusion|ops|pipelines)/\w+\.py)`", PAGE.read_text(encoding="utf-8"))
    )
    assert named
    missing = sorted(name for name in named if not (ROOT / "glide_fast" / name).exists())
    assert missing == []


def test_readmes_pipeline_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny model, in seconds."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(
        r"^```python\n([^`]*from glide_fast import GlidePipeline\n.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    assert 'from_pretrained("small")' in block
    monkeypatch.chdir(tmp_path)
    model = write_pipeline(tmp_path / "tiny")
    picture = PIL.Image.new("RGB", (32, 32), "red")
    mask = PIL.Image.new("L", (32, 32), 255)
    exec(block.replace('"small"', repr(str(model))), {"image": picture, "mask": mask})
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"`glide-fast ([\w |]*\|[\w |]*)`", text)
    assert set(listed.split(" | ")) == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
