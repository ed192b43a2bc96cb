"""The pass `share-weights`: the later blocks of a stage use the convolutions of an earlier one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fxsparse.errors import PassError
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.layer_calls import Layer, layer_of, layers_of, local
from fxsparse.passes.stages import SCALE, Stage, signature, stages
from fxsparse.surgery.graphs import graphs
from fxsparse.tracing.copies import names_of


@dataclass(frozen=True)
class ShareWeights(Pass):
    """Let the later blocks of a stage use the convolutions' weights of an earlier one.

    Blocks 0 to `own - 1` keep their weights, and later ones use those of block `own - 1`.
    A stage is a run of neighbours in the module tree that have the same class and the same shapes of parameters, and run one after the
    other; and the block before the run when it is of that class, too, as where the width changes. Branches that run side by side are no
    stage, and the notes name them. Norms, activations and biases stay each block's own. Each convolution that uses another's weight gets a
    number of its own, `scale`, by which its output is multiplied; it starts at `scale`, or at random between 0 and 1. `stages` names the
    modules that hold the blocks, by pattern.

    Assumes that a stage lost no units in one block alone. Changes what the network computes.

    Guarantees one tensor for each shared weight, by all of its names.

    Example: `share-weights{own=2,stages=[layer*]}`
    """

    name: ClassVar[str] = "share-weights"
    own: int = 2
    stages: tuple[str, ...] | None = None
    scale: float | None = None
    seed: int = 0

    def requires(self, network: Network, context: Context) -> None:
        if self.own < 1:
            raise PassError(f"{self.name}: own is at least 1, as the later blocks use the weights of the one before, not {self.own}")
        holders = dict(network.module.named_modules())
        for pattern in self.stages or ():
            if not any(fnmatchcase(name, pattern) for name in holders):
                raise PassError(f"{self.name}: stages: {pattern!r} fits no module; names look like {', '.join(list(holders)[1:4])}")

    def run(self, network: Network, context: Context) -> PassResult:
        donors, notes = plan(network.origin.skeleton, self.own, self.stages)
        if not donors:
            return PassResult(network, False, (*notes, "no stage has blocks that could share"))
        plain = without_masks(network, [f"{layer}.weight" for layer in donors])
        made = plain.edited(lambda module: self._share(module, donors), str(self))
        saved = sum(network.origin.skeleton.get_submodule(layer).get_parameter("weight").numel() for layer in donors)
        return PassResult(made, True, (f"{len(donors)} convolutions use another's weight: {saved:,} weights are no more", *notes))

    def _share(self, module: nn.Module, donors: dict[str, str]) -> None:
        generator = torch.Generator("cpu").manual_seed(self.seed)
        for layer, donor in donors.items():
            value = float(torch.rand((), generator=generator, device="cpu")) if self.scale is None else self.scale
            conv, source = module.get_submodule(layer), module.get_submodule(donor)
            weight = source.get_parameter("weight")
            conv._parameters["weight"] = weight
            conv.register_parameter(SCALE, nn.Parameter(torch.full((), value, dtype=weight.dtype, device=weight.device)))
        names = names_of(module)
        for place in graphs(module):
            for node in list(place.graph.nodes):
                called = layer_of(names, place, node)
                if isinstance(called, Layer) and called.name in donors:
                    with place.graph.inserting_after(node):
                        scale = place.graph.create_node("get_attr", local(place, f"{called.name}.{SCALE}"))
                    with place.graph.inserting_after(scale):
                        scaled = place.graph.call_function(torch.mul, (node, scale))
                    node.replace_all_uses_with(scaled, lambda user, scaled=scaled: user is not scaled)


def plan(module: nn.Module, own: int, chosen: tuple[str, ...] | None = None) -> tuple[dict[str, str], list[str]]:
    """Convolution -> the one whose weight it is to use; and what was passed over."""
    donors: dict[str, str] = {}
    notes: list[str] = []
    inside: list[str] = []
    called = layers_of(module)
    tied = _tied(module)
    for stage in stages(module):
        holder = stage.holder if isinstance(stage, Stage) else stage.partition(" ")[0].rpartition(".")[0]
        fits = chosen is None or any(fnmatchcase(holder, pattern) for pattern in chosen)
        if not fits or any(f"{holder}.".startswith(f"{name}.") for name in inside):
            continue
        if isinstance(stage, str):
            notes.append(stage)
            continue
        blocks = stage.blocks
        for block in blocks[own:]:
            inside.append(block)
            if signature(module.get_submodule(block)) != signature(module.get_submodule(blocks[own - 1])):
                notes.append(f"{block} keeps its weights: {blocks[own - 1]} has other shapes")
                continue
            for name, conv in module.get_submodule(block).named_modules():
                if not isinstance(conv, _ConvNd):
                    continue
                layer, donor = f"{block}.{name}", f"{blocks[own - 1]}.{name}"
                if "weight" not in conv._parameters or SCALE in conv._parameters:
                    notes.append(f"{layer} keeps its weight: it is computed, or shared already")
                elif id(conv.weight) in tied:
                    notes.append(f"{layer} keeps its weight, which has another use already")
                elif layer not in called or donor not in called:
                    notes.append(f"{layer} keeps its weight: no graph calls it with that weight")
                elif module.get_submodule(donor).get_parameter("weight").requires_grad != conv.weight.requires_grad:
                    notes.append(f"{layer} keeps its weight: of it and that of {donor}, one is frozen")
                else:
                    donors[layer] = donor
    return donors, notes


def _tied(module: nn.Module) -> set[int]:
    """Weights that have several names."""
    seen: set[int] = set()
    return {id(p) for _, p in module.named_parameters(remove_duplicate=False) if id(p) in seen or seen.add(id(p))}  # type: ignore[func-returns-value]


def without_masks(network: Network, names: list[str]) -> Network:
    """The network without the masks of these tensors."""

    def rest(masks: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: mask for key, mask in masks.items() if key not in names}

    return replace(network, masks=rest(dict(network.masks)), journal=replace(network.journal, masks=rest(dict(network.journal.masks))))
