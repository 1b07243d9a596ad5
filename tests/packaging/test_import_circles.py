"""No module of the package imports another that imports it in turn.

Imports at the top of a module and those inside functions are followed alike: a circle that is broken by moving an import into
a function is still two modules that cannot be understood, tested or moved apart. Imports for types alone
(``if TYPE_CHECKING``) do nothing at run time, and are followed too.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import glide_fast

ROOT = Path(glide_fast.__file__).parent

Graph = dict[str, set[str]]


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def name_of(file: Path, root: Path) -> str:
    parts = file.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST, package: str, types: bool) -> Iterator[str]:
    """Names that the statements within ``node`` import, of modules or of what is in them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for part in child.orelse if not types else [*child.body, *child.orelse]:
                yield from imported(ast.Module([part], []), package, types)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - child.level] if child.level else []
            source = ".".join([*above, *([child.module] if child.module else [])])
            yield from (f"{source}.{alias.name}" for alias in child.names)
        elif isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield from imported(child, package, types)


def graph(root: Path, *, types: bool) -> Graph:
    """Each module of a package with those of it that it imports; ``from x import y`` is of ``x.y`` where that is a module."""
    files = {name_of(file, root): file for file in root.rglob("*.py")}
    found: Graph = {}
    for module, file in files.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        found[module] = set()
        for name in imported(parsed(file), package, types):
            target = name
            while target and target not in files:
                target = target.rpartition(".")[0]
            if target and target != module:
                found[module].add(target)
    return found


def circles(modules: Mapping[str, set[str]]) -> list[list[str]]:
    """A circle for each module that can reach itself, the shortest, named once."""
    found: set[tuple[str, ...]] = set()
    for start in sorted(modules):
        ways = [[start]]
        seen: set[str] = set()
        while ways:
            way = ways.pop(0)
            if start in modules[way[-1]]:
                first = way.index(min(way))
                found.add((*way[first:], *way[:first]))
                break
            following = modules[way[-1]] - seen
            seen |= following
            ways += [[*way, module] for module in sorted(following)]
    return [list(circle) for circle in sorted(found)]


def test_no_module_imports_one_that_imports_it() -> None:
    modules = graph(ROOT, types=False)
    assert len(modules) > 150
    assert circles(modules) == []


def test_not_for_types_either() -> None:
    modules = graph(ROOT, types=True)
    assert circles(modules) == []


@pytest.mark.parametrize("place", ["top", "function", "types"])
def test_a_circle_is_found_wherever_it_is_closed(tmp_path: Path, place: str) -> None:
    root = tmp_path / "some"
    (root / "inner").mkdir(parents=True)
    (root / "__init__.py").touch()
    (root / "inner" / "__init__.py").touch()
    (root / "a.py").write_text("from some.inner import b\n")
    (root / "inner" / "b.py").write_text("import os\nfrom . import c\n")
    back = {
        "top": "from ..a import x\n",
        "function": "def f():\n    import some.a\n",
        "types": "if TYPE_CHECKING:\n    from some import a\n",
    }
    (root / "inner" / "c.py").write_text(back[place])
    assert circles(graph(root, types=True)) == [["some.a", "some.inner.b", "some.inner.c"]]
    assert bool(circles(graph(root, types=False))) == (place != "types")
