"""Rewrites the literals of one fx node: a table from what a node calls to how its sizes are written.

Each entry takes the node, the values of its arguments now, and the calls that are expected of it; it changes the node's arguments and
nothing else. A size that comes from another tensor's shape and is right already stays symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from fxsparse.axes.site import dim_of
from fxsparse.surgery.expectation import Expected

Values = Mapping[fx.Node, Any]
Rewrite = Callable[[fx.Node, Values, list[Expected]], None]


def name_of(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def value_of(arg: Any, values: Values) -> Any:
    return values[arg] if isinstance(arg, fx.Node) else arg


def written(args: Any, wanted: tuple[int, ...], values: Values) -> list[Any]:
    """Sizes as they should be written: what is right stays as it is (symbolic, or -1), the rest becomes a number."""
    return [arg if value_of(arg, values) in (-1, size) else size for arg, size in zip(args, wanted, strict=True)]


def _set_argument(node: fx.Node, position: int, name: str, value: Any) -> None:
    if name in node.kwargs:
        node.kwargs = {**node.kwargs, name: value}
    elif position < len(node.args):
        node.args = (*node.args[:position], value, *node.args[position + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}


def _get_argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    if name in node.kwargs:
        return node.kwargs[name]
    return node.args[position] if position < len(node.args) else default


def _last_shape(expected: list[Expected]) -> tuple[int, ...]:
    shape = expected[-1].shapes[0]
    assert shape is not None
    return shape


def sizes(name: str) -> Rewrite:
    """view, reshape, expand, new_zeros ...: sizes as one sequence or as separate arguments, after the tensor."""

    def rewrite(node: fx.Node, values: Values, expected: list[Expected]) -> None:
        shape = _last_shape(expected)
        if name in node.kwargs:
            node.kwargs = {**node.kwargs, name: written(node.kwargs[name], shape, values)}
        elif len(node.args) > 1 and isinstance(node.args[1], (list, tuple)):
            node.args = (node.args[0], written(node.args[1], shape, values), *node.args[2:])
        else:
            node.args = (node.args[0], *written(node.args[1:], shape, values))

    return rewrite


def factory(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """torch.zeros and the like: sizes come first."""
    shape = _last_shape(expected)
    if "size" in node.kwargs:
        node.kwargs = {**node.kwargs, "size": written(node.kwargs["size"], shape, values)}
    elif node.args and isinstance(node.args[0], (list, tuple)):
        node.args = (written(node.args[0], shape, values), *node.args[1:])
    else:
        node.args = tuple(written(node.args, shape, values))


def repeat(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    wanted = tuple(expected[-1].literals.get("repeats") or next(e.literals["repeats"] for e in expected if "repeats" in e.literals))
    if isinstance(node.args[1], (list, tuple)):
        node.args = (node.args[0], written(node.args[1], wanted, values))
    else:
        node.args = (node.args[0], *written(node.args[1:], wanted, values))


def unflatten(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    shape = _last_shape(expected)
    old = _get_argument(node, 2, "sizes")
    dim = dim_of(value_of(_get_argument(node, 1, "dim"), values), len(shape) - len(old) + 1)
    _set_argument(node, 2, "sizes", written(old, shape[dim : dim + len(old)], values))


def split(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """split, chunk: once parts differ, their sizes must be written out."""
    shapes = [shape for shape in (expected[-1].shapes if len(expected[-1].shapes) > 1 else [e.shapes[0] for e in expected]) if shape]
    dim = value_of(_get_argument(node, 2, "dim", 0), values)
    node.op, node.target = "call_function", torch.split
    node.args = (node.args[0], [shape[dim] for shape in shapes], dim)
    node.kwargs = {}


def getitem(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """Slices and fixed indices, in the order in which they were applied."""
    cuts = [e for e in expected if e.call.name in ("aten.slice", "aten.select")]
    index = node.args[1]
    entries = list(index) if isinstance(index, tuple) else [index]
    for position, entry in enumerate(entries):
        if isinstance(entry, slice):
            if all(value_of(v, values) is None for v in (entry.start, entry.stop, entry.step)):
                continue
            literals = cuts.pop(0).literals
            start = _slice_part(entry.start, literals.get("start"), values)
            entries[position] = slice(start, _slice_part(entry.stop, literals.get("end"), values), entry.step)
        elif isinstance(value_of(entry, values), int) and not isinstance(entry, bool):
            entries[position] = cuts.pop(0).literals["index"]
    new = tuple(entries) if isinstance(index, tuple) else entries[0]
    node.args = (node.args[0], new, *node.args[2:])


def _slice_part(arg: Any, wanted: Any, values: Values) -> Any:
    now = value_of(arg, values)
    return arg if now is None or wanted is None or now == wanted else wanted


def argument(position: int, name: str, literal: str) -> Rewrite:
    """One argument that is the operator's literal of that name."""

    def rewrite(node: fx.Node, values: Values, expected: list[Expected]) -> None:
        wanted = next((e.literals[literal] for e in expected if literal in e.literals), None)
        if wanted is not None:
            _set_argument(node, position, name, wanted)

    return rewrite


