"""The pass `fold-batch-norm`: a batch norm that only scales and shifts becomes part of the layer beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.batch_norms import Norm, Site, Where, is_batch_norm, ranks, read_norm, uses
from fxsparse.passes.equality import require_same_function
from fxsparse.surgery.graphs import Place, graphs
from fxsparse.tracing.copies import copy_with, names_of


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch norms into the convolution, transposed convolution or linear layer beside them.

    Looks at the layer before the norm first, then at the layer after it. `exclude` names norms that stay, by pattern.

    Assumes eval semantics: the running statistics are what counts. A network that is trained afterwards trains without these norms. The
    layer may have no other reader, its tensors no other use; a layer after the norm may not pad with zeros, which are not the norm's shift.

    Guarantees the same function in eval mode, checked in float64. The graphs of both modes lose the norm, its module becomes an
    `nn.Identity`, its names leave the state dict; the layer gets a bias where it has none.

    Example: `fold-batch-norm{exclude=[layer4.*]}`
    """

    name: ClassVar[str] = "fold-batch-norm"
    exclude: tuple[str, ...] = ()

    def run(self, network: Network, context: Context) -> PassResult:
        folds, notes = plan(network, self.exclude)
        if not folds:
            return PassResult(network, False, tuple(notes))
        made = network.edited(lambda module: _fold_all(module, folds), str(self))
        return PassResult(made, True, (*(f"{f.norm.name} is folded into {f.layer}" for f in folds), *notes))

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        if result.modified:
            require_same_function(self.name, network, result.network)


class Fold(NamedTuple):
    """A norm, the layer that takes it in, and where the layer stands."""

    norm: Norm
    layer: str
    side: Literal["before", "after"]


# ---- what can be folded ---------------------------------------------------------------------------------------------------------


def plan(network: Network, exclude: Sequence[str] = ()) -> tuple[list[Fold], list[str]]:
    """The folds in order, and why other norms stay. The order matters: the second of two norms in a row folds once the first has."""
    scratch = copy_with(network.origin.skeleton, lambda tensor: tensor)
    planner = _Planner(network, scratch)
    folds: list[Fold] = []
    while True:
        found, notes = planner.sweep(exclude)
        folds += found
        if not found:
            return folds, notes


class _Planner:
    """Plans on a copy of the network that has no values, and folds there at once what can be folded."""

    def __init__(self, network: Network, scratch: nn.Module) -> None:
        reading = network.origin.structure.reading
        self.module = scratch
        self.uses = uses(reading)
        self.ranks = ranks(reading)
        self.aliases = {*reading.aliases, *reading.aliases.values()}

    def sweep(self, exclude: Sequence[str]) -> tuple[list[Fold], list[str]]:
        folds, notes = [], []
        for norm, sites in self.norms().items():
            if isinstance(norm, str):
                notes.append(f"{norm.partition(':')[0]} stays:{norm.partition(':')[2]}")
                continue
            excluded = next((pattern for pattern in exclude if fnmatchcase(norm.name, pattern)), None)
            answer: Fold | str = f"{excluded!r} excludes it" if excluded is not None else self.fold(norm, sites)
            if isinstance(answer, str):
                notes.append(f"{norm.name} stays: {answer}")
            else:
                folds.append(answer)
                _rewire(self.module, answer)
        return folds, notes

    def norms(self) -> dict[Norm | str, list[Site]]:
        """Every batch norm with the places where it is called; of one that cannot be read, the reason."""
        found: dict[Norm | str, list[Site]] = {}
        for place in graphs(self.module):
            for node in place.graph.nodes:
                if is_batch_norm(place, node):
                    found.setdefault(read_norm(self.module, place, node), []).append(Site(place, node))
        return found

    def fold(self, norm: Norm, sites: list[Site]) -> Fold | str:
        why = self.private(norm.tensors, {site.where for site in sites})
        if why is None and norm.module is not None:
            why = _watched(self.module.get_submodule(norm.module))
        if why is not None:
            return why
        before = self.before(norm, sites)
        if not isinstance(before, str):
            return before
        after = self.after(norm, sites)
        return after if not isinstance(after, str) else f"{before}, and {after}"

    def before(self, norm: Norm, sites: list[Site]) -> Fold | str:
        """The layer whose result the norm takes."""
        layers: list[tuple[Place, fx.Node]] = []
        for site in sites:
            if site.input is None or not _is_layer(site.place, site.input):
                return f"its input {site.input} is no convolution and no linear layer"
            if set(site.input.users) != {site.node}:
                return f"its input {site.input} has other readers"
            layers.append((site.place, site.input))
        name = self.only_layer(layers)
        if name.startswith(" "):
            return name.strip()
        why = self.fits(name, sites)
        return Fold(norm, name, "before") if why is None else why

    def after(self, norm: Norm, sites: list[Site]) -> Fold | str:
        """The layer that takes the norm's result."""
        layers: list[tuple[Place, fx.Node]] = []
        for site in sites:
            if len(site.node.users) != 1:
                return "its result has several readers"
            reader = next(iter(site.node.users))
            if not _is_layer(site.place, reader) or reader.args[0] is not site.node:
                return f"its reader {reader} is no convolution and no linear layer"
            layers.append((site.place, reader))
        name = self.only_layer(layers)
        if name.startswith(" "):
            return name.strip()
        why = self.fits(name, sites) or _pads(self.module.get_submodule(name), name)
        return Fold(norm, name, "after") if why is None else why

    def only_layer(self, calls: list[tuple[Place, fx.Node]]) -> str:
        """The name of the one layer that these nodes call, when nothing else does; a reason starts with a space."""
        names = {names_of(self.module)[id(place.module_of(node))] for place, node in calls}
        if len(names) != 1:
            return f" it stands beside several layers: {', '.join(sorted(names))}"
        name = names.pop()
        layer = self.module.get_submodule(name)
        if "weight" not in layer._parameters or hasattr(layer, "parametrizations"):
            return f" the weight of {name} is parametrized"
        why = _watched(layer)
        if why is not None:
            return f" {name}: {why}"
        keys = [f"{name}.{key}" for key, value in layer._parameters.items() if value is not None]
        own = {(place.mode, place.prefix, node.name) for place, node in calls}
        why = self.private(keys, own)
        return name if why is None else f" {why}"

    def private(self, keys: Sequence[str], own: set[Where]) -> str | None:
        """Why these tensors are not used by these nodes alone."""
        for key in keys:
            if key in self.aliases:
                return f"{key} is tied to another tensor"
            others = self.uses.get(key, set()) - own
            if others:
                mode, graph, node = sorted(others)[0]
                where = f"{graph}:{node}" if graph else node or "plain Python code"
                return f"{key} is used by {where} in {mode} mode as well"
        return None

    def fits(self, name: str, sites: list[Site]) -> str | None:
        """Why the norm's axis is not the layer's."""
        layer = self.module.get_submodule(name)
        rank = layer.weight.dim() if isinstance(layer.weight, Tensor) else 0
        if any(self.ranks.get(site.where) != rank for site in sites):
            return f"it does not normalise the channels of {name}"
        return None


