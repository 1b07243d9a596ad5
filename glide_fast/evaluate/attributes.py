"""Do generated pictures show the colour, shape or emoji that their captions name?

``python -m glide_fast.evaluate.attributes train`` trains the classifier on real renders of single objects,
``... captions`` writes balanced held-out captions to generate from, and ``... judge`` compares what the
classifier sees in the generated pictures with what the captions asked for. Beside each accuracy stand two
chance levels (a uniform guess, and the best constant answer, which is higher where the captions are
unbalanced) and the ceiling: the accuracy on real renders of held-out combinations.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image

from glide_fast.checkpoints import write_text
from glide_fast.checkpoints.files import reporting_failed_writes
from glide_fast.data.dataset import SceneDataset
from glide_fast.data.scenes import held_out_captions
from glide_fast.data.vocabulary import COLOURS, NOUNS, SHAPES
from glide_fast.errors import GlideFastError, InvalidInputError, invalid
from glide_fast.evaluate.classifier import (
    INPUT_SIZE,
    AttributeClassifier,
    JudgeSpec,
    load_classifier,
    save_classifier,
)
from glide_fast.evaluate.targets import Target, single_objects, target_of
from glide_fast.evaluate.training import reduced, train_classifier

CEILING_SIZES = (32, 128)


def score(
    model: AttributeClassifier, pictures: NDArray[np.uint8], targets: Sequence[Target]
) -> dict[str, float]:
    """Share of pictures whose colour, shape, both, and emoji are as wanted; kinds that do not occur are left out.

    Args:
        model: the judge.
        pictures: uint8 [N, S, S, 3].
        targets: N targets.
    """
    if len(pictures) != len(targets):
        raise invalid("captions", f"{len(targets)} for {len(pictures)} pictures", "one for each picture")
    answers = model.predict(torch.from_numpy(np.ascontiguousarray(pictures)))
    hits: dict[str, list[bool]] = {"colour": [], "shape": [], "both": [], "emoji": []}
    for i, target in enumerate(targets):
        if target.concept:
            hits["emoji"].append(answers["concept"][i] == target.concept)
        else:
            colour, shape = answers["colour"][i] == target.colour, answers["shape"][i] == target.shape
            hits["colour"].append(colour)
            hits["shape"].append(shape)
            hits["both"].append(colour and shape)
    return {name: sum(values) / len(values) for name, values in hits.items() if values}


def chance_levels(targets: Sequence[Target], spec: JudgeSpec) -> dict[str, dict[str, float]]:
    """For each accuracy: what a uniform guess and what the best constant answer would reach."""
    solids = [t for t in targets if not t.concept]
    emoji = [t for t in targets if t.concept]
    answers: dict[str, tuple[Sequence[object], int]] = {
        "colour": ([t.colour for t in solids], len(spec.colours)),
        "shape": ([t.shape for t in solids], len(spec.shapes)),
        "both": ([(t.colour, t.shape) for t in solids], len(spec.colours) * len(spec.shapes)),
        "emoji": ([t.concept for t in emoji], len(spec.concepts)),
    }
    return {
        name: {"uniform": 1 / classes, "constant": Counter(right).most_common(1)[0][1] / len(right)}
        for name, (right, classes) in answers.items()
        if right
    }


def judge(
    model: AttributeClassifier, pictures: NDArray[np.uint8], records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Judge generated pictures against the records of their captions.

    Args:
        model: from :func:`glide_fast.evaluate.classifier.load_classifier`.
        pictures: uint8 [N, S, S, 3].
        records: N caption records; those of several objects are skipped.

    Returns:
        "count" and "skipped", and for each of colour, shape, both and emoji that occurs: "accuracy", "uniform"
        and "constant" chance, and "ceiling" (None when the classifier carries none).

    Raises:
        InvalidInputError: the numbers differ, no record is of a single object, or one names something
        unknown.
    """
    if len(pictures) != len(records):
        raise invalid("captions", f"{len(records)} for {len(pictures)} pictures", "one for each picture")
    judged = [(i, target) for i, record in enumerate(records) if (target := target_of(record)) is not None]
    if not judged:
        raise InvalidInputError(
            "captions: none of them is about a single object, so there is nothing to judge"
        )
    for _, target in judged:
        for word, known in (
            (target.colour, model.spec.colours),
            (target.shape, model.spec.shapes),
            (target.concept, model.spec.concepts),
        ):
            if word and word not in known:
                raise invalid("captions", word, f"what the classifier knows: {', '.join(known)}")
    targets = [target for _, target in judged]
    accuracy = score(model, pictures[[i for i, _ in judged]], targets)
    chance = chance_levels(targets, model.spec)
    size = "32" if pictures.shape[1] <= INPUT_SIZE // 2 else "128"
    ceiling = model.spec.ceiling.get(size, {})
    report: dict[str, Any] = {"count": len(judged), "skipped": len(records) - len(judged)}
    for name, value in accuracy.items():
        report[name] = {"accuracy": value, **chance[name], "ceiling": ceiling.get(name)}
    return report


