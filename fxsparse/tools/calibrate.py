"""`fxsparse calibrate`: sparsity after training, from a small calibration set."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress

from fxsparse.errors import Error
from fxsparse.models import build_alone
from fxsparse.models.weights import write_weights
from fxsparse.tools.console import plain
from fxsparse.tools.options import Json, Model, Threads
from fxsparse.tools.outputs import require_room, whole, write_origin
from fxsparse.tools.train import pairs
from fxsparse.training.augment import Normalise
from fxsparse.training.calibration import METHODS
from fxsparse.training.calibration import calibrate as run
from fxsparse.training.calibration.settings import settings_of
from fxsparse.training.data import load_data
from fxsparse.training.evaluate import evaluate

USUAL = 2048


def calibrate(
    model: Model,
    weights: Annotated[Path, typer.Option("--weights", help="The trained model's state dict.")],
    data: Annotated[str, typer.Option("--data", help="torchvision's CIFAR-10 folder, class folders in train/ and test/, or digits.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for weights.safetensors, distribution.json and result.json.")] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="The part of the weights that goes; 0.9, unless a pattern or a saved distribution says it.")
    ] = None,
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}.")] = "recommended",
    images: Annotated[
        int | None, typer.Option(min=1, help=f"Calibration images, drawn from the training images; {USUAL:,}, or all if there are fewer.")
    ] = None,
    labels: Annotated[bool, typer.Option("--labels/--no-labels", help="Use the images' classes, or do without them.")] = True,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the calibration images.")] = None,
    allocation: Annotated[str | None, typer.Option(help="search, erk, uniform, global, or a saved distribution.json.")] = None,
    pattern: Annotated[str | None, typer.Option(help="unstructured, 2:4 and the like.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="Any other part of the method; may be repeated.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the images: larger and smaller ones are scaled and cut.")] = None,
    normalise: Annotated[
        bool,
        typer.Option("--normalise/--no-normalise", help="Images less ImageNet's mean, by its deviation; or from 0 to 1, as detectors."),
    ] = True,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes of the search; one a thread unless said otherwise.")] = None,
    seed: Annotated[int, typer.Option(help="For the images that are drawn, and for the search.")] = 0,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Make a trained network sparse without training it again. The accuracy reported is that after the last step.

    Examples:

      fxsparse calibrate fxsparse:resnet20 --weights resnet20.th --data cifar10/ --sparsity 0.9 --out sparse/

      fxsparse calibrate fxsparse:resnet20 --weights resnet20.th --data cifar10/ --method unipts --workers 4 --out sparse/

      fxsparse calibrate fxsparse:resnet20 --weights resnet20.th --data cifar10/ --allocation sparse/distribution.json --option lr=0.02
    """
    if threads is not None:
        torch.set_num_threads(threads)
    given = {"epochs": epochs, "allocation": allocation, "pattern": pattern, "seed": seed}
    options = pairs(option, "--option") | {name: value for name, value in given.items() if value is not None}
    settings_of(method, options)  # what is wrong with them is said before anything is read
    if out is not None:
        require_room(out)
    found, scaled = load_data(data, size=size), Normalise() if normalise else Normalise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    count = images or min(USUAL, len(found.train))
    if count > len(found.train):
        raise Error(f"{data} has {len(found.train):,} training images, and {count:,} were asked for; ask for fewer with --images")
    dense = build_alone(model, weights)
    chosen = torch.randperm(len(found.train), generator=torch.Generator().manual_seed(seed))[:count]
    pixels, classes = found.train[chosen]
    batches: list[Any] = [(scaled(pixels[i : i + 256]), classes[i : i + 256]) for i in range(0, len(chosen), 256)]
    if not labels:
        batches = [each for each, _ in batches]
    errors = plain(stderr=True)
    with Progress(console=errors, disable=as_json or not errors.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, of: int) -> None:
            key = what.partition(" ")[0]
            if key not in tasks:
                tasks[key] = bar.add_task(what, total=of)
            bar.update(tasks[key], completed=done, total=of, description=what)

        file = None if out is None else out / "search.json"
        result = run(dense, batches, sparsity, method, executor=workers or _free(threads), search_file=file, progress=progress, **options)
    said = {
        "model": model,
        "method": method,
        "sparsity": result.sparsity,
        "images": len(chosen),
        "agreement": result.agreement,
        "seconds": result.seconds,
        "counts": dict(result.distribution.counts),
    }
    if result.classifies:
        said["accuracy_dense"], said["accuracy"] = (evaluate(each, found.test, scaled)[0] for each in (dense, result.model))
    if out is not None:
        measures = {"accuracy": said["accuracy"]} if result.classifies else {}
        before = {"accuracy": said["accuracy_dense"]} if result.classifies else {}
        written = f"{method}, {result.sparsity:.4%} of {len(result.masks)} tensors' weights are zero, {len(chosen)} calibration images"
        with whole(out) as draft:
            write_weights(draft / "weights.safetensors", result.model.state_dict())
            result.distribution.save(draft / "distribution.json")
            (draft / "result.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
            write_origin(draft, out.resolve().name, model=model, measures=measures, before=before, provenance=(f"calibrate: {written}",))
    if as_json:
        typer.echo(json.dumps(said, indent=1))
        return
    console = plain()
    console.print(f"{method}: {result.sparsity:.2%} of the weights are zero; {len(chosen)} images, {result.seconds:.0f} s")
    if result.classifies:
        console.print(f"accuracy on {len(found.test)} test images: {said['accuracy_dense']:.2%} dense, {said['accuracy']:.2%} sparse")
    else:
        console.print(f"{result.agreement:.2%} of the variance of the dense network's outputs is hit on the calibration images")
    if out is not None:
        console.print(f"written: {out}")


def _free(threads: int | None) -> int:
    """Processors that this process may use."""
    return threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
