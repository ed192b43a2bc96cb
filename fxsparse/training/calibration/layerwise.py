"""Layer-wise reconstruction in the manner of POT (Lazarevich et al., 2021): each layer learns to give what the dense one gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsparse.errors import Error
from fxsparse.sparsity.masks import apply
from fxsparse.training.calibration.settings import Settings

CHUNK = 64


def reconstruct(student: nn.Module, teacher: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor, settings: Settings) -> int:
    """Tune the masked layers one after the other, in the order in which they run; the number of layers."""
    names = _order(teacher, {name.rpartition(".")[0] for name in masks}, inputs[:2])
    generator = torch.Generator().manual_seed(settings.seed)
    for name in names:
        source = student if settings.inputs == "sparse" else teacher
        _tune(student, teacher, source, name, masks, inputs, settings, generator)
    return len(names)


class _Seen(Exception):
    pass


def _order(model: nn.Module, wanted: set[str], inputs: Tensor) -> list[str]:
    found: list[str] = []
    handles = [
        module.register_forward_hook(lambda m, a, o, name=name: found.append(name) if name not in found else None)
        for name, module in model.named_modules()
        if name in wanted
    ]
    with torch.no_grad():
        model.eval()(inputs)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def _at(model: nn.Module, name: str, inputs: Tensor, output: bool) -> Tensor:
    """What a layer is given, or gives; the model stops there."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, out: Any = None) -> None:
        kept.append((out if output else args[0]).detach())
        raise _Seen

    module = model.get_submodule(name)
    handle: Any = module.register_forward_hook(keep) if output else module.register_forward_pre_hook(keep)
    model.eval()
    try:
        for i in range(0, len(inputs), CHUNK):
            try:
                model(inputs[i : i + CHUNK])
            except _Seen:
                continue
    finally:
        handle.remove()
    if not kept:
        raise Error(f"the layer {name!r} did not run on the calibration images")
    return torch.cat(kept)


def _tune(
    student: nn.Module,
    teacher: nn.Module,
    source: nn.Module,
    name: str,
    masks: Mapping[str, Tensor],
    inputs: Tensor,
    settings: Settings,
    generator: torch.Generator,
) -> None:
    given, wanted = _at(source, name, inputs, output=False), _at(teacher, name, inputs, output=True)
    layer: Any = student.get_submodule(name)
    parameters = dict(layer.named_parameters(recurse=False))
    optimizer = torch.optim.Adam(parameters.values(), lr=settings.layer_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.layer_steps)
    for _ in range(settings.layer_steps):
        index = torch.randint(0, len(given), (min(CHUNK, len(given)),), generator=generator)
        loss = F.mse_loss(layer(given[index]), wanted[index])
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
        for key, parameter in parameters.items():
            if f"{name}.{key}" in masks:
                apply(masks[f"{name}.{key}"], parameter.detach())
            parameter.grad = None