def attention_scale(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """The default scale is that of the head dimension as it was."""
    if _get_argument(node, 6, "scale") is None:
        scale = node.meta.get("scale")
        if scale is not None:
            node.kwargs = {**node.kwargs, "scale": scale}


def pin_numbers(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """Numbers that were computed from sizes and are no sizes themselves (a scale, say) keep the value they had."""

    def pin(arg: fx.Node) -> Any:
        if "value" in arg.meta and values[arg] != arg.meta["value"]:
            return arg.meta["value"]
        return arg

    node.args = fx.node.map_arg(node.args, pin)
    node.kwargs = fx.node.map_arg(node.kwargs, pin)


TABLE: dict[str, Rewrite] = {
    **{name: sizes("size") for name in ("view", "expand", "broadcast_to", "new_zeros", "new_ones", "new_empty", "new_full")},
    "reshape": sizes("shape"),
    **{name: factory for name in ("zeros", "ones", "empty", "rand", "randn", "full")},
    "repeat": repeat,
    "unflatten": unflatten,
    **{name: split for name in ("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", "hsplit", "vsplit")},
    "getitem": getitem,
    "setitem": getitem,
    "pad": argument(1, "pad", "pad"),
    "layer_norm": argument(1, "normalized_shape", "normalized_shape"),
    "rms_norm": argument(1, "normalized_shape", "normalized_shape"),
    "group_norm": argument(1, "num_groups", "group"),
    **{f"conv{n}d": argument(6, "groups", "groups") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": argument(6, "groups", "groups") for n in (1, 2, 3)},
    "channel_shuffle": argument(1, "groups", "groups"),
    "scaled_dot_product_attention": attention_scale,
}


def narrow(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    cut = next(e for e in expected if e.call.name in ("aten.slice", "aten.narrow"))
    start = cut.literals["start"]
    length = cut.literals["length"] if "length" in cut.literals else cut.literals["end"] - start
    _set_argument(node, 2, "start", start)
    _set_argument(node, 3, "length", length)


def repeat_interleave(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """Decomposes into an expansion behind the repeated axis, whose size is the number of repeats."""
    expanded = next(e.shapes[0] for e in expected if e.call.name == "aten.expand")
    dim = value_of(_get_argument(node, 2, "dim"), values)
    if expanded is not None and dim is not None:
        _set_argument(node, 1, "repeats", expanded[dim_of(dim, len(expanded) - 1) + 1])


TABLE["repeat_interleave"] = repeat_interleave
TABLE["narrow"] = narrow
TABLE["select"] = argument(2, "index", "index")


def rewrite(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """Bring a node's literals in line with what is expected of it."""
    special = TABLE.get(name_of(node)) if node.op in ("call_function", "call_method") else None
    if special is not None:
        special(node, values, expected)
    else:
        pin_numbers(node, values, expected)
