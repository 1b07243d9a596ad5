"""``python -m glide_fast.data.fetch --out DIR``: get the emoji artwork and rasterise it into one sprite file.

Each icon set is an npm package of SVG bodies; ``npm pack`` downloads its archive into DIR (kept, so that a
second run needs no network) and resvg-py draws the few icons that the vocabulary names. DIR/sprites.npz is
the result; DIR/sprites.json notes its sha256, and for every set its version, licence and author as the
package states them.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from glide_fast.data.sprites import Sprites, save_sprites
from glide_fast.data.vocabulary import CONCEPTS, VENDORS, Concept, Vendor
from glide_fast.errors import DownloadError, GlideFastError, invalid

SPRITE_SIZE = 192


def archive_name(vendor: Vendor) -> str:
    """The file name npm gives a package's archive.

    >>> archive_name(Vendor("noto", "@iconify-json/noto", "1.2.9", "Apache-2.0"))
    'iconify-json-noto-1.2.9.tgz'
    """
    return f"{vendor.package.lstrip('@').replace('/', '-')}-{vendor.version}.tgz"


def fetch_archive(vendor: Vendor, directory: Path) -> Path:
    """Download a vendor's npm archive into ``directory`` unless it is there already.

    Raises:
        DownloadError: npm is not installed, or it failed; the message holds npm's output.
    """
    path = directory / archive_name(vendor)
    if path.is_file():
        return path
    npm = shutil.which("npm")
    wanted = f"{vendor.package}@{vendor.version}"
    if npm is None:
        raise DownloadError(
            f"fetching {wanted} needs npm, which was not found on PATH; "
            f"install Node.js, or put {path.name} into {directory}"
        )
    partial = directory / "partial"
    partial.mkdir(exist_ok=True)
    result = subprocess.run(
        [npm, "pack", wanted, "--silent", "--pack-destination", str(partial)], capture_output=True, text=True
    )
    if result.returncode != 0 or not (partial / path.name).is_file():
        raise DownloadError(f"npm pack {wanted} failed ({result.returncode}): {result.stderr.strip()[-500:]}")
    (partial / path.name).replace(path)
    partial.rmdir()
    return path


def read_member(archive: Path, name: str) -> dict[str, Any]:
    """A JSON file of an npm archive; raises DownloadError when the archive is damaged or has no such file."""
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile(f"package/{name}")
            if member is None:
                raise KeyError(name)
            content: dict[str, Any] = json.load(member)
            return content
    except (tarfile.TarError, EOFError, KeyError, ValueError, OSError) as error:
        raise DownloadError(
            f"{archive} is damaged or has no {name} ({error}); delete it and fetch again"
        ) from error


def icon_svg(icons: dict[str, Any], name: str) -> str:
    """The whole SVG of one icon of an iconify set; raises InvalidInputError when the set has no such icon."""
    if name not in icons["icons"]:
        raise invalid("icon", name, f"an icon of the set {icons.get('prefix', '?')!r}")
    icon = icons["icons"][name]
    defaults = {"left": 0, "top": 0, "width": 16, "height": 16}
    box = " ".join(str(icon.get(key, icons.get(key, default))) for key, default in defaults.items())
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}">{icon["body"]}</svg>'
    )


def rasterise(svg: str, size: int = SPRITE_SIZE) -> NDArray[np.uint8]:
    """Draw an SVG: uint8 [size, size, 4], alpha not premultiplied.

    Raises:
        InvalidInputError: resvg-py is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise invalid("resvg_py", "not installed", "pip install resvg-py") from error
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA").resize((size, size)))


def make_sprites(
    icon_sets: dict[str, dict[str, Any]], concepts: tuple[Concept, ...] = CONCEPTS, size: int = SPRITE_SIZE
) -> Sprites:
    """Rasterise ``concepts``; ``icon_sets`` maps a style word to the content of an iconify ``icons.json``."""
    rgba = np.zeros((len(concepts), len(icon_sets), size, size, 4), dtype=np.uint8)
    for i, concept in enumerate(tqdm(concepts, desc="rasterising", unit="concept")):
        for j, icons in enumerate(icon_sets.values()):
            rgba[i, j] = rasterise(icon_svg(icons, concept.icon), size)
    return Sprites(rgba, tuple(concept.noun for concept in concepts), tuple(icon_sets))


def fetch(out: Path) -> Path:
    """Do everything; returns the path of the sprite file."""
    out.mkdir(parents=True, exist_ok=True)
    icon_sets, sources = {}, []
    for vendor in tqdm(VENDORS, desc="fetching", unit="set"):
        archive = fetch_archive(vendor, out)
        icon_sets[vendor.style] = read_member(archive, "icons.json")
        info = read_member(archive, "info.json")
        sources.append(
            {
                "style": vendor.style,
                "package": vendor.package,
                "version": vendor.version,
                "author": info.get("author"),
                "licence": info.get("license"),
            }
        )
    path = out / "sprites.npz"
    digest = save_sprites(path, make_sprites(icon_sets))
    note = {"sha256": digest, "size": SPRITE_SIZE, "sources": sources}
    (out / "sprites.json").write_text(json.dumps(note, indent=1) + "\n", "utf-8")
    return path


def main(
    out: Annotated[Path, typer.Option(help="Folder for the archives, sprites.npz and sprites.json.")],
) -> None:
    """Fetch the emoji artwork and rasterise it into OUT/sprites.npz."""
    try:
        path = fetch(out)
    except GlideFastError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    typer.echo(f"{path}: {json.loads((out / 'sprites.json').read_text('utf-8'))['sha256']}")


if __name__ == "__main__":
    typer.run(main)
