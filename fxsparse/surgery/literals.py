"""Rewrites the literals of one fx node: a table from what a node calls to how its sizes are written.

Each entry takes the node, the values of its arguments now, and the calls that are expected of it; it changes the node's arguments and
nothing else. A size that comes from another tensor's shape and is right already stays symbolic; one that is wrong stays so where it may
follow the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxsparse.axes.site import dim_of
from fxsparse.surgery.expectation import Expected
from fxsparse.surgery.symbols import Values, in_proportion, may_vary, value_of, with_dense_widths

Rewrite = Callable[[fx.Node, Values, list[Expected]], None]


def name_of(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def written(node: fx.Node, args: Sequence[Any], wanted: Sequence[int], values: Values, hole: bool = False) -> list[Any]:
    """Sizes as they should be written: what is right stays as it is (symbolic, or -1), the rest becomes a number. With `hole`, one that
    may follow the inputs becomes -1."""
    hole = hole and not any(value_of(arg, values) == -1 for arg in args)
    made: list[Any] = []
    for arg, size in zip(args, wanted, strict=True):
        if value_of(arg, values) in (-1, size):
            made.append(arg)
        elif hole and may_vary(arg, values):
            made.append(-1)
            hole = False
        else:
            made.append(in_proportion(node, arg, size, values))
    return made


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


def sequence(name: str, position: int, wanted: Callable[[list[Expected]], Sequence[int]], hole: bool = False) -> Rewrite:
    """Numbers as one sequence or as separate arguments from `position` on. Where fewer are written than wanted, they are the last ones."""

    def rewrite(node: fx.Node, values: Values, expected: list[Expected]) -> None:
        numbers = list(wanted(expected))

        def made(args: Any) -> list[Any]:
            return written(node, args, numbers[len(numbers) - len(args) :], values, hole)

        if name in node.kwargs:
            node.kwargs = {**node.kwargs, name: made(node.kwargs[name])}
        elif len(node.args) > position and isinstance(node.args[position], (list, tuple)):
            node.args = (*node.args[:position], made(node.args[position]), *node.args[position + 1 :])
        else:
            node.args = (*node.args[:position], *made(node.args[position:]))

    return rewrite


def sizes(name: str, position: int = 1, hole: bool = False) -> Rewrite:
    """view, reshape, expand, new_zeros, zeros ...: the sizes of the result."""
    return sequence(name, position, _last_shape, hole)


def _repeats(expected: list[Expected]) -> Sequence[int]:
    found: Sequence[int] = next(e.literals["repeats"] for e in reversed(expected) if "repeats" in e.literals)
    return found


def unflatten(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    shape = _last_shape(expected)
    old = _get_argument(node, 2, "sizes")
    dim = dim_of(value_of(_get_argument(node, 1, "dim"), values), len(shape) - len(old) + 1)
    _set_argument(node, 2, "sizes", written(node, old, shape[dim : dim + len(old)], values, hole=True))


def split(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """split, chunk: once parts differ, their sizes must be written out."""
    parts = [(shape, axes) for e in expected for shape, axes in zip(e.shapes, e.axes, strict=True) if shape and axes]
    rank = len(parts[0][0])
    by_name = {"hsplit": 1 if rank > 1 else 0, "vsplit": 0, "dsplit": 2}
    written_dim = by_name.get(name_of(node), value_of(_get_argument(node, 2, "dim", 0), values))
    dim = dim_of(written_dim, rank)
    lengths: list[Any] = [shape[dim] for shape, _ in parts]
    source = node.args[0]
    if any(factor.free for _, axes in parts for factor in axes[dim]):  # batch x heads: the length follows the inputs
        with node.graph.inserting_before(node):
            whole = node.graph.call_method("size", (source, dim))
        values[whole] = sum(lengths)
        lengths = [in_proportion(node, whole, length, values) for length in lengths]
    node.op, node.target = "call_function", torch.split
    node.args = (source, lengths, written_dim)
    node.kwargs = {}


def getitem(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """Slices and fixed indices, in the order in which they were applied. What takes a whole axis is no call: each of them is known by its
    dimension at that moment, which indices before it make less, and new axes more."""
    cuts = [e for e in expected if e.call.name in ("aten.slice", "aten.select")]
    index = node.args[1]
    entries = list(index) if isinstance(index, tuple) else [index]
    axis = shift = 0
    for position, entry in enumerate(entries):
        if entry is Ellipsis:
            axis = value_of(node.args[0], values).dim() - sum(_axes_taken(each, values) for each in entries[position + 1 :])
            continue
        cut = cuts[0] if cuts and cuts[0].literals.get("dim", 0) == axis + shift else None
        axis += _axes_taken(entry, values)
        if entry is None:
            shift += 1
        elif isinstance(entry, slice):
            numbers = any(value_of(v, values) is not None for v in (entry.start, entry.stop, entry.step))
            if numbers and cut is not None and cut.call.name == "aten.slice":
                literals = cuts.pop(0).literals
                start = _slice_part(node, entry.start, literals.get("start"), values)
                entries[position] = slice(start, _slice_part(node, entry.stop, literals.get("end"), values), entry.step)
        elif isinstance(value_of(entry, values), int) and not isinstance(entry, bool):
            shift -= 1
            if cut is not None and cut.call.name == "aten.select":
                entries[position] = in_proportion(node, entry, cuts.pop(0).literals["index"], values)
    new = tuple(entries) if isinstance(index, tuple) else entries[0]
    node.args = (node.args[0], new, *node.args[2:])


def _axes_taken(entry: Any, values: Values) -> int:
    """How many axes of the source an entry of an index stands for."""
    value = value_of(entry, values) if not isinstance(entry, slice) else entry
    if isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8):
        return value.dim()
    return 0 if value is None or isinstance(value, bool) else 1


def _slice_part(node: fx.Node, arg: Any, wanted: Any, values: Values) -> Any:
    return arg if value_of(arg, values) is None or wanted is None else in_proportion(node, arg, wanted, values)


def argument(position: int, name: str, literal: str) -> Rewrite:
    """One argument that is the operator's literal of that name."""

    def rewrite(node: fx.Node, values: Values, expected: list[Expected]) -> None:
        wanted = next((e.literals[literal] for e in expected if literal in e.literals), None)
        if wanted is not None:
            _set_argument(node, position, name, wanted)

    return rewrite


