"""Scenes: from an integer seed to a caption, its attributes and a picture.

A scene is decided first (:func:`sample_scene`, words and numbers only) and drawn afterwards
(:func:`render`), so captions can be listed without drawing and a scene can be drawn at any size. All
randomness comes from ``random.Random(seed).random()``, whose values are the same on every platform and
version of Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from glide_fast.data.holdout import emoji_key, is_held_out, relation_key, solid_key
from glide_fast.data.shapes import draw_solid, extent
from glide_fast.data.sprites import Sprites, paste
from glide_fast.data.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    FLAT_SHAPES,
    RELATIONS,
    RGB,
    SHAPES,
    SIZES,
    with_article,
)
from glide_fast.errors import invalid

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")

Point = tuple[float, float]
Box = tuple[float, float, float, float]

_T = TypeVar("_T")


@dataclass(frozen=True)
class SceneConfig:
    """How often each kind of scene and each optional word appears.

    Attributes:
        solid: weight of one lone solid.
        relation: weight of two related solids.
        emoji: weight of one emoji; 0 needs no sprites.
        name_background: chance that a caption of the training split names the background. Held-out captions
            of lone objects always do, because the background is part of the held-out combination.
        name_size: chance that a lone solid or emoji is small or large and called so.
        name_style: chance that an emoji's caption names its vendor.
        colour_jitter: largest change of a solid's colour, per channel, in sRGB steps.
    """

    solid: float = 0.50
    relation: float = 0.25
    emoji: float = 0.25
    name_background: float = 0.5
    name_size: float = 0.35
    name_style: float = 0.3
    colour_jitter: float = 8.0

    def __post_init__(self) -> None:
        weights = (self.solid, self.relation, self.emoji)
        if any(not 0 <= weight < float("inf") for weight in weights) or not sum(weights) > 0:
            raise invalid("solid, relation, emoji", weights, "weights >= 0 with a positive sum")
        for name in ("name_background", "name_size", "name_style"):
            if not 0 <= getattr(self, name) <= 1:
                raise invalid(name, getattr(self, name), "a chance in [0, 1]")
        if not 0 <= self.colour_jitter <= 16:
            raise invalid("colour_jitter", self.colour_jitter, "0 to 16 (more would blur the colours' names)")


@dataclass(frozen=True)
class Thing:
    """One object of a scene. Lengths are fractions of the canvas's side.

    Attributes:
        name: a shape, or an emoji's noun.
        colour: the colour's name; empty for an emoji.
        rgb: the unshaded colour drawn; zeros for an emoji.
        style: the emoji's vendor; empty for a solid.
        size: a solid's unit (see :mod:`glide_fast.data.shapes`), an emoji's larger side.
        x, y: centre, from the upper left corner.
        turn: see :func:`glide_fast.data.shapes.draw_solid`.
    """

    name: str
    colour: str
    rgb: RGB
    style: str
    size: float
    x: float
    y: float
    turn: float = 0.0


@dataclass(frozen=True)
class Scene:
    """The content of a picture, and its caption.

    Attributes:
        kind: "solid", "relation" or "emoji".
        caption: the text that a model reads.
        background: the name of the background's colour, which the caption may leave out.
        things: one object, or two for a relation, in the caption's order.
        size_word: "small", "large" or empty.
        relation: one of RELATIONS, or empty.
        key: the combination that decides the split, see :mod:`glide_fast.data.holdout`.
    """

    kind: str
    caption: str
    background: str
    things: tuple[Thing, ...]
    size_word: str
    relation: str
    key: str

    @property
    def held_out(self) -> bool:
        """Whether the scene belongs to the held-out split."""
        return is_held_out(self.key)

    def attributes(self) -> dict[str, Any]:
        """The attributes by which a picture is judged, as plain JSON: kind, background, size, relation and the objects' names."""
        return {
            "kind": self.kind,
            "background": self.background,
            "size": self.size_word,
            "relation": self.relation,
            "objects": [{"name": t.name, "colour": t.colour, "style": t.style} for t in self.things],
            "held_out": self.held_out,
        }


