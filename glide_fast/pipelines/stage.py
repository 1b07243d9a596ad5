"""A stage of a pipeline: one UNet, its options, and the diffusion processes it can be sampled with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from glide_fast.checkpoints.directory import ModelDirectory
from glide_fast.checkpoints.fit import require_fit
from glide_fast.diffusion.respacing import SpacedDiffusion
from glide_fast.errors import invalid
from glide_fast.models.config import Options, complete
from glide_fast.models.factory import build, create_gaussian_diffusion
from glide_fast.models.text2im import Text2ImUNet
from glide_fast.models.uninitialised import Uninitialised
from glide_fast.pipelines.agreement import UNET, unet_options
from glide_fast.pipelines.conditioning import PromptEncoder
from glide_fast.runtime.accelerate import accelerate
from glide_fast.runtime.fair_lock import FairLock, joins, takes_turns
from glide_fast.runtime.layout import converted_modules
from glide_fast.runtime.loops import LoopCache
from glide_fast.runtime.model import Accelerated
from glide_fast.runtime.recording import Recorder
from glide_fast.runtime.trim import trim

Ready = Callable[["Stage"], object]
"""Called with a stage just read, whose weights have the types that the file has: moves and converts it with :meth:`Stage.to` or
:meth:`Stage.accelerate`."""


_PROCESSES = 8
"""How many diffusion processes a stage keeps, those used last; one of 1,000 steps takes 95 KB."""

_locks: WeakKeyDictionary[nn.Module, FairLock] = WeakKeyDictionary()
"""The lock of each model that is in a stage; stages that share a model share its lock."""

_sharers: WeakKeyDictionary[nn.Module, WeakSet[Stage]] = WeakKeyDictionary()
"""For each model, the stages that have it."""


class Stage:
    """A text-conditional UNet with the options it was built from.

    Args:
        model: the network; it is put into evaluation mode, now and before every sampling.
        options: of :mod:`glide_fast.models.config`; an option that is left out has its default.
    """

    def __init__(self, model: Text2ImUNet, options: Mapping[str, Any]) -> None:
        _require_unet(model)
        self.options: Options = complete(options)
        self.loops = LoopCache()
        self.recorder: Recorder | None = None
        """Captures the stage's loops; the stages of a pipeline share one recorder."""
        self.whole_loop = False
        """Whether loops without a callback are recorded whole; see :class:`~glide_fast.runtime.captured.CapturedLoop`."""
        self.part_size: int | None = None
        """Images at once that fit into memory, as far as is known: halved by :class:`glide_fast.pipelines.parts.Attempt`."""
        self._processes: OrderedDict[str, SpacedDiffusion] = OrderedDict()
        self.lock = FairLock()
        """One thread at a time runs the stage's loops, or moves, converts or releases the stage."""
        self._use(model)

    @property
    def model(self) -> Text2ImUNet:
        """The network. It can be replaced by another one, plain or accelerated, which is then put into evaluation mode; all that
        was kept of the former (loops, the encoded empty prompt) is dropped.

        Setting it raises InvalidInputError for anything but a text-conditional UNet of glide_fast, and ReentrantCallError in a
        callback of a call that runs the former.
        """
        return self._model

    @model.setter
    @takes_turns
    def model(self, model: Text2ImUNet) -> None:
        _require_unet(model)
        self._replace(model)

    def _replace(self, model: Text2ImUNet) -> None:
        self.loops.release()
        self.part_size = None
        _sharers[self._model].discard(self)
        self._use(model)

    def _use(self, model: Text2ImUNet) -> None:
        self._model = model.eval()
        self.prompts = PromptEncoder(model)
        self.lock = _locks.setdefault(model, self.lock)
        _sharers.setdefault(model, WeakSet()).add(self)

    def __getstate__(self) -> dict[str, Any]:
        """The stage without loops, recordings and values computed from the weights, which a copy computes again."""
        kept = vars(self).copy()
        kept["model"] = kept.pop("_model")
        for name in ("prompts", "loops", "recorder", "_processes"):
            del kept[name]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "model"})
        self.loops = LoopCache()
        self.recorder = None
        self._processes = OrderedDict()
        self._use(state["model"])

    @classmethod
    def fresh(cls, options: Mapping[str, Any]) -> Stage:
        """A stage with fresh fp32 weights on the CPU."""
        model, _ = build(complete(options))
        model.convert_to(torch.float32)
        return cls(model, options)

    @classmethod
    def from_state(
        cls, options: Mapping[str, Any], state: dict[str, Tensor], *, source: str, ready: Ready | None = None
    ) -> Stage:
        """A stage with the weights in ``state``, without holding any of them twice.

        Args:
            options: the options of the model.
            state: becomes empty: its tensors become the model's parameters.
            source: the name of the checkpoint in errors.
            ready: moves the new stage to its device and type; None leaves it in fp32 on the CPU.

        Raises:
            CheckpointError: where the weights do not fit; ``state`` is then not changed.
        """
        with Uninitialised():  # every value is replaced
            model, _ = build(complete(options))
        require_fit(model, state, source=source)
        converted = {
            id(parameter)
            for module in converted_modules(model)
            for parameter in module.parameters(recurse=False)
        }
        for name, own in model.state_dict(keep_vars=True).items():
            value = state.pop(name).detach()
            # What is converted later keeps the file's type until then.
            own.data = value if id(own) in converted else value.to(own.dtype)
        stage = cls(model, options)
        if ready is None:
            stage.to(torch.device("cpu"), torch.float32)
        else:
            ready(stage)
        trim()
        return stage

    @classmethod
    def from_directory(cls, directory: ModelDirectory, *, ready: Ready | None = None) -> Stage:
        """A stage from a model directory, whose options are checked, against its weights too, before anything is built.

        See :meth:`from_state`. Raises CheckpointError as :func:`glide_fast.pipelines.agreement.unet_options`.
        """
        options = unet_options(directory)
        return cls.from_state(options, directory.read(mmap=False), source=str(directory.path), ready=ready)

    @joins
    def component(self) -> tuple[str, Options, dict[str, Tensor]]:
        """Kind of model, options and state dict, as a model directory holds them for :meth:`from_directory`."""
        return UNET, self.options, self.model.state_dict()

    @property
    def image_size(self) -> int:
        """Pixels on a side."""
        return int(self.options["image_size"])

    @property
    def steps(self) -> int:
        """Steps of the process that the model was trained on."""
        return int(self.options["diffusion_steps"])

    @property
    def inpaints(self) -> bool:
        """Whether the model reads a masked picture and its mask."""
        return bool(self.options["inpaint"])

    @property
    def upsamples(self) -> bool:
        """Whether the model reads a low-resolution picture."""
        return bool(self.options["super_res"])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def accelerated(self) -> bool:
        """Whether the model runs on the fused operations of :mod:`glide_fast.runtime`."""
        return isinstance(self.model, Accelerated)

    @takes_turns
    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the model, and convert its torso."""
        self.part_size = None
        if not isinstance(self.model, Accelerated):
            self.model.to(device)
            self.model.convert_to(dtype)
        elif (self.device, self.model.dtype) != (device, dtype):
            self._accelerate(self.model.plain(), device, dtype)

    @takes_turns
    def move(self, device: torch.device) -> None:
        """Move the model's weights without changing their layout, and release its loops.

        An accelerated model cannot run on another type of device with this layout; :meth:`to` lays it out for that.
        """
        if self.device == device:
            return
        self.loops.release()
        if isinstance(self.model, Accelerated):
            self.model.move(device)
        else:
            self.model.to(device)
        self.prompts = PromptEncoder(self.model)

    @takes_turns
    def accelerate(self, device: torch.device, dtype: torch.dtype | None) -> None:
        """Replace a plain model by an accelerated one; see :func:`glide_fast.runtime.accelerate`.

        The weights are taken out of the plain model, which cannot be used afterwards. They are copied instead where another
        stage has the same model.
        """
        if not isinstance(self.model, Accelerated):
            self._accelerate(self.model, device, dtype)

    def _accelerate(self, plain: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
        self.loops.release()  # their memory, before more is taken
        model = accelerate(
            plain,
            dtype=dtype,
            device=device,
            batch=1 if self.upsamples else 2,
            image_size=self.image_size,
            take=len(_sharers.get(plain, ())) <= 1,
        )
        assert isinstance(model, Text2ImUNet)
        self._replace(model)

    @takes_turns
    def release(self) -> None:
        """Free all memory that is kept for speed only: loops, their buffers, diffusion processes."""
        self.loops.release()
        self._processes.clear()

    @takes_turns
    def refresh(self) -> None:
        """Forget all that was computed from the weights; see :meth:`GlidePipeline.refresh`."""
        self.prompts.refresh()
        if isinstance(self.model, Accelerated):
            self.model.refresh()

    @joins
    def process(self, respacing: str) -> SpacedDiffusion:
        """The diffusion process on the steps that ``respacing`` selects
        (:func:`glide_fast.diffusion.respacing.space_timesteps`); those used last are kept."""
        if respacing not in self._processes:
            self._processes[respacing] = create_gaussian_diffusion(
                self.steps, self.options["noise_schedule"], respacing
            )
            if len(self._processes) > _PROCESSES:
                self._processes.popitem(last=False)
        self._processes.move_to_end(respacing)
        return self._processes[respacing]


def _require_unet(model: object) -> None:
    if not isinstance(model, Text2ImUNet):
        raise invalid("model", type(model).__name__, "a model built by glide_fast.models.factory")
