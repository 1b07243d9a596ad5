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
                    bar.step(StepEnd(stage, index, total, X0.expand(batch)))
                    seen.append(bar.done)
    eighths = [step / 8 for step in range(1, 9)]
    assert seen == pytest.approx([3 * part for part in eighths] + [3 + 2 * part for part in eighths])
    shown = capsys.readouterr().err
    assert "100%" in shown
    assert "5.0/5 images" in shown
    assert "images/s, upsampler 2/2" in shown


def test_a_batch_made_in_parts_counts_the_parts_before(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    with PictureBar(4, {"base": 3, "upsampler": 1}, enabled=True) as bar:
        bar.start(4)
        bar.step(StepEnd("base", 0, 3, X0.expand(4)))  # and then there was no memory left
        for stage, total in (("base", 3), ("upsampler", 1)):
            for first in (0, 2):
                for index in range(total):
                    bar.step(StepEnd(stage, index, total, X0.expand(2), first))
                    seen.append(bar.done)
    assert seen == pytest.approx([0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4])
    assert "4.0/4 images" in capsys.readouterr().err


def test_a_bar_that_never_moved_is_wiped_away(capsys: pytest.CaptureFixture[str]) -> None:
    with PictureBar(5, {"base": 6}, enabled=True):
        pass
    assert capsys.readouterr().err.rpartition("\r")[2].strip() == ""


def test_a_disabled_bar_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with PictureBar(1, {"base": 1}, enabled=False) as bar:
        bar.start(1)
        bar.step(StepEnd("base", 0, 1, X0))
    assert capsys.readouterr().err == ""
