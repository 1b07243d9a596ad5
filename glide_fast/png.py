"""PNG files that record the prompt, seed and settings of their pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_fast.errors import GlideFastError
from glide_fast.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image


def low_res_file(file: Path) -> Path:
    """Where the base model's picture goes that ``file`` was enlarged from."""
    return file.with_name(f"{file.stem}.low-res.png")


def numbered(file: Path, count: int) -> list[Path]:
    """A file for each of ``count`` pictures: ``out-1.png``, ``out-2.png``, ... beside ``out.png``."""
    width = len(str(count))
    return [file.with_name(f"{file.stem}-{number:0{width}d}{file.suffix}") for number in range(1, count + 1)]


def record(prompts: Sequence[str], seeds: Sequence[int], settings: Mapping[str, Any]) -> dict[str, str]:
    """Metadata by name. One picture has ``prompt`` and ``seed``; a grid has JSON lists, ``prompts`` and ``seeds``."""
    if len(seeds) == 1:
        about = {"prompt": prompts[0], "seed": str(seeds[0])}
    else:
        about = {"prompts": json.dumps(list(prompts)), "seeds": json.dumps(list(seeds))}
    return about | {
        "settings": json.dumps(dict(settings), sort_keys=True),
        "version": f"glide_fast {__version__}",
    }


def write_png(file: Path, picture: Image, text: Mapping[str, str]) -> None:
    """Write a PNG with text chunks, whole or not at all; it is read back before it takes its name."""
    from PIL.PngImagePlugin import PngInfo

    from glide_fast.checkpoints import atomic_write

    info = PngInfo()
    for name, value in text.items():
        info.add_text(name, value)
    with atomic_write(file) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)
        if read_text(temporary) != text:
            raise GlideFastError(f"{file} was not written: its metadata did not read back as it was")


def read_text(file: Path) -> dict[str, str]:
    """The text chunks of a PNG file; none for anything else."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            picture.load()
            text = getattr(picture, "text", {})
    except (OSError, SyntaxError, ValueError):
        return {}
    return {name: str(value) for name, value in text.items()}
