"""After its first step a loop on the CPU asks for no memory."""

from __future__ import annotations

import gc

import pytest
import torch
from support.small_unets import SIZE, call_arguments, states, tiny_model
from torch.profiler import ProfilerActivity, profile

from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.sampling import SamplingLoop
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.ops import arena
from glide_fast.runtime import accelerate
from glide_fast.runtime.captured import CapturedLoop
from glide_fast.runtime.features import Features
from glide_fast.runtime.model import Accelerated

pytestmark = pytest.mark.skipif(
    arena.why_missing() is not None, reason=f"this build has no memory for steps: {arena.why_missing()}"
)
SEEDS = torch.tensor([3, 4])


def asked_for(loop: SamplingLoop, steps: int) -> int:
    """Bytes that torch's own allocator handed out during the next steps, as its profiler counts them."""
    with torch.inference_mode():
        loop.reset()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            for kind in loop.kinds[:steps]:
                loop.advance(kind)
    memory = [event for event in seen.events() or [] if event.name == "[memory]"]
    return sum(max(0, event.cpu_memory_usage) for event in (*memory, *seen.key_averages()))


def loop_over(kind: str, dtype: str, features: Features, rule: str = "ddpm") -> SamplingLoop:
    fast = accelerate(tiny_model(kind), dtype=dtype, image_size=SIZE, features=features)
    assert isinstance(fast, Accelerated)
    arguments = call_arguments(kind, batch=4)
    told = {key: value for key, value in arguments.items() if key not in ("tokens", "mask")}
    with torch.no_grad():
        text = fast.encode_text(arguments["tokens"], arguments["mask"]) if "tokens" in arguments else None
    process = SpacedDiffusion(
        space_timesteps(1000, "8"), betas=get_named_beta_schedule("squaredcos_cap_v2", 1000)
    )
    bound = fast.bind(process.timestep_map, 4, (3, SIZE, SIZE), text=text, **told)
    bound.remember_deep()
    return SamplingLoop(
        bound,
        process,
        SEEDS,
        (3, SIZE, SIZE),
        rule=rule,
        guidance_scale=2.0,
        guidance_interval=(0.3, 0.8),
        cache_interval=2,
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("rule", ["ddpm", "plms", "dpm++2m"])
def test_steps_after_the_first_of_their_kind_ask_for_nothing(rule: str, dtype: str) -> None:
    loop = loop_over("base", dtype, Features(), rule)
    gc.collect()
    with torch.inference_mode():
        loop.reset()
        for kind in loop.kinds:  # guided and not, full and shallow
            loop.advance(kind)
    before = arena.state()
    assert asked_for(loop, 8) == 0
    assert arena.state() == before and before.live == 0
    assert asked_for(loop_over("base", dtype, Features(arena=False), rule), 1) > 0  # the profiler does count


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_kind_of_model_gives_all_back(kind: str, dtype: str) -> None:
    loop = loop_over(kind, dtype, Features())
    with torch.inference_mode():
        loop.reset()
        loop.advance(loop.kinds[0])
        before = arena.state()
        assert before.live == 0 and before.outside == 0
        loop.advance(loop.kinds[0])
    assert arena.state() == before


def test_a_called_models_result_is_the_callers() -> None:
    fast = accelerate(tiny_model("base"), dtype="fp32", image_size=SIZE)
    with torch.no_grad():
        result = fast(states(), torch.tensor([700, 700]), **call_arguments("base"))
    assert arena.state().live == 0 and result.is_contiguous()


def test_it_is_explained() -> None:
    fast = accelerate(tiny_model("base"), dtype="fp32", image_size=SIZE)
    assert isinstance(fast, Accelerated)
    assert "MiB that all steps of all models in this process share" in str(fast.explain())
    without = accelerate(tiny_model("base"), dtype="fp32", image_size=SIZE, features=Features(arena=False))
    assert isinstance(without, Accelerated)
    assert "asked for at each step" in without.explain().memory


def test_a_released_loop_gives_the_memory_back() -> None:
    loop = CapturedLoop(loop_over("base", "fp32", Features()), None)
    loop.run()
    assert arena.state().held > 0
    loop.release()
    assert arena.state().held == 0
