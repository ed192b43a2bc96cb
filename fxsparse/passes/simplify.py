"""The pass `simplify`: what is computed twice is computed once, and what nobody reads is not computed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import fx, nn

from fxsparse.axes.reader import Reading
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.constants.walk import memory_of, written
from fxsparse.passes.equality import require_same_function
from fxsparse.surgery.graphs import Place, Where, graphs, locator
from fxsparse.tracing.copies import copy_with
from fxsparse.tracing.pins import HOLDS


@dataclass(frozen=True)
class Simplify(Pass):
    """Merge nodes that compute the same, and drop nodes that nobody reads, in every graph.

    A node is merged with an earlier one when both do the same to the same inputs. Random operators, norms in train mode, and everything
    whose memory is written to are left as they are. Modules that do nothing (`nn.Identity`) leave the graphs.

    Assumes nothing. Guarantees the same outputs and the same state dict: modules that nobody calls any more stay, with their parameters, as
    their names belong to the model's checkpoints.

    Example: `fold-batch-norm,simplify`
    """

    name: ClassVar[str] = "simplify"

    def run(self, network: Network, context: Context) -> PassResult:
        reading = network.origin.structure.reading
        scratch = copy_with(network.origin.skeleton, lambda tensor: tensor)
        notes = tuple(_simplify(scratch, reading))
        if not notes:
            return PassResult(network, False)

        def edit(module: nn.Module) -> None:
            _simplify(module, reading)

        return PassResult(network.edited(edit, str(self)), True, notes)

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        if result.modified:
            require_same_function(self.name, network, result.network)


def _simplify(module: nn.Module, reading: Reading) -> list[str]:
    """Change the graphs; a note for each that has changed."""
    effects = _Effects.of(reading, module)
    notes = []
    for place in graphs(module):
        idle = _bypass_identities(place)
        merged = _merge(place, effects)
        dead = _drop_dead(place, effects)
        if idle or merged or dead:
            where = f"{place.mode} graph" + (f" of {place.prefix}" if place.prefix else "")
            notes.append(f"{where}: {merged} nodes merged, {dead} dropped, {idle} that do nothing")
    return notes


@dataclass
class _Effects:
    """What the nodes of all graphs do beside giving a result."""

    calls: set[Where] = field(default_factory=set)  # does any work; other nodes hand on what they get
    writes: set[Where] = field(default_factory=set)  # changes memory that was there before
    random: set[Where] = field(default_factory=set)  # gives something else each time, or counts its calls
    trained: set[Where] = field(default_factory=set)  # of these, those that do so in train mode
    touched: set[Where] = field(default_factory=set)  # reads or makes memory that is written to at some time

    @classmethod
    def of(cls, reading: Reading, module: nn.Module) -> _Effects:
        found, locate = cls(), locator(module)
        for each in reading.tapes:
            tape = each.tape
            memory = memory_of(tape)
            changed = {memory[ref.id] for call in tape.calls for ref in written(call)}
            for call in tape.calls:
                where = locate(tape, call)
                found.calls.add(where)
                if any(True for _ in written(call)):
                    found.writes.add(where)
                counts = tape.mode == "train" and "batch_norm" in call.name
                if torch.Tag.nondeterministic_seeded in call.op.tags or counts:
                    found.random.add(where)
                    if tape.mode == "train":
                        found.trained.add(where)
                if any(memory[ref.id] in changed for ref in (*call.reads, *call.makes)):
                    found.touched.add(where)
        return found


def _hooked(place: Place, node: fx.Node) -> bool:
    module = place.module_of(node)
    return module is not None and any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks))


def _bypass_identities(place: Place) -> int:
    count = 0
    for node in list(place.graph.nodes):
        if type(place.module_of(node)) is nn.Identity and not _hooked(place, node) and isinstance(node.args[0], fx.Node):
            node.replace_all_uses_with(node.args[0])
            place.graph.erase_node(node)
            count += 1
    return count


def _merge(place: Place, effects: _Effects) -> int:
    """Common subexpressions, in the order of the graph."""
    first: dict[Hashable, fx.Node] = {}
    touched: set[fx.Node] = set()
    count = 0
    for node in list(place.graph.nodes):
        if node.op in ("placeholder", "output"):
            continue
        where = place.where(node)
        hands_on = where not in effects.calls and not (node.op == "call_method" and node.target == "size")
        if where in effects.touched or (hands_on and any(each in touched for each in node.all_input_nodes)):
            touched.add(node)
        own = node in touched or where in effects.random or where in effects.writes or _hooked(place, node) or _unwritten(node)
        if own and node.op != "get_attr":
            continue
        key = (node.op, node.target, _key(node.args), _key(node.kwargs))
        earlier = first.setdefault(key, node)
        if earlier is not node:
            node.replace_all_uses_with(earlier)
            place.graph.erase_node(node)
            count += 1
    return count


def _unwritten(node: fx.Node) -> bool:
    """It makes memory that is not written yet, or sets an attribute."""
    return node.target is setattr or (node.op != "call_module" and "empty" in getattr(node.target, "__name__", str(node.target)))


def _key(value: Any) -> Hashable:
    """An argument to compare by: nodes are themselves, 1 is not True."""
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *map(_key, value))
    if isinstance(value, dict):
        return ("dict", *((key, _key(item)) for key, item in sorted(value.items())))
    if isinstance(value, slice):
        return ("slice", _key(value.start), _key(value.stop), _key(value.step))
    return value if isinstance(value, fx.Node) else (type(value).__name__, str(value))


def _drop_dead(place: Place, effects: _Effects) -> int:
    count = 0
    for node in reversed(list(place.graph.nodes)):
        pure = node.op not in ("placeholder", "output") and node.target not in (setattr, *HOLDS) and not _hooked(place, node)
        counts = place.where(node) in effects.trained
        if pure and not node.users and place.where(node) not in effects.writes and not counts:
            place.graph.erase_node(node)
            count += 1
    return count
