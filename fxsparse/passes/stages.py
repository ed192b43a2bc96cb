"""Stages: runs of blocks that are alike, and run one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from fxsparse.passes.layer_calls import Layer, layer_of
from fxsparse.surgery.graphs import graphs
from fxsparse.tracing.copies import names_of

SCALE = "scale"  # the parameter that a sharing convolution gets; its output is multiplied by it


@dataclass(frozen=True)
class Stage:
    """Blocks of the same class, by name. All but perhaps the first have the same shapes of parameters."""

    holder: str
    blocks: tuple[str, ...]


def stages(module: nn.Module) -> Iterator[Stage | str]:
    """The stages of a traced module, outer ones first; of neighbours that are alike and do not run one after the other, a note."""
    upstream = _upstream(module)
    for holder, parent in module.named_modules():
        prefix = f"{holder}." if holder else ""
        children = [(f"{prefix}{name}", child, signature(child)) for name, child in parent.named_children() if _is_block(child)]
        runs: list[list[int]] = []
        for index, (block, _, alike) in enumerate(children):
            fits = bool(runs) and children[runs[-1][0]][2] == alike
            if fits and _follows(upstream, children[runs[-1][-1]][0], block):
                runs[-1].append(index)
                continue
            if fits:
                yield f"{block} keeps its weights: it does not run behind {children[runs[-1][-1]][0]}"
            runs.append([index])
        for position, run in enumerate(runs):
            if len(run) > 1:
                first = runs[position - 1] if position else []
                wider = len(first) == 1 and _widens(upstream, children[first[0]], children[run[0]])
                yield Stage(holder, tuple(children[index][0] for index in (first if wider else []) + run))


def signature(block: nn.Module) -> tuple[object, ...]:
    """What blocks that are alike have in common."""
    return (type(block), *((name, tuple(p.shape)) for name, p in block.named_parameters() if name.rpartition(".")[2] != SCALE))


def _is_block(child: nn.Module) -> bool:
    return any(isinstance(each, _ConvNd) for each in child.modules()) and not isinstance(child, _ConvNd)


_Child = tuple[str, nn.Module, tuple[object, ...]]


def _widens(upstream: Mapping[str, frozenset[str]], first: _Child, then: _Child) -> bool:
    """Whether a block opens the stage: of the same class, with other shapes."""
    return type(first[1]) is type(then[1]) and first[2] != then[2] and _follows(upstream, first[0], then[0])


def _follows(upstream: Mapping[str, frozenset[str]], earlier: str, later: str) -> bool:
    """Whether every convolution of a block has one of the earlier block before it."""
    own = [before for name, before in upstream.items() if name.startswith(f"{later}.")]
    return bool(own) and all(any(name.startswith(f"{earlier}.") for name in before) for before in own)


def _upstream(module: nn.Module) -> dict[str, frozenset[str]]:
    """Convolution -> those whose results reach it wherever it is called, directly or through others."""
    names = names_of(module)
    found: dict[str, frozenset[str]] = {}
    for place in graphs(module):
        before: dict[object, frozenset[str]] = {}
        for node in place.graph.nodes:
            reached = frozenset().union(*(before[each] for each in node.all_input_nodes))
            layer = layer_of(names, place, node)
            if isinstance(layer, Layer) and layer.kind != "linear":
                found[layer.name] = found[layer.name] & reached if layer.name in found else reached
                reached |= {layer.name}
            before[node] = reached
    return found
