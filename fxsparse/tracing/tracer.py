"""One run of a model's own code on meta tensors yields the fx graph and the tape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from fxsparse.errors import TraceError
from fxsparse.tracing.attributes import still_beside
from fxsparse.tracing.caches import uncached
from fxsparse.tracing.functions import noticed, old_variables
from fxsparse.tracing.graphing import Graphing
from fxsparse.tracing.leaves import is_leaf
from fxsparse.tracing.loops import counted
from fxsparse.tracing.luck import used_draws
from fxsparse.tracing.memory import KEEPS, changed, fed, holdings, read_and_replaced, written_weights
from fxsparse.tracing.nodes import FromNowhereError
from fxsparse.tracing.numbers import building
from fxsparse.tracing.objects import Outputs, unwritten
from fxsparse.tracing.outputs import output_tensors
from fxsparse.tracing.recorder import ALONE, Recorder
from fxsparse.tracing.recording import advice, as_arguments, describe, first_line, meta_inputs, recording
from fxsparse.tracing.switches import autocasts
from fxsparse.tracing.tape import Mode
from fxsparse.tracing.traced_module import TracedGraph, flatten_call
from fxsparse.tracing.walk import all_modules
from fxsparse.tracing.whole import Run, followed


class _TrainingRead:
    """Stands in for `self.training` of modules that are traced through, and notices who asks."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.read = False

    def __get__(self, instance: Any, owner: Any) -> bool:
        self.read = True
        return self.mode == "train"


def trace_graph(
    root: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any],
    mode: Mode,
    prefix: str = "",
    device: str = "meta",
    follow: Iterable[dict[str, Any]] = (),
) -> Run:
    """Graph and tape of a module on meta tensors (a copy that may be spoilt), and whether it asked for its mode. `device` is the type of
    the one that it is told it were on; in the files whose names are to `follow`, `int` and `float` do so."""
    import torch._dynamo  # noqa: F401  # layers of torch do so when they run; it must not take the builtins for its own that stand in below

    with ALONE, followed(follow):
        run = _trace_graph(root, args, kwargs, mode, prefix, device)
        refused = prefix and run.tape.guessed  # such a part becomes no graph, whatever else it does
        if run.left and not (refused or follow):  # a run that follows counts where it repeats one that did not
            _require_the_same_again(run, root, args, kwargs, mode, prefix, device)
        return run


def _require_the_same_again(first: Run, root: nn.Module, *how: Any) -> None:
    """A run has left something behind: the next one may not be another one for it, once caches are filled. What is written to weights the
    first time alone is no cache."""
    again = first
    for _ in range(2):
        last = again
        try:
            again = _trace_graph(root, *how)
        except TraceError as error:
            if KEEPS in str(error):
                raise
            stranger = error.tensor if isinstance(error, FromNowhereError) else None
            kept = next((name for name, tensor in first.fed if tensor is stranger), None)
            if kept is not None:
                raise TraceError(f"the forward pass keeps {kept!r} {KEEPS}") from error
            return  # nothing can be said
        if str(again.graph.graph) == str(last.graph.graph):
            break
    else:
        raise TraceError(f"the forward pass keeps {', '.join(map(repr, again.left[:3]))} {KEEPS}")
    written = written_weights(first.tape)
    if written_weights(again.tape) != written:
        raise TraceError(f"the forward pass writes to {' and '.join(written) or 'parameters'} in one run alone, and keeps that {KEEPS}")


def _trace_graph(root: nn.Module, args: Any, kwargs: Mapping[str, Any], mode: Mode, prefix: str, device: str) -> Run:
    root.train(mode == "train")
    before = holdings(root)
    recorder = Recorder(mode)
    recorder.refuses = True
    recorder.adopt(root)
    graphing = Graphing(root, recorder, prefix, device)
    arguments, keywords = meta_inputs((as_arguments(args), dict(kwargs)))
    leaves, in_spec = flatten_call(type(root), arguments, keywords)
    constants, placeholders = _placeholders(graphing, recorder, leaves)
    training = _TrainingRead(mode)
    for module in all_modules(root):
        if not is_leaf(module):
            module.__dict__.pop("training", None)
    patched = _patch_calls(graphing)
    nn.Module.training = training  # type: ignore[assignment]
    try:
        graph, calls = graphing.graph, noticed(graphing.function_call)
        with (
            recording(recorder),
            patched,
            building(graph),
            counted(graph, graphing.length) as cutting,
            uncached(root),
            autocasts(graph),
            calls,
            old_variables(),
        ):
            with graphing, unwritten(leaves), used_draws(recorder.generators) as drawn:
                out = root.forward(*arguments, **keywords)
                if drawn():
                    raise TraceError("the forward pass draws numbers with Python's random or with numpy, which a graph would repeat")
                if not still_beside(root):
                    raise TraceError("the forward pass puts another tensor in the place of one that stands beside its class")
            flat, out_spec = tree_flatten(out)
            tensors = output_tensors(out)
            if not tensors:
                raise TraceError(
                    f"the model returns no tensor that can be followed, but {type(out).__name__}; return tensors in tuples, lists or dicts"
                )
            outputs = Outputs(graphing, (*leaves, *before.values()), part=bool(prefix))
            graphing.graph.output([outputs.argument(leaf) for leaf in flat])
            graphing.require_still()
            left = changed(before, holdings(root))
            collections = fed(graphing.maker_of, root, left)
            kept = read_and_replaced(graphing.graph, graphing.maker_of, root, left)
            if kept is not None:
                raise TraceError(f"the forward pass keeps {kept!r} {KEEPS}")
            graphing.own_what_is_made()
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
        for module in all_modules(root):
            module.__dict__.setdefault("training", mode == "train")
    recorder.tape.outputs = tuple(map(recorder.ref, tensors))
    made = TracedGraph(graphing.graph, placeholders, in_spec, constants, out_spec)
    return Run(made, recorder.tape, training.read, left, collections, cutting)


def _placeholders(graphing: Graphing, recorder: Recorder, leaves: list[Any]) -> tuple[tuple[tuple[int, Any], ...], tuple[str, ...]]:
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

    def __init__(self, graphing: Graphing) -> None:
        self.graphing = graphing

    def __enter__(self) -> None:
        self.call = call = nn.Module.__call__
        graphing = self.graphing

        def traced_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return graphing.module_call(call, module, args, kwargs)

        nn.Module.__call__ = traced_call  # type: ignore[method-assign]

    def __exit__(self, *exc: object) -> None:
        nn.Module.__call__ = self.call  # type: ignore[method-assign]
