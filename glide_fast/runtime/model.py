"""The class of the models that :func:`glide_fast.runtime.accelerate` returns: a UNet's own class, computing in another way."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from glide_fast.errors import BackendError, InvalidInputError, invalid
from glide_fast.models.conditioning import WiderInput
from glide_fast.models.layers import timestep_embedding
from glide_fast.models.text2im import Text2ImUNet, TextEmbedding
from glide_fast.models.unet import UNetModel
from glide_fast.ops import arena, backends, dependent_launch
from glide_fast.ops.convolution.packed_weight import (
    PackedWeight,
    dense_state_dict_hook,
    forget_dense_state_dict_hook,
)
from glide_fast.runtime.autocast import without_autocast
from glide_fast.runtime.bound import Bound
from glide_fast.runtime.derived import written
from glide_fast.runtime.explain import Explained, explain
from glide_fast.runtime.fair_lock import FairLock, joins
from glide_fast.runtime.features import ALL, Features
from glide_fast.runtime.films import Films
from glide_fast.runtime.remembered import Remembered
from glide_fast.runtime.structure import MODULE_HOOKS, Structure
from glide_fast.runtime.torso import Conditioning, Torso
from glide_fast.runtime.uncompiled import uncompiled
from glide_fast.runtime.watched import watched

if TYPE_CHECKING:
    from typing_extensions import Self

NO_GRADIENTS = (
    "x: gradients are wanted, and an accelerated model computes none; accepted: a call under torch.no_grad(), "
    "or the model before accelerate()"
)

LAID_OUT = (
    "as accelerate() has laid the weights out; for another device or type call it after .to() and convert_to_fp16(), "
    "or give it device= and dtype= (model.plain() is the plain model)"
)

FUSED = "an accelerated model runs on fused operations already; compile model.plain() to compare"

ENGINE_STATE = (
    "lock",
    "_torso",
    "_films",
    "_structure",
    "_remembered_text",
    "_remembered_keys",
    "_remembered_shares",
    "_defer",
    "_batch",
    "_image_size",
    "features",
    "forced_backends",
)
"""Attributes of an accelerated model that a plain one does not have."""


if TYPE_CHECKING:
    _Model = Text2ImUNet  # models without text have fewer methods, and fewer are called
else:
    _Model = UNetModel


class Accelerated(_Model):
    """Mixed into a UNet class in front of it; see :func:`glide_fast.runtime.accelerate`."""

    plain_class: ClassVar[type[UNetModel]]
    """The class of glide_fast that the model was made from."""
    official_class: ClassVar[type[nn.Module] | None]
    """The official package's class that it was made from as well, if it was."""
    restored: ClassVar[Callable[..., Accelerated]]
    """Makes an accelerated model of a plain one and what else a pickle holds; see :meth:`__reduce_ex__`."""

    def start(self, *, defer: bool, batch: int, image_size: int, features: Features = ALL) -> None:
        """Set up all that computes, for weights that :mod:`glide_fast.runtime.layout` has laid out."""
        self._defer, self._batch, self._image_size, self.features = defer, batch, image_size, features
        self.forced_backends = backends.read_environment()
        if "lock" not in vars(self):  # after a restart, other threads may be waiting for it
            self.lock = FairLock()
        self._torso = Torso(self, defer, features)
        self._films = Films(self._torso.residuals)
        self._remembered_text: Remembered[Any] = Remembered()
        self._remembered_keys: Remembered[list[torch.Tensor]] = Remembered()
        self._remembered_shares: Remembered[torch.Tensor] = Remembered()
        dense_state_dict_hook(self)
        self._structure = Structure(self)
        # Writes to the weights behind what is remembered must be noticed from now on, not only from the first call on.
        if isinstance(self, Text2ImUNet):
            self._text_stamp()
            self._keys_stamp()

    @joins
    def restart(self) -> None:
        """Compute again all that is computed from the weights, after they were moved."""
        self._structure.check()
        self.start(defer=self._defer, batch=self._batch, image_size=self._image_size, features=self.features)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._films.bias.device

    @property
    def accelerated_for(self) -> tuple[int, int]:
        """The batch and the image size that the weights are packed for; others work as well."""
        return self._batch, self._image_size

    def addresses(self) -> Hashable:
        """The address of every weight that a step reads. A recording of kernels is valid as long as this stays the same."""
        weights = tuple(
            (id(tensor), tensor.version) if isinstance(tensor, PackedWeight) else tensor.data_ptr()
            for tensor in (*self.parameters(), *self.buffers())
        )
        return (*weights, *(one.addresses() for one in self._torso.convolve.in_fp8.values()))

    @joins
    def refresh(self) -> None:
        """Forget all that was computed from weights, prompts and pictures; the next call computes it again.

        Weights that are written to in place (through ``.data`` too), loaded or replaced are noticed without this, at the next
        call. Writes through raw memory (``numpy()``, DLPack, ``untyped_storage()``) are noticed when a loop starts
        (:meth:`bind`, a pipeline's call); after such writes, call this before a direct call of the model.
        """
        for memory in (self._remembered_text, self._remembered_keys, self._remembered_shares):
            memory.clear()
        self.cache = None
        self._films.refresh()
        self._torso.forget()

    def look(self) -> None:
        """Check, before each loop, whether weights that the torso keeps parts of were changed in a way that no counter shows.

        Raises:
            InvalidInputError: for replaced layers, hooks and the like, which a loop would not call.
        """
        self._structure.check_for_loop()
        self._torso.look()

    @contextmanager
    def step(self) -> Iterator[None]:
        """A block for one step, with kernels launched early where the features say so.

        On a CPU its tensors lie in memory that all steps share; see :mod:`glide_fast.ops.arena`.
        """
        memory = arena.scope(self.device) if self.features.arena else nullcontext()
        with dependent_launch.allowed(self.features.dependent_launch), memory:
            yield

    # What depends on prompts and pictures only; computed once for each of them.

    @property
    def text_dtype(self) -> torch.dtype:
        """The type of the text transformer's activations: for bf16 it is fp32, with weights in bf16.

        The transformer runs once for each prompt, and its error is the same at every step; half of the error came from rounding
        the activations.
        """
        return torch.float32 if self.dtype == torch.bfloat16 else self.dtype

    @uncompiled(FUSED)
    @joins
    @without_autocast
    def encode_text(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> TextEmbedding:
        """As the plain model's; the result for the same tensors is remembered, as long as nothing is written to them or to it."""
        self._structure.check()

        def encode() -> TextEmbedding:
            with backends.bound(self.forced_backends):
                return super(Accelerated, self).encode_text(tokens, mask)

        if not self.features.cached_text:
            return encode()
        embedding: TextEmbedding = self._remembered_text.get(
            (tokens, mask),
            encode,
            self._text_stamp(),
            shown=lambda embedding: (embedding["xf_proj"], embedding["xf_out"]),
        )
        return embedding.copy()

    def _text_stamp(self) -> Hashable:
        return tuple(written(watched(tensor)) for tensor in super().text_tensors())

    def text_tensors(self) -> list[torch.Tensor]:
        """The tensors that the plain model's encoded text depends on, and those that :meth:`text_keys` reads."""
        return [*super().text_tensors(), *self._keys_tensors()]

    def _keys_tensors(self) -> Iterator[torch.Tensor]:
        if not self.xf_width:
            return iter(())
        return (tensor for block in self._torso.attentions for tensor in block.encoder_kv.parameters())

    def _keys_stamp(self) -> Hashable:
        return tuple(written(watched(tensor)) for tensor in self._keys_tensors())

    @joins
    @without_autocast
    def text_keys(self, text: TextEmbedding | None) -> list[torch.Tensor] | list[None]:
        """The text's keys and values for every attention block: ``[N, 2 C, S]``, a token's channels adjacent in memory."""
        blocks = self._torso.attentions
        if text is None:
            return [None] * len(blocks)
        if "keys" in text:
            return text["keys"]
        xf_out = text["xf_out"]
        projections = [block.encoder_kv for block in blocks]

        def make() -> list[torch.Tensor]:
            rows = xf_out.to(self.dtype).transpose(1, 2)
            return [F.linear(rows, p.weight.flatten(1), p.bias).transpose(1, 2) for p in projections]

        if not self.features.cached_text:
            return make()
        return self._remembered_keys.get((xf_out,), make, self._keys_stamp())

    @joins
    def forget_shares(self) -> None:
        """Forget what :meth:`share` remembers."""
        self._remembered_shares.clear()

    @joins
    def share(self, x: torch.Tensor, pictures: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """What the pictures beside ``x`` add to the first convolution's result; None if there are none to add."""
        if not isinstance(self, WiderInput) or not self.features.share:
            return None
        first = self._torso.first
        return self._remembered_shares.get(
            pictures,
            lambda: self._torso.share(torch.cat(self.beside(x, *pictures), dim=1)),
            (tuple(x.shape), written(first.weight), written(first.bias)),
        )

    def pictures_beside(
        self, x: torch.Tensor, pictures: Sequence[torch.Tensor | None]
    ) -> torch.Tensor | None:
        """The pictures themselves, as they are laid beside ``x``, for models that read them with it; None for others."""
        if not isinstance(self, WiderInput) or self.features.share:
            return None
        joined = torch.cat(self.beside(x, *pictures), dim=1)
        return joined.to(self.dtype, memory_format=torch.channels_last)

    def embedding(
        self, timesteps: torch.Tensor, xf_proj: torch.Tensor | None, y: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``[N, 4 * model_channels]`` of timesteps ``[N]``, text and label."""
        emb: torch.Tensor = self.time_embed(timestep_embedding(timesteps, self.model_channels))
        if y is not None:
            emb = emb + self.label_emb(y)
        return emb if xf_proj is None else emb + xf_proj.to(emb)

    # One call.

    @uncompiled(FUSED)
    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The plain model's call and arguments."""
        names = self.picture_names if isinstance(self, WiderInput) else ()
        # Behind the pictures come tokens and mask, or the label.
        rest = ("tokens", "mask") if hasattr(self, "encode_text") and hasattr(self, "xf_width") else ("y",)
        accepted = (*names, *rest, *(("text",) if rest[0] == "tokens" else ()))
        if len(args) > len(names) + len(rest):
            raise invalid(
                "args", f"{len(args) + 2} positional arguments", f"x, timesteps, {', '.join(accepted)}"
            )
        arguments = dict(zip((*names, *rest), args, strict=False))
        unknown = [name for name in kwargs if name not in accepted or name in arguments]
        if unknown:
            raise TypeError(
                f"forward() got {', '.join(unknown)}; it takes x, timesteps, {', '.join(accepted)}"
            )
        arguments |= kwargs
        if torch.is_grad_enabled() and x.requires_grad:
            raise InvalidInputError(NO_GRADIENTS)
        if (
            torch._C._get_tracing_state() is not None
        ):  # the trace would contain what was computed from the prompt and the weights before
            raise BackendError("torch.jit.trace: an accelerated model cannot be traced; trace model.plain()")
        self._structure.check()
        with torch.no_grad():
            return self.lock.join(
                self._predict, x, timesteps, arguments, [arguments.get(name) for name in names]
            )

    @without_autocast
    def _predict(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        arguments: Mapping[str, Any],
        pictures: Sequence[torch.Tensor | None],
    ) -> torch.Tensor:
        text = self._text(arguments)
        if (arguments.get("y") is None) != (self.num_classes is None):
            raise invalid("y", arguments.get("y"), "a label if and only if num_classes is set")
        emb = self.embedding(timesteps, None if text is None else text["xf_proj"], arguments.get("y"))
        self._films.refresh()
        conditioning = Conditioning(
            self._films.split(self._films.rows(emb)),
            self.text_keys(text),
            self.share(x, pictures),
            self.pictures_beside(x, pictures),
        )
        with backends.bound(self.forced_backends), self.step():
            result = self._torso(x.to(dtype=self.dtype, memory_format=torch.channels_last), conditioning)
        # The caller may keep it for long: it gets memory of its own.
        return result.to(x.dtype, memory_format=torch.contiguous_format, copy=True)

    def _text(self, arguments: Mapping[str, Any]) -> TextEmbedding | None:
        if not getattr(self, "xf_width", 0):
            return None
        if arguments.get("text") is not None:
            return arguments["text"]  # type: ignore[no-any-return]
        if arguments.get("tokens") is None:
            raise invalid("tokens", None, "integers of shape [N, text_ctx], or an encoded prompt as `text`")
        embedding: Any = self.get_text_emb(arguments["tokens"], arguments.get("mask"))
        return embedding  # type: ignore[no-any-return]

    # All steps of a loop.

    @joins
    def bind(
        self,
        timesteps: Sequence[int],
        batch: int,
        shape: tuple[int, int, int],
        *,
        text: TextEmbedding | None = None,
        **pictures: torch.Tensor,
    ) -> Bound:
        """The network for a loop over these ``timesteps``; all that is known before the loop is computed now.

        Args:
            timesteps: of the original process; the loop then gives the index of a step in this list.
            batch: rows of the network's call.
            shape: ``(C, H, W)`` of a state.
            text: of :meth:`encode_text`, ``batch`` prompts.
            pictures: the class's own (``low_res``, ``inpaint_image``, ``inpaint_mask``).
        """
        return Bound(self, timesteps, batch, shape, text=text, **pictures)

    def explain(self, batch: int | None = None) -> Explained:
        """Run one step on made-up values and return, for ``print``, which backend ran each op, and why.

        Args:
            batch: rows of the network's call; None is what the weights are laid out for.
        """
        return explain(self, batch)

    # What changes weights.

    def convert_to(self, dtype: torch.dtype) -> None:
        """InvalidInputError for another type than the weights have: they are laid out for theirs."""
        if dtype != self.dtype:
            raise invalid("dtype", _name(dtype), f"{_name(self.dtype)}, {LAID_OUT}")

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Called by ``to``, ``cuda``, ``half`` and the like: InvalidInputError unless they would change nothing."""
        for dtype, device in {(p.dtype, p.device) for p in (*self.parameters(), *self.buffers())}:
            moved = fn(torch.empty(0, dtype=dtype, device=device))
            if (moved.dtype, moved.device) != (dtype, device):
                raise invalid(
                    "to",
                    f"{_name(moved.dtype)} on {moved.device} for weights that are {_name(dtype)} on {device}",
                    f"where and as they are, {LAID_OUT}",
                )
        return self

    @joins
    def move(self, device: torch.device) -> None:
        """Move the weights to ``device`` without changing their layout, which ``to`` refuses.

        On another kind of device than the one that they are laid out for, they can only wait.
        """
        torch.nn.Module._apply(self, lambda tensor: tensor.to(device))
        # What was computed from the weights is still on the old device.
        self.restart()

    def share_memory(self) -> Self:
        """Raises InvalidInputError: packed weights cannot lie in shared memory."""
        raise invalid(
            "share_memory", "an accelerated model", "a plain one; call accelerate() in each process"
        )

    def del_cache(self) -> None:
        """As the plain model's, which forgets the cached prompt; this forgets all that :meth:`refresh` does."""
        self.refresh()

    @joins
    def plain(self) -> UNetModel:
        """A plain model, of the class that this one was made from, with a copy of the weights in their present types."""
        return self.to_plain()

    @torch.inference_mode(False)
    @torch.no_grad()
    def to_plain(self, hooks: bool = True) -> UNetModel:
        """As :meth:`plain`, without taking the lock; on request without the model's own hooks."""
        dense: dict[int, Any] = {
            id(p): nn.Parameter(
                p.dense()
                if isinstance(p, PackedWeight)
                else p.detach().clone(memory_format=torch.contiguous_format)
            )
            for p in self.parameters()
        }
        if hasattr(self, "tokenizer"):  # it never changes, and is slow to copy
            dense[id(self.tokenizer)] = self.tokenizer
        twin: Any = self.plain_class.__new__(self.plain_class)
        dense[id(self)] = twin  # for hooks whose objects hold the model
        kept = {name: value for name, value in vars(self).items() if name not in ENGINE_STATE}
        if not hooks:
            kept |= {name: OrderedDict() for name in own_hooks(self)}
        twin.__dict__ = copy.deepcopy(kept, dense)
        forget_dense_state_dict_hook(twin)
        return twin.eval()  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For pickle and copy: the plain model, which is accelerated again. ``copy.copy``, too, copies the weights."""
        batch, image_size = self.accelerated_for
        bare = self.lock.join(self.to_plain, hooks=False)
        # As the state, which is restored last: hooks may hold a reference to the model, which exists by then.
        hooks = {name: held.copy() for name, held in own_hooks(self).items()}
        arguments = (bare, self.official_class, self.dtype, batch, image_size, self.features)
        return type(self).restored, arguments, hooks

    def __deepcopy__(self, memo: dict[int, Any]) -> Accelerated:
        rebuild, arguments, hooks = self.__reduce_ex__(4)
        twin: Accelerated = rebuild(*arguments)
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(hooks, memo))
        return twin


def own_hooks(model: nn.Module) -> dict[str, Any]:
    """The attributes that hold what a call of this module runs beside ``forward``."""
    return {name: vars(model)[name] for name in MODULE_HOOKS}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
