"""Channels that a view splits by the sizes of an image.

`y.reshape(b, c, h, w)` of a tensor (b, h·w, c) moves a part of the channels into the places of the image, as many as the example had.
Which channels hang together is another question for each size of image: they stay whole.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

from torch import fx, nn

from fxsparse.axes.factors import Axis
from fxsparse.axes.reader import Reading, TapeReading
from fxsparse.surgery.symbols import leaves
from fxsparse.tracing.tape import Call
from fxsparse.tracing.traced_module import TracedModule
from fxsparse.tracing.walk import named_modules

VIEWS = {"aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias"}
WHY = "a view splits it by a size of the network's input"


def protect_what_input_sizes_split(reading: Reading, module: nn.Module) -> None:
    """Freeze the axes of which a part stands for a size that follows the inputs and has nothing of the inputs in it."""
    modules = dict(named_modules(module))
    own = {factor.uid for axes in reading.tensors.values() for axis in axes for factor in axis}
    fixed = {free.uid for free, met in reading.algebra.met if met.uid in own}  # a layer takes so many and no others
    for each in reading.tapes:
        nodes: dict[str, dict[str, fx.Node]] = {}
        made: dict[tuple[str, str], list[Axis]] = {}
        if isinstance(module, TracedModule):
            names = module.graph_in(each.tape.mode).parameters
            made.update({("", name): each.axes[ref.id] for name, ref in zip(names, each.tape.inputs, strict=True)})
        for call in each.tape.calls:
            owner = call.owner
            if owner.graph is None or owner.node is None:
                continue
            if call.name in VIEWS:
                if owner.graph not in nodes:
                    nodes[owner.graph] = _nodes(modules.get(owner.graph), each)
                node = nodes[owner.graph].get(owner.node)
                if node is not None:
                    _protect(reading, each, call, node, owner.graph, made, fixed)
            for ref in call.makes[:1]:
                made[owner.graph, owner.node] = each.axes[ref.id]


def _nodes(module: nn.Module | None, each: TapeReading) -> dict[str, fx.Node]:
    if not isinstance(module, TracedModule):
        return {}
    return {node.name: node for node in module.graph_in(each.tape.mode).graph.nodes}


def _protect(
    reading: Reading, each: TapeReading, call: Call, node: fx.Node, graph: str, made: dict[tuple[str, str], list[Axis]], fixed: set[int]
) -> None:
    (result,) = call.makes[:1]
    axes = each.axes[result.id]
    sizes = list(_sizes(node))
    if len(sizes) != len(axes):
        return
    for size, axis in zip(sizes, axes, strict=True):
        if axis and not any(factor.free for factor in axis) and _follows_inputs(size, graph, made, fixed):
            reading.algebra.freeze([reading.algebra.undivided(factor) for factor in axis], WHY)


def _sizes(node: fx.Node) -> Iterator[object]:
    """What is written for the sizes of the result, one for each axis."""
    rest = node.args[1:]
    yield from rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest


def _follows_inputs(size: object, graph: str, made: dict[tuple[str, str], list[Axis]], fixed: set[int]) -> bool:
    """Whether a number is computed from sizes that are no channels', and of which one may be another with other inputs."""
    if not isinstance(size, fx.Node):
        return False
    varies, product = False, _is_product(size)
    for leaf in leaves(size):
        source = leaf.args[0] if leaf.op == "call_method" and leaf.target == "size" and len(leaf.args) == 2 else None
        if not isinstance(source, fx.Node):
            return False
        axes = made.get((graph, source.name))
        stands = not (product and leaf.meta.get("value") == 1)  # of batch x 8 heads, a batch of one is no part
        if axes is None:
            if source.op != "placeholder" or graph:
                return False
            varies = varies or stands
            continue
        dim = leaf.args[1]
        if not isinstance(dim, int) or not all(factor.free for factor in axes[dim]):
            return False
        varies = varies or (stands and (not axes[dim] or any(factor.uid not in fixed for factor in axes[dim])))
    return varies


def _is_product(size: fx.Node) -> bool:
    """Whether it is a size of a tensor, or sizes and plain numbers multiplied."""
    return size.op == "call_method" or (size.target is operator.mul and all(map(_is_product, size.all_input_nodes)))
