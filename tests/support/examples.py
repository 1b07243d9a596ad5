"""Pages of the site as programs: a page's blocks of Python, run in their order as one.

- A block with ``title="PATH"`` is a file. One that does not exist is written to a folder of its own and imported from there as if
  it lay in this repository; lines for one that does exist are executed in that module. A file of tests is run as such.
- A block below ``<!-- needs a GPU -->`` runs where there is one.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

from glide_fast.diffusion.rules import RULES
from glide_fast.ops import backends

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r'^(?P<gpu><!-- needs a GPU -->\n+)?```python(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)

PYTEST = ("-q", "-c", "/dev/null", "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:xdist")


class Block(NamedTuple):
    """A block of Python of a page."""

    code: str  # on the lines that it has in the page, so that an error names them
    title: str | None
    needs_gpu: bool


def blocks(page: Path) -> list[Block]:
    """The blocks of Python of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        above = text.count("\n", 0, match.start("code"))
        found.append(Block("\n" * above + match["code"], match["title"], match["gpu"] is not None))
    assert len(found) == len(re.findall(r"^ *```python", text, re.MULTILINE)), f"{page}: a block is not found"
    return found


def module_name(path: str) -> str:
    """The name of the module in a file: ``a.b.c`` for ``a/b/c.py`` and ``a/b/c/__init__.py``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class Overlay:
    """Files that pages add, in ``folder``; Python imports them as if they were in the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._extended: list[ModuleType] = []

    def add(self, path: str, code: str) -> None:
        """Write the file; its package finds it from now on."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
        inside = Path(path).parent
        if inside.parts[0] != "glide_fast":  # nothing imports it
            return
        while not (ROOT / inside / "__init__.py").exists():
            inside = inside.parent
        package = importlib.import_module(".".join(inside.parts))
        if str(self.folder / inside) not in package.__path__:
            package.__path__ = [*package.__path__, str(self.folder / inside)]
            self._extended.append(package)
        importlib.invalidate_caches()

    def remove(self) -> None:
        """Make the added files impossible to import again."""
        for package in self._extended:
            package.__path__ = [path for path in package.__path__ if not path.startswith(str(self.folder))]
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file is not None and file.startswith(str(self.folder)):
                del sys.modules[name]
                parent, _, last = name.rpartition(".")
                if hasattr(sys.modules.get(parent), last):
                    delattr(sys.modules[parent], last)


@contextmanager
def nothing_registered_afterwards() -> Iterator[None]:
    """A block after which all ops, backends and samplers that were registered within it are removed."""
    before = {name: list(op._backends) for name, op in backends.ops().items()}
    samplers = dict(RULES)
    try:
        yield
    finally:
        assert isinstance(RULES, dict)
        for name in RULES.keys() - samplers.keys():
            del RULES[name]
        for name, op in backends.ops().items():
            if name not in before:
                del backends._ops[name]
            elif op._backends != before[name]:
                op._backends[:] = before[name]
                op._choices.clear()


def run(page: Path, folder: Path) -> dict[str, Any]:
    """Run a page; files that it adds are written to ``folder``. Returns the names that its program defined."""
    names: dict[str, Any] = {"__name__": "__main__"}
    overlay = Overlay(folder)
    with nothing_registered_afterwards():
        try:
            for block in blocks(page):
                program = compile(block.code, str(page), "exec")
                if block.needs_gpu and not torch.cuda.is_available():
                    continue
                if block.title is None:
                    exec(program, names)
                elif (ROOT / block.title).exists():
                    exec(program, vars(importlib.import_module(module_name(block.title))))
                else:
                    overlay.add(block.title, block.code.lstrip("\n"))
                    if block.title.startswith("benchmarks/"):
                        exec(program, {"__name__": module_name(block.title)})
                    elif block.title.startswith("tests/"):
                        assert pytest.main([str(folder / block.title), *PYTEST]) == 0
        finally:
            overlay.remove()
    return names
