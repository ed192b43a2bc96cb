"""Batch norms in graphs, as modules and as functions, and who uses which tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxsparse.axes.reader import Reading
from fxsparse.passes.constants.walk import memory_of, written
from fxsparse.surgery.graphs import Place, Where, locator
from fxsparse.tracing.tape import Ref
from fxsparse.tracing.taught import is_parametrized

BatchNorm = nn.modules.batchnorm._BatchNorm
_ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


@dataclass(frozen=True)
class Norm:
    """A batch norm with statistics of its own: the names of its tensors, and its module, if it is one."""

    name: str
    mean: str
    var: str
    weight: str | None
    bias: str | None
    eps: float
    module: str | None

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(key for key in (self.mean, self.var, self.weight, self.bias) if key is not None)


@dataclass(frozen=True)
class Site:
    """One call of a norm in one graph."""

    place: Place
    node: fx.Node

    @property
    def input(self) -> fx.Node | None:
        given = argument(self.node, 0, "input")
        return given if isinstance(given, fx.Node) else None

    @property
    def where(self) -> Where:
        return self.place.where(self.node)


def argument(node: fx.Node, position: int, name: str, default: object = None) -> object:
    """An argument of a call, by its place or its name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def is_batch_norm(place: Place, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(place.module_of(node), BatchNorm)
    return node.op == "call_function" and node.target is F.batch_norm


def read_norm(names: Mapping[int, str], place: Place, node: fx.Node) -> Norm | str:
    """The norm that a node calls, or why it cannot be folded anywhere, with its name in front; `names` are `names_of` the network."""
    if node.op == "call_module":
        return _read_module(names, place, node)
    return read_function(place, node)


def _read_module(names: Mapping[int, str], place: Place, node: fx.Node) -> Norm | str:
    norm = place.module_of(node)
    assert isinstance(norm, BatchNorm)
    name = names[id(norm)]
    if norm.running_mean is None or norm.running_var is None:
        return f"{name}: it keeps no statistics, but takes those of each batch"
    if is_parametrized(norm):
        return f"{name}: it is parametrized"
    weight, bias = (f"{name}.{key}" if norm._parameters.get(key) is not None else None for key in ("weight", "bias"))
    return Norm(name, f"{name}.running_mean", f"{name}.running_var", weight, bias, norm.eps, name)


def read_function(place: Place, node: fx.Node) -> Norm | str:
    given = dict(zip(_ARGUMENTS, node.args, strict=False)) | dict(node.kwargs)
    keys: dict[str, str | None] = {}
    for each in ("running_mean", "running_var", "weight", "bias"):
        value = given.get(each)
        if isinstance(value, fx.Node) and value.op == "get_attr" and isinstance(_attribute(place, str(value.target)), Tensor):
            keys[each] = place.name(str(value.target))
        elif value is None:
            keys[each] = None
        else:
            return f"{node.name}: its {each} is computed in the forward pass"
    mean, var = keys["running_mean"], keys["running_var"]
    if mean is None or var is None:
        return f"{node.name}: it keeps no statistics, but takes those of each batch"
    name = mean.rpartition(".")[0] or node.name
    if place.mode == "eval" and given.get("training", False) is not False:
        return f"{name}: it takes the statistics of each batch in eval mode as well"
    eps = given.get("eps", 1e-5)
    if not isinstance(eps, float):
        return f"{name}: its eps is computed in the forward pass"
    return Norm(name, mean, var, keys["weight"], keys["bias"], eps, None)


def _attribute(place: Place, target: str) -> object:
    path, _, name = target.rpartition(".")
    owner = place.owner.get_submodule(path)
    known = owner._parameters.get(name)
    return known if known is not None else owner._buffers.get(name)


def uses(reading: Reading, module: nn.Module) -> dict[str, set[Where]]:
    """Every name of every tensor -> the nodes whose calls read or write it; code outside of graphs is the node ""."""
    found: dict[str, set[Where]] = {}
    locate = locator(module)
    for each in reading.tapes:
        tape = each.tape
        for call in tape.calls:
            where = locate(tape, call)
            for ref in call.reads:
                key = tape.values[ref.id].key
                if key is not None:
                    found.setdefault(key, set()).add(where)
    for name, first in reading.aliases.items():
        found[name] = found.setdefault(first, set())
    return found


def ranks(reading: Reading, module: nn.Module) -> dict[Where, int]:
    """Each node that normalises a batch -> the number of axes of its input."""
    found: dict[Where, int] = {}
    locate = locator(module)
    for each in reading.tapes:
        tape = each.tape
        for call in tape.calls:
            if "batch_norm" in call.name and isinstance(call.args[0], Ref):
                found[locate(tape, call)] = len(tape.shape(call.args[0]))
    return found


def overwritten(reading: Reading, module: nn.Module) -> set[Where]:
    """Nodes that normalise what is written to in place later on: a layer that reads it directly would read something else."""
    found: set[Where] = set()
    locate = locator(module)
    for each in reading.tapes:
        tape, memory, later = each.tape, memory_of(each.tape), set[int]()
        for call in reversed(tape.calls):
            if "batch_norm" in call.name and isinstance(call.args[0], Ref) and memory[call.args[0].id] in later:
                found.add(locate(tape, call))
            later |= {memory[ref.id] for ref in written(call)}
    return found
