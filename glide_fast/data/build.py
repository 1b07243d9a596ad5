"""``python -m glide_fast.data.build``: render a data set into a folder.

The work goes into ``OUT.partial`` and the whole folder is renamed to ``OUT`` at the end, so ``OUT`` is
complete or absent. Scenes are rendered in chunks; a chunk counts once its captions are written, after its
pictures. A killed run that is started again with the same settings cuts what was written after the last
whole chunk and goes on from there, and ends with the same bytes as a run that was never killed.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from tqdm import tqdm

from glide_fast.data.dataset import FORMAT
from glide_fast.data.scenes import SPLITS, SceneConfig, Split, draw
from glide_fast.data.sprites import Sprites, load_sprites
from glide_fast.errors import GlideFastError, InvalidInputError, invalid

CHUNK = 128


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of a data set.

    Attributes:
        count: number of pictures.
        split: "train" or "heldout".
        size: side of the pictures.
        first_seed: picture i is the scene of seed ``first_seed + i``.
        config: the scenes' mixture.
        sprites: the emoji, or None when the mixture has none.
    """

    count: int
    split: Split
    size: int
    first_seed: int
    config: SceneConfig
    sprites: Sprites | None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise invalid("count", self.count, "at least 1")
        if self.split not in SPLITS:
            raise invalid("split", self.split, " or ".join(SPLITS))
        if not 16 <= self.size <= 1024:
            raise invalid("size", self.size, "16 to 1024")
        if self.first_seed < 0:
            raise invalid("first_seed", self.first_seed, "an integer >= 0")
        if self.sprites is None and self.config.emoji > 0:
            raise invalid("sprites", None, "a sprite file, or an emoji weight of 0")

    def meta(self) -> dict[str, Any]:
        """The plan as plain JSON, as ``meta.json`` holds it."""
        return {
            "format": FORMAT,
            "count": self.count,
            "split": self.split,
            "size": self.size,
            "first_seed": self.first_seed,
            "config": asdict(self.config),
            "sprites_sha256": self.sprites.sha256 if self.sprites else None,
        }


def _header(plan: Plan) -> bytes:
    buffer = io.BytesIO()
    description = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
        "fortran_order": False,
        "shape": (plan.count, plan.size, plan.size, 3),
    }
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _render_chunk(plan: Plan, path: Path, chunk: int) -> str:
    """Write one chunk's pictures into the file; returns its caption lines."""
    start, stop = chunk * CHUNK, min(plan.count, (chunk + 1) * CHUNK)
    pictures = np.empty((stop - start, plan.size, plan.size, 3), dtype=np.uint8)
    lines = []
    for i in range(start, stop):
        seed = plan.first_seed + i
        picture, caption, attributes = draw(seed, plan.config, plan.split, plan.sprites, plan.size)
        pictures[i - start] = picture
        lines.append(json.dumps({"seed": seed, "caption": caption, "attributes": attributes}) + "\n")
    with path.open("r+b") as file:
        file.seek(len(_header(plan)) + start * plan.size * plan.size * 3)
        file.write(pictures.data)
    return "".join(lines)


def _whole_chunks(captions: Path, count: int) -> int:
    """How many chunks ``captions`` holds completely; cuts off whatever follows them."""
    whole_chunks = whole_bytes = seen_bytes = 0
    with captions.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            seen_bytes += len(line)
            if number % CHUNK == 0 or number == count:
                whole_chunks, whole_bytes = whole_chunks + 1, seen_bytes
        file.truncate(whole_bytes)
    return whole_chunks


# The plan goes to each process once, when it starts, because the sprites in it are large.
_render_in_worker: Callable[[int], str]


def _start_worker(plan: Plan, path: Path) -> None:
    global _render_in_worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops its workers
    _render_in_worker = partial(_render_chunk, plan, path)


def _work(chunk: int) -> str:
    return _render_in_worker(chunk)


@contextmanager
def _rendered(plan: Plan, path: Path, chunks: range, workers: int) -> Iterator[Iterator[str]]:
    """The caption lines of ``chunks``, in order, each once its pictures are written."""
    if workers == 1:
        yield map(partial(_render_chunk, plan, path), chunks)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker, (plan, path)) as pool:
        yield pool.imap(_work, chunks)


def build(plan: Plan, out: str | Path, workers: int = 1, progress: bool = True) -> Path:
    """Render a data set, or finish one that was interrupted.

    Args:
        plan: what to render.
        out: the folder to make; it must not exist yet.
        workers: processes that render.
        progress: show a progress bar.

    Returns:
        ``out``.

    Raises:
        InvalidInputError: ``out`` exists, or ``out.partial`` was begun with other settings.
        OSError: the disk is full; found before rendering where the file system can reserve space.
    """
    out = Path(out)
    if workers < 1:
        raise invalid("workers", workers, "at least 1")
    if out.exists():
        raise invalid("out", str(out), "a folder that does not exist yet; delete it to build again")
    unfinished = out.with_name(out.name + ".partial")
    unfinished.mkdir(parents=True, exist_ok=True)
    meta_path, images, captions = (
        unfinished / "meta.json",
        unfinished / "images.npy",
        unfinished / "captions.jsonl",
    )
    meta = plan.meta()
    if meta_path.exists():
        begun = json.loads(meta_path.read_text("utf-8"))
        if begun != meta:
            differing = ", ".join(key for key in meta if begun.get(key) != meta[key])
            raise InvalidInputError(
                f"out: {unfinished} was begun with other settings ({differing}); "
                "delete it, or use those settings again"
            )
    else:
        header = _header(plan)
        with images.open("wb") as file:
            size = len(header) + plan.count * plan.size * plan.size * 3
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
            file.write(header)
        captions.touch()
        # Last, and in one step: its presence says that the other two files are laid out.
        note = meta_path.with_suffix(".new")
        note.write_text(json.dumps(meta, indent=1) + "\n", "utf-8")
        note.replace(meta_path)
    done = _whole_chunks(captions, plan.count)
    total = -(-plan.count // CHUNK)
    with (
        _rendered(plan, images, range(done, total), workers) as results,
        captions.open("a", encoding="utf-8") as file,
        tqdm(
            total=plan.count,
            initial=min(plan.count, done * CHUNK),
            unit="img",
            desc=out.name,
            disable=not progress,
        ) as bar,
    ):
        for lines in results:
            file.write(lines)
            file.flush()
            bar.update(lines.count("\n"))
    unfinished.rename(out)
    return out


def main(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    count: Annotated[int, typer.Option(help="Number of pictures.")],
    sprites: Annotated[
        Path | None, typer.Option(help="sprites.npz from glide_fast.data.fetch; none: no emoji.")
    ] = None,
    split: Annotated[str, typer.Option(help="train or heldout.")] = "train",
    size: Annotated[int, typer.Option(help="Side of the pictures.")] = 128,
    first_seed: Annotated[int, typer.Option(help="Seed of the first picture; the others follow.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Render a data set of captioned scenes; run again after an interruption to go on."""
    try:
        artwork = load_sprites(sprites) if sprites is not None else None
        config = SceneConfig() if artwork is not None else SceneConfig(emoji=0.0)
        build(Plan(count, cast(Split, split), size, first_seed, config, artwork), out, workers)
    except GlideFastError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        typer.echo(f"error: {error}; the same command goes on from here", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None


if __name__ == "__main__":
    typer.run(main)
