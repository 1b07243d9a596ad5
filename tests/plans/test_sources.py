"""What setup.py says of the kernels in the library: a digest of each op's half, which changes where the kernel does."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import setuptools

from glide_fast.ops import native
from glide_fast.plans import sources

ROOT = Path(sources.ROOT).parent
Digests = Callable[[], dict[str, str]]


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "csrc", tmp_path / "csrc"))


@pytest.fixture
def digests(csrc: Path, monkeypatch: pytest.MonkeyPatch) -> Digests:
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    found: Digests = runpy.run_path(str(ROOT / "setup.py"))["kernel_sources"]
    found.__globals__["CSRC"] = csrc
    return found


def test_a_change_is_seen_by_the_ops_that_are_made_of_it(csrc: Path, digests: Digests) -> None:
    before = digests()
    assert {"group_norm_act/cpu", "group_norm_act/cuda", "convolution/cpu", "masked_attention/cpu"} <= set(
        before
    )

    def changed(name: str, text: str) -> set[str]:
        path = csrc / name
        own = path.read_text()
        path.write_text(own + text)
        after = digests()
        path.write_text(own)
        return {op for op, digest in after.items() if digest != before[op]}

    assert changed("attention/cpu.kernel.cpp", "\nint a;") == {"text_attention/cpu", "masked_attention/cpu"}
    assert changed("group_norm_act/cuda.cuh", "\nint a;") == {"group_norm_act/cuda"}
    assert changed("resample/cpu.kernel.cpp", "\nint a;") == {"resample/cpu"}
    assert changed("resample/cpu.kernel.cpp", "\n\n  // a comment   \n\n") == set()
    assert {"group_norm_act/cpu", "resample/cpu", "convolution/cpu"} <= changed("cpu/vec.h", "\nint a;")


def test_the_library_that_is_loaded_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(record: dict[str, object] | None) -> str | None:
        monkeypatch.setattr(native, "build_record", lambda: record)
        return sources.source_of.__wrapped__("resample", "cpu")

    one, other = ({"kernel_sources": {"resample/cpu": digest}} for digest in ("0123", "4567"))
    assert known(one) == known(one) != known(other) is not None
    assert known(None) is None and known({"kernel_sources": []}) is None and known({"sources": "0"}) is None
    # Torch's own operators need no library.
    assert sources.source_of.__wrapped__("resample", "reference") is not None
