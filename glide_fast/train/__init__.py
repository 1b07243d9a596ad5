"""Training, which the official release does not include."""

from glide_fast.train.config import TrainConfig
from glide_fast.train.loop import Trainer, resume

__all__ = ["TrainConfig", "Trainer", "resume"]
