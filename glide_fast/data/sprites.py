"""Emoji artwork as one file of RGBA pictures, and pasting one onto a canvas.

The file is an ``.npz`` of ``rgba`` (uint8 [concepts, styles, S, S, 4], alpha not premultiplied), ``nouns``
and ``styles`` (their names, in order). ``python -m glide_fast.data.fetch`` makes it; the artwork itself is
never part of the package.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glide_fast.errors import InvalidInputError, invalid

_KEYS = ("rgba", "nouns", "styles")


@dataclass(frozen=True)
class Sprites:
    """A set of emoji pictures.

    Attributes:
        rgba: uint8 [concepts, styles, S, S, 4].
        nouns: the word for each concept.
        styles: the word for each vendor.
        sha256: of the file it came from, or of the pixels when it came from none.
    """

    rgba: NDArray[np.uint8]
    nouns: tuple[str, ...]
    styles: tuple[str, ...]
    sha256: str = ""
    _cropped: dict[tuple[str, str], Image.Image] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        expected = (len(self.nouns), len(self.styles))
        shape = self.rgba.shape
        if self.rgba.dtype != np.uint8 or len(shape) != 5 or shape[:2] != expected or shape[2] != shape[3]:
            raise invalid("rgba", f"{self.rgba.dtype} {list(shape)}", f"uint8 {[*expected, 'S', 'S', 4]}")
        if shape[4] != 4 or not self.nouns or not self.styles:
            raise invalid("rgba", list(shape), "at least one concept and one style, with 4 channels")
        if not self.sha256:
            object.__setattr__(self, "sha256", hashlib.sha256(self.rgba.tobytes()).hexdigest())

    def image(self, noun: str, style: str) -> Image.Image:
        """One sprite, cropped to the square around its visible part, alpha premultiplied: pillow mode "RGBa"."""
        if noun not in self.nouns:
            raise invalid("noun", noun, ", ".join(self.nouns))
        if style not in self.styles:
            raise invalid("style", style, ", ".join(self.styles))
        key = (noun, style)
        if key not in self._cropped:
            whole = Image.fromarray(self.rgba[self.nouns.index(noun), self.styles.index(style)], "RGBA")
            box = whole.getchannel("A").getbbox()
            if box is None:
                raise InvalidInputError(f"sprites: the picture of {noun!r} in {style!r} style is empty")
            side = max(box[2] - box[0], box[3] - box[1])
            left, top = (box[0] + box[2] - side) // 2, (box[1] + box[3] - side) // 2
            self._cropped[key] = whole.crop((left, top, left + side, top + side)).convert("RGBa")
        return self._cropped[key]


def save_sprites(path: str | Path, sprites: Sprites) -> str:
    """Write a sprite file through a temporary name; returns the file's sha256."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(
            file, rgba=sprites.rgba, nouns=np.array(sprites.nouns), styles=np.array(sprites.styles)
        )
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    partial.replace(path)
    return digest


def load_sprites(path: str | Path) -> Sprites:
    """Read a sprite file; raises InvalidInputError when there is none or it is not one."""
    path = Path(path)
    if not path.is_file():
        raise invalid("sprites", str(path), "a file that `python -m glide_fast.data.fetch` wrote")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in _KEYS if key not in file]
            if missing:
                raise InvalidInputError(
                    f"sprites: {path} is not a sprite file: it has no {', '.join(missing)}"
                )
            rgba, nouns, styles = (file[key] for key in _KEYS)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"sprites: {path} is damaged or not a sprite file ({error})") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Sprites(rgba, tuple(map(str, nouns)), tuple(map(str, styles)), digest)


def paste(canvas: NDArray[np.float32], sprite: Image.Image, left: int, top: int, side: int) -> None:
    """Blend a premultiplied sprite, resized to ``side``, over ``canvas`` (float32 [H, W, 3]) in place."""
    resized = np.asarray(sprite.resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    height, width = canvas.shape[:2]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if x0 >= x1 or y0 >= y1:
        return
    part = resized[y0 - top : y1 - top, x0 - left : x1 - left]
    patch = canvas[y0:y1, x0:x1]
    patch[...] = patch * (1.0 - part[..., 3:] / 255.0) + part[..., :3]
