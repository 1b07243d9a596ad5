"""The examples of docs/runtime.md, run as one program."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "runtime.md"


def test_the_examples_run() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {})
    named = set(
        re.findall(r"`((?:runtime|diffusion|ops|pipelines)/\w+\.py)`", PAGE.read_text(encoding="utf-8"))
    )
    assert named
    missing = sorted(name for name in named if not (ROOT / "glide_fast" / name).exists())
    assert missing == []
