"""From networks to the lines of a report: widths of groups and layers, and where it was made."""

from __future__ import annotations

import datetime
import math
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn

from fxsparse.budgets.latency_table import machine
from fxsparse.network import Network
from fxsparse.report.run import NEARLY, Density, GroupLine, LayerLine, MemberLine, Run
from fxsparse.version import __version__

POSITIONS = "works along k"  # kernel positions are protected in every convolution, which is no news
LIBRARIES = ("torch", "torchvision", "timm", "onnxruntime", "tensorrt")


def run_of(
    name: str, network: Network, since: Network | None = None, *, model: str | None = None, measures: Mapping[str, float] | None = None
) -> Run:
    """A run from a network. `since` is the one that it was made from; without it, widths are compared with those of the dense network.
    `measures` are what no network knows of itself: `accuracy`, `latency_ms`, `bytes`."""
    own = counts(network)
    densities = densities_of(network.module.state_dict().items()) if network.masks else ()
    if densities:
        own["nonzeros"] = float(sum(int(torch.count_nonzero(p)) for p in network.module.parameters()))
    return Run(
        name=name,
        model=model,
        measures={**own, **(measures or {})},
        before={} if since is None or since is network else counts(since),
        groups=group_lines(network, since),
        layers=layer_lines(network, since),
        densities=densities,
        provenance=network.provenance,
        environment=environment(),
    )


def counts(network: Network) -> dict[str, float]:
    return {"macs": float(network.macs), "parameters": float(network.parameter_count)}


def group_lines(network: Network, since: Network | None = None) -> tuple[GroupLine, ...]:
    """Every group but those of kernel positions, with its width in both networks. A unit's cost is that of the network before: when
    all of a group is gone from the other, it costs nothing any more."""
    comparable = since is not None and set(since.living) == set(network.living)
    living = since.living if since is not None and comparable else None
    lines = []
    for group in network.groups:
        if POSITIONS in group.reason:
            continue
        before = len(living[group.name]) if living is not None else len(network.origin.structure.classes[group.name])
        members = tuple(MemberLine(m.tensor, m.axis, m.role) for m in group.members)
        lines.append(
            GroupLine(
                name=group.name, kind=group.kind, before=before, after=len(group.units), prunable=group.prunable, reason=group.reason,
                unit_parameters=group.cost.parameters, unit_macs=group.cost.macs, members=members,
            )
        )  # fmt: skip
    return tuple(lines)


def layer_lines(network: Network, since: Network | None = None) -> tuple[LayerLine, ...]:
    """Every module with parameters of its own, in the order of the model; one that is gone has no shape after."""
    old, new = _shapes(network.origin.skeleton if since is None else since.module), _shapes(network.module)
    lines = []
    for layer in dict.fromkeys((*old, *new)):
        before, after = old.get(layer, {}), new.get(layer, {})
        tensors = before or after
        main = max(tensors, key=lambda tensor: math.prod(tensors[tensor]))
        sizes = [sum(math.prod(shape) for shape in each.values()) for each in (before, after)]
        key = f"{layer}.{main}" if layer else main
        kind = _kind(network, layer)
        lines.append(LayerLine(layer or main, kind, key, before.get(main, ()), after.get(main, ()), sizes[0], sizes[1]))
    return tuple(lines)


def _shapes(module: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
    """Layer -> parameter -> shape."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, parameter in module.named_parameters(remove_duplicate=False):
        layer, _, tensor = key.rpartition(".")
        found.setdefault(layer.partition(".parametrizations.")[0], {})[tensor] = tuple(parameter.shape)
    return found


def _kind(network: Network, layer: str) -> str:
    try:
        return type(network.module.get_submodule(layer)).__name__ if layer else ""
    except AttributeError:
        return ""


def densities_of(tensors: Iterable[tuple[str, Tensor]]) -> tuple[Density, ...]:
    """Of weight tensors, biases and norms left out; empty for a dense network, in which some weights may happen to be zero."""
    found = [Density(key, int(torch.count_nonzero(t)), t.numel()) for key, t in tensors if t.dim() >= 2 and t.is_floating_point()]
    return tuple(found) if sum(each.nonzeros for each in found) < NEARLY * sum(each.weights for each in found) else ()


def environment() -> dict[str, str]:
    """What a figure depends on beside the network."""
    found = {"fxsparse": __version__, "Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    about = machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found |= {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": str(about["cpu"]),
        "cores": f"{cores} of {about['cores']}",
    }
    found["threads"] = str(torch.get_num_threads())
    found["made"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return found
