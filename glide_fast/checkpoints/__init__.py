"""Weights on disk: downloading them, reading and writing them, and fitting them into a model."""

from __future__ import annotations

from glide_fast.checkpoints.atomic import atomic_directory, atomic_write, write_text
from glide_fast.checkpoints.directory import (
    PipelineDirectory,
    convert_official,
    read_directory,
    read_pipeline_directory,
    save_directory,
    save_pipeline_directory,
)
from glide_fast.checkpoints.download import MODEL_PATHS, default_cache_dir, fetch_file_cached, load_checkpoint
from glide_fast.checkpoints.files import read_state_dict, write_state_dict
from glide_fast.checkpoints.fit import load_into
from glide_fast.checkpoints.infer import infer_kind, infer_options

__all__ = [
    "MODEL_PATHS",
    "PipelineDirectory",
    "atomic_directory",
    "atomic_write",
    "convert_official",
    "default_cache_dir",
    "fetch_file_cached",
    "infer_kind",
    "infer_options",
    "load_checkpoint",
    "load_into",
    "read_directory",
    "read_pipeline_directory",
    "read_state_dict",
    "save_directory",
    "save_pipeline_directory",
    "write_state_dict",
    "write_text",
]
