"""The bar counts pictures, in proportion to the steps they have behind them."""

from __future__ import annotations

import pytest
import torch

from glide_fast.cli.progress import PictureBar
from glide_fast.pipelines import StepEnd

X0 = torch.zeros(1)


def test_pictures_advance_with_the_steps_of_both_stages_batch_by_batch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = []
    with PictureBar(5, {"base": 6, "upsampler": 2}, enabled=True) as bar:
        for batch in (3, 2):
            bar.start(batch)
            for stage, total in (("base", 6), ("upsampler", 2)):
                for index in range(total):
                    bar.step(StepEnd(stage, index, total, X0))
                    seen.append(bar.done)
    eighths = [step / 8 for step in range(1, 9)]
    assert seen == pytest.approx([3 * part for part in eighths] + [3 + 2 * part for part in eighths])
    shown = capsys.readouterr().err
    assert "100%" in shown
    assert "5.0/5 images" in shown
    assert "images/s, upsampler 2/2" in shown


def test_a_bar_that_never_moved_is_wiped_away(capsys: pytest.CaptureFixture[str]) -> None:
    with PictureBar(5, {"base": 6}, enabled=True):
        pass
    assert capsys.readouterr().err.rpartition("\r")[2].strip() == ""


def test_a_disabled_bar_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with PictureBar(1, {"base": 1}, enabled=False) as bar:
        bar.start(1)
        bar.step(StepEnd("base", 0, 1, X0))
    assert capsys.readouterr().err == ""
