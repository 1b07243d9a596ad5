"""The training loop: a small text-to-image model or its upsampler, resumable after a kill at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from glide_fast.checkpoints import load_into, save_directory
from glide_fast.data.dataset import SceneDataset
from glide_fast.diffusion.respacing import SpacedDiffusion
from glide_fast.errors import CheckpointError, GlideFastError, invalid
from glide_fast.models.factory import build, create_gaussian_diffusion
from glide_fast.models.layers import CompactEmbedding
from glide_fast.runtime.placement import resolve_device
from glide_fast.train.average import WeightAverage
from glide_fast.train.batches import Batch, Batches, caption_tokens, used_tokens
from glide_fast.train.config import TrainConfig
from glide_fast.train.interrupt import DeferredInterrupt
from glide_fast.train.preview import PREVIEW_STEPS, base_preview, save_grid, upsampler_preview
from glide_fast.train.state import RunDirectory

PREVIEW_PICTURES = 36
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero over the last ``decay_fraction`` of the run."""
    rise = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    decaying = max(config.steps * config.decay_fraction, 1.0)
    return config.learning_rate * min(rise, 1.0, (config.steps - step) / decaying)


def loss_weights(config: TrainConfig, diffusion: SpacedDiffusion, t: torch.Tensor) -> torch.Tensor:
    """Weights ``[N]`` of the squared error of eps; see ``TrainConfig.weighting``."""
    if config.weighting == "eps":
        return torch.ones(t.shape, device=t.device)
    abar = torch.from_numpy(diffusion.alphas_cumprod).to(t.device)[t]
    return (1 / abar).clamp(max=config.max_weight).float()  # 1 + 1 / SNR = 1 / abar


