"""The report of a run: as JSON, or as a line for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glide_fast import __version__
from glide_fast.cli.request import Picture, Request
from glide_fast.png import low_res_file

_SHOWN_SEEDS = 4


@dataclass(frozen=True)
class Report:
    """What a finished run did.

    steps: that each stage took for a picture. load_seconds, sample_seconds: wall-clock time. peak_memory: bytes, of the call
    that took most.
    """

    request: Request
    settings: dict[str, Any]
    steps: dict[str, int]
    pictures: list[Picture]
    device: str
    load_seconds: float
    sample_seconds: float
    peak_memory: int | None

    @property
    def sampled(self) -> list[Picture]:
        """The pictures that this run sampled, without skipped ones, whose files existed already."""
        return [picture for picture in self.pictures if not picture.skipped]

    @property
    def images_per_second(self) -> float | None:
        """Sampled pictures for each second; None if no picture was sampled."""
        return len(self.sampled) / self.sample_seconds if self.sampled else None

    def as_json(self) -> dict[str, Any]:
        """Files, seeds, settings, steps taken, words that the model does not know, timings, and memory in bytes."""
        speed, grid = self.images_per_second, self.request.layout.grid
        return {
            "version": __version__,
            "device": self.device,
            "settings": self.settings,
            "steps": self.steps,
            "images": [self._entry(picture) for picture in self.pictures],
            "grid": None if grid is None else str(grid),
            "seconds": {"load": round(self.load_seconds, 3), "sample": round(self.sample_seconds, 3)},
            "images_per_second": None if speed is None else round(speed, 4),
            "peak_memory": self.peak_memory,
        }

    def _entry(self, picture: Picture) -> dict[str, Any]:
        file = picture.file
        small = None if file is None or not self.request.low_res else low_res_file(file)
        return {
            "prompt": picture.prompt,
            "seed": picture.seed,
            "file": None if file is None else str(file),
            "low_res_file": None if small is None else str(small),
            "skipped": picture.skipped,
            "unknown_words": picture.unknown_words,
        }

    def as_line(self) -> str:
        """The same in one line for people."""
        sampled, speed = self.sampled, self.images_per_second
        skipped = len(self.pictures) - len(sampled)
        parts = [f"{len(sampled)} made" + (f", {skipped} there already" if skipped else "")]
        if speed is not None:
            parts[0] += f" in {self.sample_seconds:.1f} s ({speed:.2g} images/s)"
            seeds = ", ".join(str(picture.seed) for picture in sampled[:_SHOWN_SEEDS])
            parts.append(f"seeds {seeds}" + (", ..." if len(sampled) > _SHOWN_SEEDS else ""))
        machine = f"{self.device}, {self.settings['dtype']}"
        if self.peak_memory is not None:
            machine += f", {self.peak_memory / 1e9:.2g} GB at the peak"
        return "; ".join([*parts, machine])