class _Draws:
    """Choices built on ``random()`` alone, so that no library version changes a seed's scene."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def one_of(self, options: Sequence[_T]) -> _T:
        return options[int(self._random() * len(options))]

    def weighted(self, options: Sequence[_T], weights: Sequence[float]) -> _T:
        point = self._random() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            point -= weight
            if point < 0:
                return option
        return next(o for o, w in zip(reversed(options), reversed(weights), strict=True) if w > 0)


def _on_background(phrase: str, background: str) -> str:
    return f"{phrase} on {with_article(background)} background"


def _jittered(colour: str, draws: _Draws, amount: float) -> RGB:
    red, green, blue = (min(255, max(0, round(v + draws.between(-amount, amount)))) for v in COLOURS[colour])
    return red, green, blue


def _turn(draws: _Draws) -> float:
    return draws.one_of((-1.0, -0.5, 0.0, 0.5, 1.0))


def _place(draws: _Draws, size: float) -> float:
    """A coordinate near the middle that keeps an object of this size inside the canvas."""
    free = max(0.0, min(0.10, 0.5 - 0.5 * size - 0.03))
    return 0.5 + draws.between(-free, free)


def _solid(draws: _Draws, config: SceneConfig, split: Split) -> Scene:
    shape, colour = draws.one_of(SHAPES), draws.one_of(tuple(COLOURS))
    background = draws.one_of(tuple(BACKGROUNDS))
    word = draws.one_of(("small", "large")) if draws.chance(config.name_size) else ""
    size = draws.between(*SIZES[word])
    thing = Thing(
        shape,
        colour,
        _jittered(colour, draws, config.colour_jitter),
        "",
        size,
        _place(draws, size),
        _place(draws, size),
        _turn(draws),
    )
    caption = solid_caption(shape, colour, word)
    if draws.chance(config.name_background) or split == "heldout":
        caption = _on_background(caption, background)
    return Scene("solid", caption, background, (thing,), word, "", solid_key(shape, colour, background))


def solid_caption(shape: str, colour: str, size_word: str = "", background: str = "") -> str:
    """The caption of a lone solid.

    >>> solid_caption("cube", "orange"), solid_caption("star", "red", "small", "light blue")
    ('an orange cube', 'a small red star on a light blue background')
    """
    caption = with_article(f"{size_word} {colour} {shape}".strip())
    return _on_background(caption, background) if background else caption


_SINK = {"cube": 0.16, "cylinder": 0.12, "sphere": 0.03, "ring": 0.02}
"""How far, in units of the lower solid, an upper one sinks into it, so that it stands on the visible top."""


def _lay_out(
    draws: _Draws, stacked: bool, shapes: tuple[str, str], boxes: tuple[Box, Box], size: float, lower: float
) -> tuple[Point, Point]:
    """Centres of two solids, the upper (stacked) or left one first; the pair is about the canvas's middle.

    ``boxes`` are the solids' extents and ``lower`` the second one's unit, as fractions of the canvas's
    side; ``size`` is the unit the pair was sized around.
    """
    shift, gap = draws.between(-0.06, 0.06), draws.between(0.02, 0.08)
    near, far = boxes
    if not stacked:
        total = (near[2] - near[0]) + gap + (far[2] - far[0])
        start = 0.5 - total / 2 + draws.between(-0.03, 0.03)
        floor = 0.5 + draws.between(-0.05, 0.05) + size / 2
        return (start - near[0], floor - near[3]), (start + total - far[2], floor - far[3])
    sink = _SINK.get(shapes[1], 0.0) * lower
    if shapes[0] in FLAT_SHAPES:
        sink /= 2
    total = (near[3] - near[1]) + (far[3] - far[1]) - sink
    start = 0.5 - total / 2 + draws.between(-0.03, 0.03)
    return (0.5 + shift, start - near[1]), (0.5 - shift / 2, start + total - far[3])


def _box(shape: str, unit: float, turn: float) -> Box:
    left, top, right, bottom = extent(shape, turn)
    return left * unit, top * unit, right * unit, bottom * unit


def _relation(draws: _Draws, config: SceneConfig, split: Split) -> Scene:
    relation, background = draws.one_of(RELATIONS), draws.one_of(tuple(BACKGROUNDS))
    first = (draws.one_of(SHAPES), draws.one_of(tuple(COLOURS)))
    second = first
    while second == first:  # two alike would make the relation invisible
        second = (draws.one_of(SHAPES), draws.one_of(tuple(COLOURS)))
    size = draws.between(0.36, 0.43)
    sizes = (size * draws.between(0.94, 1.06), size * draws.between(0.94, 1.06))
    turns = (_turn(draws), _turn(draws))
    colours = tuple(_jittered(c, draws, config.colour_jitter) for c in (first[1], second[1]))
    pair = (first, second)
    # Laid out with the upper or left one first, then handed back in the caption's order.
    a, b = (0, 1) if relation in ("left of", "on top of") else (1, 0)
    boxes = (_box(pair[a][0], sizes[a], turns[a]), _box(pair[b][0], sizes[b], turns[b]))
    stacked = relation in ("on top of", "below")
    places = _lay_out(draws, stacked, (pair[a][0], pair[b][0]), boxes, size, sizes[b])
    things = tuple(
        Thing(shape, colour, colours[i], "", sizes[i], *places[i if a == 0 else 1 - i], turns[i])
        for i, (shape, colour) in enumerate(pair)
    )
    caption = f"{solid_caption(*first)} {relation} {solid_caption(*second)}"
    if draws.chance(config.name_background):
        caption = _on_background(caption, background)
    return Scene("relation", caption, background, things, "", relation, relation_key(first, relation, second))


def emoji_caption(noun: str, size_word: str = "", style: str = "", background: str = "") -> str:
    """The caption of an emoji.

    >>> emoji_caption("owl"), emoji_caption("dog", "large", "noto", "grey")
    ('an owl', 'a large dog in noto style on a grey background')
    """
    caption = with_article(f"{size_word} {noun}".strip()) + (f" in {style} style" if style else "")
    return _on_background(caption, background) if background else caption


def _emoji(draws: _Draws, config: SceneConfig, split: Split, sprites: Sprites) -> Scene:
    noun, style = draws.one_of(sprites.nouns), draws.one_of(sprites.styles)
    background = draws.one_of(tuple(BACKGROUNDS))
    word = draws.one_of(("small", "large")) if draws.chance(config.name_size) else ""
    # An emoji carries more detail than a solid, so each size is drawn a little larger.
    size = min(0.92, 1.15 * draws.between(*SIZES[word]))
    thing = Thing(noun, "", (0, 0, 0), style, size, _place(draws, size), _place(draws, size))
    named = draws.chance(config.name_background) or split == "heldout"
    caption = emoji_caption(
        noun, word, style if draws.chance(config.name_style) else "", background if named else ""
    )
    return Scene("emoji", caption, background, (thing,), word, "", emoji_key(noun, background))


def sample_scene(
    seed: int, config: SceneConfig | None = None, split: Split = "train", sprites: Sprites | None = None
) -> Scene:
    """Decide the scene of a seed.

    Scenes of the other split are drawn again, from the same stream, until one belongs to ``split``.

    Args:
        seed: any integer >= 0.
        config: weights and chances; the defaults if None.
        split: "train" never gives a held-out combination, "heldout" gives nothing else.
        sprites: the emoji that may be used; needed unless ``config.emoji`` is 0.

    Raises:
        InvalidInputError: a negative seed, an unknown split, or emoji without sprites.
    """
    config = config or SceneConfig()
    if not isinstance(seed, int) or seed < 0:
        raise invalid("seed", seed, "an integer >= 0")
    if split not in SPLITS:
        raise invalid("split", split, " or ".join(SPLITS))
    if sprites is None and config.emoji > 0:
        raise invalid("sprites", None, "a sprite set, or a SceneConfig with emoji=0")
    draws = _Draws(seed)
    makers: dict[str, Callable[[], Scene]] = {
        "solid": lambda: _solid(draws, config, split),
        "relation": lambda: _relation(draws, config, split),
    }
    if sprites is not None:
        makers["emoji"] = lambda: _emoji(draws, config, split, sprites)
    # The kind is drawn once and kept, so that both splits have the same mixture.
    weights = (config.solid, config.relation, config.emoji)
    make = makers[draws.weighted(("solid", "relation", "emoji"), weights)]
    for _ in range(100_000):
        scene = make()
        if scene.held_out == (split == "heldout"):
            return scene
    nouns = sprites.nouns if sprites else None
    raise invalid("sprites", nouns, f"nouns of which some combination is in split {split!r}")


def render(scene: Scene, sprites: Sprites | None = None, size: int = 128) -> NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: from :func:`sample_scene`.
        sprites: needed for emoji.
        size: side in picture elements, 16 to 1024.

    Returns:
        uint8 [size, size, 3], sRGB.
    """
    if not 16 <= size <= 1024:
        raise invalid("size", size, "16 to 1024")
    canvas = np.empty((size, size, 3), dtype=np.float32)
    canvas[...] = BACKGROUNDS[scene.background]
    # From the bottom up, so that what stands on something covers its top.
    for thing in sorted(scene.things, key=lambda t: -t.y):
        if scene.kind == "emoji":
            if sprites is None:
                raise invalid("sprites", None, "the sprite set the scene was sampled with")
            side = max(1, round(thing.size * size))
            left, top = round(thing.x * size - side / 2), round(thing.y * size - side / 2)
            paste(canvas, sprites.image(thing.name, thing.style), left, top, side)
        else:
            draw_solid(
                canvas, thing.name, thing.rgb, (thing.x * size, thing.y * size), thing.size * size, thing.turn
            )
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def draw(
    seed: int,
    config: SceneConfig | None = None,
    split: Split = "train",
    sprites: Sprites | None = None,
    size: int = 128,
) -> tuple[NDArray[np.uint8], str, dict[str, Any]]:
    """Picture (uint8 [size, size, 3]), caption and attributes of a seed: sampled, then rendered."""
    scene = sample_scene(seed, config, split, sprites)
    return render(scene, sprites, size), scene.caption, scene.attributes()


