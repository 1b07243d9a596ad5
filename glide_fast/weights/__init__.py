"""The models that ship inside the package, by name; each is a pipeline directory beside this file."""

from __future__ import annotations

from pathlib import Path

from glide_fast.checkpoints.directory import PIPELINE_NAME
from glide_fast.errors import invalid

_FOLDER = Path(__file__).parent


def available() -> list[str]:
    """Names of the models in this installation, sorted."""
    return sorted(file.parent.name for file in _FOLDER.glob(f"*/{PIPELINE_NAME}"))


def path(name: str) -> Path:
    """Directory of a shipped model; for any other name InvalidInputError, which lists the shipped ones."""
    names = available()
    if name not in names:
        raise invalid(
            "name", name, "one of " + ", ".join(map(repr, names)) if names else "none: no model is installed"
        )
    return _FOLDER / name
