"""Errors name options as they are typed, for every option of every command."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import typer

from glide_fast.cli import app
from glide_fast.cli.command import Command, describe, option_names
from glide_fast.errors import InvalidInputError, invalid
from glide_fast.limits import MOST_IMAGES, MOST_PROMPT_BYTES
from glide_fast.pipelines.options import DECLARED
from glide_fast.pipelines.pipeline import GlidePipeline
from glide_fast.train import TrainConfig

COMMANDS: dict[str, Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_error_about_any_argument_is_shown_under_its_option(name: str) -> None:
    command = COMMANDS[name]
    names = option_names(command)
    parameters = set(inspect.signature(command.callback).parameters) - {"ctx"}  # type: ignore[arg-type]
    assert parameters
    assert names.keys() >= parameters
    for parameter in parameters:
        shown = names[parameter]
        typed = shown.startswith("--") and "_" not in shown
        assert typed or shown.isupper()
        for subscript in ("", "['key']"):
            # What was given and what is accepted may hold the same words.
            error = invalid(parameter + subscript, f"{parameter}: 1", f"({parameter}: 2)")
            line = f"error: {shown}{subscript}: got '{parameter}: 1'; accepted: ({parameter}: 2)"
            assert describe(error, names) == (2, line)
        listing = InvalidInputError(f"run holds another ({parameter}: 1; {parameter}['a']: 2)")
        listing.listed = (parameter,)
        assert describe(listing, names)[1] == f"error: run holds another ({shown}: 1; {shown}['a']: 2)"


def test_every_argument_that_is_handed_on_is_a_parameter_of_the_command() -> None:
    """What a command does not call as the callee does is not an option of it."""
    pipeline = {
        *("prompt", *DECLARED),
        *inspect.signature(GlidePipeline.from_pretrained).parameters,
    }
    internal = {
        # Given by the program itself.
        *("generator", "clip", "output_type", "callback_on_step_end", "progress"),
        *("cache_dir", "num_images_per_prompt", "upsample_sampler", "upsample_temp", "upsample_strength"),
    }
    assert option_names(COMMANDS["sample"]).keys() >= pipeline - internal
    training = set(inspect.signature(TrainConfig).parameters)
    assert option_names(COMMANDS["train"]).keys() >= training | {"directory", "extend_to", "device"}


@pytest.mark.parametrize(
    "command", [("sample", "a"), ("upsample", "a.png"), ("inpaint", "a.png", "b.png", "a", "--white", "keep")]
)
def test_more_pictures_than_a_call_may_make_are_refused_before_any_list(
    invoke: Any, command: tuple[str, ...]
) -> None:
    result = invoke(*command, "--model", "nowhere", "--num-images", MOST_IMAGES + 1)
    assert result.exit_code == 2
    assert "--num-images" in result.stderr
    assert str(MOST_IMAGES) in result.stderr


@pytest.mark.parametrize(
    ("lines", "arguments", "named"),
    [
        (
            MOST_IMAGES // 2 + 1,
            ("--num-images", 2),
            ("--prompts: got 50,001 prompts", "(--num-images: 2 of each)"),
        ),
        (MOST_IMAGES + 1, (), ("--prompts: got 100,001 prompts", "(--num-images: 1 of each)")),
        (
            0,
            ("a", "b", "--num-images", MOST_IMAGES // 2 + 1),
            ("PROMPT: got 2 prompts", "(--num-images: 50,001 of each)"),
        ),
    ],
)
def test_more_pictures_of_all_prompts_than_a_command_may_make_are_refused_before_any_list(
    invoke: Any, tmp_path: Path, lines: int, arguments: tuple[Any, ...], named: tuple[str, str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a\n" * lines)
    given = ("--prompts", "prompts.txt", "--output", "pictures") if lines else ()
    result = invoke("sample", *given, *arguments, "--model", "nowhere")
    assert result.exit_code == 2
    for words in (*named, f"accepted: at most {MOST_IMAGES:,} pictures at once"):
        assert words in result.stderr
    assert not (tmp_path / "pictures").exists()


def test_a_file_of_prompts_has_a_bound(invoke: Any, tmp_path: Path) -> None:
    with (tmp_path / "prompts.txt").open("wb") as file:
        file.truncate(MOST_PROMPT_BYTES + 1)  # takes no disk
    result = invoke("sample", "--prompts", "prompts.txt", "--output", "pictures", "--model", "nowhere")
    assert result.exit_code == 2
    assert "--prompts" in result.stderr
    assert f"it has more than {MOST_PROMPT_BYTES:,} bytes" in result.stderr
