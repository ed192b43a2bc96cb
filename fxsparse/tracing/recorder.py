"""Runs a module on meta tensors and writes down every ATen call.

Values are not there on meta tensors. Where a network asks for one, the recorder answers with something plausible, always the same: a
number is 1, a truth value is False, a search finds `ROWS` rows. Tensors that the forward pass computes from plain numbers stay real.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.errors import TraceError
from fxsparse.tracing.copies import names_of
from fxsparse.tracing.demands import demands_of
from fxsparse.tracing.luck import generators_of
from fxsparse.tracing.outputs import output_tensors
from fxsparse.tracing.shapes import shapes
from fxsparse.tracing.tape import Answers, Call, Mode, Origin, Owner, Question, Ref, Tape, Value
from fxsparse.tracing.taught import ModuleOperator, call_arguments

LOOKS = "the forward pass looks at the value of a tensor"
ROWS = 3
PATIENCE = 61  # so often a line of code gets the same answer; a prime, as one line may ask for all entries of a list
SEARCHES = 509  # so often a search there finds something
OTHER_NUMBERS = (-1000, 0, 1000)
_AS_LIST = Tensor.tolist  # that of a recording tells what was looked at
NO = Answers()
READS = torch.ops.aten._local_scalar_dense.default
_MASKED_FILL = (torch.ops.aten.masked_fill, torch.ops.aten.masked_fill_)
ALONE = threading.RLock()  # while a model runs, torch itself is changed, for all threads
ACTIVE: ContextVar[Recorder | None] = ContextVar("fxsparse_recorder", default=None)
OnNode = Callable[[nn.Module, torch.fx.Node, Callable[[], Any], dict[torch.fx.Node, Any]], Any]  # module, node, run, values so far


class Recorder(TorchDispatchMode):
    """The dispatch mode that writes the tape; it also knows who is running."""

    def __init__(self, mode: Mode, answers: Answers = NO) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = Tape(mode, answers)
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
        self.times: dict[tuple[str, int], int] = {}  # line of code, and how patient it is met -> how often it has asked
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
            if _looks(func, given):
                self.looked_at(given)
        results = tuple([self.ref(leaf, sure=sure) if isinstance(leaf, Tensor) else leaf for leaf in leaves])
        told = bool(self.given) and any(id(tensor) in self.given for tensor in given)
        self.tape.guessed |= told and _looks(func, given)
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
            answer = _ANSWERS.get(func._schema.name)
            if answer is not None:
                made = answer(ROWS, *args, **kwargs)
                if made is not NotImplemented:
                    self.tape.guessed = True
                    if isinstance(made, (bool, int, float)):
                        return self._answer(made)
                    return answer(0, *args, **kwargs) if self._turn(user_line(), SEARCHES) else made
        elif func is READS and id(leaves[0]) in self.given:
            return self._answer_given(func(*args, **kwargs))
        elif self.refuses and func is READS and not (self.constant(leaves[0]) or self.knows(leaves[0])):
            raise TraceError(f"{LOOKS} at {user_line()}")  # drawn by chance: another one each time
        elif isinstance(kwargs.get("device"), torch.device) and kwargs["device"].type == "meta":
            kwargs = {**kwargs, "device": torch.device("meta")}  # a device with a number stands for a traced one
        return self._shapes.run(func, args, kwargs)

    def _answer(self, plain: bool | int | float) -> bool | int | float:
        """What plain Python code is told. Where it asks without end (`while not done.all():`), the answer is another one now and then."""
        tape = self.tape
        question = Question(user_line(), len(tape.calls))
        turn = self._turn(question.line, PATIENCE)
        if not isinstance(plain, bool):
            tape.numbers.append(question)
            return type(plain)(OTHER_NUMBERS[turn % 3] if turn else tape.answers.number)
        tape.questions.append(question)
        return tape.answers.truth(len(tape.questions) - 1) != bool(turn)

    def _answer_given(self, plain: bool | int | float) -> bool | int | float:
        """What plain Python code is told of what follows from given inputs: as it is, or otherwise where other answers are asked for."""
        tape = self.tape
        if not isinstance(plain, bool):
            tape.numbers.append(Question(user_line(), len(tape.calls)))
            number = tape.answers.number
            return plain if number == NO.number else type(plain)(min(number, plain + 1))  # real tensors may become as long
        tape.questions.append(Question(user_line(), len(tape.calls)))
        return plain != tape.answers.truth(len(tape.questions) - 1)

    def _turn(self, line: str, patience: int) -> int:
        """Counts what a line of code asks; the how manieth time it is when patience has run out, else 0."""
        times = self.times[line, patience] = self.times.get((line, patience), 0) + 1
        turns, since = divmod(times, patience)
        return 0 if since else turns

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


# ---- answers to questions about values ------------------------------------------------------------------------------------


def _scalar(rows: int, tensor: Tensor) -> Any:
    if not tensor.is_meta:
        return NotImplemented
    return False if tensor.dtype == torch.bool else 1.0 if tensor.dtype.is_floating_point else 1


def _index(rows: int, tensor: Tensor, indices: list[Tensor | None]) -> Any:
    if not any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
        return NotImplemented
    numbers: list[Tensor | None] = []
    for i in indices:
        if i is not None and i.dtype in (torch.bool, torch.uint8):
            numbers.extend(torch.empty(rows, dtype=torch.long, device="meta") for _ in range(i.dim()))
        else:
            numbers.append(i)
    return torch.ops.aten.index.Tensor(tensor, numbers)


def _found(rows: int, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return tensor.new_empty((min(rows, max(tensor.shape[0], 1)) if tensor.dim() else min(rows, 1),), dtype=torch.long)


_ANSWERS: dict[str, Callable[..., Any]] = {  # so many rows are found
    "aten::_local_scalar_dense": _scalar,
    "aten::nonzero": lambda rows, t: t.new_empty((rows, t.dim()), dtype=torch.long),
    "aten::index": _index,
    "aten::masked_select": lambda rows, t, mask: t.new_empty((rows,)),
    "aten::unique_dim": lambda rows, t, *a, **k: (t.new_empty((rows,)), _found(rows, t), _found(rows, t)),
    "aten::_unique2": lambda rows, t, *a, **k: (t.new_empty((rows,)), t.new_empty(t.shape, dtype=torch.long), _found(rows, t)),
    "aten::equal": lambda rows, a, b: False,
    "torchvision::nms": _found,
}


def _looks(func: Any, given: list[Tensor]) -> bool:
    """Whether an operator gives away values of its tensors: in what it returns, or in the size of that."""
    if func.overloadpacket is torch.ops.aten.index:
        return any(each.dtype in (torch.bool, torch.uint8) for each in given[1:])
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


def user_line() -> str:
    """The line of the user's code that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if is_users(frame):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown place"


def is_users(frame: FrameType) -> bool:
    """Whether its code is neither torch's, nor ours, nor made from a graph."""
    file = frame.f_code.co_filename
    return "/torch/" not in file and "fxsparse/tracing" not in file and not file.startswith(_GENERATED)


_GENERATED = ("<fxsparse graph", "<eval_with_key", "<frozen ")
