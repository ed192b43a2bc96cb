"""From the dense skeleton, new tensors and a prediction to a module: the one place where a network changes its shape.

Every shape is built from the network as it was first analysed, never from an already changed one: shrinking twice and shrinking once, or
shrinking and regrowing, end in the same graph by construction. The result is recorded again and held against the tape that the algebra
predicts, operator by operator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from fxsparse.axes.factors import Axis
from fxsparse.axes.loose import Gather
from fxsparse.axes.predict import Prediction
from fxsparse.channels.groups import Structure
from fxsparse.errors import PlanError, TraceError
from fxsparse.surgery.expectation import Expectation, Expected, difference
from fxsparse.surgery.literals import TABLE, name_of, rewrite
from fxsparse.surgery.resize import resize
from fxsparse.surgery.symbols import write_dense
from fxsparse.tracing.copies import copy_with, is_flag, names_of
from fxsparse.tracing.pins import PINS, renew
from fxsparse.tracing.recorder import ACTIVE, Recorder
from fxsparse.tracing.recording import record_in_place
from fxsparse.tracing.tape import Mode, Ref
from fxsparse.tracing.traced_module import TracedModule, traced_graphs

INTERNAL = "this is an error in fxsparse; please report it with the model"


def set_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors into a module by qualified name; a Parameter stays a Parameter, tied names get the same object."""
    for key, tensor in tensors.items():
        path, _, name = key.rpartition(".")
        owner = module.get_submodule(path)
        if name in owner._parameters:
            owner.register_parameter(name, tensor) if not isinstance(owner, nn.RNNBase) else setattr(owner, name, tensor)  # type: ignore[arg-type]
        else:
            owner._buffers[name] = tensor


def as_new_parameter(old: Tensor, tensor: Tensor) -> Tensor:
    """A tensor in the role of `old`: parameter or buffer, with gradient or without."""
    return nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor


