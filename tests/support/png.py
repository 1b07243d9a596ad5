"""Reading pictures back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels(file: Path) -> NDArray[np.uint8]:
    """Picture ``[H, W, 3]``."""
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def text_of(file: Path) -> dict[str, Any]:
    """A PNG's text chunks; chunks that hold JSON are decoded."""
    with Image.open(file) as picture:
        picture.load()
        text: dict[str, Any] = dict(getattr(picture, "text", {}))
    for name in {"settings", "prompts", "seeds"} & text.keys():
        text[name] = json.loads(text[name])
    return text
