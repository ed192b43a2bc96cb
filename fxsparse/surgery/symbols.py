"""Numbers in a graph that are computed from sizes, brought in line without losing what they follow: the batch size above all.

Each function may put new nodes before the one that uses the number, and writes down what they are worth now.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, MutableMapping
from typing import Any

from torch import fx

Values = MutableMapping[fx.Node, Any]


def value_of(arg: Any, values: Values) -> Any:
    return values[arg] if isinstance(arg, fx.Node) else arg


def leaves(arg: fx.Node) -> Iterator[fx.Node]:
    """The sizes of tensors that a number is computed from."""
    if arg.op == "call_method" or "value" not in arg.meta:
        yield arg
        return
    for each in arg.all_input_nodes:
        yield from leaves(each)


def _changed(leaf: fx.Node, values: Values) -> bool:
    return bool(values[leaf] != leaf.meta.get("value", values[leaf]))


def may_vary(arg: Any, values: Values) -> bool:
    """Whether a number may follow the inputs: a size that has changed is a width, and a width is the same for all inputs."""
    return isinstance(arg, fx.Node) and not all(_changed(leaf, values) for leaf in leaves(arg))


def in_proportion(user: fx.Node, arg: Any, wanted: int, values: Values) -> Any:
    """A size as it must be now. One that is computed from the inputs' sizes goes on being computed: batch x 8 heads becomes
    batch x 8 heads x 7 / 8."""
    now = value_of(arg, values)
    if now == wanted:
        return arg
    if isinstance(arg, fx.Node) and arg.op == "call_function" and arg.meta.get("value") == wanted:
        return with_dense_sizes(user, arg, values)
    if not now or not may_vary(arg, values):
        return wanted
    common = math.gcd(now, wanted)
    made = arg
    for function, number in ((operator.mul, wanted // common), (operator.floordiv, now // common)):
        if number != 1:
            made = _node(user, function, (made, number), values)
    return made


def with_dense_sizes(user: fx.Node, arg: Any, values: Values) -> Any:
    """A size that pruning leaves alone, computed from sizes that it changes: (batch x 7 heads) // 8 becomes
    (batch x 7 heads x 8 / 7) // 8."""
    if not isinstance(arg, fx.Node) or "value" not in arg.meta or values[arg] == arg.meta["value"]:
        return arg
    if arg.op != "call_function":
        dense = arg.meta["value"]
        common = math.gcd(values[arg], dense)
        scaled = _node(user, operator.mul, (arg, dense // common), values)
        return _node(user, operator.floordiv, (scaled, values[arg] // common), values)
    return _node(user, arg.target, tuple(with_dense_sizes(user, each, values) for each in arg.args), values)


def with_dense_widths(user: fx.Node, arg: fx.Node, values: Values) -> Any:
    """A number that is no size (a scale, a count to divide by) as it would be without any change of width: what has changed among the
    sizes that it is computed from is written as it was."""
    if "value" not in arg.meta or values[arg] == arg.meta["value"]:
        return arg
    if arg.op == "call_method":
        return arg.meta["value"]
    parts = fx.node.map_arg(arg.args, lambda each: with_dense_widths(user, each, values))
    if not any(isinstance(part, fx.Node) for part in parts):
        return arg.meta["value"]
    return _node(user, arg.target, parts, values)


def write_dense(node: fx.Node, values: Values) -> None:
    """A number that cannot be computed from the sizes as they are now becomes what it was without any change of width."""
    values[node] = math.nan  # another value than the dense one
    node.args, node.target = (with_dense_widths(node, node, values),), operator.pos


def _node(user: fx.Node, function: Any, args: tuple[Any, ...], values: Values) -> fx.Node:
    with user.graph.inserting_before(user):
        made = user.graph.call_function(function, args)
    values[made] = function(*(value_of(each, values) for each in args))
    return made
