"""What EAST changes in a model before training, and takes out afterwards: DyReLUs and shared weights. Any method can train with them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fxsparse.errors import BudgetError
from fxsparse.network import Network, trace
from fxsparse.passes.base import PassResult
from fxsparse.passes.insert_dyrelu import InsertDyrelu
from fxsparse.passes.phase_dyrelu import PhaseDyrelu, dyrelus, set_beta
from fxsparse.passes.remove_dyrelu import RemoveDyrelu
from fxsparse.passes.share_weights import ShareWeights
from fxsparse.sparsity.allocation import checked_density
from fxsparse.sparsity.targets import Target, find_targets, unwrapped
from fxsparse.training.callbacks import Callback
from fxsparse.training.east.schedules import fading

if TYPE_CHECKING:
    from fxsparse.training.recipe import Recipe
    from fxsparse.training.trainer import Trainer


def prepared(model: nn.Module | Network, inputs: Any = None, *, dyrelu: bool = True, sharing: int = 2, seed: int = 0) -> Network:
    """The network with DyReLUs and with shared weights: blocks 0 to `sharing - 1` of each stage own theirs (0: none are shared). Its
    module is to be trained; make the optimizer over its parameters."""
    network = model if isinstance(model, Network) else trace(model, inputs)
    if sharing:
        network = _changed(ShareWeights(own=sharing, seed=seed)(network), "give sharing=0")
    if dyrelu:
        network = _changed(InsertDyrelu(seed=seed)(network), "give dyrelu=False")
    return network


def _changed(result: PassResult, hint: str) -> Network:
    """The network after a pass; a warning where it found nothing to do."""
    if not result.modified:
        warnings.warn(f"a part of EAST is missing, as {result.notes[-1]}; {hint} if that is right", stacklevel=3)
    return result.network


def finished(network: Network, masks: Mapping[str, Tensor]) -> Network:
    """The network after training: it knows its masks, and its DyReLUs, which have faded, are gone. Its weights may still be shared;
    `unshare-weights` gives them the names that they had before."""
    result = replace(network.with_living(network.living), masks={key: mask.clone() for key, mask in masks.items()})
    if any(True for _ in dyrelus(result.module)):
        result = RemoveDyrelu()(PhaseDyrelu(beta=0.0)(result).network).network
    return result


def own_parameters(model: nn.Module) -> int:
    """The dense parameters of DyReLUs, which train and then go."""
    return sum(p.numel() for _, each in dyrelus(unwrapped(model)) for p in each.parameters())


def targets_of(model: nn.Module, include: Iterable[str] | None, exclude: Iterable[str]) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """What is masked, and the patterns that leave it out: DyReLUs stay dense."""
    given = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    patterns = (*given, *(f"{name}.*" for name, _ in dyrelus(unwrapped(model))))
    return find_targets(model, include, patterns), patterns


def adjusted_density(model: nn.Module, density: float, *, include: Iterable[str] | None = None, exclude: Iterable[str] = ()) -> float:
    """The density of the unique tensors at which they hold as many weights as the tensors would at `density`, were none of them shared.

    For ResNet-34 on CIFAR with blocks from the third on sharing, that is 1.905 times the density.
    """
    targets, _ = targets_of(model, include, exclude)
    unique = sum(t.parameter.numel() for t in targets)
    total = round(density * sum(t.parameter.numel() * len(t.names) for t in targets))
    if total > unique:
        raise BudgetError(
            f"a density of {density:g} is {total:,} weights, and the unique tensors have {unique:,}; "
            f"give at most {unique / total * density:.3g}"
        )
    if total == 0:
        raise BudgetError(f"a density of {density:g} leaves no weight")
    return total / unique


class Parts(Callback):
    """The parts of EAST in a run of `Trainer`, under any method: prepares the model, and lets its DyReLUs fade."""

    def __init__(self, *, dyrelu: bool = True, sharing: int = 2, fade: tuple[float, float] = (0.25, 0.5)) -> None:
        self.dyrelu, self.sharing, self.part = dyrelu, sharing, fade

    def attach(self, trainer: Trainer) -> None:
        example = torch.zeros(1, *trainer.data.shape, device=trainer.device)
        network = prepared(trainer.model, (example,), dyrelu=self.dyrelu, sharing=self.sharing, seed=trainer.recipe.seed)
        trainer.model, trainer.network = network.module, network
        self.curve = fading(trainer.steps, *self.part)

    def before_step(self, trainer: Trainer) -> None:
        set_beta(trainer.model, self.curve(trainer.step))
        watch = getattr(trainer.sparsifier, "watch", None)
        if watch is not None and trainer.network is not None:
            watch(trainer.network)

    def after_step(self, trainer: Trainer) -> None:
        for model in (trainer.model, trainer.average):  # an average of the dial would fade later
            if model is not None:
                set_beta(model, self.curve(trainer.step))


def parts_of(recipe: Recipe) -> tuple[Parts, ...]:
    """What a run's recipe does to the model: all of it with the method `east`, unless it says otherwise; with others, what it asks for."""
    east = recipe.method == "east"
    given = {key: recipe.options[key] for key in ("dyrelu", "sharing", "fade") if east and recipe.options.get(key) is not None}
    given = {"dyrelu": east, "sharing": 2 * east} | given
    given |= {key: value for key in ("dyrelu", "sharing") if (value := getattr(recipe, key)) is not None}
    return (Parts(**given),) if east or given["dyrelu"] or given["sharing"] else ()


def as_unshared(recipe: Recipe, model: nn.Module) -> dict[str, Any]:
    """The recipe's options of a method, the density being that of the model without sharing; `east` sees to that by itself."""
    options = dict(recipe.options)
    density = options.get("density")
    if recipe.sharing and recipe.method not in ("east", "iee-channels") and isinstance(density, int | float):
        given = {key: options[key] for key in ("include", "exclude") if key in options}
        options["density"] = adjusted_density(model, checked_density(density), **given)
    return options
