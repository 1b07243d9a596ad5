"""constraints.txt, read as each Python that pyproject.toml allows reads it. (`make resolve` asks whether an index has it all.)"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings this one
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
_CLASSIFIER = "Programming Language :: Python :: 3."
PYTHONS = [
    "3." + line[len(_CLASSIFIER) :]
    for line in PROJECT["project"]["classifiers"]
    if line.startswith(_CLASSIFIER)
]
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}


def requirements(text: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


PINS = requirements((ROOT / "constraints.txt").read_text(encoding="utf-8"))


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for: to build, to run, and for every extra."""
    project = PROJECT["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    return [
        Requirement(text)
        for text in (*PROJECT["build-system"]["requires"], *project["dependencies"], *extras)
    ]


def applying(requirement: Requirement, python: str) -> bool:
    environment = {"python_version": python, "python_full_version": f"{python}.0", **LINUX}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def test_the_pythons_are_the_same_everywhere() -> None:
    assert PYTHONS == ["3.10", "3.11", "3.12", "3.13"]
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [python for python in (f"3.{minor}" for minor in range(20)) if python in allowed] == PYTHONS
    assert re.search(r"^PYTHONS := (.*)$", MAKEFILE, re.MULTILINE)[1].split() == PYTHONS
    assert re.search(r"^make resolve \|\| status=1$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_dependency_has_one_pin_that_does(python: str) -> None:
    pins = [pin for pin in PINS if applying(pin, python)]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(set(names)) == len(names)
    by_name = dict(zip(names, pins, strict=True))
    asked = [requirement for requirement in wanted() if applying(requirement, python)]
    assert len(asked) > 30
    for requirement in asked:
        name = canonicalize_name(requirement.name)
        if name == "glide-fast":
            continue
        assert name in by_name, name
        (version,) = by_name[name].specifier
        assert version.operator == "=="
        assert requirement.specifier.contains(version.version), f"{requirement} but {by_name[name]}"


def test_nothing_else_is_pinned() -> None:
    asked = {canonicalize_name(requirement.name) for requirement in wanted()}
    assert {canonicalize_name(pin.name) for pin in PINS} <= asked
