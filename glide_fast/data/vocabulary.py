"""Every word the data set uses, and the colour or artwork behind it.

Colours are sRGB bytes. They were picked far apart in hue or lightness, so that a classifier still separates
them after shading and a resize to 32 px.
"""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]

SHADED_SHAPES: tuple[str, ...] = ("cube", "sphere", "cylinder", "cone", "pyramid")
FLAT_SHAPES: tuple[str, ...] = ("star", "heart", "triangle", "ring")
SHAPES: tuple[str, ...] = SHADED_SHAPES + FLAT_SHAPES

COLOURS: dict[str, RGB] = {
    "red": (222, 32, 38),
    "orange": (252, 136, 14),
    "yellow": (250, 214, 22),
    "green": (34, 160, 62),
    "blue": (36, 84, 224),
    "purple": (132, 48, 186),
    "pink": (252, 128, 190),
    "brown": (126, 74, 34),
}

BACKGROUNDS: dict[str, RGB] = {
    "white": (255, 255, 255),
    "grey": (150, 150, 150),
    "black": (12, 12, 12),
    "light blue": (176, 216, 246),
    "light green": (190, 234, 186),
    "light yellow": (255, 246, 190),
}

SIZES: dict[str, tuple[float, float]] = {
    "small": (0.30, 0.36),
    "": (0.48, 0.60),
    "large": (0.74, 0.86),
}
"""Size word -> range of the larger side of a lone object, as a fraction of the canvas; "" is no word."""

RELATIONS: tuple[str, ...] = ("left of", "right of", "on top of", "below")


@dataclass(frozen=True)
class Concept:
    """One emoji: its noun in captions, Unicode code point and icon name (the same in every vendor's set)."""

    noun: str
    code: str
    icon: str


CONCEPTS: tuple[Concept, ...] = (
    Concept("dog", "1f436", "dog-face"),
    Concept("cat", "1f431", "cat-face"),
    Concept("fox", "1f98a", "fox"),
    Concept("panda", "1f43c", "panda"),
    Concept("frog", "1f438", "frog"),
    Concept("lion", "1f981", "lion"),
    Concept("pig", "1f437", "pig-face"),
    Concept("monkey", "1f435", "monkey-face"),
    Concept("penguin", "1f427", "penguin"),
    Concept("owl", "1f989", "owl"),
    Concept("butterfly", "1f98b", "butterfly"),
    Concept("fish", "1f420", "tropical-fish"),
    Concept("octopus", "1f419", "octopus"),
    Concept("crab", "1f980", "crab"),
    Concept("rose", "1f339", "rose"),
    Concept("sunflower", "1f33b", "sunflower"),
    Concept("tree", "1f333", "deciduous-tree"),
    Concept("cactus", "1f335", "cactus"),
    Concept("mushroom", "1f344", "mushroom"),
    Concept("pizza", "1f355", "pizza"),
    Concept("hamburger", "1f354", "hamburger"),
    Concept("strawberry", "1f353", "strawberry"),
    Concept("banana", "1f34c", "banana"),
    Concept("apple", "1f34e", "red-apple"),
    Concept("watermelon", "1f349", "watermelon"),
    Concept("carrot", "1f955", "carrot"),
    Concept("car", "1f697", "automobile"),
    Concept("rocket", "1f680", "rocket"),
    Concept("sun", "2600", "sun"),
    Concept("snowman", "26c4", "snowman-without-snow"),
    Concept("house", "1f3e0", "house"),
    Concept("ghost", "1f47b", "ghost"),
    Concept("robot", "1f916", "robot"),
    Concept("balloon", "1f388", "balloon"),
    Concept("umbrella", "2602", "umbrella"),
    Concept("pumpkin", "1f383", "jack-o-lantern"),
)
NOUNS: tuple[str, ...] = tuple(concept.noun for concept in CONCEPTS)


@dataclass(frozen=True)
class Vendor:
    """One emoji set: its style word in captions, and the npm package and version that carry it."""

    style: str
    package: str
    version: str
    licence: str


VENDORS: tuple[Vendor, ...] = (
    Vendor("noto", "@iconify-json/noto", "1.2.9", "Apache-2.0"),
    Vendor("twemoji", "@iconify-json/twemoji", "1.2.5", "CC-BY-4.0"),
    Vendor("fluent", "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT"),
)


def _words() -> tuple[str, ...]:
    phrases = (
        *SHAPES,
        *COLOURS,
        *NOUNS,
        *(vendor.style for vendor in VENDORS),
        *SIZES,
        *BACKGROUNDS,
        *RELATIONS,
        "a an on background in style",
    )
    return tuple(dict.fromkeys(word for phrase in phrases for word in phrase.split()))


WORDS: tuple[str, ...] = _words()
"""Every word of every caption, each once: first the words for drawn objects, then the words around them."""


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase.

    >>> with_article("orange cube"), with_article("red cube")
    ('an orange cube', 'a red cube')
    """
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
