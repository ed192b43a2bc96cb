"""A module whose forward is an fx graph, or two: one for eval and one for train where they differ.

It is the user's own module in everything else: class (a subclass of it), attributes, children, state_dict keys, hooks.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import linecache
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from fxsparse.errors import TraceError
from fxsparse.tracing.attributes import as_attributes
from fxsparse.tracing.copies import duplicate
from fxsparse.tracing.recorder import ACTIVE
from fxsparse.tracing.switches import guarded
from fxsparse.tracing.tape import Mode
from fxsparse.tracing.walk import all_modules

_numbers = itertools.count()


@dataclass
class TracedGraph:
    """One mode's graph: its inputs are the leaves of the arguments, its output a flat list of leaves."""

    graph: torch.fx.Graph
    parameters: tuple[str, ...]  # placeholder names, one for each tensor leaf of the arguments
    in_spec: TreeSpec
    constants: tuple[tuple[int, Any], ...]  # leaf position -> the value that is baked into the graph
    out_spec: TreeSpec
    function: Callable[..., Any] | None = field(default=None, compare=False)

    def compile(self) -> Callable[..., Any]:
        if self.function is None:
            code = self.graph.python_code("self")
            name = f"<fxsparse graph {next(_numbers)}>"
            namespace = dict(code.globals)
            exec(compile(code.src, name, "exec"), namespace)
            linecache.cache[name] = (len(code.src), None, code.src.splitlines(keepends=True), name)
            self.function = guarded(self.graph, namespace["forward"])
        return self.function

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedGraph:
        return TracedGraph(copy.deepcopy(self.graph), self.parameters, self.in_spec, self.constants, self.out_spec)


