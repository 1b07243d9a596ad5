"""Whether a weight is held in the layout of Winograd's kernel: what was measured goes before the rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glide_fast.ops.backends import plans_from
from glide_fast.ops.convolution import OP, tiling, winograd_weight
from glide_fast.ops.convolution.arguments import Call, check_arguments
from glide_fast.ops.convolution.packed_weight import PackedWeight, why_not
from glide_fast.plans import file, table
from glide_fast.plans.device import Device
from glide_fast.plans.file import Candidate, Row
from glide_fast.tune.tasks import held_signature

HERE = Device.of(torch.device("cpu"))
SHAPE = (2, 32, 8, 8)
WEIGHT = torch.zeros(16, 32, 3, 3)


def call(residual: bool, weight: torch.Tensor = WEIGHT) -> Call:
    def pixels(channels: int) -> torch.Tensor:
        return torch.zeros(2, channels, 8, 8).to(memory_format=torch.channels_last)

    made = Call(pixels(32), weight, torch.zeros(16), pixels(16) if residual else None)
    check_arguments(made)
    return made


def row(residual: bool, winograd_us: float, onednn_us: float) -> Row:
    found = sorted(
        [Candidate("winograd", None, winograd_us), Candidate("onednn", None, onednn_us)],
        key=lambda candidate: candidate.us,
    )
    line = held_signature("convolution", call(residual), "cpu")
    return Row("convolution", line, "float32", *found, 0.0, {"winograd": "w", "onednn": "o"}, 2)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "source_of", lambda op, backend: backend[0])
    monkeypatch.setattr(winograd_weight, "why_not_worth", lambda: "oneDNN is faster")


def asked(tmp_path: Path, *rows: Row, shape: tuple[int, int, int, int] = SHAPE, stride: int = 1) -> bool:
    path = tmp_path / HERE.file
    file.write(path, file.PlanFile(HERE, {"torch": torch.__version__}, rows))
    with plans_from(str(path)):
        return tiling.in_tiles(WEIGHT, shape, stride)


@pytest.mark.skipif(why_not(torch.float32) is not None, reason="oneDNN packs no weight here")
def test_the_measured_calls_of_a_weight_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not asked(tmp_path)
    assert asked(tmp_path, row(False, 10, 12))
    assert not asked(tmp_path, row(False, 10, 12), row(True, 15, 12))
    assert asked(tmp_path, row(False, 10, 12), row(True, 13, 12))
    assert not asked(tmp_path, row(False, 10, 12), shape=(2, 32, 16, 16))
    assert not asked(tmp_path, row(False, 10, 12), stride=2)
    monkeypatch.setattr(winograd_weight, "why_not_worth", lambda: None)
    assert asked(tmp_path, row(False, 10, 12), shape=(2, 32, 16, 16))
    assert not asked(tmp_path, row(False, 12, 10))


@pytest.mark.skipif(why_not(torch.float32) is not None, reason="oneDNN packs no weight here")
def test_a_row_is_not_used_for_a_weight_that_is_held_otherwise(tmp_path: Path) -> None:
    path = tmp_path / HERE.file
    held = call(False, PackedWeight.pack(WEIGHT, input_shape=SHAPE))
    rows = (row(False, 12, 10),)
    file.write(path, file.PlanFile(HERE, {"torch": torch.__version__}, rows))
    facts = held.facts()
    with plans_from(str(path)):
        assert OP.choose(facts, held).measured is not None
        tiled = facts._replace(tiled=True, packed=False)
        assert "Winograd's layout" in str(OP.measured_choice(tiled, held)[1])
    slow = Row(
        "convolution",
        rows[0].call,
        "float32",
        Candidate("reference", None, 1.0),
        None,
        0.0,
        {"reference": "r"},
        2,
    )
    file.write(path, file.PlanFile(HERE, {"torch": torch.__version__}, (slow,)))
    with plans_from(str(path)):
        assert OP.choose(facts, held).name == "onednn"
        assert "unpacked at every call" in str(OP.explain(facts, held))
