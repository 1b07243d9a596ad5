"""The models and settings of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from glide_fast.errors import InvalidInputError
from glide_fast.pipelines.options import BASE, UPSAMPLER, Clip

if TYPE_CHECKING:
    from glide_fast.pipelines.stage import Stage

CLIP = "clip"
"""The third component of a pipeline directory, beside the stages."""


@dataclass(frozen=True)
class Components:
    """The models of a pipeline with its settings; at least one of the two stages is there.

    Attributes:
        base, upsampler: the stages.
        clip: a noise-aware CLIP, as loaded in fp32 on the CPU.
        settings: defaults of a call (the keys of :data:`glide_fast.pipelines.options.DEFAULTS`), and anything else that is saved
            with the pipeline.
        name: the name that was loaded, or that of the directory without its parents; None for a pipeline built in Python.
    """

    base: Stage | None
    upsampler: Stage | None
    clip: Clip | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    @property
    def by_name(self) -> dict[str, Stage]:
        """The stages that there are, in the order they run."""
        both = {BASE: self.base, UPSAMPLER: self.upsampler}
        return {name: stage for name, stage in both.items() if stage is not None}

    @property
    def stages(self) -> list[Stage]:
        """The values of :attr:`by_name`."""
        return list(self.by_name.values())

    def require_base(self) -> Stage:
        """The base model; InvalidInputError where there is none."""
        if self.base is None:
            raise InvalidInputError(
                "base: this pipeline has an upsampler only; accepted: its method upsample"
            )
        return self.base

    def require_upsampler(self) -> Stage:
        """The upsampler; InvalidInputError where there is none."""
        if self.upsampler is None:
            raise InvalidInputError(
                "upsample: this pipeline has no upsampler; accepted: a pipeline that has one"
            )
        return self.upsampler

    @property
    def dtype(self) -> torch.dtype:
        """Type of the first stage's torso."""
        return self.stages[0].model.dtype

    @property
    def accelerated(self) -> bool:
        """Whether every stage is."""
        return all(stage.accelerated for stage in self.stages)
