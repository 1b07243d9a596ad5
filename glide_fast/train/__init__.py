"""Training: what the official release left out."""

from glide_fast.train.config import TrainConfig
from glide_fast.train.loop import Trainer, resume

__all__ = ["TrainConfig", "Trainer", "resume"]
