"""The order in which several processes take the tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]


def item(path: Path, name: str) -> Any:
    return SimpleNamespace(path=path, name=name, get_closest_marker=lambda _: None)


def test_the_slowest_files_come_first_and_nothing_else_moves(request: pytest.FixtureRequest) -> None:
    conftest: Any = request.config.pluginmanager.get_plugin(str(TESTS / "conftest.py"))
    slowest = [TESTS / name for name in conftest.SLOWEST]
    assert [file for file in slowest if not file.is_file()] == []
    items = [item(TESTS / "a.py", "a"), item(slowest[1], "d"), item(slowest[0], "e")]
    items += [item(slowest[1], "c"), item(TESTS / "b.py", "b")]
    alone = SimpleNamespace(getoption=lambda _: None)
    conftest.pytest_collection_modifyitems(alone, items)
    assert [each.name for each in items] == ["a", "d", "e", "c", "b"]
    conftest.pytest_collection_modifyitems(SimpleNamespace(getoption=lambda _: None, workerinput={}), items)
    assert [each.name for each in items] == ["e", "d", "c", "a", "b"]
