"""What a file's own bytes say: that it is an error page and no weights, or that its end is missing."""

from __future__ import annotations

import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

ZIP = b"PK\x03\x04"
"""The container of torch.save since torch 1.6."""

HEAD = 512
"""Bytes at a file's start that :func:`error_page` looks at."""

_PAGE_NAMES = {
    "a web page": (".html", ".htm", ".xhtml", ".xml", ".svg"),
    "a JSON document": (
        ".json",
        ".jsonl",
        ".ndjson",
        ".ipynb",
        ".txt",
        ".md",
        ".csv",
        ".bpe",
        ".yaml",
        ".yml",
    ),
}
"""File names whose content may be a page or JSON, for which such content is therefore no sign of an error."""

_WEIGHT_NAMES = (".pt", ".safetensors")
"""Endings of files that are not text, so that a tag at their start means a web page."""

_LONGEST_HEADER = (
    100_000_000  # bytes of a safetensors file's header; text read as this number would be far larger
)

_MARKUP = (
    b"<!doctype",
    b"<html",
    b"<?xml",
    b"<head",
    b"<body",
    b"<error",
    b"<!--",
    b"<title",
    b"<script",
    b"<meta",
)
_JSON = re.compile(rb'(\{\s*("|\}|$)|\[\s*("|\{|\[|\]|-?\d|true|false|null|$))')
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first of the five pickles that torch.save wrote before torch 1.6, in front of the tensors' own bytes."""


def looks_like_markup(head: bytes) -> bool:
    """Whether a file's first bytes are those of a web page or an XML error answer, not of weights."""
    return _text(head).lower().startswith(_MARKUP)


def looks_like_json(head: bytes) -> bool:
    """Whether a file's first bytes are those of a JSON document; a safetensors file's header is behind its length."""
    return b"\0" not in head and _JSON.match(_text(head)) is not None


def error_page(head: bytes, name: str = "") -> str | None:
    """The sort of page that a file is, judged by its first bytes `head`, if a server sent one instead of the file; else None.

    `name`: the file's name, which may allow such content.
    """
    # The length at the start of a safetensors file may begin with the byte of a bracket too; it ends with zeros.
    tag = name.lower().endswith(_WEIGHT_NAMES) and b"\0" not in head and _text(head).startswith(b"<")
    page = (
        "a web page"
        if tag or looks_like_markup(head)
        else "a JSON document"
        if looks_like_json(head)
        else None
    )
    return page if page is not None and not name.lower().endswith(_PAGE_NAMES[page]) else None


def error_type(content_type: str, name: str) -> str | None:
    """As :func:`error_page`, of the media type that a server states."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("text/html", "application/xhtml+xml", "application/xml", "text/xml"):
        page = "a web page"
    elif media_type in ("application/json", "text/json") or media_type.endswith("+json"):
        page = "a JSON document"
    else:
        return None
    return None if name.lower().endswith(_PAGE_NAMES[page]) else f"{page} ({media_type})"


def _text(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()


def missing_end(file: Path) -> str | None:
    """Why a file of weights is incomplete, judged by its structure; None if it is complete, or its format does not show it.

    Torch files end with a directory of their parts, safetensors files begin with the lengths and positions of theirs; only these
    are read. A file of a torch before 1.6 is read whole. Raises OSError.
    """
    with file.open("rb") as stream:
        head = stream.read(HEAD)
        if head.startswith(ZIP):
            return _zip(stream)
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER:
            return _safetensors(file)
        if head.startswith(_LEGACY):
            return _legacy(stream)
    return (
        "it ends in the middle of its first words"
        if 0 < len(head) < len(_LEGACY) and _LEGACY.startswith(head)
        else None
    )


def _zip(stream: BinaryIO) -> str | None:
    try:
        with zipfile.ZipFile(stream):
            return None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        return f"its list of parts is missing or damaged ({error})"


def _safetensors(file: Path) -> str | None:
    import safetensors

    try:
        with safetensors.safe_open(file, framework="pt"):
            return None
    except (safetensors.SafetensorError, ValueError) as error:
        return f"its tensors are not all there ({error})"


def _legacy(stream: BinaryIO) -> str | None:
    stream.seek(0)
    try:
        for _ in range(5):
            for _ in pickletools.genops(stream):
                pass
    except ValueError as error:
        return f"its list of tensors is cut or damaged ({error})"
    stream.seek(0)
    try:
        torch.load(stream, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError) as error:
        if isinstance(error, EOFError) or "unexpected EOF" in str(error):
            return "it ends in the middle of a tensor"
    except Exception:  # whatever else is wrong with it, its end is there
        return None
    return None
