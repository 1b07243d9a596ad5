"""The counter of copies itself: what it must see, and what it must not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.traced import Copy, copies_of_activations
from torch import nn

X = torch.ones(2, 3, 4)


@pytest.mark.parametrize(
    ("run", "op", "shape"),
    [
        (lambda: torch.cat([X, X], dim=1), "aten.cat.default", (2, 6, 4)),
        (lambda: torch.stack([X, X]), "aten.stack.default", (2, 2, 3, 4)),
        (lambda: X.transpose(1, 2).contiguous(), "aten.clone.default", (2, 4, 3)),
        (lambda: X.transpose(1, 2).reshape(2, 12), "aten.clone.default", (2, 4, 3)),
        (lambda: X.transpose(1, 2).flatten(1), "aten.clone.default", (2, 4, 3)),
        (lambda: X[None].to(memory_format=torch.channels_last), "aten._to_copy.default", (1, 2, 3, 4)),
        (lambda: X.bfloat16().float(), "aten._to_copy.default", (2, 3, 4)),
        (lambda: X.double(), "aten._to_copy.default", (2, 3, 4)),
        (lambda: torch.empty(3, 4).copy_(X[0]), "aten.copy_.default", (3, 4)),
        (lambda: F.pad(X, (0, 1)), "aten.constant_pad_nd.default", (2, 3, 5)),
    ],
)
def test_copies_are_seen(run: Callable[[], object], op: str, shape: tuple[int, ...]) -> None:
    assert copies_of_activations(run) == [Copy(op, shape)]


def test_views_arithmetic_roundings_and_integers_are_no_copies() -> None:
    def run() -> None:
        x = X.transpose(1, 2)[:, 1:].unflatten(1, (3, 1)).expand(2, 3, 5, 3)
        out = torch.empty(2, 6, 4)
        torch.add(X, 1, out=out[:, :3])
        F.linear(X + 1, torch.ones(5, 4)).bfloat16()
        x.sum().float().clone()  # no dimension: a number
        torch.cat([torch.arange(3), torch.arange(3)]).float()

    assert copies_of_activations(run) == []


def test_weights_are_no_activations_but_what_is_made_of_them_is() -> None:
    layer = nn.Linear(4, 4)
    assert copies_of_activations(lambda: layer.weight.t().contiguous(), layer) == []
    assert copies_of_activations(lambda: layer.weight.double(), [layer.weight]) == []
    assert len(copies_of_activations(lambda: layer.weight.t().contiguous())) == 1
    assert len(copies_of_activations(lambda: layer(X).clone(), layer)) == 1


def test_copies_inside_a_layer_are_seen() -> None:
    layer = nn.MultiheadAttention(4, 2, batch_first=True)
    assert copies_of_activations(lambda: layer(X, X, X), layer)
