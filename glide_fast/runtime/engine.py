"""The interface of an accelerated model that other parts of the runtime use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from glide_fast.models.text2im import TextEmbedding
from glide_fast.runtime.fair_lock import FairLock
from glide_fast.runtime.features import Features
from glide_fast.runtime.films import Films
from glide_fast.runtime.torso import Torso


class Engine(Protocol):
    """The members of :class:`~glide_fast.runtime.model.Accelerated` that bound loops and ``explain`` use; described there."""

    lock: FairLock
    features: Features
    num_res_blocks: int
    out_channels: int
    text_ctx: int
    _films: Films
    _torso: Torso

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def accelerated_for(self) -> tuple[int, int]: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
    def look(self) -> None: ...
    def step(self) -> AbstractContextManager[None]: ...
    def encode_text(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> TextEmbedding: ...
    def text_keys(self, text: TextEmbedding | None) -> list[torch.Tensor] | list[None]: ...
    def embedding(
        self, timesteps: torch.Tensor, xf_proj: torch.Tensor | None, y: torch.Tensor | None = None
    ) -> torch.Tensor: ...
    def share(self, x: torch.Tensor, pictures: Sequence[torch.Tensor | None]) -> torch.Tensor | None: ...
    def forget_shares(self) -> None: ...
    def pictures_beside(
        self, x: torch.Tensor, pictures: Sequence[torch.Tensor | None]
    ) -> torch.Tensor | None: ...
    def bind(
        self, timesteps: Sequence[int], batch: int, shape: tuple[int, int, int], **conditioning: Any
    ) -> Any: ...
