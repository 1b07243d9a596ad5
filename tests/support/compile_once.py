"""Runs a compiler, and compiles nothing twice: ``python compile_once.py FOLDER COMPILERS PROGRAM ARGUMENTS...``.

What ``-c`` asks for is kept in FOLDER under the hash of all of csrc, of the arguments and of COMPILERS, which says what compiles
and with whose headers. Everything else, and a source from elsewhere, goes to PROGRAM as it is. No list of dependencies is
written for an object that was kept. Uses the standard library only: a build starts it for every object.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PATHS = ("-o", "-MF", "-ccbin")
"""Options followed by a path that has no effect on the object file."""


def kept_name(source: Path, csrc: Path, compilers: str, arguments: list[str]) -> str:
    """The name of the file that keeps the object of ``source``; it depends on the sources, the compilers and the arguments."""
    relevant = [
        os.path.relpath(argument, csrc) if argument == str(source) else argument
        for before, argument in zip(["", *arguments], arguments, strict=False)
        if before not in PATHS
    ]
    digest = hashlib.sha256("\0".join([compilers, *relevant]).encode())
    for file in sorted(path for path in csrc.rglob("*") if path.is_file()):
        digest.update(f"\0{file.relative_to(csrc)}\0".encode() + file.read_bytes())
    return f"glide_fast_{os.getuid()}_{digest.hexdigest()[:20]}.o"


def compile_once(folder: Path, compilers: str, command: list[str]) -> int:
    """Run ``command``, or copy its object file if ``folder`` has it already; returns the exit status."""
    arguments = command[1:]
    source = Path(arguments[arguments.index("-c") + 1]) if "-c" in arguments else None
    csrc = next((parent for parent in source.parents if parent.name == "csrc"), None) if source else None
    if source is None or csrc is None:
        return subprocess.run(command).returncode
    object_file = Path(arguments[arguments.index("-o") + 1])
    kept = folder / kept_name(source, csrc, compilers, arguments)
    # Two builds at the same time: one compiles, the other waits for it.
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            status = subprocess.run(command).returncode
            if status:
                return status
            unfinished = kept.with_suffix(".unfinished")
            shutil.copyfile(object_file, unfinished)
            unfinished.rename(kept)
    shutil.copyfile(kept, object_file)
    return 0


if __name__ == "__main__":
    sys.exit(compile_once(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
