"""Captured loops, on a machine without CUDA graphs: recorded launches stand in for them (tests/support/launches.py)."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.launches import LaunchRecorder
from support.small_unets import SIZE, call_arguments, tiny_model

from glide_fast.diffusion.respacing import SpacedDiffusion, space_timesteps
from glide_fast.diffusion.sampling import SamplingLoop
from glide_fast.diffusion.schedules import get_named_beta_schedule
from glide_fast.models.text2im import TextEmbedding
from glide_fast.ops.backends import force
from glide_fast.runtime import accelerate
from glide_fast.runtime.captured import CapturedLoop, EagerLoopWarning
from glide_fast.runtime.loops import LoopCache
from glide_fast.runtime.model import Accelerated

SHAPE = (3, SIZE, SIZE)
SEEDS = torch.tensor([3, 2**40])
STEPS = 4


@pytest.fixture(autouse=True)
def torch_operations(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is recorded are torch operations; the C++ kernels are not among them."""
    if request.node.get_closest_marker("gpu"):
        yield
        return
    with force("reference"):
        yield


def process() -> SpacedDiffusion:
    return SpacedDiffusion(
        space_timesteps(1000, str(STEPS)), betas=get_named_beta_schedule("squaredcos_cap_v2", 1000)
    )


def fast_model(kind: str = "base", seed: int = 0) -> Accelerated:
    # Deferred sums and plain weights, as on a GPU.
    model = accelerate(tiny_model(kind, seed), dtype="fp32", image_size=SIZE)
    assert isinstance(model, Accelerated)
    for name, value in model.state_dict().items():
        room, _, leaf = name.rpartition(".")
        module = model.get_submodule(room)
        if leaf in module._parameters:
            module._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
    model.start(defer=True, batch=2, image_size=SIZE)
    return model


def prompts(model: Accelerated, seed: int = 1, batch: int = 4) -> TextEmbedding:
    arguments = call_arguments("base", batch, seed)
    return model.encode_text(arguments["tokens"], arguments["mask"])


def loop(model: Accelerated, text: TextEmbedding, scale: float = 3.0, **options: Any) -> SamplingLoop:
    bound = model.bind(process().timestep_map, 2 * len(SEEDS), SHAPE, text=text)
    if options.get("cache_interval", 1) > 1:
        bound.remember_deep()
    return SamplingLoop(bound, process(), SEEDS, SHAPE, guidance_scale=scale, **options)


def captured(model: Accelerated, text: TextEmbedding, **options: Any) -> tuple[CapturedLoop, LaunchRecorder]:
    recorder = LaunchRecorder()
    whole = options.pop("whole_loop", False)
    return CapturedLoop(loop(model, text, **options), recorder, model.addresses, whole_loop=whole), recorder


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["ddpm", "plms", "dpm++2m"])
@pytest.mark.parametrize("whole_loop", [False, True])
def test_replays_give_the_eager_loops_picture(rule: str, whole_loop: bool) -> None:
    model = fast_model()
    text = prompts(model)
    want = loop(model, text, rule=rule).run()
    run, recorder = captured(model, text, rule=rule, whole_loop=whole_loop)
    close(run.run(), want)
    first = run.run()
    close(first, want)
    assert len(recorder.recordings) == 1
    assert recorder.recordings[0].replays == (2 if whole_loop else 2 * STEPS)
    kept = first.clone()
    run.run()
    assert torch.equal(first, kept), "a result must not be overwritten by the next run"


def test_a_watched_run_is_called_back_between_steps() -> None:
    model = fast_model()
    text = prompts(model)
    seen: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    loop(model, text).run(lambda index, total, x0: wanted.append(x0))
    run, _ = captured(model, text, whole_loop=True)
    run.run(lambda index, total, x0: seen.append(x0))
    assert len(seen) == STEPS
    for got, want in zip(seen, wanted, strict=True):
        close(got, want)
    with pytest.raises(KeyboardInterrupt):
        run.run(interrupt)
    close(run.run(), loop(model, text).run())  # an interrupted run spoils nothing


