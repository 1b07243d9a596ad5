"""The files that a run reads and writes; all are checked before a model is loaded."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glide_fast.cli.paths import read, require_writable
from glide_fast.errors import InvalidInputError, invalid
from glide_fast.limits import MOST_PROMPT_BYTES
from glide_fast.png import low_res_file, numbered

if TYPE_CHECKING:
    from PIL.Image import Image

GRID_NAME = "grid.png"


@dataclass(frozen=True)
class Layout:
    """The files that a run writes. ``pictures`` has an entry for each picture, None for one that is only in the grid."""

    pictures: list[Path | None]
    grid: Path | None

    def all(self, low_res: bool) -> list[Path]:
        """All files that the run will write; with ``low_res`` also those of the base model's pictures."""
        files = [file for file in (*self.pictures, self.grid) if file is not None]
        return files + [low_res_file(file) for file in files] if low_res else files


def is_directory(output: Path) -> bool:
    """Whether ``output`` names a directory: an existing one, or a name without a suffix."""
    return output.is_dir() or not output.suffix


def lay_out(output: Path, prompts: int, each: int, grid: bool | None) -> Layout:
    """The files for ``each`` pictures of every prompt; see :data:`glide_fast.cli.options.Output`.

    Raises InvalidInputError for a file that is no .png, or whose directory is missing or not writable.
    """
    count = prompts * each
    if is_directory(output):
        require_writable("output", output, create=True)
        numbers = [
            f"{prompt:04d}" if each == 1 else f"{prompt:04d}-{picture}"
            for prompt in range(1, prompts + 1)
            for picture in range(1, each + 1)
        ]
        return Layout([output / f"{number}.png" for number in numbers], output / GRID_NAME if grid else None)
    if output.suffix.lower() != ".png":
        raise invalid(
            "output", str(output), "a .png file (its metadata holds prompt and settings), or a directory"
        )
    require_writable("output", output.parent, create=False)
    if count == 1:
        return Layout([output], None)
    if grid is False:
        return Layout([*numbered(output, count)], None)
    return Layout([None] * count, output)


def read_prompts(file: Path) -> list[str]:
    """The prompts in a UTF-8 text file, one on each line; blank lines are skipped."""
    try:
        content = read("prompts", file, "a file with a prompt on each line", MOST_PROMPT_BYTES)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid("prompts", str(file), f"UTF-8 text ({error.reason} at byte {error.start})") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise invalid("prompts", str(file), "a file with at least one prompt")
    return prompts


def read_json_object(file: Path, argument: str) -> dict[str, Any]:
    """A JSON file of at most a megabyte that holds one object, each name once."""
    from glide_fast.checkpoints.json_text import MAX_BYTES, parse_json

    content = read(argument, file, "a JSON file", MAX_BYTES)
    try:
        value = parse_json(content)
    except ValueError as error:
        raise invalid(argument, str(file), f"a JSON file ({error})") from error
    if not isinstance(value, dict):
        raise invalid(argument, str(file), "a JSON file with an object, {...}")
    return value


def read_picture(file: Path, argument: str) -> Image:
    """A picture file as RGB, turned as its EXIF data say. InvalidInputError for one with transparent pixels."""
    from PIL import Image, ImageOps

    content = io.BytesIO(read(argument, file, "a picture file"))
    try:
        with Image.open(content) as opened:
            if opened.mode.startswith(
                ("I", "F")
            ):  # converting these would cut every value above 255 to white
                raise invalid(
                    argument, f"{file}, which has more than 8 bits a channel", "a picture of 8 bits a channel"
                )
            picture = ImageOps.exif_transpose(opened)
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                if picture.getchannel("A").getextrema() != (255, 255):
                    raise invalid(
                        argument,
                        f"{file}, which has transparent pixels",
                        "an opaque picture; flatten it first",
                    )
            return picture.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise invalid(argument, str(file), "a picture file (it is damaged or of no known format)") from error
    except Image.DecompressionBombError as error:
        raise invalid(argument, str(file), f"a picture of reasonable size ({error})") from error


def read_mask(file: Path, argument: str) -> Image:
    """A picture file as mode L. InvalidInputError unless all pixels are black or white."""
    mask = read_picture(file, argument).convert("L")
    levels = sorted(set(mask.tobytes()) - {0, 255})
    if levels:
        raise invalid(
            argument,
            f"{file}, which has grey pixels (such as {levels[0]})",
            "black and white ones only; threshold it first",
        )
    return mask


def require_free(directory: Path, overwrite: bool) -> None:
    """InvalidInputError if ``directory`` is a file or a directory with entries, unless ``overwrite`` is True."""
    if not overwrite and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InvalidInputError(f"out_dir: {directory} exists; accepted: another directory, or --overwrite")
