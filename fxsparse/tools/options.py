"""Options that several commands share, spelled alike."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer

from fxsparse.models import build, build_alone
from fxsparse.network import Network, trace
from fxsparse.saving import load

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision:resnet50, timm:NAME, fxsparse:resnet20, or package.module:factory; options go behind it: 'NAME{num_classes=4}'.",
    ),
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="A state dict to load: safetensors, or a torch file (read without executing it).")
]
Shape = Annotated[
    str | None, typer.Option("--input", metavar="2,3,224,224", help="Shape of the example input, instead of the model's own.")
]
Saved = Annotated[Path | None, typer.Option("--saved", help="A folder that fxsparse saved from this model, instead of the model itself.")]
EvalOnly = Annotated[
    bool,
    typer.Option("--eval-only", help="Leave train mode out: for networks that will not be trained, in which it would protect channels."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable result.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads to use.")]


def traced(
    model: str,
    weights: Path | None,
    shape: str | None,
    threads: int | None,
    saved: Path | None = None,
    *,
    check: bool = False,
    eval_only: bool = False,
) -> Network:
    """The model that the shared options describe, as a Network; with `check`, one that does on real values what the model does."""
    if threads is not None:
        torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a model's own library says about itself
        if saved is not None:
            if eval_only:
                raise typer.BadParameter("a saved network knows its modes; leave --eval-only out", param_hint="--eval-only")
            sizes_of(shape)  # wrong usage, though the folder knows its inputs
            return load(saved, build_alone(model, weights))
        loaded = build(model, weights, shape=sizes_of(shape))
        return trace(loaded.model, loaded.inputs, loaded.kwargs, check=check, train=not eval_only)


def sizes_of(text: str | None) -> list[int] | None:
    """The sizes that `--input` says."""
    if text is None:
        return None
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise typer.BadParameter(f"{text!r} is no shape; write sizes with commas, like 2,3,224,224", param_hint="--input")
    return sizes
