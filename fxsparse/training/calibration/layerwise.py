"""Layer-wise reconstruction in the manner of POT (Lazarevich et al., 2021): each layer learns to give what the dense one gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxsparse.errors import Error
from fxsparse.sparsity.masks import apply
from fxsparse.training.calibration.heads import Inputs
from fxsparse.training.calibration.images import Calibration, chunks
from fxsparse.training.calibration.settings import Settings
from fxsparse.training.evaluate import evaluating

CHUNK = 64  # images of one step
MEMORY = 1 << 29  # bytes of inputs and outputs that are kept of one layer; images beyond that are left out

Call = tuple[tuple[Any, ...], dict[str, Any], Tensor]  # what a layer is given, and what it should give


def reconstruct(
    student: nn.Module,
    teacher: nn.Module,
    masks: Mapping[str, Tensor],
    norms: Mapping[str, str],
    data: Calibration,
    settings: Settings,
    progress: Callable[[str, int, int], object] | None = None,
) -> int:
    """Tune the masked layers one after the other, in the order in which they run; the number of layers. `norms` are those behind layers
    that only shift: what they add is tuned along."""
    with evaluating(student), evaluating(teacher):
        names = _order(teacher, {name.rpartition(".")[0] for name in masks}, data)
        generator = torch.Generator().manual_seed(settings.seed)
        for done, name in enumerate(names):
            norm: Any = student.get_submodule(norms[name]) if name in norms else None
            shift = None if norm is None else norm.bias
            calls = _calls(student, teacher, name, data, settings)
            _tune(student.get_submodule(name), name, shift, calls, masks, settings, generator)
            if progress is not None:
                progress("layers", done + 1, len(names))
    return len(names)


class _Stop(Exception):
    pass


@torch.no_grad()
def _order(model: nn.Module, wanted: set[str], data: Calibration) -> list[str]:
    found: list[str] = []
    handles = [
        module.register_forward_hook(lambda m, a, o, name=name: found.append(name) if name not in found else None)
        for name, module in model.named_modules()
        if name in wanted
    ]
    try:
        model(next(chunks(data.inputs, next(model.parameters()).device, 2)))
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def _calls(student: nn.Module, teacher: nn.Module, name: str, data: Calibration, settings: Settings) -> list[Call]:
    """What the layer is given in the dense or in the sparse network, and what the dense one gives."""
    calls: list[Call] = []
    kept = 0
    for x in chunks(data.inputs, next(teacher.parameters()).device, CHUNK):
        with data.heads.following(teacher, None) as led:
            args, named, wanted = _at(teacher, name, x)
        if settings.inputs == "sparse":
            with data.heads.following(student, led):
                args, named, _ = _at(student, name, x)
        calls.append((args, named, wanted))
        kept += sum(each.numel() * each.element_size() for each in tree_leaves((args, named, wanted)) if isinstance(each, Tensor))
        if kept > MEMORY:
            break
    return calls


def _at(model: nn.Module, name: str, inputs: Inputs) -> Call:
    """What a layer is given, and gives; the model stops there."""
    kept: list[Call] = []

    def keep(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        kept.append((args, named, _tensor(output)))
        raise _Stop

    handle = model.get_submodule(name).register_forward_hook(keep, with_kwargs=True)
    try:
        model(inputs)
    except _Stop:
        return kept[0]
    finally:
        handle.remove()
    raise Error(f"the layer {name!r} did not run on the calibration images; leave it out with exclude=[{name!r}]")


def _tensor(output: Any) -> Tensor:
    """Attention and recurrent layers return more than that."""
    return next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))


def _tune(
    layer: nn.Module,
    name: str,
    shift: nn.Parameter | None,
    calls: list[Call],
    masks: Mapping[str, Tensor],
    settings: Settings,
    generator: torch.Generator,
) -> None:
    own = {key: parameter for key, parameter in layer.named_parameters() if parameter.requires_grad}
    free = [*own.values(), *([] if shift is None else [shift])]
    optimizer = torch.optim.Adam(free, lr=settings.layer_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.layer_steps)
    before = None if shift is None else shift.detach().clone()
    order: list[int] = []
    for _ in range(settings.layer_steps):
        order = order or torch.randperm(len(calls), generator=generator).tolist()
        args, named, wanted = calls[order.pop()]
        given = _tensor(layer(*args, **named))
        if shift is not None and before is not None:
            given = given + (shift - before).reshape(-1, *[1] * (given.dim() - 2))
        gradients = torch.autograd.grad(F.mse_loss(given, wanted), free, allow_unused=True)
        for parameter, gradient in zip(free, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
        for key, parameter in own.items():
            if f"{name}.{key}" in masks:
                apply(masks[f"{name}.{key}"], parameter.detach())
        optimizer.zero_grad()