def _is_layer(place: Place, node: fx.Node) -> bool:
    module = place.module_of(node)
    return isinstance(module, (_ConvNd, nn.Linear)) and len(node.args) == 1 and not node.kwargs


def _watched(module: nn.Module) -> str | None:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return "hooks watch it" if any(hooks) else None


def _pads(layer: nn.Module, name: str) -> str | None:
    """Why a shift in front of a layer is not a bias behind it."""
    if isinstance(layer, _ConvTransposeNd):
        return f"{name} is a transposed convolution, whose border pixels would miss a part of the shift"
    if not isinstance(layer, _ConvNd) or layer.padding_mode != "zeros":
        return None
    if isinstance(layer.padding, str):
        pads = layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)
    else:
        pads = any(layer.padding)
    return f"{name} pads with zeros, to which the norm's shift would have to be added" if pads else None


# ---- the change -----------------------------------------------------------------------------------------------------------------


def _fold_all(module: nn.Module, folds: Sequence[Fold]) -> None:
    for fold in folds:
        with torch.no_grad():
            _write(module, fold)
        _rewire(module, fold)


def _tensor(module: nn.Module, key: str) -> Tensor:
    path, _, name = key.rpartition(".")
    owner = module.get_submodule(path)
    found = owner._parameters.get(name)
    value = found if found is not None else owner._buffers[name]
    assert value is not None
    return value


def _write(module: nn.Module, fold: Fold) -> None:
    """In float64, then rounded once."""
    norm, layer = fold.norm, module.get_submodule(fold.layer)
    mean, var = (_tensor(module, key).double() for key in (norm.mean, norm.var))
    scale = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _tensor(module, norm.weight).double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + _tensor(module, norm.bias).double()
    weight = layer.get_parameter("weight")
    wide = weight.double()
    old = layer._parameters.get("bias")
    outputs = wide.shape[0] if not isinstance(layer, _ConvTransposeNd) else len(scale)
    bias = torch.zeros(outputs, dtype=torch.float64, device=weight.device) if old is None else old.double()
    if fold.side == "before":
        bias = bias * scale + shift
        wide = wide * _along_outputs(layer, scale, wide)
    else:
        each = _along_inputs(layer, shift, wide)
        bias = bias + (wide * each).flatten(1).sum(1)
        wide = wide * _along_inputs(layer, scale, wide)
    weight.copy_(wide)
    if old is None:
        layer.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=weight.requires_grad)
    else:
        old.copy_(bias)


def _along_outputs(layer: Any, scale: Tensor, weight: Tensor) -> Tensor:
    """A number for each output, in a shape that multiplies the weight."""
    if not isinstance(layer, _ConvTransposeNd):
        return scale.reshape(-1, *[1] * (weight.dim() - 1))
    by_group = scale.reshape(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1)
    return by_group.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))


def _along_inputs(layer: Any, scale: Tensor, weight: Tensor) -> Tensor:
    """A number for each input, in a shape that multiplies the weight of a layer that is not transposed."""
    if isinstance(layer, nn.Linear):
        return scale
    by_group = scale.reshape(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1)
    return by_group.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))


def _rewire(module: nn.Module, fold: Fold) -> None:
    """Take the norm out of every graph, and its tensors out of the module."""
    for place in graphs(module):
        for node in list(place.graph.nodes):
            if is_batch_norm(place, node) and read_norm(module, place, node) == fold.norm:
                source = Site(place, node).input
                assert source is not None
                constants = [each for each in node.all_input_nodes if each.op == "get_attr"]
                node.replace_all_uses_with(source)
                place.graph.erase_node(node)
                for each in constants:
                    if not each.users:
                        place.graph.erase_node(each)
    if fold.norm.module is not None:
        norm = module.get_submodule(fold.norm.module)
        for path in [name for name, each in module.named_modules(remove_duplicate=False) if each is norm]:
            parent, _, child = path.rpartition(".")
            module.get_submodule(parent)._modules[child] = nn.Identity()
        return
    for key in fold.norm.tensors:
        path, _, name = key.rpartition(".")
        owner = module.get_submodule(path)
        (owner._parameters if name in owner._parameters else owner._buffers)[name] = None
