"""`fxsparse train`: a classifier from a recipe or from flags, dense or sparse, resumable."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer

from fxsparse.errors import Error
from fxsparse.tools.console import plain
from fxsparse.tools.options import Json, Threads
from fxsparse.tools.outputs import write_origin
from fxsparse.training.distributed import rank
from fxsparse.training.recipe import Recipe, read_recipe
from fxsparse.training.registry import NAMES
from fxsparse.training.trainer import Trainer

Set = Annotated[list[str] | None, typer.Option("--set", metavar="ENTRY=VALUE", help="Any entry of the recipe; may be repeated.")]


def train(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE.toml]", help="A recipe; flags win over it.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for metrics.jsonl, checkpoints, result.json, report.json and weights.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="torchvision:resnet18, timm:NAME, fxsparse:resnet20, or package.module:factory.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="torchvision's CIFAR-10 folder, class folders in train/ and test/, or digits.")] = None,
    method: Annotated[str | None, typer.Option(help=f"{', '.join(NAMES)}.")] = None,
    density: Annotated[float | None, typer.Option(help="The part of the weights that is left, above 0 and at most 1.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="An option of the method; may be repeated.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images of one step, all processes together.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at the start.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    weights: Annotated[str | None, typer.Option(help="A state dict to start from.")] = None,
    seed: Annotated[int | None, typer.Option(help="For weights, order, augmentation and masks.")] = None,
    entries: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out, if there is one.")] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a classifier, dense or sparse; the accuracy reported is the last epoch's.

    Examples:

      fxsparse train --model fxsparse:resnet20 --data digits --method rigl --density 0.1 --epochs 5 --out run/

      fxsparse train recipe.toml --out run/ --resume

      torchrun --nproc-per-node 4 -m fxsparse.tools.cli train recipe.toml --out run/
    """
    given: dict[str, Any] = read_recipe(recipe) if recipe is not None else {}
    flags = {"model": model, "data": data, "epochs": epochs, "batch": batch, "optimizer": optimizer, "lr": lr, "precision": precision}
    flags |= {"weights": weights, "seed": seed, "threads": threads}
    given |= {name: value for name, value in flags.items() if value is not None} | pairs(entries, "--set")
    given["options"] = _options(given) | pairs(option, "--option") | ({} if density is None else {"density": density})
    if method is not None:
        given["method"] = method
    chosen = Recipe.from_dict(given)
    defaults = Recipe(model="", data="").to_plain()
    began = _join()
    try:
        console = plain(stderr=as_json)
        result = Trainer(chosen, out, console=console).run(resume=resume)
        if rank() != 0:
            return
        if out is not None:
            changed = {name: value for name, value in chosen.to_plain().items() if value != defaults.get(name)}
            written = ", ".join(f"{name}={json.dumps(value)}" for name, value in changed.items())
            write_origin(out, out.resolve().name, model=chosen.model, provenance=(f"recipe: {written}",))
        if as_json:
            typer.echo(json.dumps(result.to_dict(), indent=1))
        else:
            console.print(
                f"{result.reported} accuracy after the last epoch: {result.accuracy:.2%}; {result.nonzeros:,} of {result.parameters:,} "
                f"parameters are not zero; {result.train_macs / 1e9:,.1f} GMACs of training in {result.seconds:,.0f} s"
            )
            if out is not None:
                console.print(f"written: {out}")
    finally:
        if began:
            dist.destroy_process_group()


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """The recipe's options of the method; a table [method] becomes its name and its options."""
    options = given.get("options", {})
    if not isinstance(options, dict):
        raise Error(f"the recipe's options are {options!r}, which is no table; write options = {{density = 0.1}}")
    if isinstance(given.get("method"), dict):
        table = dict(given["method"])
        given["method"] = table.pop("name", NAMES[0])
        options = {**table, **options}
    return dict(options)


def pairs(texts: list[str] | None, flag: str) -> dict[str, Any]:
    """NAME=VALUE, the value as in TOML; what is no TOML is text."""
    made: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is no NAME=VALUE", param_hint=flag)
        try:
            made[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            made[name] = value
    return made


def _join() -> bool:
    """Under torchrun, become one of its processes."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return False
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    except (RuntimeError, ValueError) as error:
        raise Error(f"the processes of torchrun could not meet: {str(error).splitlines()[0]}") from error
    return True
