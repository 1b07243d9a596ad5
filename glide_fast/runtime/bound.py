"""An accelerated model bound to one loop: every table, key and value that the loop will need, in buffers of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glide_fast.errors import invalid
from glide_fast.models.conditioning import WiderInput
from glide_fast.models.text2im import TextEmbedding
from glide_fast.runtime.autocast import without_autocast
from glide_fast.runtime.engine import Engine
from glide_fast.runtime.fair_lock import FairLock, joins
from glide_fast.runtime.torso import Conditioning, Deep

TABLE_BYTES = 1 << 26
"""Of a row of the batch: above this size the residual blocks' scales and shifts are computed at each step instead of tabulated
for all. The bound is one row's, so that a picture is made the same way in every batch."""


class Bound:
    """See :meth:`glide_fast.runtime.model.Accelerated.bind`; a denoiser for :class:`~glide_fast.diffusion.sampling.SamplingLoop`.

    Its buffers keep their places in memory: :meth:`renew` writes new prompts, pictures or what new weights make of them there.
    """

    def __init__(
        self,
        model: Engine,
        timesteps: Sequence[int],
        batch: int,
        shape: tuple[int, int, int],
        *,
        text: TextEmbedding | None = None,
        **pictures: torch.Tensor,
    ) -> None:
        self.model, self.batch, self.shape = model, batch, shape
        device = next(model.parameters()).device
        self._timesteps = torch.as_tensor(timesteps, device=device)
        films = model._films
        table_bytes = len(self._timesteps) * films.width * films.bias.element_size()
        self._tabulated = model.features.tabulated_films and table_bytes <= TABLE_BYTES
        self._film = torch.empty(batch, films.width, dtype=films.bias.dtype, device=device)
        self._table: torch.Tensor | None = None
        self._emb: torch.Tensor | None = None
        self._text: list[torch.Tensor | None] = []
        self._share: torch.Tensor | None = None
        self._beside: torch.Tensor | None = None
        self._conditioning: dict[int, Conditioning] = {}
        self.deep: Deep | None = None
        self.renew(text=text, **pictures)

    @property
    def lock(self) -> FairLock:
        """The model's: what is bound to one model runs one at a time."""
        return self.model.lock

    @property
    def device(self) -> torch.device:
        """Where the buffers are."""
        return self._film.device

    @joins
    @without_autocast
    def renew(self, *, text: TextEmbedding | None = None, **pictures: torch.Tensor) -> None:
        """Compute everything again for these prompts and pictures (of the same shapes) and the weights as they are now.

        Raises:
            InvalidInputError: for another batch, or a picture the model does not read.
        """
        # Buffers made in inference mode could not be written to by a thread that is not in it.
        with torch.inference_mode(False), torch.no_grad():
            self._renew(text, pictures)

    def _renew(self, text: TextEmbedding | None, pictures: dict[str, torch.Tensor]) -> None:
        model = self.model
        model.look()
        names = model.picture_names if isinstance(model, WiderInput) else ()
        unknown = sorted(set(pictures) - set(names))
        if unknown:
            raise invalid("pictures", unknown, f"only {', '.join(names) or 'none'}")
        proj = None if text is None else text["xf_proj"]
        if proj is not None and len(proj) != self.batch:
            raise invalid("text", f"{len(proj)} prompts", f"{self.batch}")
        model._films.refresh()
        times = model.embedding(self._timesteps, None)
        # One row of the batch after the other: a product rounds by how many rows it has, and here those are the steps.
        for row in range(self.batch):
            emb = times if proj is None else times + proj[row].to(times)
            if self._tabulated:
                self._table = self._written(self._table, row, model._films.rows(emb))
            else:
                self._emb = self._written(self._emb, row, emb)
        self.tell(text)
        if names:
            x = torch.empty(
                self.batch, *self.shape, dtype=torch.float32, device=self.device
            )  # only its shape is read
            ordered = [pictures.get(name) for name in names]
            model.forget_shares()  # made of weights that may have changed unseen
            share, beside = model.share(x, ordered), model.pictures_beside(x, ordered)
            if share is not None:
                # Taken over, not copied (25 MB for the upsampler): nobody else may be handed it after this.
                self._share = share if self._share is None else self._share.copy_(share)
                model.forget_shares()
            self._beside = None if beside is None else _put(self._beside, beside)

    def _written(self, buffer: torch.Tensor | None, row: int, values: torch.Tensor) -> torch.Tensor:
        """``values`` ``[steps, W]`` in their row's columns of ``buffer`` ``[steps, batch * W]``, made if there is none."""
        steps, width = values.shape
        if buffer is None:
            buffer = values.new_empty(steps, self.batch * width)
        buffer.view(steps, self.batch, width)[:, row].copy_(values)
        return buffer

    @joins
    def tell(self, text: TextEmbedding | None) -> None:
        """Write the attention layers' keys and values of other prompts alone; their part in the tables stays."""
        keys = self.model.text_keys(text)
        if self._text:
            for buffer, new in zip(self._text, keys, strict=True):
                if buffer is not None and new is not None:
                    buffer.copy_(new)
        else:
            self._text = [None if key is None else key.clone() for key in keys]

    def empty_inputs(self, count: int, shape: tuple[int, int, int]) -> torch.Tensor:
        """Memory for the network's input, as it reads it fastest: ``[count, C, H, W]``."""
        return torch.empty(
            count, *shape, dtype=self.model.dtype, device=self.device, memory_format=torch.channels_last
        )

    @joins
    @without_autocast
    def __call__(
        self,
        inputs: torch.Tensor,
        timesteps: torch.Tensor,
        rows: torch.Tensor,
        *,
        shallow: bool = False,
    ) -> torch.Tensor:
        """Predict for ``inputs`` of :meth:`empty_inputs`; ``rows`` ``[batch]`` int64 are places in the list of timesteps.

        Fewer inputs than ``batch`` are the first ones. With ``shallow``, the deep levels' result of the last full step is used
        again, which needs :meth:`remember_deep`.
        """
        conditioning = self._conditioning_of(len(inputs))
        with self.model.step_memory():
            if self._table is not None:
                torch.index_select(self._table, 0, rows[:1], out=self._film.view(1, -1))
            elif self._emb is not None:
                emb = self._emb.index_select(0, rows[:1]).view(self.batch, -1)
                self._film.copy_(self.model._films.each(emb))
            return self.model._torso(inputs, conditioning, self.deep, shallow)

    def remember_deep(self) -> None:
        """Keep what the deep levels of each full step gave, for shallow steps."""
        if self.deep is None:
            self.deep = Deep(1 + self.model.num_res_blocks)

    def _conditioning_of(self, count: int) -> Conditioning:
        if count not in self._conditioning:
            self._conditioning[count] = Conditioning(
                self.model._films.split(self._film[:count]),
                [None if keys is None else keys[:count] for keys in self._text],
                None if self._share is None else self._share[:count],
                None if self._beside is None else self._beside[:count],
            )
        return self._conditioning[count]


def _put(buffer: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor:
    """``value`` in ``buffer``'s place, or as the buffer."""
    return value.clone(memory_format=torch.preserve_format) if buffer is None else buffer.copy_(value)
