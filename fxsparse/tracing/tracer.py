"""A tracer whose tensors carry values: the user's own Python runs on meta tensors, and every torch function it calls becomes a node.

No proxies: a `TorchFunctionMode` sees each call with the very tensors, so isinstance checks, control flow on sizes, Python caches and
decorators see what they always see. One run yields the fx graph and the tape.
"""

from __future__ import annotations

import inspect
import itertools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from fxsparse.errors import TraceError
from fxsparse.tracing.caches import uncached
from fxsparse.tracing.copies import names_of
from fxsparse.tracing.functions import applied, noticed
from fxsparse.tracing.leaves import is_leaf
from fxsparse.tracing.loops import count, counted
from fxsparse.tracing.numbers import Traced, TracedInt, building, written
from fxsparse.tracing.recorder import ALONE, LOOKS, Recorder, advice, as_arguments, describe, first_line, meta_inputs, recording, user_line
from fxsparse.tracing.replacements import free_attention
from fxsparse.tracing.switches import Gradients, autocasts, enter_autocast, exit_autocast
from fxsparse.tracing.tape import Mode, Tape
from fxsparse.tracing.traced_module import TracedGraph, flatten_call

ATTENTION = inspect.signature(F.multi_head_attention_forward)
DATA_DEPENDENT = frozenset(
    [
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "__complex__",
        "__contains__",
        "__array__",
        "item",
        "tolist",
        "numpy",
        "is_nonzero",
        "equal",
        "allclose",
    ]
)
PLAIN = {"__hash__", "__repr__", "__format__", "__str__", "__reduce_ex__", "__deepcopy__", "__dir__", "retain_grad"}
SIZES = {"size", "dim", "numel", "nelement", "__len__", "ndimension", "stride"}