class Builder:
    """Builds one module; `build` is what others call."""

    def __init__(self, skeleton: nn.Module, structure: Structure, prediction: Prediction, tensors: Mapping[str, Tensor]) -> None:
        named = {**dict(skeleton.named_parameters(remove_duplicate=False)), **dict(skeleton.named_buffers(remove_duplicate=False))}
        given = {id(named[key]): tensor for key, tensor in tensors.items() if key in named}
        self.module = copy_with(skeleton, lambda tensor: given.get(id(tensor), tensor))  # wherever else they stand: in lists, say
        self.flags = {name: each for name, each in skeleton.named_buffers(remove_duplicate=False) if is_flag(each) and not each.is_meta}
        self.structure = structure
        self.prediction = prediction
        self.rewritten: set[tuple[str, fx.Node]] = set()

    def resize_leaves(self) -> None:
        literals: dict[str, dict[str, Any]] = {}  # of the calls that a module makes, and the `shape` of what it gives
        results: dict[str, list[Axis]] = {}
        for each in self.structure.reading.tapes:
            for call, said in zip(each.tape.calls, each.calls, strict=True):
                known = literals.setdefault(call.owner.module, {})
                for name, value in said.literals.items():
                    known.setdefault(name, self.prediction.value(value))
                if call.results and isinstance(call.results[0], Ref):
                    results[call.owner.module] = each.axes[call.results[0].id]
        for name, module in self.module.named_modules():
            if name in results:
                literals[name]["shape"] = self.prediction.shape(results[name])
            resize(module, literals.get(name, {}))
            if isinstance(module, nn.LSTM) and module.proj_size == module.hidden_size:  # torch's kernel compares the two
                raise PlanError(
                    f"LSTM {name!r} would have as many hidden units as projected ones, {module.proj_size}, and torch takes that for one "
                    "without projection; keep one unit more or less of either"
                )

    def graph_module(self, name: str) -> TracedModule:
        found = self.module.get_submodule(name)
        assert isinstance(found, TracedModule)
        return found

    def insert_gathers(self, tape: int, mode: Mode) -> set[int]:
        """Replace loose regions that lost something by one gather each."""
        ragged, gathers = self.prediction.gathers(tape)
        if not gathers:
            return ragged
        calls = self.structure.reading.tapes[tape].tape.calls
        done: set[tuple[str, str]] = set()
        for gather in gathers:
            owner = calls[gather.calls[0]].owner
            assert owner.graph is not None and owner.node is not None
            if (owner.graph, owner.node) not in done:
                done.add((owner.graph, owner.node))
                self._insert_gather(gather, calls, mode)
        for name in {graph for graph, _ in done}:
            module = self.graph_module(name)
            _erase_dead_views(
                module.graph_in(mode).graph, {c.owner.node for g in gathers for c in (calls[i] for i in g.calls) if c.owner.graph == name}
            )
        return ragged

    def _insert_gather(self, gather: Gather, calls: Any, mode: Mode) -> None:
        last, first = calls[gather.calls[0]].owner, calls[gather.calls[-1]].owner
        module = self.graph_module(last.graph)
        traced = module.graph_in(mode)
        nodes = {node.name: node for node in traced.graph.nodes}
        exit_node, entry_node = nodes[last.node], nodes[first.node]
        source = entry_node.all_input_nodes[0]  # by position or by name
        index = torch.from_numpy(self.prediction.positions(gather.before, gather.after))
        name = f"_gather_{mode}_{exit_node.name}"
        device = next((t.device for t in self.module.parameters()), torch.device("cpu"))
        module.register_buffer(name, index.to(device), persistent=False)
        with traced.graph.inserting_before(exit_node):
            where = traced.graph.get_attr(name)
            new = traced.graph.call_function(torch.index_select, (source, gather.dim, where))
        exit_node.replace_all_uses_with(new)
        traced.graph.erase_node(exit_node)

    def repair(self, tape: int, mode: Mode, inputs: tuple[Any, Any]) -> None:
        """Run on meta node by node; where a node does not do what is expected, rewrite its literals and run it again."""
        reading = self.structure.reading.tapes[tape]
        ragged = self.insert_gathers(tape, mode)
        expectation = Expectation(reading, self.prediction, ragged)
        meta = copy_with(self.module, _meta, keep=traced_graphs(self.module))  # rewriting these rewrites the module's own
        set_tensors(meta, {name: flag.clone() for name, flag in self.flags.items()})  # those of the recording, whatever they are by now
        meta.train(mode == "train")
        names = names_of(meta)
        seen: dict[tuple[str, str], int] = {}
        for name, module in meta.named_modules():
            if isinstance(module, nn.modules.instancenorm._InstanceNorm):
                module.register_forward_pre_hook(functools.partial(_take_width, self.module.get_submodule(name)))

        def on_node(module: nn.Module, node: fx.Node, run: Callable[[], Any], values: dict[fx.Node, Any]) -> Any:
            key = (names[id(module)], node.name)
            occurrence = seen[key] = seen.get(key, -1) + 1
            runs = expectation.by_node.get(key)
            if node.target in PINS:
                renew(node, values)
            if runs is None:
                try:
                    return run()
                except ArithmeticError:  # a scale, as (width // heads) ** -0.5, whose width is less than that now
                    write_dense(node, values)
                    return run()
            expected = [expectation.expected(p) for p in runs[min(occurrence, len(runs) - 1)]]
            return self._run_expected(node, run, values, expected)

        try:
            tape_now = record_in_place(meta, *inputs, mode, reading.tape.answers, on_node=on_node)
        except TraceError as error:
            raise PlanError(f"the changed network does not run: {error}; {INTERNAL}") from error
        made = [call for call in tape_now.calls if call.owner.node is None]
        wrong = difference(tape_now, made, [expectation.expected(p) for p in expectation.shell])
        if wrong is not None:
            raise PlanError(
                f"plain Python code of the model, which fxsparse cannot rewrite, does not follow the change: {wrong}; {INTERNAL}"
            )

    def _run_expected(self, node: fx.Node, run: Callable[[], Any], values: dict[fx.Node, Any], expected: list[Expected]) -> Any:
        recorder = ACTIVE.get()
        assert isinstance(recorder, Recorder)
        mark = recorder.mark()
        problem: str | None
        out: Any = None
        try:
            out = run()
            problem = difference(recorder.tape, recorder.tape.calls[mark:], expected)
        except Exception as error:  # a literal that no longer fits
            problem = f"{type(error).__name__}: {error}"
        if problem is None or (out is not None and _says_no_number(node) and _shapes(out) in _wanted(expected)):
            return out
        recorder.rewind(mark)
        before = (node.op, node.target, node.args, node.kwargs)
        try:
            rewrite(node, values, expected)
            out = run()
        except Exception as error:
            raise PlanError(
                f"node {node.name!r} ({before[1]}) cannot follow the change: {problem}; "
                f"rewriting it gave {type(error).__name__}: {error}; {INTERNAL}"
            ) from error
        made = recorder.tape.calls[mark:]
        same_calls = [c.op for c in made] == [e.call.op for e in expected]
        if same_calls:
            wrong = difference(recorder.tape, made, expected)
        else:
            wrong = None if _shapes(out) in _wanted(expected) else f"shapes {_shapes(out)} instead of {expected[-1].shapes}"
        if wrong is not None:
            raise PlanError(f"node {node.name!r} ({before[1]}) cannot follow the change: {problem}; after rewriting, {wrong}; {INTERNAL}")
        return out


