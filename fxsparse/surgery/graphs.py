"""Every fx graph of a traced module: one for eval, one for train where they differ, and one pair for each island."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from fxsparse.tracing.tape import Mode
from fxsparse.tracing.traced_module import TracedModule


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

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, if it calls one."""
        return self.owner.get_submodule(str(node.target)) if node.op == "call_module" else None


def graphs(module: nn.Module) -> Iterator[Place]:
    """All graphs of a traced module, but for those that the user's own code calls in train mode: who edits graphs gives that up."""
    for prefix, owner in module.named_modules():
        if isinstance(owner, TracedModule):
            for mode, traced in owner.graphs.items():
                yield Place(owner, prefix, mode, traced.graph)
            if owner.trains_in_python:
                return
