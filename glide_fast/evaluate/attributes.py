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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from glide_fast.data.dataset import SceneDataset, area_mean
from glide_fast.data.scenes import held_out_captions
from glide_fast.data.vocabulary import COLOURS, NOUNS, SHAPES
from glide_fast.errors import GlideFastError, InvalidInputError, invalid
from glide_fast.evaluate.classifier import (
    INPUT_SIZE,
    AttributeClassifier,
    JudgeSpec,
    load_classifier,
    save_classifier,
    to_input,
)

CEILING_SIZES = (32, 128)
ABSENT = -1
"""Label of an attribute that a picture does not have; losses and scores leave it out."""


@dataclass(frozen=True)
class Target:
    """What a caption of a single object asks for; empty strings where it asks for nothing."""

    colour: str = ""
    shape: str = ""
    concept: str = ""


def target_of(record: dict[str, Any]) -> Target | None:
    """The target of a caption record, or None for scenes of several objects.

    Args:
        record: a line of a data set's captions.jsonl, or an entry of
            :func:`glide_fast.data.scenes.held_out_captions`.

    Raises:
        InvalidInputError: the record has neither form.
    """
    attributes = record.get("attributes", record)
    try:
        kind = attributes["kind"]
        if kind == "relation":
            return None
        thing = attributes["objects"][0] if "objects" in attributes else attributes
        if kind == "emoji":
            return Target(concept=thing["name"])
        return Target(colour=thing["colour"], shape=thing["name"])
    except (KeyError, IndexError, TypeError) as error:
        raise invalid("captions", record, "records with kind, name and colour, or with attributes") from error


def labels(targets: Sequence[Target], spec: JudgeSpec) -> dict[str, Tensor]:
    """Class numbers for each head, int64 [N]; ABSENT where a target has none or ``spec`` does not know it."""

    def numbers(names: Iterable[str], classes: tuple[str, ...]) -> Tensor:
        index = {name: i for i, name in enumerate(classes)}
        return torch.tensor([index.get(name, ABSENT) for name in names], dtype=torch.int64)

    return {
        "colour": numbers((t.colour for t in targets), spec.colours),
        "shape": numbers((t.shape for t in targets), spec.shapes),
        "concept": numbers((t.concept for t in targets), spec.concepts),
    }


def single_objects(dataset: SceneDataset, limit: int | None = None) -> tuple[NDArray[np.uint8], list[Target]]:
    """Pictures (uint8 [N, S, S, 3]) and targets of the first ``limit`` single-object scenes of a data set."""
    chosen = [(i, t) for i, record in enumerate(dataset.records) if (t := target_of(record)) is not None][
        :limit
    ]
    if not chosen:
        raise InvalidInputError("data: the data set has no scene of a single object")
    return dataset.images[[i for i, _ in chosen]], [t for _, t in chosen]


def reduced(pictures: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pictures shrunk to ``size`` by an exact mean; those that are no larger come back as they are."""
    return pictures if pictures.shape[1] <= size else area_mean(pictures, pictures.shape[1] // size)


def augmented(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Half of a batch each gets what generated pictures suffer from: low resolution, blur, a colour cast, noise.

    Args:
        pictures: float32 [N, 3, 64, 64] in [0, 1].
        generator: source of the randomness.

    Returns:
        the same shape and range.
    """

    def half() -> Tensor:
        return torch.rand(len(pictures), 1, 1, 1, generator=generator) < 0.5

    small = F.avg_pool2d(pictures, 2)
    out = torch.where(
        half(), F.interpolate(small, size=pictures.shape[-1], mode="bilinear", align_corners=False), pictures
    )
    softened = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    strength = torch.rand(len(out), 1, 1, 1, generator=generator)
    out = torch.where(half(), torch.lerp(out, softened, strength), out)
    cast = 0.10 * (torch.rand(len(out), 3, 1, 1, generator=generator) - 0.5)
    out = torch.where(half(), out + cast, out)
    amount = 0.08 * torch.rand(len(out), 1, 1, 1, generator=generator)
    out = torch.where(half(), out + amount * torch.randn(out.shape, generator=generator), out)
    return out.clamp(0.0, 1.0)


def train_classifier(
    pictures: NDArray[np.uint8],
    targets: Sequence[Target],
    spec: JudgeSpec,
    *,
    epochs: int = 4,
    batch: int = 128,
    learning_rate: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> AttributeClassifier:
    """Train a classifier on real renders; Ctrl-C ends the training early and keeps what it has.

    Args:
        pictures: uint8 [N, S, S, 3], at least 64 px so that both resolutions can be made from them.
        targets: N targets.
        spec: the names to tell apart.
        epochs, batch, learning_rate: AdamW with a one-cycle schedule.
        seed: of the weights, the order and the augmentation.
        progress: show a progress bar.

    Returns:
        the classifier, its ``spec.steps`` set.
    """
    if len(pictures) != len(targets) or not len(pictures):
        raise invalid("pictures", f"{len(pictures)} pictures, {len(targets)} targets", "as many, at least 1")
    if epochs < 1 or batch < 2:
        raise invalid("epochs, batch", (epochs, batch), "at least 1 epoch and 2 pictures a batch")
    if pictures.shape[1] < INPUT_SIZE:
        raise invalid("pictures", list(pictures.shape), f"pictures of at least {INPUT_SIZE} px")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AttributeClassifier(spec)
    small = torch.from_numpy(np.ascontiguousarray(reduced(pictures, INPUT_SIZE)))
    wanted = labels(targets, spec)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    per_epoch = max(1, len(small) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * per_epoch)
    model.train()
    steps = 0
    try:
        with tqdm(total=epochs * per_epoch, unit="step", desc="classifier", disable=not progress) as bar:
            for _ in range(epochs):
                order = torch.randperm(len(small), generator=generator)
                for step in range(per_epoch):
                    rows = order[step * batch : (step + 1) * batch]
                    logits = model(augmented(to_input(small[rows]), generator))
                    loss = _loss(logits, {name: wanted[name][rows] for name in wanted})
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
                    schedule.step()
                    steps += 1
                    bar.update()
                    bar.set_postfix(loss=f"{loss.item():.3f}")
    except KeyboardInterrupt:
        typer.echo(f"interrupted after {steps} steps; keeping the classifier as it is", err=True)
    model.spec = replace(spec, steps=steps)
    return model.eval()


def _loss(logits: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    total = torch.zeros(())
    for name, values in logits.items():
        # A batch without one of the attributes would otherwise divide by zero.
        if (wanted[name] != ABSENT).any():
            total = total + F.cross_entropy(values, wanted[name], ignore_index=ABSENT)
    return total


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
    """Print how often the pictures show what their captions name."""
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
    except GlideFastError as error:
        raise _fail(error) from error
    out.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    typer.echo(f"{out}: {count} captions")


if __name__ == "__main__":
    app()
