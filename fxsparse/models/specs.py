"""The names of models: `torchvision:resnet50`, `timm:vit_tiny_patch16_224`, `fxsparse:resnet20`, `package.module:factory`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from fxsparse.errors import Error
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


@dataclass(frozen=True)
class Spec:
    """A model's name, taken apart: where it comes from, and what it is called there."""

    source: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Checks the form, and the name where the source has a list of names."""
        source, colon, name = text.partition(":")
        if not colon or not source or not name:
            offer = f"; did you mean torchvision:{text}?" if text in BUILT_IN or text.isidentifier() else ""
            raise Error(f"{text!r} does not name a model; write {FORMS}{offer}")
        if source == "torchvision" and name in quantized_models():
            raise Error(f"{text} cannot be taken: {quantized_models()[name]}")
        if source in SOURCES:
            plain = name.split(".")[0] if source == "timm" else name  # timm writes the weights' tag behind a dot
            known = _names(source)
            if plain not in known:
                raise Error(f"{source} has no model {name!r}{nearest(plain, known, source + ':')}")
        return cls(source, name)


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence that offers what was perhaps meant, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return "; did you mean " + " or ".join(prefix + match for match in close) + "?" if close else ""


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
