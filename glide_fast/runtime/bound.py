"""An accelerated model prepared for one sampling loop.

All that the loop's steps need and that is known before it (scales and shifts for every step, keys and values of the text, the
pictures' part of the first convolution) is computed once and lies in buffers of the loop's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glide_fast.errors import invalid
from glide_fast.models.conditioning import WiderInput
from glide_fast.models.text2im import TextEmbedding
from glide_fast.ops import backends
from glide_fast.runtime.autocast import without_autocast
from glide_fast.runtime.engine import Engine
from glide_fast.runtime.fair_lock import FairLock, joins
from glide_fast.runtime.torso import Conditioning, Deep

TABLE_BYTES = 1 << 26
"""The most bytes that the table of scales and shifts may take for one row of the batch.

Where it would take more, the residual blocks' scales and shifts are computed at each step. The limit is for a row, not for the
batch, so that a picture is computed the same way in every batch."""


class Bound:
    """See :meth:`glide_fast.runtime.model.Accelerated.bind`; a denoiser for :class:`~glide_fast.diffusion.sampling.SamplingLoop`.

    Its buffers keep their addresses: :meth:`renew` writes into them what other prompts, pictures or weights give.
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
        self.forced_backends = backends.read_environment()
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
        """The lock of the model: loops that share a model take turns."""
        return self.model.lock

    @property
    def device(self) -> torch.device:
        """The device of the buffers."""
        return self._film.device

    @joins
    @without_autocast
    def renew(self, *, text: TextEmbedding | None = None, **pictures: torch.Tensor) -> None:
        """Compute everything again, for these prompts and pictures (of the same shapes) and the present weights.

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
        """The ``buffer`` ``[steps, batch * W]`` with ``values`` ``[steps, W]`` in the columns of ``row``; a new one for None."""
        steps, width = values.shape
        if buffer is None:
            buffer = values.new_empty(steps, self.batch * width)
        buffer.view(steps, self.batch, width)[:, row].copy_(values)
        return buffer

    @joins
    def tell(self, text: TextEmbedding | None) -> None:
        """Write the attention layers' keys and values for other prompts; the tables of scales and shifts stay as they are."""
        keys = self.model.text_keys(text)
        if self._text:
            for buffer, new in zip(self._text, keys, strict=True):
                if buffer is not None and new is not None:
                    buffer.copy_(new)
        else:
            self._text = [None if key is None else key.clone() for key in keys]

    def empty_inputs(self, count: int, shape: tuple[int, int, int]) -> torch.Tensor:
        """Uninitialised memory for the network's input, ``[count, C, H, W]``, in the layout and type that it reads fastest."""
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
        """The network's prediction.

        Args:
            inputs: as :meth:`empty_inputs` gives them, ``[B, C, H, W]``; with fewer than ``batch`` rows, the first ones.
            timesteps: not read; the loop's own list has them.
            rows: int64 ``[B]``, the indices of the timesteps in that list.
            shallow: use the result of the deep levels from the last full step, for which :meth:`remember_deep` was called.

        Returns:
            ``[B, 2 C, H, W]``.
        """
        conditioning = self._conditioning_of(len(inputs))
        with backends.bound(self.forced_backends), self.model.step():
            if self._table is not None:
                torch.index_select(self._table, 0, rows[:1], out=self._film.view(1, -1))
            elif self._emb is not None:
                emb = self._emb.index_select(0, rows[:1]).view(self.batch, -1)
                self._film.copy_(self.model._films.each(emb))
            return self.model._torso(inputs, conditioning, self.deep, shallow)

    def remember_deep(self) -> None:
        """From now on keep the result of the deep levels of each full step, for shallow steps."""
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
    """The ``buffer`` with ``value`` written to it; for None a new buffer."""
    return value.clone(memory_format=torch.preserve_format) if buffer is None else buffer.copy_(value)
