"""The judge learns, measures what it says it measures, and refuses what it cannot judge."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from glide_fast.data import SceneConfig, draw, held_out_captions
from glide_fast.data.build import Plan, build
from glide_fast.errors import CheckpointError, InvalidInputError
from glide_fast.evaluate.attributes import app, chance_levels, judge, load_pictures, load_records, score
from glide_fast.evaluate.classifier import (
    AttributeClassifier,
    JudgeSpec,
    load_classifier,
    save_classifier,
    to_input,
)
from glide_fast.evaluate.targets import ABSENT, Target, labels, target_of
from glide_fast.evaluate.training import augmented, reduced, train_classifier

SPEC = JudgeSpec(("red", "blue"), ("sphere", "star"), ("dog",), width=8)
SOLIDS = SceneConfig(solid=1, relation=0, emoji=0)


def _toy(count, first_seed):
    """Real renders of red and blue spheres and stars."""
    pictures, targets, seed = [], [], first_seed
    while len(pictures) < count:
        picture, _, attributes = draw(seed, SOLIDS, size=64)
        thing = attributes["objects"][0]
        if thing["colour"] in SPEC.colours and thing["name"] in SPEC.shapes:
            pictures.append(picture)
            targets.append(Target(thing["colour"], thing["name"]))
        seed += 1
    return np.stack(pictures), targets


@pytest.fixture(scope="module")
def toy_judge():
    pictures, targets = _toy(160, 0)
    return train_classifier(pictures, targets, SPEC, epochs=10, batch=16, progress=False)


def test_it_learns_two_colours_and_two_shapes(toy_judge):
    pictures, targets = _toy(60, 10**6)
    assert toy_judge.spec.steps == 100
    for size in (64, 32):
        accuracy = score(toy_judge, reduced(pictures, size), targets)
        assert accuracy["colour"] > 0.9 and accuracy["shape"] > 0.85 and accuracy["both"] > 0.8
    wrong = [Target("red" if t.colour == "blue" else "blue", t.shape) for t in targets]
    assert score(toy_judge, pictures, wrong)["colour"] < 0.1


def test_training_is_decided_by_its_seed():
    pictures, targets = _toy(32, 0)
    first, second = (
        train_classifier(pictures, targets, SPEC, epochs=1, batch=16, progress=False) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_report_counts_what_the_answers_say(monkeypatch):
    spec = JudgeSpec(("red", "blue"), ("sphere", "star"), ("dog", "cat"), 8, 0, {"32": {"both": 0.75}})
    model = AttributeClassifier(spec)
    answers = {
        "colour": ["red", "red", "blue", "red", "red", "red"],
        "shape": ["star", "sphere", "star", "star", "star", "star"],
        "concept": ["dog", "dog", "dog", "dog", "dog", "dog"],
    }

    def predict(pictures, batch=256):
        rows = pictures[:, 0, 0, 0].tolist()
        return {name: [values[i] for i in rows] for name, values in answers.items()}

    monkeypatch.setattr(model, "predict", predict)
    records = [
        {"kind": "solid", "name": "star", "colour": "red"},
        {"kind": "solid", "name": "star", "colour": "red"},
        {"kind": "solid", "name": "star", "colour": "red"},
        {"attributes": {"kind": "relation"}},
        {"kind": "emoji", "name": "dog", "colour": ""},
        {"attributes": {"kind": "emoji", "objects": [{"name": "cat", "colour": ""}]}},
    ]
    pictures = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), dtype=np.uint8)
    report = judge(model, pictures, records)
    assert (report["count"], report["skipped"]) == (5, 1)
    assert report["colour"] == {"accuracy": 2 / 3, "uniform": 0.5, "constant": 1.0, "ceiling": None}
    assert report["shape"]["accuracy"] == 2 / 3
    assert report["both"] == {"accuracy": 1 / 3, "uniform": 0.25, "constant": 1.0, "ceiling": 0.75}
    assert report["emoji"] == {"accuracy": 0.5, "uniform": 0.5, "constant": 0.5, "ceiling": None}


def test_chance_is_the_best_constant_answer():
    targets = [Target("red", "star"), Target("red", "sphere"), Target("blue", "star"), Target(concept="dog")]
    chance = chance_levels(targets, SPEC)
    assert chance["colour"] == {"uniform": 0.5, "constant": 2 / 3}
    assert chance["both"] == {"uniform": 0.25, "constant": 1 / 3}
    assert chance["emoji"] == {"uniform": 1.0, "constant": 1.0}


def test_absent_attributes_have_no_label():
    numbers = labels([Target("blue", "sphere"), Target(concept="dog"), Target("green", "star")], SPEC)
    assert numbers["colour"].tolist() == [1, ABSENT, ABSENT]
    assert numbers["shape"].tolist() == [0, ABSENT, 1]
    assert numbers["concept"].tolist() == [ABSENT, 0, ABSENT]


def test_records_of_captions_and_of_data_sets_name_the_same_target():
    record = held_out_captions(1)[0]
    assert target_of(record) == Target(record["colour"], record["name"])
    _, caption, attributes = draw(1, SOLIDS, size=32)
    thing = attributes["objects"][0]
    assert target_of({"caption": caption, "attributes": attributes}) == Target(thing["colour"], thing["name"])
    with pytest.raises(InvalidInputError, match="records with kind"):
        target_of({"caption": "a red cube"})


def test_inputs_are_averaged_down_and_enlarged():
    picture = torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8)
    mean = picture.float().reshape(2, 64, 2, 64, 2, 3).mean(dim=(2, 4)).permute(0, 3, 1, 2) / 255
    assert torch.allclose(to_input(picture), mean, atol=1e-6)
    assert to_input(picture[:, :32, :32]).shape == (2, 3, 64, 64)
    with pytest.raises(InvalidInputError, match="square"):
        to_input(picture[:, :32])
    with pytest.raises(InvalidInputError, match="uint8"):
        to_input(picture.float())


def test_augmentation_is_seeded_and_stays_in_range():
    pictures = torch.rand(8, 3, 64, 64)
    first = augmented(pictures, torch.Generator().manual_seed(1))
    assert torch.equal(first, augmented(pictures, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, pictures)
    assert first.min() >= 0 and first.max() <= 1 and first.shape == pictures.shape


def test_a_saved_classifier_answers_the_same(toy_judge, tmp_path):
    pictures, _ = _toy(8, 5)
    path = tmp_path / "deep" / "judge.safetensors"
    save_classifier(path, toy_judge, toy_judge.spec)
    loaded = load_classifier(path)
    assert loaded.spec == toy_judge.spec
    assert loaded.predict(torch.from_numpy(pictures)) == toy_judge.predict(torch.from_numpy(pictures))
    assert [p.name for p in path.parent.iterdir()] == ["judge.safetensors"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_classifier(path)
    with pytest.raises(InvalidInputError, match="classifier"):
        load_classifier(tmp_path / "none.safetensors")


def test_pictures_come_from_folders_and_arrays(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    for i in (2, 0, 1):
        Image.fromarray(pictures[i]).save(tmp_path / f"{i:03}.png")
    assert np.array_equal(load_pictures(tmp_path), pictures)
    np.save(tmp_path / "all.npy", pictures)
    assert np.array_equal(load_pictures(tmp_path / "all.npy"), pictures)
    np.save(tmp_path / "float.npy", pictures.astype(np.float32))
    with pytest.raises(InvalidInputError, match="float32"):
        load_pictures(tmp_path / "float.npy")
    Image.fromarray(pictures[0][:8, :8]).save(tmp_path / "999.png")
    with pytest.raises(InvalidInputError, match="same size"):
        load_pictures(tmp_path)
    with pytest.raises(InvalidInputError, match="images"):
        load_pictures(tmp_path / "missing")
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(InvalidInputError, match="one JSON object a line"):
        load_records(tmp_path / "bad.jsonl")


def test_what_cannot_be_judged_is_refused(toy_judge):
    pictures = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    with pytest.raises(InvalidInputError, match="one for each picture"):
        judge(toy_judge, pictures, [])
    with pytest.raises(InvalidInputError, match="nothing to judge"):
        judge(toy_judge, pictures, [{"kind": "relation"}])
    with pytest.raises(InvalidInputError, match="got 'plaid'"):
        judge(toy_judge, pictures, [{"kind": "solid", "name": "star", "colour": "plaid"}])
    with pytest.raises(InvalidInputError, match="at least 64 px"):
        train_classifier(pictures, [Target("red", "star")], SPEC, progress=False)


def test_the_commands_train_and_judge(tmp_path):
    for split, count in (("train", 130), ("heldout", 20)):
        build(Plan(count, split, 64, 0, SOLIDS, None), tmp_path / split, progress=False)
    runner = CliRunner()
    judge_file, captions = str(tmp_path / "judge.safetensors"), str(tmp_path / "captions.jsonl")
    options = ["--data", str(tmp_path / "train"), "--heldout", str(tmp_path / "heldout"), "--out", judge_file]
    trained = runner.invoke(app, ["train", *options, "--epochs", "1"])
    assert trained.exit_code == 0, trained.output
    assert set(load_classifier(judge_file).spec.ceiling) == {"32", "128"}
    assert runner.invoke(app, ["captions", "--out", captions, "--count", "9"]).exit_code == 0
    assert load_records(captions) == held_out_captions(9)
    refused = runner.invoke(app, ["captions", "--out", str(tmp_path / "nowhere" / "captions.jsonl")])
    assert refused.exit_code == CheckpointError.exit_code
    assert "was not written: No such file or directory" in refused.output
    np.save(tmp_path / "images.npy", np.zeros((9, 32, 32, 3), dtype=np.uint8))
    options = ["--images", str(tmp_path / "images.npy"), "--captions", captions, "--classifier", judge_file]
    table = runner.invoke(app, ["judge", *options])
    assert table.exit_code == 0 and "9 pictures judged" in table.output and "12.5%" in table.output
    report = json.loads(runner.invoke(app, ["judge", *options, "--json"]).output)
    assert report["count"] == 9 and 0 <= report["both"]["accuracy"] <= 1
    missing = runner.invoke(app, ["judge", *options[:-1], str(tmp_path / "none")])
    assert missing.exit_code == 2
