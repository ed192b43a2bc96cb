"""The pass `fold-batch-norm`: a batch norm that only scales and shifts becomes part of the layer beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from torch import fx, nn

from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.batch_norms import Norm, Site, is_batch_norm, overwritten, ranks, read_norm, uses
from fxsparse.passes.equality import require_same_function
from fxsparse.passes.folding import Fold, fold_all, rewire
from fxsparse.passes.layer_calls import Layer, input_of, layer_of
from fxsparse.surgery.graphs import Place, Where, graphs
from fxsparse.tracing.copies import copy_with, names_of


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch norms into the convolution, transposed convolution or linear layer beside them.

    Looks at the layer before the norm first, then at the layer after it; a layer is a module, or a function of torch that is called with
    parameters, as in layers that pad by themselves. `exclude` names norms that stay, by pattern.

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
        made = network.edited(lambda module: fold_all(module, folds), str(self))
        return PassResult(made, True, (*(f"{f.norm.name} is folded into {f.layer.name}" for f in folds), *notes))

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        if result.modified:
            require_same_function(self.name, network, result.network)


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
        self.names = names_of(scratch)
        self.uses = uses(reading, scratch)
        self.ranks = ranks(reading, scratch)
        self.overwritten = overwritten(reading, scratch)
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
                rewire(self.module, answer)
        return folds, notes

    def norms(self) -> dict[Norm | str, list[Site]]:
        """Every batch norm with the places where it is called; of one that cannot be read, the reason."""
        found: dict[Norm | str, list[Site]] = {}
        for place in graphs(self.module):
            for node in place.graph.nodes:
                if is_batch_norm(place, node):
                    found.setdefault(read_norm(self.names, place, node), []).append(Site(place, node))
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
            why = self.no_layer(site.place, site.input)
            if why is not None or site.input is None:
                return f"its input {site.input} {why}"
            if set(site.input.users) != {site.node}:
                return f"its input {site.input} has other readers"
            layers.append((site.place, site.input))
        layer = self.only_layer(layers)
        return layer if isinstance(layer, str) else self.fits(layer, sites) or Fold(norm, layer, "before")

    def after(self, norm: Norm, sites: list[Site]) -> Fold | str:
        """The layer that takes the norm's result."""
        layers: list[tuple[Place, fx.Node]] = []
        for site in sites:
            if site.where in self.overwritten:
                return "its input is changed in place later on"
            if len(site.node.users) != 1:
                return "its result has several readers"
            reader = next(iter(site.node.users))
            why = self.no_layer(site.place, reader)
            if why is not None or input_of(reader) is not site.node:
                return f"its reader {reader} {why or 'reads it as a weight'}"
            layers.append((site.place, reader))
        layer = self.only_layer(layers)
        return layer if isinstance(layer, str) else self.fits(layer, sites) or _pads(layer) or Fold(norm, layer, "after")

    def only_layer(self, calls: list[tuple[Place, fx.Node]]) -> Layer | str:
        """The one layer that these nodes call, when nothing else does; else why it is not."""
        found = {layer_of(self.names, place, node) for place, node in calls}
        layers = [each for each in found if isinstance(each, Layer)]
        if len(found) != 1 or not layers:
            reasons = [each for each in found if isinstance(each, str)]
            return reasons[0] if reasons else f"it stands beside several layers: {', '.join(sorted(each.name for each in layers))}"
        layer = layers[0]
        why = _watched(self.module.get_submodule(layer.name)) if layer.module else None
        if why is not None:
            return f"{layer.name}: {why}"
        return self.private(layer.keys, {place.where(node) for place, node in calls}) or layer

    def no_layer(self, place: Place, node: fx.Node | None) -> str | None:
        """Why a norm cannot go into what this node calls, if it is no layer at all."""
        found = None if node is None else layer_of(self.names, place, node)
        return "is no convolution and no linear layer" if found is None else None

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

    def fits(self, layer: Layer, sites: list[Site]) -> str | None:
        """Why the norm's axis is not the layer's."""
        rank = self.module.get_parameter(layer.weight).dim()
        return f"it does not normalise the channels of {layer.name}" if any(self.ranks.get(site.where) != rank for site in sites) else None


def _watched(module: nn.Module) -> str | None:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return "hooks watch it" if any(hooks) else None


def _pads(layer: Layer) -> str | None:
    """Why a shift in front of a layer is not a bias behind it."""
    if layer.kind == "transposed":
        return f"{layer.name} is a transposed convolution, whose border pixels would miss a part of the shift"
    return f"{layer.name} pads with zeros, to which the norm's shift would have to be added" if layer.pads else None
