"""The examples of the site, each page run as one program, and README's pipeline and commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import typer
from support import examples, notebooks
from support.tiny import write_pipeline

from glide_fast import GlidePipeline
from glide_fast.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EVERYWHERE = [ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("**/*.md"))]
PAGES = [page for page in sorted(DOCS.glob("*/*.md")) if examples.blocks(page)]
OFFICIAL = DOCS / "tutorials" / "official-code.md"
"""Loads the released weights, in whose place are small ones here."""


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline takes few steps, where an example does not say how many."""
    load = GlidePipeline.from_pretrained

    def loaded(*args: Any, **kwargs: Any) -> GlidePipeline:
        pipe = load(*args, **kwargs)
        pipe.settings |= {"num_inference_steps": 2, "upsample_steps": 2}
        return pipe

    monkeypatch.setattr(GlidePipeline, "from_pretrained", loaded)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page == OFFICIAL:
        notebooks.write_cache(tmp_path)
        monkeypatch.setenv("GLIDE_FAST_CACHE", str(tmp_path))
        notebooks.shrink_defaults(monkeypatch)
    examples.run(page, tmp_path / "added")


def test_the_pages_that_teach_have_examples() -> None:
    teach = {page for page in DOCS.glob("tutorials/*.md") if page.name != "index.md"}
    assert len(teach) == 3
    assert teach <= set(PAGES)


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    """``glide_fast/`` is left out where a page speaks of what is in it; X stands for any op, NAME for any backend.

    Nor need be there what belongs to an op that the page adds.
    """
    added = {block.title for block in examples.blocks(page) if block.title}
    new = {Path(title).parent.name for title in added if not (ROOT / title).parent.exists()}
    named = re.findall(
        r"`((?:[\w*]+/)+(?:[\w*]+/|[\w*]+\.(?:py|cpp|cu|cuh|h|md)))`", page.read_text(encoding="utf-8")
    )
    missing = []
    for name in set(named) - added:
        pattern = re.sub(r"\b(X|NAME)\b", "*", name)
        if new & {Path(name).stem, Path(name).parent.name}:
            continue
        if not any(any((ROOT / folder).glob(pattern)) for folder in ("", "glide_fast")):
            missing.append(name)
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
