"""A stage's own memory."""

from __future__ import annotations

from glide_fast.pipelines import GlidePipeline, Stage


def test_processes_are_few_and_released(own_base: Stage) -> None:
    kept = own_base.process("5")
    for steps in range(1, 40):
        assert own_base.process(str(steps)).num_timesteps == steps
        assert own_base.process("5").num_timesteps == 5
        assert len(own_base._processes) <= 8
    assert own_base.process("5") is own_base.process("5") is kept, "the latest used stay"
    GlidePipeline(own_base).release()
    assert len(own_base._processes) == 0
    assert own_base.process("5").num_timesteps == 5