class TracedModule(nn.Module):
    """Mixed into the user's class by `as_traced`."""

    graphs: dict[Mode, TracedGraph]
    train_error: str
    attributes: tuple[str, ...]  # buffers that are plain attributes of the user's model
    trains_in_python: bool  # in train mode the user's own code runs, and parts of it are traced modules of their own

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.training and self.trains_in_python:
            own: Any = original_class(type(self))
            return own.forward(self, *args, **kwargs)
        traced = self.graph_now()
        leaves = self._leaves(traced, args, kwargs)
        recorder = None if torch.compiler.is_compiling() else ACTIVE.get()
        flat = traced.compile()(self, *leaves) if recorder is None else self._interpret(traced, leaves)
        return tree_unflatten(list(flat), traced.out_spec)

    def graph_now(self) -> TracedGraph:
        """The graph of the present mode."""
        if self.training and self.train_error:
            raise TraceError(self.train_error)
        if not self.training and "eval" not in self.graphs:
            raise TraceError(f"this {original_class(type(self)).__name__} was traced for train mode alone; call the whole network")
        return self.graph_in("train" if self.training else "eval")

    def graph_in(self, mode: Mode) -> TracedGraph:
        """The graph of a mode, which may be the other's as well."""
        return self.graphs[mode] if mode in self.graphs else next(iter(self.graphs.values()))

    def recompile(self) -> None:
        """After a graph was edited: make its code anew."""
        for traced in self.graphs.values():
            traced.graph.lint()
            traced.function = None

    def _leaves(self, traced: TracedGraph, args: Any, kwargs: Any) -> list[Any]:
        leaves, spec = flatten_call(type(self), args, kwargs)
        if spec != traced.in_spec:
            raise TraceError(
                f"{type(self).__name__} was traced with other arguments: it takes {_spelled(traced.in_spec)}, and got {_spelled(spec)}; "
                "call it so, or trace it again"
            )
        for position, value in traced.constants:
            given = leaves[position]
            if isinstance(given, Tensor) or given != value:
                raise TraceError(
                    f"{type(self).__name__} was traced with argument {value!r}, and got {given!r}; trace it again with that one"
                )
        baked = {position for position, _ in traced.constants}
        tensors = [leaf for position, leaf in enumerate(leaves) if position not in baked]
        stranger = next((leaf for leaf in tensors if not isinstance(leaf, Tensor)), self)
        if stranger is not self:  # None in the place of a mask is another function, and a kernel may take it without a word
            raise TraceError(
                f"{type(self).__name__} was traced with a tensor where it got {stranger!r} now: "
                f"it takes {_spelled(traced.in_spec, traced.constants)}; call it so, or trace it again"
            )
        return tensors

    def _interpret(self, traced: TracedGraph, leaves: list[Any]) -> Any:
        recorder = ACTIVE.get()
        assert recorder is not None
        outer = recorder.node
        name = recorder.names.get(id(self), "")
        values: dict[torch.fx.Node, Any] = {}
        inputs = iter(leaves)
        try:
            for node in list(traced.graph.nodes):
                recorder.node = (name, node.name)
                if node.op == "placeholder":
                    values[node] = next(inputs)
                elif node.op == "output":
                    given = torch.fx.node.map_arg(node.args[0], values.__getitem__)
                    recorder.hand_out(given)
                    return given
                elif recorder.on_node is not None:
                    values[node] = recorder.on_node(self, node, lambda node=node: self.run_node(node, values), values)  # type: ignore[misc]
                else:
                    values[node] = self.run_node(node, values)
        finally:
            recorder.node = outer
        raise AssertionError("a graph without output")

    def run_node(self, node: torch.fx.Node, values: dict[torch.fx.Node, Any]) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        assert isinstance(node.target, str)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        found: Any = self
        for part in node.target.split("."):
            found = getattr(found, part)
        return found if node.op == "get_attr" else found(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedModule:
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        twin.__dict__.update(duplicate(self.__dict__, memo))
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TraceError("a traced network is not pickled; save it with fxsparse.save and load it into a fresh model with fxsparse.load")


def flatten_call(cls: type, args: Any, kwargs: Any) -> tuple[list[Any], TreeSpec]:
    """Arguments as leaves, in the order of the signature, however they were given."""
    original: Any = original_class(cls)
    try:
        bound = inspect.signature(original.forward).bind(None, *args, **kwargs)
        given = dict(list(bound.arguments.items())[1:])
    except (TypeError, ValueError):
        given = {"args": args, **kwargs}
    return tree_flatten(given)


def _spelled(spec: TreeSpec, constants: tuple[tuple[int, Any], ...] = ()) -> str:
    """Arguments by name, with an underscore for each tensor or plain value that is not given."""
    values = dict(constants)
    given = tree_unflatten([values.get(position, _Blank()) for position in range(spec.num_leaves)], spec)
    return ", ".join(f"{name}={value!r}" for name, value in given.items()) or "nothing"


class _Blank:
    def __repr__(self) -> str:
        return "_"


def traced_graphs(module: nn.Module) -> list[TracedGraph]:
    """All graphs of a traced module and of the traced modules in it."""
    return [traced for each in all_modules(module) if isinstance(each, TracedModule) for traced in each.graphs.values()]


def original_class(cls: type) -> type:
    """The user's class: the one that stands behind ours. torch's exporter puts classes of its own in front, where modules are shared."""
    order = cls.__mro__
    return order[order.index(TracedModule) + 1] if TracedModule in order else cls


def as_traced(
    module: nn.Module,
    graphs: dict[Mode, TracedGraph],
    train_error: str = "",
    *,
    trains_in_python: bool = False,
    attributes: tuple[str, ...] = (),
) -> TracedModule:
    """Turn a module (a copy of the user's) into a traced one, in place."""
    cls = type(module)
    members = {"__module__": cls.__module__, "__doc__": cls.__doc__, "forward": _forward_of(cls)}
    module.__class__ = type(f"Traced{cls.__name__}", (TracedModule, cls), members)
    module.__dict__["graphs"] = graphs
    module.__dict__["train_error"] = train_error
    module.__dict__["trains_in_python"] = trains_in_python
    module.__dict__["attributes"] = attributes
    assert isinstance(module, TracedModule)
    return module


def as_plain(module: TracedModule) -> None:
    """Turn a traced module back into one of the user's class, in place."""
    module.__class__ = original_class(type(module))
    as_attributes(module, module.attributes)
    for name in ("graphs", "train_error", "trains_in_python", "attributes"):
        del module.__dict__[name]


def graphs_alone(module: nn.Module) -> None:
    """Take the user's own code out of train mode, which refuses from then on: who edits graphs does not reach that code."""
    if isinstance(module, TracedModule) and module.trains_in_python:
        module.__dict__["trains_in_python"] = False
        for part in list(module.modules())[1:]:
            if isinstance(part, TracedModule):
                as_plain(part)


def _forward_of(cls: type[nn.Module]) -> Callable[..., Any]:
    """`TracedModule.forward` with the signature of the user's: exporters name a program's inputs by it."""

    def forward(self: TracedModule, *args: Any, **kwargs: Any) -> Any:
        return TracedModule.forward(self, *args, **kwargs)

    with contextlib.suppress(TypeError, ValueError):  # a forward that has none
        forward.__signature__ = inspect.signature(cls.forward)  # type: ignore[attr-defined]
    return forward