def test_an_interrupted_recording_is_made_again() -> None:
    """Two kinds of steps; Ctrl-C comes while the second is recorded."""
    model = fast_model()
    text = prompts(model)
    options: dict[str, Any] = {"cache_interval": 2}
    want = loop(model, text, **options).run()
    run, recorder = captured(model, text, **options)
    record = recorder.record

    def interrupted(work: Any) -> Any:
        if len(recorder.recordings) == 1:
            recorder.record = record  # type: ignore[method-assign]
            raise KeyboardInterrupt
        return record(work)

    recorder.record = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert not run.captured
    close(run.run(), want)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_new_prompts_seeds_and_scales_need_no_new_recording() -> None:
    model = fast_model()
    run, recorder = captured(model, prompts(model))
    run.run()
    other, seeds = prompts(model, seed=7), torch.tensor([9, 10])
    run.renew({"text": other}, seeds, {"guidance_scale": 1.5})
    want = loop(model, other, 1.5)
    want.renew(seeds, guidance_scale=1.5)
    close(run.run(), want.run())
    assert len(recorder.recordings) == 1


def test_weights_written_to_in_place_need_no_new_recording() -> None:
    model, other = fast_model(), fast_model(seed=5)
    run, recorder = captured(model, prompts(model))
    before = run.run()
    model.load_state_dict(other.state_dict())
    run.renew({"text": prompts(model)}, SEEDS, {"guidance_scale": 3.0})
    after = run.run()
    close(after, loop(other, prompts(other)).run())
    assert (after - before).abs().max() > 0.01
    assert len(recorder.recordings) == 1


def test_replaced_weights_are_recorded_anew() -> None:
    model, other = fast_model(), fast_model(seed=5)
    run, recorder = captured(model, prompts(model))
    run.run()
    model.load_state_dict(other.state_dict(), assign=True)
    run.renew({"text": prompts(model)}, SEEDS, {"guidance_scale": 3.0})
    close(run.run(), loop(other, prompts(other)).run())
    assert len(recorder.recordings) == 2
    assert recorder.recordings[0].released


def test_each_kind_of_step_is_recorded_once() -> None:
    model = fast_model()
    text = prompts(model)
    options: dict[str, Any] = {"guidance_interval": (0.3, 0.8), "cache_interval": 2}
    want = loop(model, text, **options)
    kinds = set(want.kinds)
    assert len(kinds) >= 3
    run, recorder = captured(model, text, **options)
    close(run.run(), want.run())
    close(run.run(), want.run())
    assert len(recorder.recordings) == len(kinds)


def test_inpainting_is_captured() -> None:
    model = fast_model("inpaint")
    arguments = call_arguments("inpaint", 4)
    text = model.encode_text(arguments.pop("tokens"), arguments.pop("mask"))
    known = {"known": arguments["inpaint_image"][:2], "known_mask": arguments["inpaint_mask"][:2]}

    def make() -> SamplingLoop:
        bound = model.bind(process().timestep_map, 4, SHAPE, text=text, **arguments)
        return SamplingLoop(bound, process(), SEEDS, SHAPE, guidance_scale=2.0, **known)

    run = CapturedLoop(make(), LaunchRecorder(), model.addresses)
    close(run.run(), make().run())
    pictures = {name: value.flip(0) for name, value in arguments.items()}
    flipped = {name: value.flip(0) for name, value in known.items()}
    run.renew({"text": text, **pictures}, SEEDS, {"guidance_scale": 2.0, **flipped})
    got = run.run()
    keep = flipped["known_mask"].bool().expand_as(got)
    close(got[keep], flipped["known"][keep])


