"""Scale and shift of every residual block in one matrix product, for one step or for all steps of a loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from glide_fast.models.unet import ResBlock


class Films:
    """The ``emb_layers`` of all residual blocks, joined.

    Their weights become views of one matrix, and their biases views of one vector. So later edits and ``load_state_dict`` take
    effect at once, and nothing is in memory twice.

    Args:
        blocks: in the order of the torso.
    """

    def __init__(self, blocks: Sequence[ResBlock]) -> None:
        self._layers: list[nn.Linear] = [block.emb_layers[1] for block in blocks]  # type: ignore[misc]
        self._widths = [layer.out_features for layer in self._layers]
        self._join()

    def _join(self) -> None:
        # In inference mode the parameters would become tensors without version counters.
        with torch.inference_mode(False), torch.no_grad():
            self.weight = torch.cat([layer.weight.detach() for layer in self._layers])
            self.bias = torch.cat([layer.bias.detach() for layer in self._layers])
            parts = zip(
                self._layers, self.weight.split(self._widths), self.bias.split(self._widths), strict=True
            )
            for layer, weight, bias in parts:
                layer.weight.data, layer.bias.data = weight, bias

    @property
    def width(self) -> int:
        """The sum of the widths of all blocks' layers."""
        return len(self.bias)

    def refresh(self) -> bool:
        """Join the layers again if a parameter was replaced (rather than written to). Returns whether one was."""
        whole = all(
            layer.weight.data_ptr() == weight.data_ptr() and layer.bias.data_ptr() == bias.data_ptr()
            for layer, weight, bias in zip(
                self._layers, self.weight.split(self._widths), self.bias.split(self._widths), strict=True
            )
        )
        if not whole:
            self._join()
        return not whole

    def rows(self, emb: torch.Tensor) -> torch.Tensor:
        """Scales and shifts ``[R, width]`` for embeddings ``[R, E]``."""
        return F.linear(F.silu(emb), self.weight, self.bias)

    def each(self, emb: torch.Tensor) -> torch.Tensor:
        """:meth:`rows`, on a CPU with each row by itself, so that its values do not depend on how many there are."""
        if emb.device.type != "cpu":
            return self.rows(emb)
        return torch.cat([self.rows(row) for row in emb.split(1)])

    def split(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each block's columns of ``rows`` ``[N, width]``, as views."""
        return rows.split(self._widths, dim=1)