def normalized_shape(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """layer_norm, rms_norm: the last sizes of the result, into however many calls torch takes them apart."""
    count = len(_get_argument(node, 1, "normalized_shape"))
    _set_argument(node, 1, "normalized_shape", list(_last_shape(expected)[-count:]))


def attention_scale(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """The default scale is that of the head dimension as it was."""
    if _get_argument(node, 6, "scale") is None:
        scale = node.meta.get("scale")
        if scale is not None:
            node.kwargs = {**node.kwargs, "scale": scale}


def pin_numbers(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """Numbers that were computed from sizes and are no sizes themselves (a scale, say) keep the value they had."""
    node.args = fx.node.map_arg(node.args, lambda arg: with_dense_widths(node, arg, values))
    node.kwargs = fx.node.map_arg(node.kwargs, lambda arg: with_dense_widths(node, arg, values))


def narrow(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    cut = next(e for e in expected if e.call.name in ("aten.slice", "aten.narrow"))
    start = cut.literals["start"]
    length = cut.literals["length"] if "length" in cut.literals else cut.literals["end"] - start
    for position, name, wanted in ((2, "start", start), (3, "length", length)):
        _set_argument(node, position, name, in_proportion(node, _get_argument(node, position, name), wanted, values))


def repeat_interleave(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """Decomposes into an expansion behind the repeated axis, whose size is the number of repeats."""
    expanded = next(e.shapes[0] for e in expected if e.call.name == "aten.expand")
    dim = value_of(_get_argument(node, 2, "dim"), values)
    if expanded is not None and dim is not None:
        dim = dim_of(dim, len(expanded) - 1)
        _set_argument(node, 1, "repeats", expanded[dim + 1])
        if node.kwargs.get("output_size") is not None:
            wanted = expanded[dim] * expanded[dim + 1]
            _set_argument(node, 3, "output_size", in_proportion(node, node.kwargs["output_size"], wanted, values))


def squeeze(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """The axes that had one coordinate go, and not those that are left with one."""
    said = expected[-1]
    assert said.source is not None
    dim = said.literals.get("dim", range(len(said.source)))
    chosen = {dim_of(d, len(said.source)) for d in ([dim] if isinstance(dim, int) else dim)}
    node.args = (node.args[0], tuple(d for d in sorted(chosen) if said.source[d] == 1))
    node.kwargs = {}


def like(name: str) -> Rewrite:
    """view_as, reshape_as, expand_as: the sizes of another tensor, as long as that has them; then its sizes one by one."""

    def rewrite(node: fx.Node, values: Values, expected: list[Expected]) -> None:
        other, shape = _get_argument(node, 1, "other"), _last_shape(expected)
        made: list[Any] = []
        with node.graph.inserting_before(node):
            for dim, (now, wanted) in enumerate(zip(values[other].shape, shape, strict=True)):
                if now == wanted:
                    made.append(node.graph.call_method("size", (other, dim)))
                    values[made[-1]] = int(now)
                else:
                    made.append(wanted)
        node.op, node.target = "call_method", name
        node.args, node.kwargs = (node.args[0], *made), {}

    return rewrite


TABLE: dict[str, Rewrite] = {
    "view": sizes("size", hole=True),
    "reshape": sizes("shape", hole=True),
    **{name: sizes("size") for name in ("expand", "broadcast_to", "new_zeros", "new_ones", "new_empty", "new_full")},
    **{name: sizes("size", position=0) for name in ("zeros", "ones", "empty", "rand", "randn", "full", "empty.memory_format")},
    **{f"{name}_as": like(name) for name in ("view", "reshape", "expand")},
    "repeat": sequence("repeats", 1, _repeats),
    "tile": sequence("dims", 1, _repeats),
    "unflatten": unflatten,
    **{name: split for name in ("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split")},
    **{name: split for name in ("hsplit", "vsplit", "dsplit")},
    "getitem": getitem,
    "setitem": getitem,
    "pad": argument(1, "pad", "pad"),
    "layer_norm": normalized_shape,
    "rms_norm": normalized_shape,
    "group_norm": argument(1, "num_groups", "group"),
    **{f"conv{n}d": argument(6, "groups", "groups") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": argument(6, "groups", "groups") for n in (1, 2, 3)},
    "channel_shuffle": argument(1, "groups", "groups"),
    "scaled_dot_product_attention": attention_scale,
    "squeeze": squeeze,
    "repeat_interleave": repeat_interleave,
    "narrow": narrow,
    "select": argument(2, "index", "index"),
}


def rewrite(node: fx.Node, values: Values, expected: list[Expected]) -> None:
    """Bring a node's literals in line with what is expected of it."""
    special = TABLE.get(name_of(node)) if node.op in ("call_function", "call_method") else None
    if special is not None:
        special(node, values, expected)
    else:
        pin_numbers(node, values, expected)
