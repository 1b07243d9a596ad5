"""MkDocs hook: the line ``<!-- glide-fast --help -->`` of a page becomes the help of all commands."""

from __future__ import annotations

import typer
from typer.cli import get_docs_for_click

from glide_fast.cli.commands import app

MARK = "<!-- glide-fast --help -->"


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Called by MkDocs with each page's text."""
    if MARK not in markdown:
        return markdown
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="glide-fast")
    # The page has a title of its own: every heading goes one level down.
    return markdown.replace(
        MARK, "\n".join(f"#{line}" if line.startswith("#") else line for line in text.splitlines())
    )