def load_pictures(path: str | Path) -> NDArray[np.uint8]:
    """Pictures to judge: a .npy file (uint8 [N, S, S, 3]), or a folder of PNGs of one size, ordered by name."""
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.png"))
        if not files:
            raise invalid("images", str(path), "a folder with .png files")
        pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
        if len({picture.shape for picture in pictures}) > 1:
            raise invalid("images", str(path), "pictures that all have the same size")
        return np.stack(pictures)
    if not path.is_file():
        raise invalid("images", str(path), "a folder of .png files or a .npy file")
    try:
        array: NDArray[np.uint8] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise invalid("images", str(path), f"a .npy file ({error})") from error
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise invalid("images", f"{array.dtype} {list(array.shape)}", "uint8 [N, S, S, 3]")
    return array


def load_records(path: str | Path) -> list[dict[str, Any]]:
    """Caption records, one JSON object a line."""
    path = Path(path)
    if not path.is_file():
        raise invalid("captions", str(path), "a .jsonl file with one record a line")
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise invalid("captions", str(path), f"one JSON object a line ({error})") from error


def render_report(report: dict[str, Any]) -> str:
    """A judge's report as a small table."""
    skipped = f", {report['skipped']} of several objects skipped" if report["skipped"] else ""
    lines = [
        f"{report['count']} pictures judged{skipped}",
        f"{'':8}{'accuracy':>10}{'chance':>10}{'constant':>10}{'ceiling':>10}",
    ]
    for name in ("colour", "shape", "both", "emoji"):
        if name in report:
            row = report[name]
            ceiling = "-" if row["ceiling"] is None else f"{row['ceiling']:.1%}"
            lines.append(
                f"{name:8}{row['accuracy']:>10.1%}{row['uniform']:>10.1%}{row['constant']:>10.1%}{ceiling:>10}"
            )
    return "\n".join(lines)


app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


def _fail(error: GlideFastError) -> typer.Exit:
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(error.exit_code)


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="Data set to train on (split train).")],
    heldout: Annotated[Path, typer.Option(help="Data set of held-out combinations, for the ceiling.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.")] = 4,
    limit: Annotated[int, typer.Option(help="Pictures of single objects to use.")] = 30_000,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
) -> None:
    """Train the classifier on real renders and measure its ceiling."""
    try:
        torch.set_num_threads(threads)
        pictures, targets = single_objects(SceneDataset(data), limit)
        real, real_targets = single_objects(SceneDataset(heldout))
        concepts = tuple(noun for noun in NOUNS if any(t.concept == noun for t in targets))
        model = train_classifier(
            pictures, targets, JudgeSpec(tuple(COLOURS), SHAPES, concepts), epochs=epochs, seed=seed
        )
        ceiling = {str(size): score(model, reduced(real, size), real_targets) for size in CEILING_SIZES}
        save_classifier(out, model, replace(model.spec, ceiling=ceiling))
    except GlideFastError as error:
        raise _fail(error) from error
    for size, values in ceiling.items():
        typer.echo(
            f"real held-out renders at {size} px: " + ", ".join(f"{k} {v:.1%}" for k, v in values.items())
        )
    typer.echo(f"{out}: {sum(p.numel() for p in model.parameters()):,} parameters, {model.spec.steps} steps")


@app.command("judge")
def judge_command(
    images: Annotated[Path, typer.Option(help="Folder of .png files, or .npy (uint8 [N, S, S, 3]).")],
    captions: Annotated[
        Path, typer.Option(help="Records of the captions, one a line, in the images' order.")
    ],
    classifier: Annotated[Path, typer.Option(help="File written by `train`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print how often the pictures show the attributes that their captions name."""
    try:
        report = judge(load_classifier(classifier), load_pictures(images), load_records(captions))
    except GlideFastError as error:
        raise _fail(error) from error
    typer.echo(json.dumps(report, indent=1) if as_json else render_report(report))


@app.command()
def captions(
    out: Annotated[Path, typer.Option(help="The .jsonl file to write.")],
    count: Annotated[int, typer.Option(help="Number of captions.")] = 200,
    seed: Annotated[int, typer.Option(help="Of their order.")] = 0,
    emoji: Annotated[bool, typer.Option(help="Ask for emoji instead of solids.")] = False,
) -> None:
    """Write balanced held-out captions of single objects, with what a judge needs to know about them."""
    try:
        records = held_out_captions(count, seed, ("emoji",) if emoji else ("solid",), NOUNS if emoji else ())
        with reporting_failed_writes(out):
            write_text(out, "".join(json.dumps(record) + "\n" for record in records))
    except GlideFastError as error:
        raise _fail(error) from error
    typer.echo(f"{out}: {count} captions")


if __name__ == "__main__":
    app()
