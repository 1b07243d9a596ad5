"""Reading a built data set, memory-mapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glide_fast.errors import InvalidInputError, invalid

FORMAT = "glide-fast-scenes-1"


def area_mean(pictures: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Shrink pictures by an exact ``factor`` x ``factor`` mean, rounded to the nearest byte (halves up).

    Args:
        pictures: uint8 [..., H, W, 3], H and W multiples of ``factor``.
        factor: at least 1.

    Returns:
        uint8 [..., H / factor, W / factor, 3].
    """
    *lead, height, width, channels = pictures.shape
    if factor < 1 or height % factor or width % factor:
        raise invalid("factor", factor, f"a divisor of {height} and {width}")
    blocks = pictures.reshape(*lead, height // factor, factor, width // factor, factor, channels)
    total = blocks.sum(axis=(-4, -2), dtype=np.uint32)
    area = factor * factor
    return ((2 * total + area) // (2 * area)).astype(np.uint8)


class SceneDataset:
    """A folder that ``python -m glide_fast.data.build`` wrote: images.npy, captions.jsonl and meta.json.

    Attributes:
        images: uint8 [N, S, S, 3], memory-mapped, read-only.
        captions: N strings.
        records: N dicts with "seed", "caption" and "attributes".
        meta: the settings that the set was built with.

    Raises InvalidInputError about ``argument``, the caller's name for the directory.
    """

    def __init__(self, directory: str | Path, *, argument: str = "directory") -> None:
        directory = Path(directory)
        for name in ("meta.json", "images.npy", "captions.jsonl"):
            if not (directory / name).is_file():
                raise invalid(
                    argument, str(directory), f"a data set from glide_fast.data.build (it has no {name})"
                )
        self.meta: dict[str, Any] = json.loads((directory / "meta.json").read_text("utf-8"))
        if self.meta.get("format") != FORMAT:
            raise invalid(argument, self.meta.get("format"), f"a data set of format {FORMAT}")
        self.images: NDArray[np.uint8] = np.load(directory / "images.npy", mmap_mode="r")
        with (directory / "captions.jsonl").open(encoding="utf-8") as file:
            self.records: list[dict[str, Any]] = [json.loads(line) for line in file]
        self.captions: list[str] = [record["caption"] for record in self.records]
        if len(self.images) != len(self.records):
            raise InvalidInputError(
                f"{argument}: {directory} holds {len(self.images)} pictures but {len(self.records)} captions; "
                "build it again"
            )

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], str]:
        """Picture (uint8 [S, S, 3], a copy) and caption."""
        return np.array(self.images[index]), self.captions[index]
