"""What a caption of a single object asks a picture to show, read from caption records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glide_fast.data.dataset import SceneDataset
from glide_fast.errors import InvalidInputError, invalid
from glide_fast.evaluate.classifier import JudgeSpec

ABSENT = -1
"""Label of an attribute that a picture does not have; losses and scores leave it out."""


@dataclass(frozen=True)
class Target:
    """What a caption of a single object asks for; empty strings where it asks for nothing."""

    colour: str = ""
    shape: str = ""
    concept: str = ""


def target_of(record: dict[str, Any]) -> Target | None:
    """The target of a caption record, or None for scenes of several objects.

    Args:
        record: a line of a data set's captions.jsonl, or an entry of
            :func:`glide_fast.data.scenes.held_out_captions`.

    Raises:
        InvalidInputError: the record has neither form.
    """
    attributes = record.get("attributes", record)
    try:
        kind = attributes["kind"]
        if kind == "relation":
            return None
        thing = attributes["objects"][0] if "objects" in attributes else attributes
        if kind == "emoji":
            return Target(concept=thing["name"])
        return Target(colour=thing["colour"], shape=thing["name"])
    except (KeyError, IndexError, TypeError) as error:
        raise invalid("captions", record, "records with kind, name and colour, or with attributes") from error


def labels(targets: Sequence[Target], spec: JudgeSpec) -> dict[str, Tensor]:
    """Class numbers for each head, int64 [N]; ABSENT where a target has none or ``spec`` does not know it."""

    def numbers(names: Iterable[str], classes: tuple[str, ...]) -> Tensor:
        index = {name: i for i, name in enumerate(classes)}
        return torch.tensor([index.get(name, ABSENT) for name in names], dtype=torch.int64)

    return {
        "colour": numbers((t.colour for t in targets), spec.colours),
        "shape": numbers((t.shape for t in targets), spec.shapes),
        "concept": numbers((t.concept for t in targets), spec.concepts),
    }


def single_objects(dataset: SceneDataset, limit: int | None = None) -> tuple[NDArray[np.uint8], list[Target]]:
    """Pictures (uint8 [N, S, S, 3]) and targets of the first ``limit`` single-object scenes of a data set."""
    chosen = [(i, t) for i, record in enumerate(dataset.records) if (t := target_of(record)) is not None][
        :limit
    ]
    if not chosen:
        raise InvalidInputError("data: the data set has no scene of a single object")
    return dataset.images[[i for i, _ in chosen]], [t for _, t in chosen]
