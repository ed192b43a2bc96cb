"""Which tensors of a model are masked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fxsparse.errors import Error
from fxsparse.models.dyrelu import DyReLU
from fxsparse.tracing.replacements import FreeAttention

COMPILED = "_orig_mod"  # torch.compile's wrapper puts this into every name
WEIGHT_NORM = ("weight_g", "weight_v")  # of torch's weight_norm: a direction without a weight would be 0 / 0
CONTRACTIONS = (_ConvNd, nn.Linear, nn.Bilinear, nn.MultiheadAttention, FreeAttention, nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True, eq=False)
class Target:
    """One tensor of weights. A tied tensor is one target with several names."""

    name: str
    parameter: nn.Parameter
    names: tuple[str, ...]
    transposed: bool  # axis 0 holds the inputs

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parameter.shape)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, torch.compile and averaged copies."""
    if not isinstance(model, nn.Module):
        hint = "give its .module" if hasattr(model, "module") else "the model comes first, then the optimizer"
        raise Error(f"a {type(model).__name__} stands where the model should, which is a torch.nn.Module; {hint}")
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or type(model).__name__ == "AveragedModel":
            model = model.get_submodule("module")
        elif COMPILED in model._modules:
            model = model.get_submodule(COMPILED)
        else:
            return model


def plain_name(name: str) -> str:
    """A parameter's name as it is without torch.compile."""
    return ".".join(part for part in name.split(".") if part != COMPILED)


def find_targets(model: nn.Module, include: Iterable[str] | None = None, exclude: Iterable[str] = ()) -> tuple[Target, ...]:
    """The tensors to mask, by name patterns that may name tensors or modules (`layer1.*`, `fc`, `*.weight`).

    Without `include`: the trainable weights of convolutions, linear, recurrent and attention layers, but not depthwise kernels; never
    biases, norms, embeddings, and DyReLUs, which go after training. With it: every trainable tensor of two or more dimensions it names.
    """
    found: dict[int, tuple[nn.Parameter, list[str], bool, bool]] = {}
    passing = {id(part) for each in unwrapped(model).modules() if isinstance(each, DyReLU) for part in each.modules()}
    for prefix, module in unwrapped(model).named_modules(remove_duplicate=False):
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                name = plain_name(f"{prefix}.{attribute}" if prefix else attribute)
                usual = is_contraction(module, attribute) and id(module) not in passing
                transposed = isinstance(module, _ConvTransposeNd)
                known = found.setdefault(id(parameter), (parameter, [], usual, transposed))
                if name not in known[1]:
                    known[1].append(name)
    everything = [name for _, names, _, _ in found.values() for name in names]
    include, exclude = _patterns(include, everything, "include"), _patterns(exclude, everything, "exclude") or ()
    targets = []
    for parameter, names, usual, transposed in found.values():
        wanted = usual if include is None else parameter.dim() >= 2 and _fits(names, include)
        if wanted and parameter.requires_grad and not _fits(names, exclude):
            targets.append(Target(names[0], parameter, tuple(names), transposed))
    if not targets:
        given = "" if include is None and not exclude else f" (include={include}, exclude={exclude})"
        raise Error(f"{type(unwrapped(model)).__name__} has no weights to mask{given}; name trainable tensors with include=[...]")
    return tuple(targets)


def is_contraction(module: nn.Module, attribute: str) -> bool:
    """Whether this parameter is a weight that is masked unless the user says otherwise."""
    if not isinstance(module, CONTRACTIONS) or "weight" not in attribute or attribute in WEIGHT_NORM:
        return False
    if isinstance(module, _ConvNd):
        return not (module.groups > 1 and module.groups == (module.out_channels if module.transposed else module.in_channels))
    return True


def _patterns(given: Iterable[str] | None, names: list[str], what: str) -> tuple[str, ...] | None:
    if given is None:
        return None
    patterns = (given,) if isinstance(given, str) else tuple(given)
    for pattern in patterns:
        if not _fits(names, (pattern,)):
            raise Error(f"{what}: {pattern!r} fits no parameter of the model; names look like {', '.join(names[:3])}")
    return patterns


def _fits(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, p) or fnmatchcase(name.rpartition(".")[0], p) for name in names for p in patterns)
