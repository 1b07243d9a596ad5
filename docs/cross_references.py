"""Griffe extension: docstrings' ``:class:`~a.b.C``` become links where the site has a page on ``a.b.C``, and code elsewhere."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|data|func|meth|mod|attr|exc):`(~?)([^`]+)`")


def link(found: re.Match[str]) -> str:
    """A role as what mkdocs-autorefs reads. Names without a package are of the same module or class, and stay code."""
    short, name = found.groups()
    shown = name.rpartition(".")[2] if short else name
    if not name.startswith("glide_fast."):
        return f"`{shown}`"
    return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'


class CrossReferences(griffe.Extension):
    """Rewrites each docstring when it has been read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by Griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(link, obj.docstring.value)
