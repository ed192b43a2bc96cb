"""`fxsparse calibrate`: sparsity after training, from a small calibration set."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file

from fxsparse.models import build
from fxsparse.tools.options import Json, Model, Threads
from fxsparse.training.augment import Normalise
from fxsparse.training.calibration import METHODS
from fxsparse.training.calibration import calibrate as run
from fxsparse.training.data import load_data
from fxsparse.training.evaluate import evaluate


def calibrate(
    model: Model,
    weights: Annotated[Path, typer.Option("--weights", help="The trained model's state dict.")],
    data: Annotated[str, typer.Option("--data", help="torchvision's CIFAR-10 folder, class folders in train/ and test/, or digits.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for weights.safetensors, distribution.json and result.json.")] = None,
    sparsity: Annotated[float, typer.Option(help="The part of the weights that goes.")] = 0.9,
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}.")] = "recommended",
    images: Annotated[int, typer.Option(min=1, help="Calibration images, drawn from the training images.")] = 2048,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    allocation: Annotated[str | None, typer.Option(help="search, erk, uniform, global, or a saved distribution.json.")] = None,
    pattern: Annotated[str | None, typer.Option(help="unstructured, 2:4 and the like.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the search.")] = 1,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Make a trained classifier sparse without training it again. The accuracy reported is that after the last step.

    Example: fxsparse calibrate fxsparse:resnet20 --weights resnet20.th --data cifar10/ --sparsity 0.9 --out sparse/
    """
    if threads is not None:
        torch.set_num_threads(threads)
    dense = build(model, weights).model
    found, normalise = load_data(data), Normalise()
    chosen = torch.randperm(len(found.train), generator=torch.Generator().manual_seed(seed))[:images]
    pixels, labels = found.train[chosen]
    batches = [(normalise(pixels[i : i + 256]), labels[i : i + 256]) for i in range(0, len(chosen), 256)]
    given = {"epochs": epochs, "allocation": allocation, "pattern": pattern, "seed": seed}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with ExitStack() as stack:
        bar = stack.enter_context(Progress(console=Console(stderr=True), disable=as_json))
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, of: int) -> None:
            key = what.partition(" ")[0]
            task = tasks.setdefault(key, bar.add_task(what, total=of)) if key not in tasks else tasks[key]
            bar.update(task, completed=done, description=what)

        pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn"))) if workers > 1 else None
        file = None if out is None else out / "search.json"
        result = run(dense, batches, sparsity, method, executor=pool, search_file=file, progress=progress, **options)
    accuracy, before = (evaluate(each, found.test, normalise)[0] for each in (result.model, dense))
    said = {
        "model": model,
        "method": method,
        "sparsity": result.sparsity,
        "images": len(chosen),
        "accuracy_dense": before,
        "accuracy": accuracy,
        "agreement": result.agreement,
        "seconds": result.seconds,
        "counts": dict(result.distribution.counts),
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.contiguous() for key, tensor in result.model.state_dict().items()}, out / "weights.safetensors")
        result.distribution.save(out / "distribution.json")
        (out / "result.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(said, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{method}: {result.sparsity:.2%} of the weights are zero; {len(chosen)} images, {result.seconds:.0f} s")
    console.print(f"accuracy on {len(found.test)} test images: {before:.2%} dense, {accuracy:.2%} sparse")
    if out is not None:
        console.print(f"written: {out}", markup=False)
