"""Models by name, with weights from a file and example inputs. Nothing is ever downloaded."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from fxsparse.errors import Error, nearest
from fxsparse.models.examples import Size, example_inputs
from fxsparse.models.specs import BUILT_IN, OPTIONS, Spec
from fxsparse.models.torchvision_shim import import_timm, import_torchvision
from fxsparse.models.weights import load_weights


@dataclass(frozen=True)
class Loaded:
    """A model, and arguments that it accepts: `model(*inputs, **kwargs)`."""

    spec: str
    model: nn.Module
    inputs: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def build(
    spec: str,
    weights: str | Path | None = None,
    *,
    batch: int = 2,
    size: Size | None = None,
    standard: bool = False,
    targets: bool = False,
    shape: Sequence[int] | None = None,
    seed: int = 0,
    **options: Any,
) -> Loaded:
    """The model that `spec` names, built with `options`, which win over those in the braces of its name, in evaluation mode.

    Its weights come from the file `weights`, or are random, the same for the same `seed`. Its inputs: see `example_inputs`; `shape` gives
    them as one tensor of that shape instead. A factory of one's own (`package.module:factory`) returns the model, or (model, inputs), or
    (model, inputs, keyword arguments).

    >>> build("fxsparse:resnet20", num_classes=100).model.linear
    Linear(in_features=64, out_features=100, bias=True)
    """
    parsed = Spec.parse(spec)
    options = {**parsed.options, **options}
    model, inputs, kwargs = _filled(parsed, weights, seed, options)
    if shape is not None:
        inputs, kwargs = (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)),), {}
    elif inputs is None:
        inputs = example_inputs(parsed, batch=batch, size=size, standard=standard, targets=targets, options=options)
    return Loaded(spec, model, inputs, kwargs)


def build_alone(spec: str, weights: str | Path | None = None, *, seed: int = 0, **options: Any) -> nn.Module:
    """The model of `build` without inputs, where others say what it is shown: a data set, or a saved folder."""
    parsed = Spec.parse(spec)
    return _filled(parsed, weights, seed, {**parsed.options, **options})[0]


# A model, its positional arguments where only it knows them, and its keyword arguments.
_Made = tuple[nn.Module, tuple[Any, ...] | None, Mapping[str, Any]]


def _filled(parsed: Spec, weights: str | Path | None, seed: int, options: Mapping[str, Any]) -> _Made:
    """A model in evaluation mode, with its weights or with those of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model, inputs, kwargs = _construct(parsed, options)
        except Error:
            raise
        except Exception as error:  # whatever a builder makes of options that are not its own
            if not options:
                raise
            raise Error(f"{parsed} could not be built with {_listed(options)}: {error}") from error
    if weights is not None:
        load_weights(model, weights)
    return model.eval(), inputs, kwargs


def _construct(spec: Spec, options: Mapping[str, Any]) -> _Made:
    if spec.source == "torchvision":
        return _torchvision(spec.name, options), None, {}
    if spec.source == "timm":
        return import_timm().create_model(spec.name, pretrained=False, **options), None, {}
    if spec.source == "fxsparse":
        return BUILT_IN[spec.name](**options), None, {}
    return _from_factory(spec, options)


def _torchvision(name: str, options: Mapping[str, Any]) -> nn.Module:
    builder = import_torchvision().models.get_model_builder(name)
    defaults: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(builder).parameters:
        defaults["weights_backbone"] = None  # otherwise downloaded
    if name in ("googlenet", "inception_v3"):
        defaults["init_weights"] = True  # today's default, said aloud: torchvision warns that it will change
    model: nn.Module = builder(**{**defaults, **options})
    return model


def _from_factory(spec: Spec, options: Mapping[str, Any]) -> _Made:
    with _current_folder_importable():
        try:
            module = importlib.import_module(spec.source)
        except ImportError as error:
            raise Error(f"{spec}: {spec.source} cannot be imported from {os.getcwd()}: {error}") from error
        factory = getattr(module, spec.name, None)
        if not callable(factory):
            callables = [name for name, value in vars(module).items() if callable(value)]
            raise Error(f"{spec.source} has no factory {spec.name!r}{nearest(spec.name, callables, spec.source + ':')}")
        try:
            made = factory(**options)
        except TypeError as error:
            if options:
                raise  # see `build`
            raise Error(f"{spec}: the factory raised TypeError: {error}; options go behind its name, as in {OPTIONS}") from error
        except Exception as error:  # whatever a user's code raises
            raise Error(f"{spec}: the factory raised {type(error).__name__}: {error}") from error
    parts = made if isinstance(made, tuple) and len(made) in (2, 3) else (made, getattr(made, "example_inputs", None))
    model, inputs, kwargs = (*parts, {}) if len(parts) == 2 else parts
    if not isinstance(model, nn.Module):
        raise Error(f"{spec} returned a {type(made).__name__}; return a torch.nn.Module, (module, inputs) or (module, inputs, kwargs)")
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(inputs, tuple | NoneType):
        raise Error(f"{spec} gave inputs of type {type(inputs).__name__}; give a tensor, or a tuple of the model's positional arguments")
    if not isinstance(kwargs, Mapping):
        raise Error(f"{spec} gave keyword arguments of type {type(kwargs).__name__}; give a dict by name")
    return model, inputs, kwargs


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """As with `python -m`: an installed command does not look for modules where it is called."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
