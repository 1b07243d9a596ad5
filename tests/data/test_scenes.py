"""Seeds decide scenes; captions say what is drawn; held-out combinations never reach training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glide_fast.data import SceneConfig, Sprites, area_mean, draw, held_out_captions, render, sample_scene
from glide_fast.data.holdout import emoji_key, is_held_out, relation_key, solid_key
from glide_fast.data.vocabulary import BACKGROUNDS, COLOURS, NOUNS, RELATIONS, SHAPES
from glide_fast.errors import InvalidInputError

seeds = st.integers(min_value=0, max_value=2**63)


def toy_sprites() -> Sprites:
    """Opaque discs of one colour per concept, on transparent ground."""
    size = 24
    y, x = np.mgrid[:size, :size]
    disc = (x - 11.5) ** 2 + (y - 11.5) ** 2 < 100
    rgba = np.zeros((len(NOUNS), 2, size, size, 4), dtype=np.uint8)
    rgba[..., :3] = np.linspace(20, 220, len(NOUNS), dtype=np.uint8)[:, None, None, None, None]
    rgba[..., 3] = 255 * disc
    return Sprites(rgba, NOUNS, ("noto", "twemoji"))


SPRITES = toy_sprites()
SOLIDS = SceneConfig(solid=1, relation=0, emoji=0)
RELATED = SceneConfig(solid=0, relation=1, emoji=0)


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from(["train", "heldout"]))
def test_a_seed_decides_the_picture(seed, split):
    first, second = draw(seed, None, split, SPRITES), draw(seed, None, split, SPRITES)
    assert np.array_equal(first[0], second[0]) and first[1:] == second[1:]
    assert first[0].shape == (128, 128, 3) and first[0].dtype == np.uint8


def test_a_seed_keeps_its_scene_across_versions():
    # Captions published with a trained model must stay what their seeds mean.
    config = SceneConfig(emoji=0)
    assert [sample_scene(seed, config).caption for seed in (1, 2, 3, 4)] == [
        "a pink triangle",
        "a pink cube below a purple heart on a white background",
        "a yellow pyramid",
        "a small green cube on a white background",
    ]


@settings(max_examples=300, deadline=None)
@given(seeds)
def test_training_never_sees_a_held_out_combination(seed):
    train = sample_scene(seed, None, "train", SPRITES)
    assert not is_held_out(_key_from_parts(train))
    heldout = sample_scene(seed, None, "heldout", SPRITES)
    assert is_held_out(_key_from_parts(heldout))
    assert train.kind == heldout.kind


def _key_from_parts(scene):
    names = [(thing.name, thing.colour) for thing in scene.things]
    if scene.kind == "solid":
        return solid_key(*names[0], scene.background)
    if scene.kind == "emoji":
        return emoji_key(names[0][0], scene.background)
    return relation_key(names[0], scene.relation, names[1])


def test_both_phrasings_of_a_relation_share_their_key():
    a, b = ("cube", "red"), ("star", "blue")
    assert relation_key(a, "left of", b) == relation_key(b, "right of", a)
    assert relation_key(a, "on top of", b) == relation_key(b, "below", a)
    assert relation_key(a, "left of", b) != relation_key(b, "left of", a)
    assert relation_key(a, "left of", b) != relation_key(a, "on top of", b)


def test_one_combination_in_ten_is_held_out():
    keys = [
        relation_key((a, c), relation, (b, d))
        for a in SHAPES
        for b in SHAPES
        for c in COLOURS
        for d in COLOURS
        for relation in ("left of", "on top of")
    ]
    assert 0.09 < sum(map(is_held_out, keys)) / len(keys) < 0.11


def test_every_word_and_pair_is_seen_in_training():
    for colour in COLOURS:
        for shape in SHAPES:
            assert any(not is_held_out(solid_key(shape, colour, background)) for background in BACKGROUNDS)
    for noun in NOUNS:
        assert any(not is_held_out(emoji_key(noun, background)) for background in BACKGROUNDS)


@settings(max_examples=200, deadline=None)
@given(seeds, st.sampled_from(["train", "heldout"]))
def test_captions_say_what_the_attributes_hold(seed, split):
    _, caption, attributes = draw(seed, None, split, SPRITES, 32)
    objects = attributes["objects"]
    subject, ground = caption, ""
    if caption.endswith(" background"):
        subject, _, ground = caption.removesuffix(" background").rpartition(" on a ")
    if ground:
        assert ground == attributes["background"]
    else:
        assert split == "train" or attributes["kind"] == "relation"
    if attributes["kind"] == "relation":
        left, right = subject.split(f" {attributes['relation']} ")
        for said, thing in ((left, objects[0]), (right, objects[1])):
            assert said.split()[1:] == [thing["colour"], thing["name"]]
        return
    words = subject.split(" in ")[0].split()[1:]
    expected = [attributes["size"], objects[0]["colour"], objects[0]["name"]]
    assert words == [word for word in expected if word]
    if " in " in subject:
        assert subject.endswith(f" in {objects[0]['style']} style")
    assert subject.split()[0] == ("an" if words[0][0] in "aeiou" else "a")
    assert attributes["held_out"] == (split == "heldout")


def _centroid(picture, background, rgb):
    """Middle (x, y) of what is nearer to ``rgb`` than to the other thing's colour or the background."""
    near = np.abs(picture.astype(int) - np.array(rgb)).sum(axis=2) < 60
    assert near.sum() > 20
    y, x = np.nonzero(near)
    return x.mean(), y.mean()