def _shapes(out: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(leaf.shape) for leaf in tree_leaves(out) if isinstance(leaf, Tensor))


def _wanted(expected: list[Expected]) -> tuple[tuple[tuple[int, ...] | None, ...], ...]:
    """The shapes that a node may have: those of one call with all the results or with its first one, or of one call for each."""
    return expected[-1].shapes, expected[-1].shapes[:1], tuple(e.shapes[0] for e in expected)


def _says_no_number(node: fx.Node) -> bool:
    """Whether a node has tensors and words alone for arguments (einsum, matmul): then it does the same whatever calls it makes, which may
    be others once an axis has a single coordinate."""
    if node.op == "call_module" or name_of(node) in TABLE:
        return False
    leaves = tree_leaves((node.args, node.kwargs))
    return all(isinstance(leaf, str) or (isinstance(leaf, fx.Node) and "value" not in leaf.meta) for leaf in leaves)


def _meta(tensor: Tensor) -> Tensor:
    made = tensor.detach().to("meta")
    return nn.Parameter(made, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _take_width(real: Any, module: Any, args: tuple[Tensor, ...]) -> None:
    """An instance norm without tensors knows its width from its input alone."""
    module.num_features = real.num_features = args[0].shape[args[0].dim() - module._get_no_batch_dim()]


def _erase_dead_views(graph: fx.Graph, names: set[str | None]) -> None:
    """Nodes of a replaced region that nobody uses any more."""
    for node in reversed(list(graph.nodes)):
        if node.name in names and not node.users:
            graph.erase_node(node)


def build(
    skeleton: nn.Module, structure: Structure, prediction: Prediction, tensors: Mapping[str, Tensor], inputs: tuple[Any, Any]
) -> nn.Module:
    """A module with these tensors, every literal in line, checked against the prediction in each recorded mode."""
    builder = Builder(skeleton, structure, prediction, tensors)
    builder.module.eval()  # in train mode, asking for a weight under spectral norm changes buffers
    set_tensors(builder.module, tensors)
    builder.resize_leaves()
    for tape, reading in enumerate(structure.reading.tapes):
        builder.repair(tape, reading.tape.mode, inputs)
    for module in builder.module.modules():
        if isinstance(module, TracedModule):
            module.recompile()
    return builder.module