def test_what_cannot_be_captured_runs_eagerly_with_one_warning() -> None:
    model = fast_model()
    text = prompts(model)
    want = loop(model, text).run()

    class Broken:
        def record(self, work: object) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

    run = CapturedLoop(loop(model, text), Broken(), model.addresses)
    with pytest.warns(EagerLoopWarning, match="not permitted"):
        close(run.run(), want)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(run.run(), want)
    with pytest.warns(EagerLoopWarning, match="CLIP"):
        scored = CapturedLoop(loop(model, text, score=lambda x, t: 0.01 * x), LaunchRecorder())
    assert not scored.captured
    scored.run()
    assert not scored.captured


def test_release_gives_everything_back() -> None:
    model = fast_model()
    text = prompts(model)
    run, recorder = captured(model, text)
    want = run.run()
    run.release()
    assert not run.captured
    assert all(recording.released for recording in recorder.recordings)
    close(run.run(), want)
    assert len(recorder.recordings) == 2


def test_fifty_captures_leave_nothing_behind() -> None:
    model = fast_model()
    text = prompts(model)
    cache = LoopCache(capacity=2)
    alive: list[weakref.ref[CapturedLoop]] = []
    for index in range(50):

        def make() -> CapturedLoop:
            made, _ = captured(model, text)
            alive.append(weakref.ref(made))
            return made

        run, new = cache.get(index, make)
        assert new
        if index % 10 == 0:
            run.run()
        assert len(cache) <= 2
    del run
    gc.collect()
    assert sum(ref() is not None for ref in alive) == 2
    cache.release()
    gc.collect()
    assert not any(ref() for ref in alive)


def test_the_loop_used_longest_ago_makes_room() -> None:
    cache = LoopCache(capacity=2)
    model = fast_model()
    text = prompts(model)
    loops = {key: captured(model, text)[0] for key in "abc"}
    for key in "aba":
        cache.get(key, lambda key=key: loops[key])
    cache.get("c", lambda: loops["c"])
    assert cache.get("a", lambda: loops["b"]) == (loops["a"], False)
    assert cache.get("b", lambda: loops["b"]) == (loops["b"], True)


@pytest.mark.gpu
@pytest.mark.parametrize("whole_loop", [False, True])
def test_on_a_gpu_nothing_waits_inside_the_loop(whole_loop: bool) -> None:
    from glide_fast.runtime.recording import CudaGraphs

    device = torch.device("cuda")
    plain = tiny_model("base")
    model = accelerate(plain, dtype="fp16", device=device, image_size=SIZE)
    assert isinstance(model, Accelerated)
    arguments = call_arguments("base", 4)
    text = model.encode_text(arguments["tokens"].to(device), arguments["mask"].to(device))
    bound = model.bind(process().timestep_map, 4, SHAPE, text=text)
    inner = SamplingLoop(bound, process(), SEEDS.to(device), SHAPE, guidance_scale=3.0)
    want = inner.run()
    run = CapturedLoop(inner, CudaGraphs(device), model.addresses, whole_loop=whole_loop)
    first = run.run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = run.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.why_eager is None
    assert torch.equal(first, again)
    torch.testing.assert_close(first, want, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_on_a_gpu_fifty_captures_leave_no_memory_behind() -> None:
    from glide_fast.runtime.recording import CudaGraphs

    device = torch.device("cuda")
    model = accelerate(tiny_model("base"), dtype="fp16", device=device, image_size=SIZE)
    assert isinstance(model, Accelerated)
    arguments = call_arguments("base", 4)
    text = model.encode_text(arguments["tokens"].to(device), arguments["mask"].to(device))
    graphs = CudaGraphs(device)

    def once() -> int:
        bound = model.bind(process().timestep_map, 4, SHAPE, text=text)
        inner = SamplingLoop(bound, process(), SEEDS.to(device), SHAPE, guidance_scale=3.0)
        run = CapturedLoop(inner, graphs, model.addresses)
        run.run()
        run.release()
        del run, inner, bound
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(device)

    early = [once() for _ in range(5)][-1]
    late = [once() for _ in range(45)][-1]
    assert late <= early
