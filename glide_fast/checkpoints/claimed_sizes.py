"""What a torch file claims to hold, against its length: a file of a kilobyte can claim a tensor of a terabyte.

A tensor that is expanded (a stride of 0), sparse, or one of many names of the same values has a shape far beyond what is
stored, and whoever copies it needs memory for all of it. A compressed file does the same to whoever reads it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from torch import Tensor

_NAMES = 4
"""Under so many names a file may hold all of its values, as it does where weights are tied."""
_SMALL = 1 << 20
"""Bytes that do no harm in a file of any length."""


def why_no_torch_zip(stream: BinaryIO) -> str | None:
    """Why an open zip file cannot have been written by torch; None if it can. The position in the stream moves.

    Torch does not compress its records. A compressed record, or two that overlap, would expand to more bytes than the file has.

    Raises:
        zipfile.BadZipFile: it is no zip file, or not a whole one.
    """
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
    packed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        return f"its record {packed.filename[:100]!r} is compressed, which torch does to none"
    total, length = sum(entry.file_size for entry in entries), stream.seek(0, 2)
    return f"its records have {total:,} bytes, the file {length:,}" if total > length else None


def why_too_large(content: object, length: int) -> str | None:
    """Why ``content`` cannot be that of a file of ``length`` bytes: its tensors are larger. None if they are not."""
    total = 0
    largest: tuple[str, int, tuple[int, ...]] = ("", 0, ())
    for name, tensor in tensors(content):
        size = tensor.numel() * tensor.element_size()
        total += size
        if size > largest[1]:
            largest = (name, size, tuple(tensor.shape))
    if total <= _NAMES * length + _SMALL:
        return None
    return (
        f"its tensors have {total:,} bytes, and the file {length:,} (the largest is {largest[0]}, of shape {largest[2]}): they "
        "are expanded, sparse, or many names of the same values"
    )


def tensors(content: object) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings, lists and tuples, with the keys that lead to it."""
    waiting: list[tuple[str, object]] = [("", content)]
    seen = set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            yield name or "the only one", value
            continue
        if not isinstance(value, (Mapping, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        waiting += [(f"{name}.{str(key)[:100]}".lstrip("."), item) for key, item in items]