@pytest.mark.parametrize("relation", RELATIONS)
def test_related_solids_stand_where_the_caption_says(relation):
    seen = 0
    for seed in range(400):
        scene = sample_scene(seed, RELATED)
        colours = {thing.colour for thing in scene.things}
        if (
            scene.relation != relation
            or not colours <= {"red", "blue", "yellow", "purple"}
            or len(colours) < 2
        ):
            continue
        picture = render(scene)
        (ax, ay), (bx, by) = (_centroid(picture, scene.background, thing.rgb) for thing in scene.things)
        assert {"left of": bx - ax, "right of": ax - bx, "on top of": by - ay, "below": ay - by}[
            relation
        ] > 15
        seen += 1
    assert seen > 5


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_objects_stay_inside_the_canvas(seed):
    scene = sample_scene(seed, None, "train", SPRITES)
    picture = render(scene, SPRITES)
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (border == np.array(BACKGROUNDS[scene.background])).all()


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_small_target_is_the_mean_of_the_large_one(seed):
    picture = draw(seed, None, "train", SPRITES)[0]
    mean = picture.reshape(32, 4, 32, 4, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.array_equal(area_mean(picture, 4), np.floor(mean + 0.5).astype(np.uint8))
    assert np.array_equal(area_mean(picture[None], 1)[0], picture)


def test_area_mean_refuses_a_factor_that_does_not_divide():
    with pytest.raises(InvalidInputError, match="factor: got 3"):
        area_mean(np.zeros((32, 32, 3), dtype=np.uint8), 3)


def test_size_words_order_the_drawn_sizes():
    covered = {"small": [], "": [], "large": []}
    for seed in range(300):
        scene = sample_scene(seed, SOLIDS)
        if scene.things[0].name == "sphere":
            ground = np.array(BACKGROUNDS[scene.background])
            covered[scene.size_word].append((render(scene) != ground).any(axis=2).mean())
    assert max(covered["small"]) < min(covered[""]) and max(covered[""]) < min(covered["large"])


def test_held_out_captions_are_balanced_and_held_out():
    records = held_out_captions(180, seed=3)
    assert records == held_out_captions(180, seed=3) != held_out_captions(180, seed=4)
    counts = [sum(r["name"] == shape for r in records) for shape in SHAPES]
    assert counts == [20] * len(SHAPES)
    for record in records:
        assert is_held_out(solid_key(record["name"], record["colour"], record["background"]))
        words = [record["size"], record["colour"], record["name"], f"on a {record['background']} background"]
        assert record["caption"].split(" ", 1)[1] == " ".join(word for word in words if word)
    emoji = held_out_captions(50, kinds=("emoji",), nouns=NOUNS)
    assert all(is_held_out(emoji_key(r["name"], r["background"])) for r in emoji)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_scene(-1, SOLIDS), "seed: got -1"),
        (lambda: sample_scene(1, SOLIDS, "test"), "split: got 'test'"),
        (lambda: sample_scene(1), "sprites: got None"),
        (lambda: render(sample_scene(1, SOLIDS), size=4), "size: got 4"),
        (lambda: SceneConfig(solid=-1), "solid, relation, emoji"),
        (lambda: SceneConfig(solid=0, relation=0, emoji=0), "solid, relation, emoji"),
        (lambda: SceneConfig(name_size=1.5), "name_size: got 1.5"),
        (lambda: SceneConfig(colour_jitter=99), "colour_jitter: got 99"),
        (lambda: held_out_captions(0), "n: got 0"),
        (lambda: held_out_captions(1, kinds=("relation",)), "kinds"),
        (lambda: held_out_captions(1, kinds=("emoji",)), "nouns"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()
