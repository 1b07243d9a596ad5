"""Prompts that README, docs, Makefile and help show: the shipped model knows their words and draws what they ask for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from glide_fast.data.vocabulary import RELATIONS, WORDS
from glide_fast.text import Vocabulary, get_encoder

ROOT = Path(__file__).parents[2]
OFFICIAL = ROOT / "docs" / "tutorials" / "official-code.md"
"""Draws with OpenAI's models, which read any word there is."""
PAGES = [
    ROOT / "README.md",
    ROOT / "Makefile",
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if page != OFFICIAL),
    *sorted(ROOT.glob("glide_fast/cli/*.py")),
]
EXAMPLES = [ROOT / "glide_fast" / "__init__.py", ROOT / "glide_fast" / "pipelines" / "pipeline.py"]
CAPTIONS = ROOT / "docs" / "reference" / "data.md"
"""Shows what the data set says, backgrounds and pairs among it."""

QUOTED = re.compile(r"""["'](an? (?:[a-z]+ ?)+)["']""")
ASKED = re.compile(
    r'(?:pipe\(\[?|inpaint\(|image_to_image\(|upsample\(image, |glide-fast sample |\("small"\)\(|PROMPT=|such as )"([^"$]+)"'
)
DEFAULT = re.compile(r"^PROMPT \?= (.+)$", re.MULTILINE)
VOCABULARY = Vocabulary(
    {token for text in ("a", "an", *(f" {word}" for word in WORDS)) for token in get_encoder().encode(text)},
    WORDS,
)


def shown(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    quoted = QUOTED.findall(text) if page.suffix == ".md" else []
    return [*quoted, *ASKED.findall(text), *DEFAULT.findall(text)]


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_words_of_a_page_are_known(page: Path) -> None:
    for prompt in shown(page):
        assert VOCABULARY.unknown(prompt) == [], prompt
        if page != CAPTIONS:  # the shipped model ignores backgrounds and confuses two objects
            assert "background" not in prompt
            assert not any(relation in prompt for relation in RELATIONS)


def test_prompts_are_found_where_they_are() -> None:
    assert {
        "a green star",
        "a large purple pyramid",
        "a red cube",
        "a large green sphere",
        "a blue sphere",
    } <= set(shown(ROOT / "README.md"))
    assert shown(ROOT / "Makefile") == ["a large purple pyramid"]
    assert "a dog in noto style on a light blue background" in shown(CAPTIONS)
    assert shown(EXAMPLES[0]) == shown(EXAMPLES[1]) == ["a red cube"]
    assert "a red cube" in shown(ROOT / "docs" / "explanation" / "runtime.md")
    assert shown(ROOT / "glide_fast" / "cli" / "sample.py") == ["a yellow star"]


def test_the_samples_picture_shows_prompts_that_it_draws_right() -> None:
    prompts = (ROOT / "docs" / "images" / "samples.txt").read_text(encoding="utf-8").splitlines()
    assert len(prompts) == 12
    for prompt in prompts:
        assert VOCABULARY.unknown(prompt) == []
        assert "background" not in prompt
        assert not any(relation in prompt for relation in RELATIONS)
