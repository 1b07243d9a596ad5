"""The result of a pipeline's call, and the argument of the callback after each step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from glide_fast.errors import InvalidInputError, invalid
from glide_fast.file_names import fields_of, require_name
from glide_fast.pipelines.checks import require_flag
from glide_fast.pipelines.images import as_pil
from glide_fast.png import low_res_file, numbered, record, write_png


@dataclass(frozen=True)
class PipelineOutput:
    """Pictures, with all that is needed to make any of them again.

    Attributes:
        images: the last stage's pictures, in the output type that was asked for: PIL images, ``[N, 3, H, W]`` (torch) or
            ``[N, H, W, 3]`` (numpy) in [0, 1].
        low_res: the base model's pictures, which hold 8-bit levels; the same as ``images`` where there is no upsampler.
        prompts: of each image, in order.
        seeds: of each image, in order.
        peak_memory: bytes. On a GPU the most that torch had allocated there during the call (temporary memory of a captured loop
            counts in the call that captures it); on a CPU the largest resident set of the process so far; None where the system
            does not report it.
        settings: everything else that decided the pictures, as :meth:`save` writes it into their files.
    """

    images: Any
    low_res: Any
    prompts: list[str]
    seeds: list[int]
    peak_memory: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.seeds)

    def save(
        self, file: str | os.PathLike[str], *, low_res: bool = False, overwrite: bool = False
    ) -> list[Path]:
        """Write the pictures as PNG files with prompt, seed, settings and version in them, as the command line does.

        Args:
            file: a name that ends in ``.png``, in a directory that exists. ``{seed}`` and ``{index}`` in it are replaced by the
                picture's seed and number (from 1); ``{index:04d}`` pads with zeros. Without them, several pictures get
                numbered names: ``cube-1.png``, ``cube-2.png``.
            low_res: also write the base model's pictures, as ``cube.low-res.png`` beside ``cube.png``.
            overwrite: replace files that exist.

        Returns:
            The pictures' files, in order. Each is written whole or not at all.

        Raises:
            InvalidInputError: before anything is written.
        """
        files = self._files(file)
        small = [low_res_file(each) for each in files] if require_flag("low_res", low_res) else []
        for each in files + small:
            require_name("file", each)
        if not require_flag("overwrite", overwrite):
            for each in files + small:
                if os.path.lexists(each):
                    raise InvalidInputError(f"file: {each} exists; accepted: another name, or overwrite=True")
        texts = []
        for index, (prompt, seed) in enumerate(zip(self.prompts, self.seeds, strict=True)):
            settings = dict(self.settings)
            if isinstance(settings.get("negative_prompt"), list):
                settings["negative_prompt"] = settings["negative_prompt"][index]
            texts.append(record([prompt], [seed], settings))
        for each, picture, text in zip(files, as_pil(self.images), texts, strict=True):
            write_png(each, picture, text)
        if small:
            for each, picture, text in zip(small, as_pil(self.low_res), texts, strict=True):
                write_png(each, picture, text | {"stage": "base"})
        return files

    def _files(self, file: str | os.PathLike[str]) -> list[Path]:
        accepted = (
            "the name of a .png file in a directory that exists; {seed} and {index} in it, or with a width as in {index:04d}, "
            "stand for the picture's"
        )
        try:
            pattern = os.fspath(file)
            varies = bool(fields_of(pattern))
            names = [pattern.format(seed=seed, index=i) for i, seed in enumerate(self.seeds, start=1)]
            files = [Path(name) for name in names]
        except (TypeError, ValueError) as error:
            raise invalid("file", file, accepted) from error
        for each in files:
            require_name("file", each)
        if not all(each.suffix.lower() == ".png" and each.parent.is_dir() for each in files):
            raise invalid("file", file, accepted)
        if len(files) > 1 and not varies:
            return numbered(files[0], len(files))
        if len(set(files)) < len(files):
            raise invalid("file", file, "a name with {index}: two pictures have the same seed")
        return files


@dataclass(frozen=True)
class StepEnd:
    """The argument of ``callback_on_step_end``, which is called after each step.

    Images that do not fit into memory at once are sampled in parts (:mod:`glide_fast.pipelines.parts`), one after the other in
    each stage. Then ``index`` runs from 0 to ``total - 1`` for each part, and ``x0`` holds that part's images. Before that, the
    callback may have been called for steps of a larger part that turned out not to fit.

    Attributes:
        stage: "base" or "upsampler".
        index: number of the step in its stage, from 0.
        total: steps of the stage.
        x0: the present prediction of the clean images, fp32 ``[N, 3, H, W]`` in [-1, 1], on the device; reading it waits for
            the device.
        first: number of the first image of ``x0`` among the call's images, from 0.
    """

    stage: str
    index: int
    total: int
    x0: torch.Tensor
    first: int = 0


StepCallback = Callable[[StepEnd], object]