def held_out_captions(
    n: int, seed: int = 0, kinds: Iterable[str] = ("solid",), nouns: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Balanced captions of single objects that training never saw.

    Shapes (or nouns) take turns; each goes through its held-out combinations of colour, background and size
    word in an order that the seed shuffles, its colours taking turns too, and starts over when it has used
    them all.

    Args:
        n: how many.
        seed: order.
        kinds: "solid", "emoji" or both.
        nouns: the emoji to ask for when ``kinds`` has "emoji".

    Returns:
        dicts of "caption", "kind", "name", "colour", "background" and "size".
    """
    kinds = tuple(kinds)
    if n < 1:
        raise invalid("n", n, "at least 1")
    if not kinds or any(kind not in ("solid", "emoji") for kind in kinds):
        raise invalid("kinds", kinds, "solid, emoji or both")
    if "emoji" in kinds and not nouns:
        raise invalid("nouns", nouns, "the nouns to ask for, with kinds that include emoji")
    draws = _Draws(seed)
    pools = [_held_out_solids(shape) for shape in SHAPES] if "solid" in kinds else []
    if "emoji" in kinds:
        pools += [_held_out_emoji(noun) for noun in nouns]
    pools = _shuffled([_taking_turns(_shuffled(pool, draws)) for pool in pools if pool], draws)
    if not pools:
        raise invalid("nouns", nouns, "nouns with at least one held-out combination")
    turns = ((pools[i % len(pools)], i // len(pools)) for i in range(n))
    return [dict(pool[turn % len(pool)]) for pool, turn in turns]


def _held_out_solids(shape: str) -> list[dict[str, Any]]:
    return [
        {
            "caption": solid_caption(shape, colour, word, background),
            "kind": "solid",
            "name": shape,
            "colour": colour,
            "background": background,
            "size": word,
        }
        for colour in COLOURS
        for background in BACKGROUNDS
        for word in SIZES
        if is_held_out(solid_key(shape, colour, background))
    ]


def _held_out_emoji(noun: str) -> list[dict[str, Any]]:
    return [
        {
            "caption": emoji_caption(noun, word, "", background),
            "kind": "emoji",
            "name": noun,
            "colour": "",
            "background": background,
            "size": word,
        }
        for background in BACKGROUNDS
        for word in SIZES
        if is_held_out(emoji_key(noun, background))
    ]


def _taking_turns(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same entries, with the colours one after the other for as long as each has entries left."""
    rounds: dict[str, int] = {}
    ranked = []
    for entry in entries:
        rounds[entry["colour"]] = rounds.get(entry["colour"], -1) + 1
        ranked.append((rounds[entry["colour"]], entry))
    return [entry for _, entry in sorted(ranked, key=lambda pair: pair[0])]


def _shuffled(items: list[_T], draws: _Draws) -> list[_T]:
    keyed = [(draws.between(0, 1), position) for position in range(len(items))]
    return [items[position] for _, position in sorted(keyed)]
