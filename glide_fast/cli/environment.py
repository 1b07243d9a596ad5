"""``glide-fast env``."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def environment(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what glide_fast runs on here.

    Versions, devices, which kernels were built, and why others were not.
    """
    from glide_fast import env

    typer.echo(json.dumps(env.environment(), indent=2) if as_json else env.report())
