"""A labelled sheet of pictures: ``python -m glide_fast.evaluate.gallery PROMPTS.txt -o sheet.png``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

from glide_fast.checkpoints import atomic_write
from glide_fast.errors import invalid

_MARGIN = 8
_LINE = 13
_LINES = 3


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """Pictures of one size in rows of ``columns``, each with its caption (up to three lines) below."""
    if not pictures or len(pictures) != len(captions):
        raise invalid(
            "captions", f"{len(captions)} for {len(pictures)} pictures", "one for each, and at least one"
        )
    if columns < 1:
        raise invalid("columns", columns, "an integer of at least 1")
    font = ImageFont.load_default(size=_LINE - 2)
    side = pictures[0].width
    width, height = side + _MARGIN, pictures[0].height + _LINES * _LINE + 2 * _MARGIN
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    draw = ImageDraw.Draw(page)
    characters = int(side / font.getlength("e"))
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = _MARGIN + i % columns * width, _MARGIN + i // columns * height
        page.paste(picture, (x, y))
        for line, text in enumerate(textwrap.wrap(caption, characters)[:_LINES]):
            draw.text((x, y + picture.height + 3 + line * _LINE), text, fill="black", font=font)
    return page


def main(
    prompts: Annotated[Path, typer.Argument(help="File with a prompt on each line.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG to write.")] = Path("sheet.png"),
    model: Annotated[str, typer.Option(help="Model, as for glide-fast sample.")] = "small",
    columns: Annotated[int, typer.Option(help="Pictures in a row.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the first picture; the others count up.")] = 0,
) -> None:
    """Draw each prompt once, nothing picked out, and put the pictures on one sheet with the prompts under them."""
    from glide_fast.pipelines import GlidePipeline  # after the arguments are known to be good

    lines = [line.strip() for line in prompts.read_text("utf-8").splitlines() if line.strip()]
    result = GlidePipeline.from_pretrained(model)(lines, seed=seed)
    with atomic_write(output) as temporary:
        sheet(result.images, lines, columns).save(temporary, optimize=True)


if __name__ == "__main__":
    typer.run(main)
