"""Runs a module on meta tensors and writes down every ATen call.

Values are not there on meta tensors. Where a network asks for one, the recorder answers with something plausible, always the same: a
number is 1, a truth value is False, a search finds `ROWS` rows. Tensors that the forward pass computes from plain numbers stay real.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.errors import Error, TraceError
from fxsparse.tracing.copies import meta_copy, names_of
from fxsparse.tracing.demands import demands_of
from fxsparse.tracing.lists import lists_on_meta
from fxsparse.tracing.outputs import output_tensors
from fxsparse.tracing.shapes import shapes
from fxsparse.tracing.tape import Call, Mode, Origin, Owner, Ref, Tape, Value
from fxsparse.tracing.taught import ModuleOperator, call_arguments, operator_of

LOOKS = "the forward pass looks at the value of a tensor"
ROWS = 3
ALONE = threading.RLock()  # while a model runs, torch itself is changed, for all threads
ACTIVE: ContextVar[Recorder | None] = ContextVar("fxsparse_recorder", default=None)
OnNode = Callable[[nn.Module, torch.fx.Node, Callable[[], Any], dict[torch.fx.Node, Any]], Any]  # module, node, run, values so far


class Recorder(TorchDispatchMode):
    """The dispatch mode that writes the tape; it also knows who is running."""

    def __init__(self, mode: Mode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = Tape(mode)
        self.modules: list[str] = [""]
        self.node: tuple[str | None, str | None] = (None, None)  # graph, node
        self.on_node: OnNode | None = None
        self.names: dict[int, str] = {}
        self.failed = ""  # the innermost module that raised
        self.silent = False  # inside a module that is one call
        self.refuses = False  # to make up whole numbers, by which operators may count, index and cut
        self.truth = False  # what is answered where a network asks whether something is true
        self._ids: dict[int, int] = {}
        self._alive: list[Tensor] = []  # ids stay unique only as long as the tensors live
        self._metas: dict[int, Tensor] = {}
        self._shapes = shapes()

    # ---- tensors ----------------------------------------------------------------------------------------------------------

    def ref(self, tensor: Tensor, origin: Origin = "result", key: str | None = None, *, sure: bool = True) -> Ref:
        number = self._ids.get(id(tensor))
        if number is None:
            number = self._ids[id(tensor)] = len(self.tape.values)
            self._alive.append(tensor)
            self.tape.values.append(
                Value(number, tuple(map(int, tensor.shape)), tensor.dtype, origin, key, _content(tensor) if sure else None)
            )
        return Ref(number)

    def adopt(self, module: nn.Module) -> None:
        """Learn the names of a module's tensors and submodules."""
        self.names = names_of(module)
        self.tape.demands = tuple(demands_of(module))
        for name, parameter in module.named_parameters(remove_duplicate=False):
            self.tape.keys[name] = self.ref(parameter, "parameter", name)
        for name, buffer in module.named_buffers(remove_duplicate=False):
            self.tape.keys[name] = self.ref(buffer, "buffer", name)

    def mark(self) -> int:
        return len(self.tape.calls)

    def rewind(self, mark: int) -> None:
        """Forget the calls since a mark: the node that made them runs again."""
        del self.tape.calls[mark:]

    # ---- calls ------------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self.silent:
            return self._run(func, args, kwargs)
        sources: list[Ref] = []

        def refer(tensor: Tensor) -> Ref:
            sources.append(self.ref(tensor, "constant"))
            return sources[-1]

        ref_args, ref_kwargs = mapped(refer, args), mapped(refer, kwargs)
        out = self._run(func, args, kwargs)
        sure = all(self.tape.values[ref.id].content is not None for ref in sources) and not any(
            word in func._schema.name for word in ("empty", "rand", "normal", "uniform", "bernoulli")
        )  # uninitialised and random numbers, and what is made of them, are different every time
        if torch.Tag.inplace_view in func.tags and func._schema.name != "aten::as_strided_":  # other axes: another value
            self._ids.pop(id(args[0]), None)
        leaves = (out,) if isinstance(out, Tensor) else tree_leaves(out)
        results = tuple([self.ref(leaf, sure=sure) if isinstance(leaf, Tensor) else leaf for leaf in leaves])
        self.tape.calls.append(Call(func, ref_args, ref_kwargs, results, Owner(self.modules[-1], *self.node)))
        return out

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

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves: list[Tensor] = []
        mapped(leaves.append, (args, kwargs))
        if any(leaf.is_meta for leaf in leaves):
            if not all(leaf.is_meta for leaf in leaves):
                args, kwargs = mapped(self._on_meta, (args, kwargs))
                if func.overloadpacket in _MASKED_FILL:  # its meta kernel wants a number as a tensor on meta, and no other does
                    args = (*args[:2], *(each.to("meta") if isinstance(each, Tensor) else each for each in args[2:]))
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": torch.device("meta")}
            if self.refuses and func._schema.name == "aten::_local_scalar_dense" and not leaves[0].dtype.is_floating_point:
                raise TraceError(f"{LOOKS} (as a whole number) at {user_line()}")
            answer = _ANSWERS.get(func._schema.name)
            if answer is not None:
                made = answer(*args, **kwargs)
                if made is not NotImplemented:
                    self.tape.guessed = True
                    return self.truth if made is False else made
        elif isinstance(kwargs.get("device"), torch.device) and kwargs["device"].type == "meta":
            kwargs = {**kwargs, "device": torch.device("meta")}  # a device with a number stands for a traced one
        return self._shapes.run(func, args, kwargs)

    def moved(self, tensor: Tensor) -> Tensor:
        """A real tensor on meta, as the same value of the tape."""
        with torch._C._DisableTorchDispatch():
            meta = self._on_meta(tensor)
        if meta is not tensor:
            self._ids[id(meta)] = self.ref(tensor, "constant").id
        return meta

    def twin(self, tensor: Tensor) -> Tensor:
        """Another tensor that is the same value of the tape."""
        with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
            made = tensor.detach()
        self._ids[id(made)] = self.ref(tensor).id
        self._alive.append(made)
        return made

    def _on_meta(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta or tensor.dim() == 0:
            return tensor
        meta = self._metas.get(id(tensor))
        if meta is None:
            meta = self._metas[id(tensor)] = tensor.to("meta")
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


def _content(tensor: Tensor) -> tuple[float, ...] | None:
    """The numbers of a small real tensor: they may have been computed from sizes, and must not follow a pruned one."""
    if tensor.is_meta or tensor.numel() > 64 or tensor.is_complex():
        return None
    with torch._C._DisableTorchDispatch():
        return tuple(float(x) for x in tensor.detach().reshape(-1).tolist())


# ---- answers to questions about values ------------------------------------------------------------------------------------


def _scalar(tensor: Tensor) -> Any:
    if not tensor.is_meta:
        return NotImplemented
    return False if tensor.dtype == torch.bool else 1.0 if tensor.dtype.is_floating_point else 1


def _index(tensor: Tensor, indices: list[Tensor | None]) -> Any:
    if not any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
        return NotImplemented
    numbers: list[Tensor | None] = []
    for i in indices:
        if i is not None and i.dtype in (torch.bool, torch.uint8):
            numbers.extend(torch.empty(ROWS, dtype=torch.long, device="meta") for _ in range(i.dim()))
        else:
            numbers.append(i)
    return torch.ops.aten.index.Tensor(tensor, numbers)


def _rows(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return tensor.new_empty((min(ROWS, max(tensor.shape[0], 1)) if tensor.dim() else 1,), dtype=torch.long)


_ANSWERS: dict[str, Callable[..., Any]] = {
    "aten::_local_scalar_dense": _scalar,
    "aten::nonzero": lambda t: t.new_empty((ROWS, t.dim()), dtype=torch.long),
    "aten::index": _index,
    "aten::masked_select": lambda t, mask: t.new_empty((ROWS,)),
    "aten::unique_dim": lambda t, *a, **k: (t.new_empty((ROWS,)), _rows(t), _rows(t)),
    "aten::_unique2": lambda t, *a, **k: (t.new_empty((ROWS,)), t.new_empty(t.shape, dtype=torch.long), _rows(t)),
    "aten::equal": lambda a, b: False,
    "torchvision::nms": _rows,
}


@contextlib.contextmanager
def same_luck() -> Iterator[None]:
    """While this is open, what a network draws by chance is the same in each recording, as with layers that are left out at random; the
    user's generators are as they were afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


_MASKED_FILL = (torch.ops.aten.masked_fill, torch.ops.aten.masked_fill_)


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Make `recorder` the active one: module calls set the owner, traced modules run node by node."""
    with ALONE:
        yield from _recording(recorder)


def _recording(recorder: Recorder) -> Iterator[None]:
    call = nn.Module.__call__

    def owned_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        name = recorder.names.get(id(module))
        if name is None:
            return call(module, *args, **kwargs)
        recorder.modules.append(name)
        operator = None if recorder.silent or not name else operator_of(module)
        try:
            if operator is not None:
                return recorder.module_call(operator, call, module, args, kwargs)
            if isinstance(module, nn.RNNBase):  # its kernel wants all of its tensors on one device before it calls an operator
                args, kwargs = mapped(recorder.moved, args), mapped(recorder.moved, kwargs)
            return call(module, *args, **kwargs)
        except Exception:
            recorder.failed = recorder.failed or name
            raise
        finally:
            recorder.modules.pop()

    fast, validating = torch.backends.mha.get_fastpath_enabled(), Distribution._validate_args
    token = ACTIVE.set(recorder)
    torch.backends.mha.set_fastpath_enabled(False)
    Distribution.set_default_validate_args(False)  # it looks at values
    nn.Module.__call__ = owned_call  # type: ignore[method-assign]
    enter = torch.autocast.__init__

    def autocast(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        """Not to cast on the device of a tensor, torch.autocast(x.device.type, enabled=False), is nothing on meta, and torch refuses it."""
        off = device_type == "meta" and not (args[1] if len(args) > 1 else kwargs.get("enabled", True))
        enter(self, "cpu" if off else device_type, *args, **kwargs)

    torch.autocast.__init__ = autocast  # type: ignore[method-assign]
    try:
        with same_luck(), torch.no_grad(), recorder:
            yield
    finally:
        torch.autocast.__init__ = enter  # type: ignore[method-assign]
        nn.Module.__call__ = call  # type: ignore[method-assign]
        torch.backends.mha.set_fastpath_enabled(fast)
        Distribution.set_default_validate_args(validating)
        ACTIVE.reset(token)


def as_arguments(args: Any) -> tuple[Any, ...]:
    """A single tensor is fine where a tuple of inputs is asked for."""
    return tuple(args) if isinstance(args, (tuple, list)) else (args,)


def meta_inputs(args: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t.detach().to("meta"), args)


def describe(args: Any) -> str:
    """The shapes of tensors, and other arguments as they are, unless they are long."""

    def words(leaf: Any) -> str:
        if isinstance(leaf, Tensor):
            return str(tuple(leaf.shape))
        text = repr(leaf)
        return text if len(text) < 60 and "\n" not in text else f"a {type(leaf).__name__}"

    return ", ".join(map(words, tree_leaves(args))) or "nothing"


def first_line(error: Exception) -> str:
    """What an error of torch says, without the table that may follow."""
    return str(error).strip().partition("\n")[0].strip().removesuffix(", but expected one of:").rstrip(".")


def advice(error: Exception) -> str:
    """What to do about an error of the user's code."""
    if "meta" in str(error).lower():
        return "fxsparse runs the model on meta tensors, which have shapes and no values: take what needs values out of the forward pass"
    return "check that model(*example_inputs) runs"


def record(
    module: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None, mode: Mode = "eval", *, on_node: OnNode | None = None
) -> Tape:
    """The tape of one run of `module`, which is left as it was."""
    copy = meta_copy(module)
    copy.train(mode == "train")
    return record_in_place(copy, args, kwargs, mode, on_node=on_node)


def record_in_place(
    copy: nn.Module, args: Any, kwargs: Mapping[str, Any] | None, mode: Mode, *, on_node: OnNode | None = None, truth: bool = False
) -> Tape:
    """Like `record`, on a module that is on meta tensors already and may be run. `truth` is the answer where it asks for one."""
    recorder = Recorder(mode)
    recorder.on_node = on_node
    recorder.truth = truth
    recorder.adopt(copy)
    arguments, keywords = meta_inputs((as_arguments(args), dict(kwargs or {})))
    recorder.tape.inputs = tuple(recorder.ref(leaf, "input") for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor))
    try:
        with recording(recorder), lists_on_meta():
            out = copy(*arguments, **keywords)
    except Error:
        raise
    except Exception as error:
        where = recorder.failed or type(copy).__name__
        given = describe((args, kwargs or {}))
        raise TraceError(
            f"the model raised {type(error).__name__} in {where!r} in {mode} mode for inputs {given}: {first_line(error)}; {advice(error)}"
        ) from error
    tensors = output_tensors(out)
    if not tensors:
        raise TraceError(
            f"the model returns no tensor, but {type(out).__name__}; return tensors, in tuples, lists or dicts if there are several"
        )
    recorder.tape.outputs = tuple(map(recorder.ref, tensors))
    return recorder.tape


def user_line() -> str:
    """The line of the user's code that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and "fxsparse/tracing" not in file and not file.startswith("<"):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown place"
