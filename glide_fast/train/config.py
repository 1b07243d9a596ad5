"""What a training run is: everything that decides its result, and so everything that a resumed run must repeat."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from glide_fast.errors import InvalidInputError, invalid
from glide_fast.models.config import check_options, complete
from glide_fast.models.fields import whole

PRECISIONS = ("bf16", "fp16", "fp32")
WEIGHTINGS = ("eps", "v")
SEED_LIMIT = 2**43
"""Every step's generator is seeded with a million times the seed and the step, in 64 bits."""

_WORDS = {
    dict: "options by name",
    str: "text",
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a run.

    Attributes:
        model: options of :func:`glide_fast.models.factory.build`; ``vocab_rows`` -1 asks for one row a token of the
            captions, and an upsampler's ``low_res_size`` is the side of its input.
        data: directory of a data set (see :mod:`glide_fast.data`).
        steps: optimiser steps in all; the learning rate falls to zero over the last ``decay_fraction`` of them. A run that is
            extended has from then on the rate of a run of its new length: it rises again where it had begun to fall.
        batch_size: pictures a step.
        learning_rate: AdamW's highest.
        warmup_steps: over which the learning rate rises linearly from zero.
        weight_decay: AdamW's.
        decay_fraction: last part of the run, over which the learning rate falls to zero.
        ema_decay: of the averaged weights that samples and the result use; early steps average over fewer.
        caption_dropout: share of empty captions, for classifier-free guidance (GLIDE: 0.2).
        unknown_dropout: chance that a token becomes the unknown word, so that its embedding is trained.
        inpaint_fraction: share of pictures shown with a random mask, for models with inpainting inputs.
        weighting: ``eps`` is the paper's loss; ``v`` multiplies by ``min(1 + 1 / SNR, max_weight)``, which learns colours and
            layouts sooner (Salimans & Ho 2022, section 4, as eps-loss weights).
        crop: side of random crops to train an upsampler on, 0 for whole pictures.
        precision: autocast type.
        compile: run the model through ``torch.compile``.
        seed: of initial weights, batches, noise and masks.
        log_every: steps between lines of the log.
        save_every: steps between checkpoints.
        sample_every: steps between grids of samples; 0 draws none.
    """

    model: dict[str, Any]
    data: str
    steps: int = 10_000
    batch_size: int = 32
    learning_rate: float = 5e-4
    warmup_steps: int = 200
    weight_decay: float = 0.01
    decay_fraction: float = 0.3
    ema_decay: float = 0.999
    caption_dropout: float = 0.2
    unknown_dropout: float = 0.02
    inpaint_fraction: float = 0.25
    weighting: str = "v"
    max_weight: float = 20.0
    crop: int = 0
    precision: str = "bf16"
    compile: bool = False
    seed: int = 0
    log_every: int = 20
    save_every: int = 500
    sample_every: int = 500

    def __post_init__(self) -> None:
        # Settings come from files too, where the annotations promise nothing.
        _check_type("model", self.model, dict)
        _check_type("data", self.data, str)
        for field in dataclasses.fields(self)[2:]:
            _check_type(field.name, getattr(self, field.name), type(field.default))
        options = self.options()
        defaults = complete({"super_res": options["super_res"]})
        for name, value in options.items():
            _check_type(f"model[{name!r}]", value, type(defaults[name]))
        if options["xf_width"] < 1:
            raise invalid(
                "model['xf_width']",
                options["xf_width"],
                "a positive integer: captions need a text transformer",
            )
        for name in ("steps", "batch_size", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise invalid(name, getattr(self, name), "an integer of at least 1")
        for name in ("warmup_steps", "crop", "sample_every", "seed", "weight_decay"):
            if getattr(self, name) < 0:
                raise invalid(name, getattr(self, name), "a number of at least 0")
        if self.seed >= SEED_LIMIT:
            raise invalid("seed", self.seed, f"an integer from 0 to {SEED_LIMIT - 1}")
        for name in ("decay_fraction", "ema_decay", "caption_dropout", "unknown_dropout", "inpaint_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise invalid(name, getattr(self, name), "a number from 0 to 1")
        for name in ("learning_rate", "max_weight"):
            if not getattr(self, name) > 0:
                raise invalid(name, getattr(self, name), "a positive number")
        if self.weighting not in WEIGHTINGS:
            raise invalid("weighting", self.weighting, " or ".join(WEIGHTINGS))
        if self.precision not in PRECISIONS:
            raise invalid("precision", self.precision, ", ".join(PRECISIONS))
        whole(-1, 100_000).check("model['vocab_rows']", options["vocab_rows"])
        if (
            "low_res_size" in self.model and not options["super_res"]
        ):  # an upsampler's is checked with its data
            whole(1, 4096).check("model['low_res_size']", self.model["low_res_size"])
        try:
            check_options(self.build_options(1))
        except InvalidInputError as error:
            name, colon, rest = str(error).partition(":")
            raise InvalidInputError(f"model[{name!r}]{colon}{rest}") from error

    def options(self) -> dict[str, Any]:
        """The model's options, completed with the defaults for this type of model (base, upsampler or inpainting)."""
        return complete({name: value for name, value in self.model.items() if name != "low_res_size"})

    def build_options(self, vocab_rows: int) -> dict[str, Any]:
        """Options to build the model with: ``vocab_rows`` is the number of stored words where the settings leave it open."""
        options = self.options() | {"use_fp16": False, "timestep_respacing": ""}
        return options | {"vocab_rows": vocab_rows} if options["vocab_rows"] < 0 else options

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored beside the checkpoints."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """The inverse of :meth:`to_json`; unknown names are an error."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise invalid("training settings", unknown, "only " + ", ".join(sorted(known)))
        missing = [name for name in ("model", "data") if name not in values]
        if missing:
            raise InvalidInputError(f"training settings: {' and '.join(missing)} missing")
        return cls(**values)

    def differences(self, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
        """Settings in which ``other`` would continue this run differently: name -> (here, there); a model's options apart."""
        free = {"log_every", "save_every", "sample_every", "compile", "data"}
        mine, theirs = self._flat(), other._flat()
        return {
            name: (mine.get(name), theirs.get(name))
            for name in mine | theirs
            if name not in free and mine.get(name) != theirs.get(name)
        }

    def _flat(self) -> dict[str, Any]:
        values = self.to_json()
        return {f"model[{name!r}]": value for name, value in values.pop("model").items()} | values


def _check_type(name: str, value: object, expected: type) -> None:
    if expected is float:
        # No NaN, no infinity, and no integer that is too large for a float.
        good = (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and abs(value) <= sys.float_info.max
        )
    else:
        good = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    if not good:
        raise invalid(name, value, _WORDS[expected])
