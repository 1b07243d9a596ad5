"""A fresh process that samples a picture, and reports the time of each phase and its peak memory.

Its one argument is JSON: ``started`` (time.time() when the parent started it), ``name`` (of the pipeline), ``fast``, ``device``,
``dtype``, ``steps``, ``threads``, ``pictures`` (how many to sample after the first). It prints JSON: the seconds from ``started``
to the end of each phase, the seconds of each further picture, the peak in MiB, and the wait policy of OpenMP's threads.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from glide_fast.openmp import WAIT_POLICY


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Import, load, accelerate and sample; returns the times at which each was done, and the time of each further picture."""
    started = float(asked["started"])
    phases = {"start of Python": time.time() - started}
    import torch

    if asked["threads"]:
        torch.set_num_threads(int(asked["threads"]))
    from glide_fast.bench.stock import stock
    from glide_fast.pipelines import GlidePipeline
    from glide_fast.pipelines.memory import peak_memory
    from glide_fast.pipelines.stage import Stage

    phases["imports"] = time.time() - started
    accelerating = 0.0
    original = Stage.accelerate

    def clocked(self: Stage, *args: Any, **kwargs: Any) -> None:
        nonlocal accelerating
        begin = time.time()
        original(self, *args, **kwargs)
        accelerating += time.time() - begin

    Stage.accelerate = clocked  # type: ignore[method-assign]
    pipeline = GlidePipeline.from_pretrained(
        asked["name"],
        device=asked["device"],
        dtype=asked["dtype"],
        accelerate=bool(asked["fast"]),
        progress=False,
    )
    if not asked["fast"]:
        for stage in pipeline.stages:
            stage.model = stock(stage.model, dtype=stage.model.dtype, device=stage.device)
    ready = time.time() - started
    phases["weights loaded"] = ready - accelerating
    phases["ready to sample"] = ready
    steps = {"num_inference_steps": asked["steps"], "upsample_steps": asked["steps"]}
    if pipeline.base is None:
        size = pipeline.stages[0].image_size // 4

        def sample(on_step: Any) -> object:
            low_res = torch.zeros(1, 3, size, size)
            return pipeline.upsample(
                low_res, "a red cube", seed=0, progress=False, callback_on_step_end=on_step, **steps
            )

    else:

        def sample(on_step: Any) -> object:
            return pipeline("a red cube", seed=0, progress=False, callback_on_step_end=on_step, **steps)

    def on_step(end: object) -> None:
        phases.setdefault("first step", time.time() - started)

    sample(on_step)
    phases["first picture"] = time.time() - started
    pictures = []
    for _ in range(int(asked["pictures"])):
        begin = time.perf_counter()
        sample(None)
        pictures.append(time.perf_counter() - begin)
    if pipeline.device.type == "cuda":
        peak: int | None = torch.cuda.max_memory_reserved()
    else:
        peak = peak_memory(pipeline.device)
    return {
        "phases": phases,
        "pictures": pictures,
        "peak": (peak or 0) / 2**20,
        "device": pipeline.device.type,
        "waiting": os.environ.get(WAIT_POLICY),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
