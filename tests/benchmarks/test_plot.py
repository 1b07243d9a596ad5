"""Pictures from a small CSV."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import plot, record
from benchmarks.case import COPY, PLAIN

FACTS = {
    "device": "A Device",
    "threads": "2",
    "torch": "2.13.0",
    "cuda": "",
    "commit": "abcdef",
    "op": "group_norm_act",
    "dtype": "bfloat16",
    "gate": "green",
}


def row(model: str, shape: str, contestant: str, median: float | None, **rest: str) -> record.Row:
    times = {"q1_us": 0.9, "median_us": 1.0, "q3_us": 1.2}
    told = {name: "" if median is None else f"{median * factor:.2f}" for name, factor in times.items()}
    return FACTS | {"model": model, "shape": shape, "contestant": contestant} | told | rest


def table() -> list[record.Row]:
    rows = []
    for model, shape, plain in (
        ("base", "2x192x64x64", 1400.0),
        ("base", "2x384x32x32", 500.0),
        ("upsampler", "1x8x8x8", 9.0),
    ):
        rows += [
            row(model, shape, PLAIN, plain),
            row(model, shape, "glide_fast cpu", plain / 4),
            row(model, shape, "official fp32 chain", plain * 6),
            row(model, shape, "wrong", plain / 9, gate="red"),
            row(model, shape, COPY, plain / 10, gate="-"),
            row(model, shape, "glide_fast cuda", None),
        ]
    return rows


def test_panels_are_the_models_batches() -> None:
    made = plot.panels(table())
    assert [panel.title for panel in made] == ["base, N = 2", "upsampler, N = 1"]
    assert made[0].labels == ["192x64x64", "384x32x32"]
    assert plot.contestants(made) == ["glide_fast cpu", "official fp32 chain", "wrong"]
    assert plot.relative(made[0].cases[0], "glide_fast cpu") == pytest.approx(0.25)
    assert plot.limits(made) == pytest.approx((0.1 / 1.2, 6 * 1.2), rel=0.01)
    assert plot.batch_of("8x8") == ("8", "8") and plot.batch_of("T = 64") == ("", "T = 64")


def test_colours_tell_contestants_apart() -> None:
    names = ["glide_fast cpu", "glide_fast triton", "official", "torch.compile", "SDPA"]
    assert len(set(plot.colours(names).values())) == len(names)


def test_a_picture_an_op(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record.write(tmp_path / "group_norm_act.csv", table())
    record.write(tmp_path / "ceilings.csv", [{"ceiling": "copy", "value": "1", "unit": "GB/s"}])
    assert plot.main([str(tmp_path)]) == 0
    pictures = list(tmp_path.glob("*.png"))
    assert [picture.name for picture in pictures] == ["group_norm_act.png"]
    assert str(pictures[0]) in capsys.readouterr().out
    with Image.open(pictures[0]) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
        assert min(image.size) > 300
    drawn = {tuple(int(plot.OURS_COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)), (0, 0, 0), (255, 0, 0)}
    assert drawn <= colours  # bars of ours, the copy's mark, a wrong result


def test_nothing_to_draw_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record.write(tmp_path / "empty.csv", [row("base", "2x8", PLAIN, 1.0)])
    assert plot.main([str(tmp_path)]) == 1
    assert "nothing to draw" in capsys.readouterr().err
