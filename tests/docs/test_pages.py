"""What no site generator checks: links of the pages outside docs/, names that must be the same in two places."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

import glide_fast

ROOT = Path(__file__).parents[2]
OUTSIDE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"]


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", OUTSIDE)
def test_links_outside_the_site_lead_somewhere(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8"))
    assert links or name == "benchmarks/README.md"
    for path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_environment_variables_are_in_the_reference() -> None:
    sources = [ROOT / "setup.py", *ROOT.glob("glide_fast/**/*.py"), *ROOT.glob("kernels/**/*.py")]
    read = {
        name for file in sources for name in re.findall(r'"(GLIDE_FAST_[A-Z_]+)"', file.read_text("utf-8"))
    }
    assert len(read) >= 4
    text = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    assert sorted(name for name in read if f"`{name}`" not in text) == []


def test_every_way_to_build_the_site_fails_on_warnings() -> None:
    assert re.search(r"^make docs \|\| status=1$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert re.search(r"^\t.*mkdocs build .*--strict$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.search(r"^strict: true$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == glide_fast.__version__
    assert [reference["url"] for reference in citation["references"]] == ["https://arxiv.org/abs/2112.10741"]


def documented() -> set[str]:
    """What the reference shows: each ``::: path``; of a package the members that are listed, or else all of its ``__all__``."""
    names: set[str] = set()
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for path, options in re.findall(r"^::: ([\w.]+)\n((?: +.*\n)*)", text, re.MULTILINE):
            listed = re.findall(r"^ +- (\w+)$", options, re.MULTILINE)
            members = listed or getattr(pkgutil.resolve_name(path), "__all__", [])
            names |= {path, *(f"{path}.{name}" for name in members)}
    return names


@pytest.mark.parametrize(
    "package", ["", ".pipelines", ".models", ".diffusion", ".ops", ".runtime", ".checkpoints", ".train"]
)
def test_every_public_name_is_in_the_reference(package: str) -> None:
    public = set(importlib.import_module(f"glide_fast{package}").__all__) - {"__version__"}
    assert public
    assert sorted(public - {path.rpartition(".")[2] for path in documented()}) == []
