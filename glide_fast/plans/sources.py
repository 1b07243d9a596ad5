"""Which source a backend was measured with: a digest that changes where its kernel does.

It is over the lines that say something: the ends of lines, empty lines, and lines that hold a comment alone do not count.

- Python: the backend's own module and, of a Triton backend, the file of kernels with all files of kernels that it imports.
- C++ and CUDA: what ``setup.py`` wrote down when it built the library that is loaded (``kernel_sources`` in ``_build.json``): the
  op's sources and every header that they include, with the sources of those headers.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = {"cpu": "cpu", "amx": "cpu", "winograd": "cpu", "cuda": "cuda"}
"""Backends whose kernels are in the native library, and which half of it."""
VERSIONS = {"triton": "triton"}
"""Of which package's version a backend's time depends on; of torch's where neither this nor :data:`LIBRARY` names the backend."""
_IMPORT = re.compile(r"^from \.(\w+) import ", re.MULTILINE)
DESCRIPTIONS = ("build", "occupancy")
"""Files of kernels that hold no kernel."""


def normalised(text: str, comment: str) -> str:
    """The lines of a source that say something; ``comment`` begins a line that does not."""
    lines = (line.rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.lstrip().startswith(comment))


def digest(texts: Iterable[str]) -> str:
    """Of texts in their order."""
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode() + b"\0")
    return total.hexdigest()[:16]


def version_of(backend: str) -> str | None:
    """The package whose version decides how fast a backend is; None where only our own library does."""
    return None if backend in LIBRARY else VERSIONS.get(backend, "torch")


@functools.cache
def source_of(op: str, backend: str) -> str | None:
    """The digest of a backend's source as it would run now; None where it is not known (a library that does not say)."""
    if not (op.isidentifier() and backend.isidentifier()):
        return None
    module = ROOT / "ops" / op / f"{backend}.py"
    try:
        texts = [normalised(module.read_text(encoding="utf-8"), "#")]
        if backend == "triton":
            texts += [normalised(file.read_text(encoding="utf-8"), "#") for file in _kernels(op)]
    except OSError:
        return None
    if backend in LIBRARY:
        from glide_fast.ops import native  # brings every op, and those bring this package

        built = (native.build_record() or {}).get("kernel_sources")
        of_library = built.get(f"{op}/{LIBRARY[backend]}") if isinstance(built, dict) else None
        if not isinstance(of_library, str):
            return None
        texts.append(of_library)
    return digest(texts)


def _kernels(op: str) -> list[Path]:
    """The file of an op's kernels and those that it imports, by name."""
    folder = Path(importlib.import_module("glide_fast.kernels").__path__[0])
    found, left = dict[str, Path](), [op]
    while left:
        name = left.pop()
        if name in found or name in DESCRIPTIONS:
            continue
        found[name] = folder / f"{name}.py"
        left += _IMPORT.findall(found[name].read_text(encoding="utf-8"))
    return [found[name] for name in sorted(found)]