class _Graphing(TorchFunctionMode):
    """Writes one graph."""

    def __init__(self, root: nn.Module, recorder: Recorder, prefix: str, device: str) -> None:
        super().__init__()
        self.root = root
        self.device = device  # the type of the one that the user's model is on: code asks for it
        self.recorder = recorder
        self.prefix = prefix  # qualified name of the root inside the whole model
        self.in_leaf = False  # inside a call that is a node already
        self.graph = torch.fx.Graph()
        self.makers: dict[int, Callable[[], torch.fx.Node]] = {}
        self.alive: list[Any] = []
        self.devices: dict[int, Tensor] = {}
        self.asked = itertools.cycle(range(32, 128))  # torch has 7 bits for a device's number: the eldest are given again
        self.sizes: dict[tuple[int, int, str], TracedInt] = {}
        self.gradients = Gradients(self.graph)
        self.attributes = self._attribute_names()
        self.names = names_of(root)

    def _attribute_names(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for name, module in self.root.named_modules(remove_duplicate=False):
            for attribute, value in [*module.__dict__.items(), *module._parameters.items(), *module._buffers.items()]:
                if isinstance(value, Tensor):
                    found.setdefault(id(value), f"{name}.{attribute}" if name else attribute)
        return found

    # ---- tensors and their nodes --------------------------------------------------------------------------------------------

    def know(self, tensor: Tensor, make: Callable[[], torch.fx.Node]) -> None:
        self.alive.append(tensor)
        self.makers[id(tensor)] = make

    def node_of(self, tensor: Tensor) -> torch.fx.Node:
        make = self.makers.get(id(tensor))
        if make is None:
            name = self.attributes.get(id(tensor))
            if name is None:
                raise TraceError(
                    f"a tensor of shape {tuple(tensor.shape)} comes from nowhere: it is no parameter, buffer, attribute or traced result"
                )
            node = self.graph.get_attr(name)
            make = lambda: node  # noqa: E731
            self.know(tensor, make)
        return make()

    def learn(self, out: Any, node: torch.fx.Node) -> None:
        """Remember which node makes each tensor of a result; parts of a nested result get their nodes when they are used."""
        if isinstance(out, Tensor):
            self.know(out, lambda: node)
        elif isinstance(out, (tuple, list)):
            for index, part in enumerate(out):
                self._learn_part(part, node, operator.getitem, index)
        elif isinstance(out, Mapping):
            for key, part in out.items():
                self._learn_part(part, node, operator.getitem, key)

    def _learn_part(self, part: Any, parent: torch.fx.Node, access: Callable[..., Any], key: Any) -> None:
        memo: list[torch.fx.Node] = []

        def make() -> torch.fx.Node:
            if not memo:
                memo.append(self.graph.call_function(access, (parent, key)))
            return memo[0]

        if isinstance(part, Tensor):
            self.know(part, make)
        elif isinstance(part, (tuple, list, dict)) and holds_tensor(part):
            self.learn(part, make())

    def argument(self, value: Any) -> Any:
        """A Python argument as fx wants it: tensors, traced numbers and traced devices become nodes."""
        if isinstance(value, Tensor):
            return self.node_of(value)
        if isinstance(value, Traced):
            return written(value, self.graph)
        if isinstance(value, torch.device) and value.index in self.devices and value.type == self.device:
            return self.graph.call_function(getattr, (self.node_of(self.devices[value.index]), "device"))
        if isinstance(value, slice):
            return slice(*(self.argument(v) for v in (value.start, value.stop, value.step)))
        if isinstance(value, (tuple, list)):
            items = [self.argument(v) for v in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {k: self.argument(v) for k, v in value.items()}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, (bool, int, float, complex, str)):
            return _builtin(value)
        if value is None or value is Ellipsis or isinstance(value, (torch.dtype, torch.memory_format, torch.layout, torch.device)):
            return value
        raise TraceError(f"an argument of type {type(value).__name__} cannot stand in a graph")

    # ---- calls --------------------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self.attribute(func.__self__.__name__, args[0], func)
        if name == "__set__":
            return self.node_call("call_function", setattr, func, (args[0], func.__self__.__name__, args[1]), {}, (args, kwargs))
        if name in PLAIN:
            return func(*args, **kwargs)
        if func is torch._C._set_grad_enabled:
            self.gradients.set(*args)
            return func(*args)
        if func is enter_autocast:  # a block in a graph that is traced again
            return torch.autocast(*args).__enter__()
        if func is exit_autocast:
            return args[0].__exit__(None, None, None)
        if name in DATA_DEPENDENT and any(isinstance(a, Tensor) for a in args):
            raise TraceError(f"{LOOKS} ({name}) at {user_line()}")
        if name in SIZES and args and isinstance(args[0], Tensor):
            return self.size_call(name, func, args, kwargs)
        if name == "__iter__":
            return iter(self.unbind(args[0]))
        if name == "_assert" or not (holds_tensor((args, kwargs)) or _makes_tensors(func)):
            return func(*args, **kwargs)
        if name == "unbind":
            tensor, dim = (*args, kwargs.get("input"))[0], (*args[1:], kwargs.get("dim", 0))[0]
            count(self.graph, self.extent(tensor, dim % max(tensor.dim(), 1), tensor.shape[dim]))
        if func is F.multi_head_attention_forward:
            given = ATTENTION.bind(*args, **kwargs).arguments
            if given.pop("static_k", None) is None and given.pop("static_v", None) is None:
                with self:
                    return free_attention(**given)
        if name in _REFLECTED:
            return self.node_call("call_function", _REFLECTED[name], func, (args[1], args[0]), {}, (args, kwargs))
        if name in _OPERATORS:
            return self.node_call("call_function", _OPERATORS[name], func, args, kwargs, (args, kwargs))
        if getattr(Tensor, name, None) is func or (getattr(func, "__module__", None) == "torch._tensor" and hasattr(Tensor, name)):
            return self.node_call("call_method", name, func, args, kwargs, (args, kwargs))
        return self.node_call("call_function", func, func, args, kwargs, (args, kwargs))

    def unbind(self, tensor: Tensor) -> Any:
        count(self.graph, self.extent(tensor, 0, tensor.shape[0]))
        return self.node_call("call_function", torch.unbind, torch.unbind, (tensor, 0), {}, ((tensor, 0), {}))

    def node_call(self, op: str, target: Any, func: Any, args: Any, kwargs: Any, real: tuple[Any, Any]) -> Any:
        """Make the node, run the call as its owner, and drop the node again if no tensor came of it."""
        if target is torch.tensor or target is torch.as_tensor:
            args = tuple(_plain(a) if not isinstance(a, Tensor) else a for a in args)
        node = self.graph.create_node(op, target, self.argument(tuple(args)), self.argument(dict(kwargs)))
        if getattr(func, "__name__", "") == "scaled_dot_product_attention":
            query = real[0][0] if real[0] else real[1]["query"]
            node.meta["scale"] = 1.0 / math.sqrt(query.shape[-1])  # what the default stands for; it must not follow a pruned width
        outer = self.recorder.node
        self.recorder.node = (self.prefix, node.name)
        mark = self.recorder.mark()
        if self.devices:
            real = tree_map_only(torch.device, self.without_number, real)
        given = _versions(real)
        try:
            out = func(*real[0], **real[1])
        finally:
            self.recorder.node = outer
        out = self.distinct(out, given)
        if out is None or holds_tensor(out):
            self.learn(out, node)
        elif not self.recorder.tape.calls[mark:] or not holds_tensor(out):
            self.graph.erase_node(node)
        return out

    def without_number(self, device: torch.device) -> torch.device:
        """The device that a numbered, traced one stands for."""
        return torch.device("meta") if device.type == self.device and device.index in self.devices else device

    def attribute(self, name: str, tensor: Tensor, getter: Any) -> Any:
        if name == "shape":
            return self.shape(tensor)
        if name == "ndim":
            return getter(tensor)
        if name == "device":
            device = getter(tensor)
            if device.type != "meta":
                return device
            number = next(self.asked)
            self.devices[number] = tensor
            return torch.device(self.device, number)
        if name in ("is_cpu", "is_cuda", "is_meta"):
            with torch._C.DisableTorchFunction():
                return name == f"is_{self.device}" if tensor.is_meta else getter(tensor)
        if name == "data":
            return self.node_call("call_method", "detach", Tensor.detach, (tensor,), {}, ((tensor,), {}))
        if name in ("T", "mT", "H", "mH", "real", "imag"):
            return self.node_call("call_function", getattr, lambda t: getattr(t, name), (tensor, name), {}, ((tensor,), {}))
        return getter(tensor)

    def shape(self, tensor: Tensor) -> torch.Size:
        return torch.Size([self.extent(tensor, dim, n) for dim, n in enumerate(tensor.shape)])

    def strides(self, tensor: Tensor) -> tuple[TracedInt, ...]:
        return tuple(self.extent(tensor, dim, n, "stride") for dim, n in enumerate(tensor.stride()))

    def extent(self, tensor: Tensor, dim: int, value: int, what: str = "size") -> TracedInt:
        known = self.sizes.get((id(tensor), dim, what))
        if known is None or int(known) != int(value):
            memo: list[torch.fx.Node] = []

            def make() -> torch.fx.Node:
                if not memo:
                    memo.append(self.graph.call_method(what, (self.node_of(tensor), dim)))
                    memo[0].meta["value"] = int(value)
                return memo[0]

            if id(tensor) not in self.makers and id(tensor) not in self.attributes:
                return int(value)  # type: ignore[return-value]
            self.alive.append(tensor)
            known = self.sizes[id(tensor), dim, what] = TracedInt(int(value), make, self.graph)
        return known

    def size_call(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        tensor = args[0]
        if name in ("dim", "ndimension"):
            return func(*args, **kwargs)
        if name in ("size", "stride"):
            rest = args[1:] or tuple(kwargs.values())
            shape = self.shape(tensor) if name == "size" else self.strides(tensor)
            return shape[rest[0]] if rest and rest[0] is not None else shape
        shape = self.shape(tensor)
        if name == "__len__":
            return shape[0]
        total: Any = 1
        for extent in shape:
            total = extent * total
        return total

    def function_call(self, apply: Callable[..., Any], cls: type, args: Any, kwargs: Any) -> Any:
        """An autograd function: a node with its own backward, where its arguments can stand in a graph. Where they cannot, as with a
        function to call (checkpointing), it is traced through, and its forward runs without gradients for its own reasons."""
        if self.in_leaf or self.recorder.silent:
            return apply(*args, **kwargs)
        try:
            self.argument(args), self.argument(kwargs)
        except TraceError:
            with self.gradients.muted():
                return apply(*args, **kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            self.in_leaf = True
            try:
                with torch._C.DisableTorchFunction():
                    return apply(*args, **kwargs)
            finally:
                self.in_leaf = False

        return self.node_call("call_function", applied(cls), run, args, kwargs, (args, kwargs))

    # ---- modules --------------------------------------------------------------------------------------------------------------

    def module_call(self, call: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        name = self.names.get(id(module))
        if name is None or module is self.root or self.in_leaf or self.recorder.silent or not is_leaf(module):
            return call(module, *args, **kwargs)
        node = self.graph.create_node("call_module", name, self.argument(tuple(args)), self.argument(dict(kwargs)))
        outer = self.recorder.node
        self.recorder.node = (self.prefix, node.name)
        self.in_leaf = True  # its parametrizations are modules as well
        if self.devices:
            args, kwargs = tree_map_only(torch.device, self.without_number, (args, kwargs))
        given = {} if getattr(module, "inplace", False) else _versions((args, kwargs))
        try:
            with torch._C.DisableTorchFunction():
                out = call(module, *args, **kwargs)
        finally:
            self.recorder.node = outer
            self.in_leaf = False
        out = self.distinct(out, given)
        self.learn(out, node)
        return out

    def distinct(self, out: Any, given: Mapping[int, int]) -> Any:
        """A dropout in eval mode, `x.float()` and the like may return the very tensor that they are given: as another tensor, for else what
        uses x later would seem to use their result, which is another one in train mode, or in another dtype."""
        if isinstance(out, Tensor) and id(out) in given and _version(out) == given[id(out)]:
            return self.recorder.twin(out)
        return out


_OPERATORS = {
    f"__{name}__": getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "neg", "pos", "abs", "invert",
                 "eq", "ne", "lt", "le", "gt", "ge", "getitem", "setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow")
}  # fmt: skip
_OPERATORS.update({"__and__": operator.and_, "__or__": operator.or_, "__div__": operator.truediv, "__idiv__": operator.itruediv})
_REFLECTED = {
    f"__r{name}__": getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "xor")
}
_REFLECTED.update({"__rand__": operator.and_, "__ror__": operator.or_, "__rdiv__": operator.truediv})


def _makes_tensors(func: Any) -> bool:
    module = getattr(func, "__module__", None) or ""
    return func not in (torch.is_tensor, torch.is_storage) and (
        module.startswith("torch") or type(func).__name__ in ("builtin_function_or_method",)
    )


def holds_tensor(value: Any) -> bool:
    """Whether a tensor is among the leaves."""
    if isinstance(value, Tensor):
        return True
    if value is None or isinstance(value, (int, float, str, torch.Size)):
        return False
    if type(value) in (tuple, list):
        return any(map(holds_tensor, value))
    if type(value) is dict:
        return any(map(holds_tensor, value.values()))
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


def _version(tensor: Tensor) -> int:
    """It grows with every change in place."""
    with torch._C.DisableTorchFunction():
        return tensor._version


def _versions(tree: Any) -> dict[int, int]:
    return {id(leaf): _version(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


def _builtin(value: Any) -> Any:
    """A number or a string without its class: the code of a graph is text, and an enumeration's member is none."""
    kind = next(each for each in (bool, int, float, complex, str) if isinstance(value, each))
    return value if type(value) is kind else kind.__add__(value, kind())  # type: ignore[operator]


def _plain(value: Any) -> Any:
    """Nested lists of numbers as plain numbers: torch.tensor([h, w]) is a constant of this image size."""
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value


class _TrainingRead:
    """Stands in for `self.training` of modules that are traced through, and notices who asks."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.read = False

    def __get__(self, instance: Any, owner: Any) -> bool:
        self.read = True
        return self.mode == "train"


def trace_graph(
    root: nn.Module, args: Any, kwargs: Mapping[str, Any], mode: Mode, prefix: str = "", device: str = "meta"
) -> tuple[TracedGraph, Tape, bool]:
    """Graph and tape of a module on meta tensors (a copy that may be spoilt), and whether it asked for its mode. `device` is the type of
    the one that it is told it were on."""
    with ALONE:
        return _trace_graph(root, args, kwargs, mode, prefix, device)


def _trace_graph(
    root: nn.Module, args: Any, kwargs: Mapping[str, Any], mode: Mode, prefix: str, device: str
) -> tuple[TracedGraph, Tape, bool]:
    root.train(mode == "train")
    recorder = Recorder(mode)
    recorder.refuses = True
    recorder.adopt(root)
    graphing = _Graphing(root, recorder, prefix, device)
    arguments, keywords = meta_inputs((as_arguments(args), dict(kwargs)))
    leaves, in_spec = flatten_call(type(root), arguments, keywords)
    constants, placeholders = _placeholders(graphing, recorder, leaves)
    training = _TrainingRead(mode)
    for module in root.modules():
        if not is_leaf(module):
            module.__dict__.pop("training", None)
    patched = _patch_calls(graphing)
    nn.Module.training = training  # type: ignore[assignment]
    try:
        graph, calls = graphing.graph, noticed(graphing.function_call)
        with recording(recorder), patched, building(graph), counted(graph), uncached(root), autocasts(graph), calls:
            with graphing:
                out = root.forward(*arguments, **keywords)
            flat, out_spec = tree_flatten(out)
            tensors = [leaf for leaf in flat if isinstance(leaf, Tensor)]
            if not tensors:
                raise TraceError(
                    f"the model returns no tensor that can be followed, but {type(out).__name__}; return tensors in tuples, lists or dicts"
                )
            graphing.graph.output([graphing.argument(leaf) for leaf in flat])
    except TraceError:
        raise
    except Exception as error:
        where = recorder.failed or type(root).__name__
        given = describe((args, kwargs))
        raise TraceError(
            f"{type(error).__name__} in {where!r} in {mode} mode for inputs {given}: {first_line(error)}; {advice(error)}"
        ) from error
    finally:
        del nn.Module.training
        for module in root.modules():
            module.__dict__.setdefault("training", mode == "train")
    recorder.tape.outputs = tuple(recorder.ref(leaf) for leaf in flat if isinstance(leaf, Tensor))
    return TracedGraph(graphing.graph, placeholders, in_spec, constants, out_spec), recorder.tape, training.read


def _placeholders(graphing: _Graphing, recorder: Recorder, leaves: list[Any]) -> tuple[tuple[tuple[int, Any], ...], tuple[str, ...]]:
    constants: list[tuple[int, Any]] = []
    names: list[str] = []
    refs = []
    for position, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            node = graphing.graph.placeholder(f"input_{position}")
            names.append(node.name)
            graphing.learn(leaf, node)
            refs.append(recorder.ref(leaf, "input"))
        else:
            constants.append((position, leaf))
    recorder.tape.inputs = tuple(refs)
    return tuple(constants), tuple(names)


class _patch_calls:
    """While open, calls of leaf modules become nodes."""

    def __init__(self, graphing: _Graphing) -> None:
        self.graphing = graphing

    def __enter__(self) -> None:
        self.call = call = nn.Module.__call__
        graphing = self.graphing

        def traced_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return graphing.module_call(call, module, args, kwargs)

        nn.Module.__call__ = traced_call  # type: ignore[method-assign]

    def __exit__(self, *exc: object) -> None:
        nn.Module.__call__ = self.call  # type: ignore[method-assign]
