"""Pictures from a small CSV, and two files beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import plot as command
from glide_fast.bench import compare, plot
from glide_fast.bench.contest import COPY, PLAIN
from glide_fast.bench.measurement import Measurement
from glide_fast.bench.record import Row, write

FACTS = {"device": "A Device", "threads": "2", "torch": "2.13.0", "cuda": "", "commit": "abcdef"}


def row(
    model: str, shape: str, contestant: str, value: float | None, *, part: str = "ops", wrong: bool = False
) -> Row:
    work = f"group_norm_act {shape}, bfloat16" if part == "ops" else shape
    quartiles = {"lower": 0.9 * value, "upper": 1.2 * value} if value else {}
    made = Measurement(part, model, work, contestant, value, fault="bad" * wrong, samples=3, **quartiles)  # type: ignore[arg-type]
    return FACTS | made.row()


def table() -> list[Row]:
    rows = []
    for model, shape, plain in (
        ("base", "2 x 64px 192", 1400.0),
        ("base", "2 x 32px 384", 500.0),
        ("upsampler", "1 x 8px 8", 9.0),
    ):
        rows += [
            row(model, shape, PLAIN, plain),
            row(model, shape, "glide_fast cpu", plain / 4),
            row(model, shape, "official fp32 chain", plain * 6),
            row(model, shape, "wrong", plain / 9, wrong=True),
            row(model, shape, COPY, plain / 10),
            row(model, shape, "glide_fast cuda", None),
        ]
    return [*rows, row("alone", "1 x 1px", PLAIN, 1.0)]


def test_panels_are_the_models_batches() -> None:
    made = plot.panels(table())
    assert [panel.title for panel in made] == ["ops: base, N = 2", "ops: upsampler, N = 1"]
    labels = [group.label for group in made[0].groups]
    assert labels == ["group_norm_act 64px 192, bfloat16", "group_norm_act 32px 384, bfloat16"]
    assert plot.contestants(made) == ["glide_fast cpu", PLAIN, "official fp32 chain", "wrong"]
    assert made[0].groups[0].ratio("glide_fast cpu") == pytest.approx(0.25)
    assert plot.limits(made) == pytest.approx((0.1 / 1.3, 6 * 1.3), rel=0.01)
    assert plot.batch_of("2x8x8, 8") == ("2", "8x8, 8") and plot.batch_of("peak") == ("", "peak")
    assert plot.batch_of("1 x 64 px, 50 ddpm steps") == ("1", "64 px, 50 ddpm steps")


def test_colours_tell_contestants_apart() -> None:
    names = ["glide_fast cpu", "glide_fast triton", "official", "torch.compile", "SDPA"]
    assert len(set(plot.colours(names).values())) == len(names)


def test_a_picture_an_op_and_one_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "ops.csv", table())
    step = [
        row("base", "2 x 64 px", name, value, part="step") for name, value in (("eager", 2.0), ("ours", 1.0))
    ]
    write(tmp_path / "step-base.csv", step)
    write(tmp_path / "ceilings.csv", [{"ceiling": "copy", "value": "1", "unit": "GB/s"}])
    assert command.main([str(tmp_path)]) == 0
    pictures = sorted(tmp_path.glob("*.png"))
    assert [picture.name for picture in pictures] == ["group_norm_act.png", "step-base.png"]
    assert str(pictures[0]) in capsys.readouterr().out
    with Image.open(pictures[0]) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
        assert min(image.size) > 300
    drawn = {tuple(int(plot.OURS_COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)), (0, 0, 0), (255, 0, 0)}
    assert drawn <= colours  # bars of ours, the copy's mark, a wrong result


def test_nothing_to_draw_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "empty.csv", [row("base", "2 x 8", PLAIN, 1.0)])
    assert command.main([str(tmp_path)]) == 1
    assert "nothing to draw" in capsys.readouterr().err


def test_two_files_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "before.csv", tmp_path / "after.csv"
    write(before, [row("base", "a", "x", 1.0), row("base", "b", "x", 1.0), row("base", "gone", "x", 1.0)])
    changed = [
        row("base", "a", "x", 1.1),
        row("base", "b", "x", 2.0, wrong=True),
        row("base", "new", "x", 1.0),
    ]
    write(after, [one | {"commit": "other"} for one in changed])
    files = [str(before), str(after)]
    assert compare.main(files) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "commit: abcdef / other" and len(out) == 4
    assert out[2].split()[:6] == ["1", "s", "1.1", "s", "1.100x", "noise"]
    assert "2.000x" in out[3] and "noise" not in out[3] and "gate - to red" in out[3]
    assert compare.main([*files, "--worse", "1.05"]) == 1
    assert "WORSE: ops, base, group_norm_act b" in capsys.readouterr().out
    assert compare.main([*files[:1], files[0], "--worse", "1.05"]) == 0
    write(after, [row("base", "other", "x", 1.0)])
    assert compare.main(files) == 2


def test_files_of_earlier_runs_are_read() -> None:
    """Columns that came later are empty in them."""
    old = {
        name: value
        for name, value in row("base", "2 x 64 px", "x", 1.0, part="step").items()
        if name != "best"
    }
    assert plot.panels([old, old | {"contestant": "y"}]) and compare.differences([old], [old])[0].ratio == 1
