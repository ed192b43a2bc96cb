"""What a module keeps from one call to the next. A graph begins anew each time, and would forget it.

A forward pass may leave things behind without harm: attention maps for whoever wants to see them, tables that it computes once. What
matters is a tensor that it reads and puts another one in the place of (the potential of a neuron, a running state), and a number that makes
its next run another one (a count of calls). What begins as None shows only in a second run, over what the first one has left behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from fxsparse.tracing.pins import PINS
from fxsparse.tracing.tape import Tape
from fxsparse.tracing.walk import named_modules, own_attributes

KEEPS = "for its next call, which a graph would forget"

Holdings = dict[str, Any]
NodeOf = Callable[[Tensor], fx.Node | None]
SAME = {"to", "type_as", "contiguous", "clone", "detach", "cpu", "cuda", "float", "double", "half", "type"}  # of the same values
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def holdings(module: nn.Module) -> Holdings:
    """What the submodules hold beside parameters, by qualified name; collections by what is in them."""
    return {
        f"{prefix}.{name}" if prefix else name: content(value)
        for prefix, each in named_modules(module)
        for name, value in (*own_attributes(each), *each._buffers.items())
    }


def content(value: Any) -> Any:
    if isinstance(value, dict):
        return list(value.items())
    return list(value) if isinstance(value, (list, tuple, set, deque)) else value


def changed(before: Holdings, after: Holdings) -> list[str]:
    """Names under which something else stands."""
    return [name for name, value in after.items() if name not in before or not same(before[name], value)]


def same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, _PLAIN) and isinstance(b, _PLAIN) and a == b


def read_and_replaced(graph: fx.Graph, node_of: NodeOf, module: nn.Module, names: list[str]) -> str | None:
    """The name of a tensor that the graph reads, and in the place of which its run has put what is computed from something. Where the
    graph asks for its shape alone, and holds to the answer, a table may be made anew each time, and nothing that has values of an input."""
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    for name in names:
        path, _, attribute = name.rpartition(".")
        now = getattr(module.get_submodule(path), attribute, None) if name in read else None
        node = node_of(now) if isinstance(now, Tensor) else None
        while node is not None and node.op == "call_method" and node.target in SAME and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        if node is None or (node.op == "get_attr" and node.target == name):
            continue
        if _from_values(node) or not all(_of_its_shape(each) for each in graph.nodes if each.op == "get_attr" and each.target == name):
            return name
    return None


def _of_its_shape(tensor: fx.Node) -> bool:
    """Whether nothing but pins uses it, and of it the shape alone."""
    return all(asked.target in ABOUT and all(each.target in PINS for each in asked.users) for asked in tensor.users)


def fed(node_of: NodeOf, module: nn.Module, names: list[str]) -> list[tuple[str, Tensor]]:
    """What now stands in collections and is computed from an input's values, with their names: no table, then, that is computed once."""
    found = []
    for name in names:
        path, _, attribute = name.rpartition(".")
        kept = getattr(module.get_submodule(path), attribute, None)
        for leaf in tree_leaves(kept) if not isinstance(kept, Tensor) else ():
            node = node_of(leaf) if isinstance(leaf, Tensor) else None
            if node is not None and _from_values(node):
                found.append((name, leaf))
    return found


def _from_values(node: fx.Node) -> bool:
    """Whether it is computed from an input, and not from its shape, type and device alone."""
    left, seen = [node], {node}
    while left:
        each = left.pop()
        if each.op == "placeholder":
            return True
        name = each.target if isinstance(each.target, str) else getattr(each.target, "__name__", "")
        if name in ABOUT or name.startswith("new_") or name.endswith("_like") or (each.target is getattr and each.args[1] == "device"):
            continue
        sources = each.all_input_nodes[:1] if name in AS_ANOTHER else each.all_input_nodes
        left.extend(new for new in sources if new not in seen)
        seen.update(sources)
    return False


ABOUT = {"size", "dim", "stride"}
AS_ANOTHER = {"to", "type_as", "expand_as", "view_as", "reshape_as"}


def written_weights(tape: Tape) -> list[str]:
    """Parameters and buffers that a run changes in place, through views as well."""
    names = {ref.id: name for name, ref in reversed(tape.keys.items())}
    found = []
    for call in tape.calls:
        found += [repr(names[ref.id]) for ref in call.writes if ref.id in names]
        aliased = next((names[ref.id] for ref in call.reads if ref.id in names), None)
        if aliased is not None and any(each.alias_info is not None for each in call.op._schema.returns):
            for ref in call.makes:
                names.setdefault(ref.id, aliased)
    return found
