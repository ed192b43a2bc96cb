"""Every fx graph of a traced module: one for eval, one for train where they differ, and one pair for each island."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import fx, nn

from fxsparse.tracing.tape import Call, Mode, Tape
from fxsparse.tracing.traced_module import TracedModule

Where = tuple[Mode, str, str]  # a node: mode, the graph's owner, name


@dataclass(frozen=True, slots=True)
class Place:
    """A graph, and the module that it is the forward pass of. Targets in the graph are relative to the owner."""

    owner: TracedModule
    prefix: str  # the owner's qualified name; "" for the network itself
    mode: Mode
    graph: fx.Graph

    def name(self, target: str) -> str:
        """The qualified name, from the network's root, of what a node calls or gets."""
        return f"{self.prefix}.{target}" if self.prefix else target

    def where(self, node: fx.Node) -> Where:
        return (self.mode, self.prefix, node.name)

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, if it calls one."""
        return self.owner.get_submodule(str(node.target)) if node.op == "call_module" else None


def locator(module: nn.Module) -> Callable[[Tape, Call], Where]:
    """Which node of `graphs` made a call of a tape; that of code outside of graphs is "". A graph may be that of both modes, and is found
    under the name of one."""
    modes = {prefix: tuple(owner.graphs) for prefix, owner in module.named_modules() if isinstance(owner, TracedModule)}

    def where(tape: Tape, call: Call) -> Where:
        graph = call.owner.graph or ""
        known = modes.get(graph, ()) if call.owner.graph is not None else ()
        return (tape.mode if tape.mode in known or not known else known[0], graph, call.owner.node or "")

    return where


def all_graphs(module: nn.Module) -> Iterator[Place]:
    """All graphs of a traced module."""
    for prefix, owner in module.named_modules():
        if isinstance(owner, TracedModule):
            for mode, traced in owner.graphs.items():
                yield Place(owner, prefix, mode, traced.graph)


def graphs(module: nn.Module) -> Iterator[Place]:
    """The graphs to edit: not those that the user's own code calls in train mode, which whoever edits gives up."""
    alone = isinstance(module, TracedModule) and module.trains_in_python
    return (place for place in all_graphs(module) if not (alone and place.prefix))
