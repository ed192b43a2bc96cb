"""Which node of a graph makes each tensor, number and device that a forward pass has in its hands."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxsparse.errors import TraceError
from fxsparse.tracing.numbers import Rank, Traced, TracedInt, written
from fxsparse.tracing.walk import named_modules, own_attributes


class FromNowhereError(TraceError):
    """A tensor that the graph knows nothing of."""

    def __init__(self, tensor: Tensor) -> None:
        shape = tuple(tensor.shape)
        super().__init__(f"a tensor of shape {shape} comes from nowhere: it is no parameter, buffer, attribute or traced result")
        self.tensor = tensor


class Nodes:
    """The graph that is written, and what is known of the tensors in it."""

    def __init__(self, root: nn.Module, device: str) -> None:
        self.root = root
        self.device = device  # the type of the one that the user's model is on: code asks for it
        self.graph = torch.fx.Graph()
        self.makers: dict[int, Callable[[], torch.fx.Node]] = {}
        self.alive: list[Any] = []
        self.devices: dict[int, Tensor] = {}
        self.asked = itertools.cycle(range(32, 128))  # torch has 7 bits for a device's number: the eldest are given again
        self.sizes: dict[tuple[int, int, str], TracedInt] = {}
        self.shapes: dict[int, Tensor] = {}  # whose shape it is
        self.ranks: dict[int, Rank] = {}
        self.attributes = self._attribute_names()

    def _attribute_names(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for name, module in named_modules(self.root, once=False):
            for attribute, value in (*own_attributes(module), *module._parameters.items(), *module._buffers.items()):
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
                raise FromNowhereError(tensor)
            node = self.graph.get_attr(name)
            make = lambda: node  # noqa: E731
            self.know(tensor, make)
        return make()

    def maker_of(self, tensor: Tensor) -> torch.fx.Node | None:
        """The node of a tensor that is part of the graph, or else nothing."""
        return self.makers[id(tensor)]() if id(tensor) in self.makers else None

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

    # ---- sizes and devices ---------------------------------------------------------------------------------------------------

    def shape(self, tensor: Tensor) -> torch.Size:
        shape = torch.Size([self.extent(tensor, dim, n) for dim, n in enumerate(tensor.shape)])
        self.alive.append(shape)
        self.shapes[id(shape)] = tensor
        return shape

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

    def rank(self, tensor: Tensor) -> int:
        known = self.ranks.get(id(tensor))
        if known is None:
            node = self.maker_of(tensor)
            if node is None:
                return tensor.dim()
            known = self.ranks[id(tensor)] = Rank(tensor.dim(), functools.cache(lambda: self.graph.call_method("dim", (node,))), self.graph)
        return known

    def length(self, shape: torch.Size) -> int:
        """How long it is: the number of a tensor's axes, where it is all of its shape."""
        return self.rank(self.shapes[id(shape)]) if id(shape) in self.shapes else shape.__len__()

    def stands_in(self, tensor: Tensor) -> bool:
        """Whether it stands for one on the model's device: it is on meta, or a buffer whose value is at hand."""
        with torch._C.DisableTorchFunction():
            return tensor.is_meta or id(tensor) in self.attributes

    def device_of(self, tensor: Tensor) -> torch.device:
        """The device that the code is told; as an argument, it follows the tensor's."""
        number = next(self.asked)
        self.devices[number] = tensor
        return torch.device(self.device, number)

    def without_number(self, device: torch.device) -> torch.device:
        """The device that a numbered, traced one stands for."""
        return torch.device("meta") if device.type == self.device and device.index in self.devices else device


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors among the leaves."""
    found: list[Tensor] = []
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, Tensor):
            found.append(item)
        elif type(item) is tuple or type(item) is list:
            left.extend(item)
        elif type(item) is dict:
            left.extend(item.values())
        elif item is not None and not isinstance(item, (int, float, str, torch.Size)):
            found.extend(leaf for leaf in tree_leaves(item) if isinstance(leaf, Tensor))
    return found


def holds_tensor(value: Any) -> bool:
    return bool(tensors_in(value))


def _builtin(value: Any) -> Any:
    """A number or a string without its class: the code of a graph is text, and an enumeration's member is none."""
    kind = next(each for each in (bool, int, float, complex, str) if isinstance(value, each))
    return value if type(value) is kind else kind.__add__(value, kind())  # type: ignore[operator]
