"""Writes a graph while it is run: the user's own Python runs on meta tensors, and every torch function it calls becomes a node.

No proxies: a `TorchFunctionMode` sees each call with the very tensors, so isinstance checks, control flow on sizes, Python caches and
decorators see what they always see.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from fxsparse.errors import TraceError
from fxsparse.tracing.fills import filling
from fxsparse.tracing.functions import Applied, applied
from fxsparse.tracing.leaves import is_leaf
from fxsparse.tracing.lines import user_line
from fxsparse.tracing.loops import count, count_parts
from fxsparse.tracing.nodes import Nodes, holds_tensor, tensors_in
from fxsparse.tracing.numbers import cut
from fxsparse.tracing.pins import answered
from fxsparse.tracing.questions import LOOKS, READS
from fxsparse.tracing.recorder import Recorder
from fxsparse.tracing.replacements import free_attention
from fxsparse.tracing.switches import Gradients, enter_autocast, exit_autocast
from fxsparse.tracing.tape import Owner
from fxsparse.tracing.walk import all_modules, own_attributes

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
ANSWERED: dict[str, Callable[[Any], Any] | None] = {
    "__bool__": bool,
    "is_nonzero": bool,
    "__int__": int,
    "__index__": int,
    "__float__": float,
    "item": None,
}
PLAIN = {"__hash__", "__repr__", "__format__", "__str__", "__reduce_ex__", "__deepcopy__", "__dir__", "retain_grad"}
SIZES = {"size", "dim", "numel", "nelement", "__len__", "ndimension", "stride"}


class Graphing(Nodes, TorchFunctionMode):
    """Writes one graph."""

    def __init__(self, root: nn.Module, recorder: Recorder, prefix: str, device: str) -> None:
        TorchFunctionMode.__init__(self)
        Nodes.__init__(self, root, device)
        self.recorder = recorder
        self.prefix = prefix  # qualified name of the root inside the whole model
        self.in_leaf = False  # inside a call that is a node already
        self.gradients = Gradients(self.graph)
        self.names = recorder.names
        self.late: dict[int, torch.fx.Node] = {}  # what operators made that were seen below torch's functions alone

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
        if name in ANSWERED and args[0].numel() == 1 and self.recorder.knows(args[0]):
            return self.answer(ANSWERED[name], args[0])
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
        fill = filling(func, args, kwargs)
        if fill is not None:
            with self:
                return fill(*args, **kwargs)
        if func is Tensor.type and len(args) == 1 and not kwargs and self.stands_in(args[0]):
            return func(*args).replace("torch.meta.", "torch." if self.device == "cpu" else f"torch.{self.device}.")
        if func is Tensor.new:  # of a size, or of a list of numbers; in a graph both are tuples
            sizes = all(isinstance(each, (int, torch.Size)) for each in args[1:])
            return self.__torch_function__(Tensor.new_empty if sizes else Tensor.new_tensor, types, args, kwargs)
        if name in _REFLECTED:
            return self.node_call("call_function", _REFLECTED[name], func, (args[1], args[0]), {}, (args, kwargs))
        if name in _OPERATORS:
            return self.node_call("call_function", _OPERATORS[name], func, args, kwargs, (args, kwargs))
        if getattr(Tensor, name, None) is func or (getattr(func, "__module__", None) == "torch._tensor" and hasattr(Tensor, name)):
            return self.node_call("call_method", name, func, args, kwargs, (args, kwargs))
        return self.node_call("call_function", func, func, args, kwargs, (args, kwargs))

    def answer(self, kind: Callable[[Any], Any] | None, tensor: Tensor) -> Any:
        """The value of a tensor that follows from buffers and plain numbers alone; the graph holds to it."""
        with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
            plain = tensor.item() if kind is None else kind(tensor.item())
        node = self.node_of(tensor)
        if any(each.op in ("placeholder", "get_attr") for each in ancestors(node)):  # else it is computed from plain numbers
            self.graph.call_function(answered, (node, plain, user_line()))
        return plain

    def require_still(self) -> None:
        """What the code looked at may not be what the same code changes: a counter, a flag that says that the first run is over."""
        for node in self.graph.nodes:
            for each in ancestors(node) if node.target is answered else ():
                if each.op == "get_attr" and self.recorder.was_written(attribute_of(self.root, str(each.target))):
                    raise TraceError(f"{LOOKS}, {each.target!r}, which it changes itself, at {node.args[2]}")

    def own_what_is_made(self) -> None:
        """`torch.FloatTensor(2, 8)` is no torch function: what it calls is seen, with a node of its own, when the call is under way."""
        calls = self.recorder.tape.calls
        for position, call in enumerate(calls):
            if call.owner.node is None and call.makes:
                node = self.late.get(id(self.recorder.tensor(call.makes[0])))
                if node is not None and node.target is call.op:
                    calls[position] = replace(call, owner=Owner(call.owner.module, self.prefix, node.name))

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
        except Exception:
            self.forget(node, mark)
            raise
        finally:
            self.recorder.node = outer
        if not isinstance(target, Applied):  # which may want the tensor
            self.hold_to(node, mark)
        out = self.distinct(out, given)
        if isinstance(target, torch._ops.OpOverload):
            self.late[id(out)] = node
        if out is None or holds_tensor(out):
            self.learn(out, node)
            count_parts(self.graph, node, getattr(func, "__name__", ""), out, (*real[0][1:2], *real[1].values()))
        elif not self.recorder.tape.calls[mark:] or not holds_tensor(out):
            self.graph.erase_node(node)
        return out

    def hold_to(self, node: torch.fx.Node, mark: int) -> None:
        """Torch itself looks at a tensor that stands for a number, as in `x[:, :n]`: that number is written in its place, and held to."""
        calls = self.recorder.tape.calls
        looks = [call for call in calls[mark:] if call.op is READS]
        if looks:
            calls[mark:] = [call for call in calls[mark:] if call.op is not READS]
        for call in looks:
            tensor = self.recorder.tensor(call.reads[0])
            if id(tensor) not in self.makers and self.recorder.constant(tensor):
                continue  # made of plain numbers inside of this very call
            with self.graph.inserting_before(node):
                plain = self.answer(None, tensor)
            written = {self.node_of(tensor): plain}
            node.args, node.kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda each, known=written: known.get(each, each))  # type: ignore[misc]

    def attribute(self, name: str, tensor: Tensor, getter: Any) -> Any:
        if name == "shape":
            return self.shape(tensor)
        if name == "ndim":
            return self.rank(tensor)
        if name == "device":
            return self.device_of(tensor) if self.stands_in(tensor) else getter(tensor)
        if name in ("is_cpu", "is_cuda", "is_meta"):
            with torch._C.DisableTorchFunction():
                return name == f"is_{self.device}" if self.stands_in(tensor) else getter(tensor)
        if name == "data":
            return self.node_call("call_method", "detach", Tensor.detach, (tensor,), {}, ((tensor,), {}))
        if name in ("T", "mT", "H", "mH", "real", "imag"):
            return self.node_call("call_function", getattr, lambda t: getattr(t, name), (tensor, name), {}, ((tensor,), {}))
        return getter(tensor)

    def size_call(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        tensor = args[0]
        if name in ("dim", "ndimension"):
            return self.rank(tensor)
        if name in ("size", "stride"):
            rest = args[1:] or tuple(kwargs.values())
            shape = self.shape(tensor) if name == "size" else self.strides(tensor)
            return shape[rest[0]] if rest and rest[0] is not None else shape
        shape = self.shape(tensor)
        if name == "__len__":
            cut(shape[0], tensor.shape[0], "len()")
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
        if any(id(tensor) not in self.attributes for tensor in _own_tensors(module)):
            return call(module, *args, **kwargs)  # put there by `functional_call`, say: the module has others when the graph runs
        node = self.graph.create_node("call_module", name, self.argument(tuple(args)), self.argument(dict(kwargs)))
        outer = self.recorder.node
        self.recorder.node = (self.prefix, node.name)
        self.in_leaf = True  # its parametrizations are modules as well
        if self.devices:
            args, kwargs = tree_map_only(torch.device, self.without_number, (args, kwargs))
        given = {} if getattr(module, "inplace", False) else _versions((args, kwargs))
        mark = self.recorder.mark()
        try:
            with torch._C.DisableTorchFunction():
                out = call(module, *args, **kwargs)
        except Exception:
            self.forget(node, mark)
            raise
        finally:
            self.recorder.node = outer
            self.in_leaf = False
        out = self.distinct(out, given)
        self.learn(out, node)
        return out

    def forget(self, node: torch.fx.Node, mark: int) -> None:
        """A call that raised has not been: code may try another one (`except TypeError`)."""
        self.recorder.rewind(mark)
        if not node.users:
            self.graph.erase_node(node)

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


def ancestors(node: torch.fx.Node) -> set[torch.fx.Node]:
    """A node, and all that it is computed from."""
    found, left = {node}, [node]
    while left:
        more = [each for each in left.pop().all_input_nodes if each not in found]
        found.update(more)
        left.extend(more)
    return found


def attribute_of(module: nn.Module, name: str) -> Any:
    """What a `get_attr` node gets."""
    return functools.reduce(getattr, name.split("."), module)


def _own_tensors(module: nn.Module) -> list[Tensor]:
    """All that a module and its parts keep, registered or not."""
    return [
        each
        for part in all_modules(module)
        for _, each in (*part._parameters.items(), *part._buffers.items(), *own_attributes(part))
        if isinstance(each, Tensor)
    ]


def _makes_tensors(func: Any) -> bool:
    module = getattr(func, "__module__", None) or ""
    return func not in (torch.is_tensor, torch.is_storage) and (
        module.startswith("torch") or type(func).__name__ in ("builtin_function_or_method",)
    )


def _version(tensor: Tensor) -> int:
    """It grows with every change in place."""
    with torch._C.DisableTorchFunction():
        return tensor._version


def _versions(tree: Any) -> dict[int, int]:
    return {id(tensor): _version(tensor) for tensor in tensors_in(tree)}


def _plain(value: Any) -> Any:
    """Nested lists of numbers as plain numbers: torch.tensor([h, w]) is a constant of this image size."""
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return value
