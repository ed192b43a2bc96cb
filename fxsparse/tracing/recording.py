"""Runs modules under the recorder: what is changed in torch while it lasts, and what is said if a module fails."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.errors import Error, TraceError
from fxsparse.tracing.caches import uncached
from fxsparse.tracing.copies import meta_copy
from fxsparse.tracing.lists import values_leave
from fxsparse.tracing.luck import drawn_since, same_luck
from fxsparse.tracing.memory import changed, holdings
from fxsparse.tracing.outputs import output_tensors
from fxsparse.tracing.questions import NO
from fxsparse.tracing.recorder import ACTIVE, ALONE, OnNode, Recorder, mapped
from fxsparse.tracing.tape import Answers, Mode, Tape
from fxsparse.tracing.taught import operator_of


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
        with same_luck(recorder.turn, recorder.generators), torch.no_grad(), recorder:
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


def meta_inputs(args: Any, *, given: bool = False) -> Any:
    """Inputs have shapes and no values; but for whole numbers and truth values, where these are `given`."""
    return tree_map_only(Tensor, lambda t: t.detach().clone() if given and is_whole(t) else t.detach().to("meta"), args)


def is_whole(tensor: Tensor) -> bool:
    """Whether it holds whole numbers or truth values that are there."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_meta)


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


def record(module: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None, mode: Mode = "eval", answers: Answers = NO) -> Tape:
    """The tape of one run of `module`, which is left as it was."""
    copy = meta_copy(module)
    copy.train(mode == "train")
    return record_in_place(copy, args, kwargs, mode, answers)


def record_in_place(
    copy: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    mode: Mode,
    answers: Answers = NO,
    *,
    on_node: OnNode | None = None,
    turn: int = 0,
    most: float = math.inf,
) -> Tape:
    """Like `record`, on a module that is on meta tensors already and may be run. In another `turn` it has other luck. Code that makes more
    calls than `most` is stopped."""
    recorder = Recorder(mode, answers)
    recorder.most = most
    recorder.on_node = on_node
    recorder.turn = turn
    recorder.adopt(copy)
    before = holdings(copy)
    arguments, keywords = meta_inputs((as_arguments(args), dict(kwargs or {})), given=answers.given)
    leaves = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor)]
    recorder.tape.inputs = tuple(recorder.ref(leaf, "input", sure=False) for leaf in leaves)
    recorder.given.update(id(leaf) for leaf in leaves if not leaf.is_meta)
    try:
        with recording(recorder), values_leave(recorder), uncached(copy):
            drawn = drawn_since(recorder.generators)
            out = copy(*arguments, **keywords)
            recorder.tape.chance |= drawn()
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
    after = holdings(copy)
    left = tree_leaves([after[name] for name in changed(before, after)])
    recorder.tape.kept = tuple(recorder.ref(each) for each in left if isinstance(each, Tensor) and recorder.met(each))
    return recorder.tape
