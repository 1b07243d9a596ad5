"""Resuming an interrupted run: files of pictures that were sampled with the same settings are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glide_fast.cli.files import read_picture
from glide_fast.cli.paths import require_free_files
from glide_fast.cli.request import Picture, Request
from glide_fast.errors import InvalidInputError
from glide_fast.png import low_res_file, read_text, record


def resume(request: Request, pictures: list[Picture], settings: dict[str, Any]) -> None:
    """Mark the pictures that exist as skipped. A grid that exists is written again, but only if it is of these pictures.

    Raises:
        InvalidInputError: for a file whose picture has another prompt, seed or other settings; the message names them.
    """
    for picture in pictures:
        _resume_picture(request, picture, settings)
    grid = request.layout.grid
    if grid is not None and grid.exists():
        prompts, seeds = [picture.prompt for picture in pictures], [picture.seed for picture in pictures]
        _require_same(grid, read_text(grid), record(prompts, seeds, settings))


def _resume_picture(request: Request, picture: Picture, settings: dict[str, Any]) -> None:
    """Mark a picture that exists as skipped; InvalidInputError if its file holds another picture."""
    file = picture.file
    if file is None or not file.exists():
        if file is not None and request.low_res:
            require_free_files("output", [low_res_file(file)], overwrite=False)
        return
    text = read_text(file)
    if request.seed is None and text.get("seed", "").isdecimal():
        picture.seed = int(text["seed"])  # the request names no seed, so keep that of the existing picture
    _require_same(file, text, record([picture.prompt], [picture.seed], settings))
    # A run that was killed between the two files has left no low-res file: make both again.
    picture.skipped = not request.low_res or low_res_file(file).exists()
    if picture.skipped and request.layout.grid is not None:
        picture.image = read_picture(file, "output")
        picture.low_res = read_picture(low_res_file(file), "output") if request.low_res else None


def _require_same(file: Path, text: dict[str, str], wanted: dict[str, str]) -> None:
    differing = [name for name in wanted if name != "version" and text.get(name) != wanted[name]]
    if differing:
        shown = "; ".join(f"{name}: {text.get(name)!r} there, {wanted[name]!r} now" for name in differing)
        raise InvalidInputError(
            f"output: {file} was made differently ({shown}); accepted: another directory, or --overwrite"
        )
