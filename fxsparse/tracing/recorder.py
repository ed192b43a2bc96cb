"""Runs a module on meta tensors and writes down every ATen call.

Values are not there on meta tensors; where a network asks for one, `questions.py` has an answer. Tensors that the forward pass computes
from plain numbers stay real.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.errors import TraceError
from fxsparse.tracing.copies import names_of
from fxsparse.tracing.demands import demands_of
from fxsparse.tracing.lines import user_line
from fxsparse.tracing.luck import generators_of
from fxsparse.tracing.outputs import output_tensors
from fxsparse.tracing.questions import ANSWERS, LOOKS, NO, READS, ROWS, SEARCHES, Questions, looks
from fxsparse.tracing.shapes import shapes
from fxsparse.tracing.tape import Answers, Call, Mode, Origin, Owner, Ref, Tape, Value
from fxsparse.tracing.taught import ModuleOperator, call_arguments

_AS_LIST = Tensor.tolist  # that of a recording tells what was looked at
_MASKED_FILL = (torch.ops.aten.masked_fill, torch.ops.aten.masked_fill_)
ALONE = threading.RLock()  # while a model runs, torch itself is changed, for all threads
ACTIVE: ContextVar[Recorder | None] = ContextVar("fxsparse_recorder", default=None)
OnNode = Callable[[nn.Module, torch.fx.Node, Callable[[], Any], dict[torch.fx.Node, Any]], Any]  # module, node, run, values so far


class Recorder(TorchDispatchMode):
    """The dispatch mode that writes the tape; it also knows who is running."""

    def __init__(self, mode: Mode, answers: Answers = NO) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = Tape(mode, answers)
        self.questions = Questions(self.tape)
        self.modules: list[str] = [""]
        self.node: tuple[str | None, str | None] = (None, None)  # graph, node
        self.on_node: OnNode | None = None
        self.names: dict[int, str] = {}
        self.failed = ""  # the innermost module that raised
        self.silent = False  # inside a module that is one call
        self.drew = False  # real tensors were drawn in plain Python code
        self.refuses = False  # to make up whole numbers, by which operators may count, index and cut
        self.turn = 0  # which luck it has
        self.most = math.inf  # calls
        self.generators: list[Any] = []  # of random numbers, the network's own
        self.fixed: set[int] = set()  # ids of real tensors that follow from buffers and plain numbers alone
        self.given: set[int] = set()  # ids of real tensors that follow from given inputs
        self.written: set[int] = set()  # storage of real tensors that were written to
        self.spoilt: set[int] = set()  # and of those that were given what is not known
        self._ids: dict[int, Ref] = {}
        self._firsts: list[Tensor] = []  # the tensor that became each value of the tape
        self._alive: list[Tensor] = []  # ids stay unique only as long as the tensors live
        self._metas: dict[int, Tensor] = {}  # of real tensors that meet others on meta
        self._originals: dict[int, Tensor] = {}  # and the way back
        self._shapes = shapes()

    # ---- tensors ----------------------------------------------------------------------------------------------------------

    def ref(self, tensor: Tensor, origin: Origin = "result", key: str | None = None, *, sure: bool = True) -> Ref:
        known = self._ids.get(id(tensor))
        if known is None:
            known = self._ids[id(tensor)] = Ref(len(self.tape.values))
            self._firsts.append(tensor)
            self.tape.values.append(
                Value(known.id, tuple(map(int, tensor.shape)), tensor.dtype, origin, key, _content(tensor) if sure else None)
            )
        return known

    def met(self, tensor: Tensor) -> bool:
        """Whether it is on the tape."""
        return id(tensor) in self._ids

    def tensor(self, ref: Ref) -> Tensor:
        """The tensor that became this value of the tape."""
        return self._firsts[ref.id]

    def adopt(self, module: nn.Module) -> None:
        """Learn the names of a module's tensors and submodules."""
        self.names = names_of(module)
        self.generators = generators_of(module)
        self.tape.demands = tuple(demands_of(module))
        for name, parameter in module.named_parameters(remove_duplicate=False):
            self.tape.keys[name] = self.ref(parameter, "parameter", name)
        for name, buffer in module.named_buffers(remove_duplicate=False):
            self.tape.keys[name] = self.ref(buffer, "buffer", name, sure=False)
            if not buffer.is_meta:
                self.fixed.add(id(buffer))

    def mark(self) -> int:
        return len(self.tape.calls)

    def hand_out(self, values: Any) -> None:
        """A graph ends, and whoever called it has these in its hands."""
        self.tape.handed.update(self.ref(tensor, "constant").id for tensor in output_tensors(values))

    def rewind(self, mark: int) -> None:
        """Forget the calls since a mark: the node that made them runs again."""
        del self.tape.calls[mark:]

    # ---- calls ------------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        given: list[Tensor] = []
        if self.silent:
            mapped(given.append, (args, kwargs))
            return self._run(func, args, kwargs, given)

        def refer(tensor: Tensor) -> Ref:
            given.append(tensor)
            return self.ref(tensor, "constant")

        ref_args, ref_kwargs = mapped(refer, args), mapped(refer, kwargs)
        out = self._run(func, args, kwargs, given)
        chance = _by_chance(func)
        sure = not chance and all(self.constant(tensor) for tensor in given)
        fixed = sure or (not chance and all(self.constant(tensor) or self.knows(tensor) for tensor in given))
        out = self._originals.get(id(out), out)
        self._note_writes(func, args, kwargs, fixed)
        if _gives_other_axes(func):  # to the same tensor: another value
            self._ids.pop(id(args[0]), None)
        leaves = _leaves(out)
        if self.node[0] is None:
            self.drew = self.drew or (chance and any(isinstance(leaf, Tensor) and not leaf.is_meta for leaf in leaves))
            if looks(func, given):
                self.looked_at(given)
        results = tuple([self.ref(leaf, sure=sure) if isinstance(leaf, Tensor) else leaf for leaf in leaves])
        told = bool(self.given) and any(id(tensor) in self.given for tensor in given)
        self.tape.guessed |= told and looks(func, given)
        if told and func is not READS and any(isinstance(leaf, (bool, int, float)) for leaf in leaves):
            self.tape.chance = True  # `equal` is no question, and has no other answer
        for leaf in leaves:
            if isinstance(leaf, Tensor) and not leaf.is_meta:
                (self.fixed.add if fixed else self.fixed.discard)(id(leaf))
                (self.given.add if told else self.given.discard)(id(leaf))
        self.tape.calls.append(Call(func, ref_args, ref_kwargs, results, Owner(self.modules[-1], *self.node)))
        if len(self.tape.calls) > self.most:
            raise TraceError(f"the forward pass goes on and on, at {user_line()}")
        return out

    def constant(self, tensor: Tensor) -> bool:
        """Whether it was computed from plain numbers alone."""
        return self.tape.values[self.ref(tensor, "constant").id].content is not None

    def knows(self, tensor: Tensor) -> bool:
        """Whether its value, here and now, is the one that the model's buffers give it."""
        return id(tensor) in self.fixed and _storage(tensor) not in self.spoilt

    def was_written(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and not tensor.is_meta and _storage(tensor) in self.written

    def looked_at(self, tensors: Iterable[Tensor]) -> None:
        """Plain Python code learns values of these, by which it may go another way."""
        self.tape.chance |= self.drew and any(not (each.is_meta or self.constant(each) or self.knows(each)) for each in tensors)

    def _note_writes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], fixed: bool) -> None:
        for position, argument in enumerate(func._schema.arguments if func._schema.is_mutable else ()):
            if argument.alias_info is not None and argument.alias_info.is_write:
                real: list[Tensor] = []
                mapped(real.append, args[position] if position < len(args) else kwargs.get(argument.name))
                for tensor in real:
                    if not tensor.is_meta:
                        self.written.add(_storage(tensor))
                        if not fixed:
                            self.spoilt.add(_storage(tensor))

    def module_call(self, operator: ModuleOperator, call: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Run a module that is taught as a whole, and write one call."""
        arguments = tree_map_only(Tensor, lambda t: self.ref(t, "constant"), call_arguments(module, args, kwargs))
        self.silent = True
        try:
            out = call(module, *args, **kwargs)
        finally:
            self.silent = False
        results = tuple(self.ref(leaf, sure=False) if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(out))
        written: Any = operator  # in the place of an ATen operator
        self.tape.calls.append(Call(written, (), arguments, results, Owner(self.modules[-1], *self.node)))
        return out

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Tensor]) -> Any:
        if any(leaf.is_meta for leaf in leaves):
            if not all(leaf.is_meta for leaf in leaves):
                args, kwargs = mapped(self._on_meta, (args, kwargs))
                if func.overloadpacket in _MASKED_FILL:  # its meta kernel wants a number as a tensor on meta, and no other does
                    args = (*args[:2], *(each.to("meta") if isinstance(each, Tensor) else each for each in args[2:]))
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": torch.device("meta")}
            if self.refuses and func is READS and not leaves[0].dtype.is_floating_point:
                raise TraceError(f"{LOOKS} (as a whole number) at {user_line()}")
            answer = ANSWERS.get(func._schema.name)
            if answer is not None:
                made = answer(ROWS, *args, **kwargs)
                if made is not NotImplemented:
                    self.tape.guessed = True
                    if isinstance(made, (bool, int, float)):
                        return self.questions.answer(made)
                    return answer(0, *args, **kwargs) if self.questions.turn(user_line(), SEARCHES) else made
        elif func is READS and id(leaves[0]) in self.given:
            return self.questions.answer_given(func(*args, **kwargs))
        elif self.refuses and func is READS and not (self.constant(leaves[0]) or self.knows(leaves[0])):
            raise TraceError(f"{LOOKS} at {user_line()}")  # drawn by chance: another one each time
        elif isinstance(kwargs.get("device"), torch.device) and kwargs["device"].type == "meta":
            kwargs = {**kwargs, "device": torch.device("meta")}  # a device with a number stands for a traced one
        return self._shapes.run(func, args, kwargs)

    def moved(self, tensor: Tensor) -> Tensor:
        """A real tensor on meta, as the same value of the tape."""
        with torch._C._DisableTorchDispatch():
            meta = self._on_meta(tensor)
        if meta is not tensor:
            self._ids[id(meta)] = self.ref(tensor, "constant")
        return meta

    def twin(self, tensor: Tensor) -> Tensor:
        """Another tensor that is the same value of the tape."""
        with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
            made = tensor.detach()
        self._ids[id(made)] = self.ref(tensor)
        self._alive.append(made)
        return made

    def _on_meta(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta or (tensor.dim() == 0 and (id(tensor) not in self.fixed or self.constant(tensor))):
            return tensor
        meta = self._metas.get(id(tensor))
        if meta is None:
            meta = self._metas[id(tensor)] = tensor.to("meta")
            self._originals[id(meta)] = tensor
            self._alive.append(tensor)
        return meta


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """An operator's arguments with `function` of each tensor in its place: tensors stand in tuples, lists and dicts, in nothing else."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) is tuple:
        return tuple([mapped(function, item) for item in value])
    if type(value) is list:
        return [mapped(function, item) for item in value]
    if type(value) is dict:
        return {key: mapped(function, item) for key, item in value.items()}
    return value


def _leaves(value: Any) -> list[Any]:
    """What an operator returns, flat."""
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, (tuple, list)) else [value]


@functools.cache
def _by_chance(func: Any) -> bool:
    """Uninitialised and random numbers, and what is made of them, are different every time."""
    words = ("empty", "rand", "normal", "uniform", "bernoulli")
    return torch.Tag.nondeterministic_seeded in func.tags or any(word in func._schema.name for word in words)


@functools.cache
def _gives_other_axes(func: Any) -> bool:
    """Whether it changes the axes of its first argument in place; meta kernels call as_strided_ with the strides that there are."""
    return torch.Tag.inplace_view in func.tags and func._schema.name != "aten::as_strided_"


def _storage(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage().data_ptr()


def _content(tensor: Tensor) -> tuple[float, ...] | None:
    """The numbers of a small real tensor: they may have been computed from sizes, and must not follow a pruned one."""
    if tensor.is_meta or tensor.numel() > 64 or tensor.is_complex():
        return None
    with torch._C._DisableTorchDispatch():
        found = tuple(float(x) for x in _AS_LIST(tensor.detach().reshape(-1)))
    return None if any(map(math.isnan, found)) else found  # no number is ever equal to that
