"""From a recipe to the parts of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fxsparse.errors import Error
from fxsparse.models import build_alone
from fxsparse.models.specs import Spec
from fxsparse.training.data import Data
from fxsparse.training.distributed import rank, world_size
from fxsparse.training.recipe import Recipe

RESERVED = ("weights", "batch", "size", "standard", "targets", "shape", "seed")
SMALL = 2 << 30  # data sets of so many bytes are kept on the GPU


def device_of(recipe: Recipe) -> torch.device:
    """`auto` is the GPU of this process's number where there is one."""
    if recipe.device == "auto":
        return torch.device("cuda", rank() % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(recipe.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise Error(f"the device {recipe.device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def model_of(recipe: Recipe, data: Data) -> nn.Module:
    """The model that the recipe names, with one output a class of the data where the model takes `num_classes`."""
    options = dict(recipe.model_options)
    taken = next((name for name in options if name in RESERVED), None)
    if taken is not None:
        raise Error(f"model_options cannot hold {taken!r}, which the recipe or the data decides; leave it out")
    if "num_classes" not in {**Spec.parse(recipe.model).options, **options}:
        try:
            return build_alone(recipe.model, recipe.weights, seed=recipe.seed, num_classes=len(data.classes), **options)
        except Error as error:
            if not isinstance(error.__cause__, TypeError):
                raise
    return build_alone(recipe.model, recipe.weights, seed=recipe.seed, **options)


def optimizer_of(recipe: Recipe, model: nn.Module) -> Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise Error(f"{recipe.model} has no parameters that train; set requires_grad on those that should")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov)


def average_of(recipe: Recipe, model: nn.Module) -> AveragedModel | None:
    """The averaged copy, buffers included."""
    if not recipe.ema:
        return None
    if not 0 < recipe.ema < 1:
        raise Error(f"ema is the decay of the average, above 0 and below 1, not {recipe.ema}")
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)


def placed(data: Data, device: torch.device) -> Data:
    """Small data sets move to the device as a whole; of others, batches do."""
    pixels = data.train.pixels.numel() + data.test.pixels.numel()
    if device.type == "cpu" or pixels > SMALL:
        return data
    return Data(data.train.to(device), data.test.to(device), data.classes, data.reported)


def wrapped(model: nn.Module, device: torch.device) -> nn.Module:
    """What runs: the model, or its DistributedDataParallel where several processes train."""
    if world_size() == 1:
        return model
    options: dict[str, Any] = {} if device.type == "cpu" else {"device_ids": [device]}
    return nn.parallel.DistributedDataParallel(model, **options)
