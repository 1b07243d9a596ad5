"""Words that a model does not know, on the command line: said once before the first picture, kept in the report, listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QUICK = ("--seed", 1, "--steps", 2, "--upsample-steps", 1)


def test_said_once_for_all_batches_and_reported(invoke: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red corgi\na red square\na red corgi\n")
    asked = (
        "sample",
        "--prompts",
        "prompts.txt",
        "-o",
        "pictures",
        "--model",
        model,
        "--batch-size",
        1,
        *QUICK,
    )
    result = invoke(*asked, "--negative-prompt", "a blurry square", "--json")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 2
    assert "prompt 'a red corgi': the model does not know 'corgi'" in lines[0]
    assert lines[0].endswith(", or glide-fast words --model tiny)")
    assert "prompt 'a blurry square': the model does not know 'blurry'" in lines[1]
    # Before the first picture, so that a long run can be stopped.
    assert result.stderr.index(lines[1]) < result.stderr.index("images")
    report = json.loads(result.stdout)
    words = [image["unknown_words"] for image in report["images"]]
    assert words == [["corgi", "blurry"], ["blurry"], ["corgi", "blurry"]]

    again = invoke(*asked, "--negative-prompt", "a blurry square", "--json")
    assert again.exit_code == 0, again.output
    assert "warning" not in again.stderr  # nothing is drawn
    assert [image["unknown_words"] for image in json.loads(again.stdout)["images"]] == words


def test_quiet(invoke: Any, model: Path) -> None:
    result = invoke("sample", "a red corgi", "--model", model, *QUICK, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_upsample(invoke: Any, model: Path, picture: Path) -> None:
    result = invoke("upsample", picture, "a red corgi", "--model", model, "--seed", 1, "--upsample-steps", 1)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("the model does not know 'corgi'") == 1


def test_the_list(invoke: Any, model: Path) -> None:
    result = invoke("words", "--model", model)
    assert result.exit_code == 0, result.output
    words = result.stdout.split()
    assert {"red", "square", "stripe"} <= set(words)
    assert json.loads(invoke("words", "--model", model, "--json").stdout) == words


def test_a_model_that_is_none_is_an_error_about_the_option(invoke: Any) -> None:
    result = invoke("words", "--model", "nosuch")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --model: got 'nosuch'")


def test_a_prompt_that_is_cut_is_said_once_for_all_batches_and_not_when_quiet(
    invoke: Any, model: Path
) -> None:
    asked = ("sample", "a red square " * 200, "--model", model, "--num-images", 2, "--batch-size", 1, *QUICK)
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("cut off") == 1
    result = invoke(*asked, "--quiet", "--overwrite")
    assert (result.exit_code, result.output) == (0, "")
