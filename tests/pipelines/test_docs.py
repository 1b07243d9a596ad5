"""The examples of docs/runtime.md and docs/threads.md, each page run as one program."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "runtime.md"


def run(page: Path) -> int:
    """Run a page's examples; how many it has."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    exec(compile("\n".join(blocks), str(page), "exec"), {})
    return len(blocks)


def test_the_page_on_threads_runs() -> None:
    assert run(ROOT / "docs" / "threads.md") == 1


def test_the_examples_run() -> None:
    assert run(PAGE) == 5
    named = set(
        re.findall(r"`((?:runtime|diffusion|ops|pipelines)/\w+\.py)`", PAGE.read_text(encoding="utf-8"))
    )
    assert named
    missing = sorted(name for name in named if not (ROOT / "glide_fast" / name).exists())
    assert missing == []