class Trainer:
    """One run in one directory.

    Args:
        config: the settings; for a run that is already in ``directory`` they must be the same as its settings.
        directory: where settings, log, checkpoint, samples and the exported model go.
        device: where to train; None takes the GPU where there is one.
        extend: ``config.steps`` may differ from the run's, and replaces it; at least the steps trained so far.

    :meth:`run` trains from the latest checkpoint to the last step and exports the averaged weights to ``directory/model``. Ctrl-C
    or SIGTERM saves a checkpoint and stops; a kill at any moment costs the steps since the last one, and nothing else.

    From its creation to the end of :meth:`run`, or to :meth:`close`, a trainer has the directory for itself: another one is
    refused before it writes anything.

    Raises:
        InvalidInputError: for settings that cannot be used, or differ from the run's; the run is then as it was.
        CheckpointError: for a checkpoint that cannot be read; the run is then as it was.
    """

    def __init__(
        self,
        config: TrainConfig,
        directory: str | Path,
        device: str | torch.device | None = "cpu",
        *,
        extend: bool = False,
    ) -> None:
        self.config, self.device = config, resolve_device(device)
        if config.precision == "fp16" and self.device.type == "cpu":
            raise invalid(
                "precision", "fp16", "bf16 or fp32 on a CPU, where fp16 is hundreds of times slower"
            )
        self.files = RunDirectory(directory)
        self.files.check(config, extend=extend)
        data = SceneDataset(config.data, argument="data")
        tokens, mask = caption_tokens(data.captions, config.options()["text_ctx"])
        self.options = config.build_options(len(used_tokens(tokens)) + 1)
        self.batches = Batches(config, data, tokens, mask)
        self.captions = list(dict.fromkeys(data.captions[: 4 * PREVIEW_PICTURES]))[:PREVIEW_PICTURES]

        self._lock = self.files.lock()
        try:
            self._begin(tokens, extend=extend)
        except BaseException:
            self.close()
            raise

    def _begin(self, tokens: torch.Tensor, *, extend: bool) -> None:
        """Build the model, take the checkpoint's state, and record the settings; the directory is locked."""
        config = self.config
        self.files.check(config, extend=extend)  # another trainer may have begun a run since the first look
        torch.manual_seed(config.seed)
        self.model, self.diffusion = build(self.options)
        if isinstance(self.model.token_embedding, CompactEmbedding):
            self.model.token_embedding.assign(used_tokens(tokens))
        self.model.to(self.device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = WeightAverage(self.model, config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, (0.9, 0.99), weight_decay=config.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.step = 0

        state = self.files.load()
        if state is not None:
            if config.steps < state["step"]:
                raise invalid(
                    "extend_to", config.steps, f"at least {state['step']}, the steps trained so far"
                )
            self._restore(state)
        self._saved = self.step
        self.files.start(config)
        self.files.rewind_log(self.step)
        self.files.drop_samples(self.step)
        self.forward: Callable[..., torch.Tensor] = (
            torch.compile(self.model, dynamic=False) if config.compile else self.model
        )

    def close(self) -> None:
        """Let another trainer have the directory; :meth:`run` does so at its end."""
        self._lock.release()

    def save(self) -> None:
        """Write a checkpoint of the present step."""
        self.files.save(self._state())
        self._saved = self.step

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        source = str(self.files.checkpoint_path)
        load_into(self.model, state["model"], source=source)
        load_into(self.average.model, state["average"], source=source)
        for name, part in (("optimizer", self.optimizer), ("scaler", self.scaler)):
            try:
                part.load_state_dict(state[name])
            except Exception as error:  # both read the state without checking its structure
                raise CheckpointError(
                    f"{source}: its {name} does not fit the run's ({type(error).__name__}: {error})"
                ) from error
        self.step = state["step"]

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Per-sample losses of one batch, in the run's precision."""
        inputs = {name: value.to(self.device) for name, value in batch.inputs.items()}
        dtype = _AUTOCAST.get(self.config.precision)
        autocast = torch.autocast(self.device.type, dtype=dtype) if dtype else contextlib.nullcontext()

        def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            with autocast:
                out = self.forward(x.contiguous(memory_format=torch.channels_last), t, **inputs)
            return out.float()

        t = batch.t.to(self.device)
        losses = self.diffusion.training_losses(
            network, batch.x0.to(self.device), t, noise=batch.noise.to(self.device)
        )
        losses["loss"] = losses["mse"] * loss_weights(self.config, self.diffusion, t) + losses["vb"]
        return losses

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the batch's mean losses and the gradient norm."""
        # Dropout draws from the global generator: tied to the step, a resumed run draws the same.
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.losses(self.batches[self.step])
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses["loss"].mean()).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.model, self.step)
        self.step += 1
        return {name: float(value.detach().mean()) for name, value in losses.items()} | {
            "grad_norm": float(norm),
            "lr": rate,
        }

    def preview(self) -> Path:
        """Write a grid of samples of the averaged model."""
        self.files.samples_path.mkdir(exist_ok=True)
        path = self._preview_path()
        diffusion = create_gaussian_diffusion(
            self.options["diffusion_steps"], self.options["noise_schedule"], PREVIEW_STEPS
        )
        model, seed = self.average.model, self.config.seed
        if self.batches.super_res:
            batch = self.batches[0]
            few = Batch(
                batch.x0[:8], batch.t[:8], batch.noise[:8], {k: v[:8] for k, v in batch.inputs.items()}
            )
            save_grid(path, upsampler_preview(model, diffusion, few, seed), 6)
        else:
            save_grid(path, base_preview(model, diffusion, self.captions, self.batches.size, seed), 6)
        return path

    def _preview_path(self) -> Path:
        return self.files.samples_path / f"{self.step:07d}.png"

    def _preview_if_due(self) -> None:
        """Draw the present step's preview unless it is there: a run that was stopped between its checkpoint and it has none."""
        every = self.config.sample_every
        if every and self.step and self.step % every == 0 and not self._preview_path().exists():
            self.preview()

    def export(self) -> Path:
        """Write the averaged weights in the directory format."""
        save_directory(self.files.export_path, "unet", self.options, self.average.model.state_dict())
        return self.files.export_path

    def run(self, progress: bool = True) -> Path:
        """Train to the last step, with a bar on standard error unless ``progress`` is False.

        Returns the exported model's directory. Ctrl-C or SIGTERM lets the step end and saves; then the signal takes its course
        (Ctrl-C raises KeyboardInterrupt). The directory is free for another trainer afterwards.
        """
        if not self._lock.is_locked:
            raise GlideFastError("this trainer has ended; make another one to go on")
        try:
            with DeferredInterrupt() as interrupt:
                self._train(interrupt, progress)
            return self.export()
        finally:
            self.close()

    def _train(self, interrupt: DeferredInterrupt, progress: bool) -> None:
        """To the last step, or to the end of the step in which the interrupt came; a checkpoint holds it either way."""
        config = self.config
        start, pictures = time.monotonic(), 0
        with tqdm(total=config.steps, initial=self.step, unit="step", disable=not progress) as bar:
            self._preview_if_due()
            while self.step < config.steps and not interrupt.requested:
                values = self.train_step()
                pictures += config.batch_size
                bar.update()
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    rate = pictures / (time.monotonic() - start)
                    self.files.log({"step": self.step - 1, "images_per_second": round(rate, 2), **values})
                    bar.set_postfix(loss=f"{values['loss']:.4f}", images_per_s=f"{rate:.1f}")
                if self.step % config.save_every == 0 or last:
                    self.save()
                if not interrupt.requested:
                    self._preview_if_due()
        if self._saved != self.step:
            self.save()


def resume(
    directory: str | Path, device: str | torch.device | None = "cpu", *, extend_to: int | None = None
) -> Trainer:
    """The trainer of the run in ``directory``, at its latest checkpoint; with ``extend_to`` it ends at that step instead.

    From its present step on, an extended run has the learning rate of a run of ``extend_to`` steps: where the rate had
    begun to fall it rises again. Extended before that, the result is that of a run of ``extend_to`` steps from the start.
    """
    config = RunDirectory(directory).config()
    if config is None:
        raise invalid("directory", str(directory), "a directory in which a run was started")
    if extend_to is not None:
        config = dataclasses.replace(config, steps=extend_to)
    return Trainer(config, directory, device, extend=extend_to is not None)
