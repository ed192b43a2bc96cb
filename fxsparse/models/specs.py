"""The names of models: `torchvision:resnet50`, `timm:vit_tiny_patch16_224`, `fxsparse:resnet20`, `package.module:factory`; with options
behind them, `fxsparse:resnet20{num_classes=4}`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fxsparse.errors import Error, nearest
from fxsparse.models import cifar_resnet
from fxsparse.models.torchvision_shim import import_timm, import_torchvision

BUILT_IN: dict[str, Callable[..., nn.Module]] = {
    "resnet18": cifar_resnet.resnet18,
    "resnet20": cifar_resnet.resnet20,
    "resnet32": cifar_resnet.resnet32,
    "resnet34": cifar_resnet.resnet34,
    "resnet44": cifar_resnet.resnet44,
    "resnet50": cifar_resnet.resnet50,
    "resnet56": cifar_resnet.resnet56,
    "resnet110": cifar_resnet.resnet110,
}
SOURCES = ("torchvision", "timm", "fxsparse")
FORMS = "torchvision:NAME, timm:NAME, fxsparse:NAME or package.module:factory"
OPTIONS = "fxsparse:resnet20{num_classes=100}"  # how they are written: the braces are an inline table of TOML


@dataclass(frozen=True)
class Spec:
    """A model's name, taken apart: where it comes from, what it is called there, and the options that it is built with."""

    source: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.source}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Checks the form, and the name where the source has a list of names."""
        plain, brace, table = text.partition("{")
        options = _options(text, brace + table) if brace else {}
        source, colon, name = plain.strip().partition(":")
        if not colon or not source or not name:
            offer = f" (did you mean 'torchvision:{text}'?)" if text in BUILT_IN or text.isidentifier() else ""
            raise Error(f"{text!r}{offer} does not name a model; write {FORMS}")
        if source == "torchvision" and name in quantized_models():
            raise Error(f"{text} cannot be taken: {quantized_models()[name]}")
        if source in SOURCES:
            untagged = name.split(".")[0] if source == "timm" else name  # timm writes the weights' tag behind a dot
            known = _names(source)
            if untagged not in known:
                raise Error(f"{source} has no model {name!r}{nearest(untagged, known, source + ':')}")
        return cls(source, name, options)


def _options(text: str, table: str) -> dict[str, Any]:
    """What stands in the braces. Weights are files: nothing that a builder would download by name."""
    try:
        found: dict[str, Any] = tomllib.loads(f"options = {table}")["options"]
    except tomllib.TOMLDecodeError as error:
        raise Error(f"the options of the model {text!r} are no table ({error}); write them as in {OPTIONS}") from error
    taken = next((name for name in found if name.startswith(("weights", "pretrained"))), None)
    if taken is not None:
        raise Error(f"{text!r} cannot hold {taken!r}, as nothing is downloaded; give the weights as a file")
    return found


def list_models(source: str) -> tuple[str, ...]:
    """The specs of all models of `torchvision` (those with float weights), `timm` or `fxsparse`.

    >>> list_models("fxsparse")[:2]
    ('fxsparse:resnet18', 'fxsparse:resnet20')
    """
    if source not in SOURCES:
        raise Error(f"there is no list of the models of {source!r}; the lists are {', '.join(SOURCES)}")
    return tuple(f"{source}:{name}" for name in _names(source))


def quantized_models() -> dict[str, str]:
    """torchvision's names that `list_models` leaves out, each with the reason."""
    names = [name for name in import_torchvision().models.list_models() if name.startswith("quantized_")]
    return {
        name: "its weights are packed int8 tensors, which have no channels to remove; "
        f"take torchvision:{name.removeprefix('quantized_')} and quantize the result"
        for name in names
    }


def _names(source: str) -> list[str]:
    if source == "torchvision":
        return [name for name in import_torchvision().models.list_models() if not name.startswith("quantized_")]
    if source == "timm":
        return list(import_timm().list_models())
    return list(BUILT_IN)
