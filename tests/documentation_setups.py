"""The names that a page's code takes for granted: a model, batches, a loss. All small, so that the pages run in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse
from fxsparse.engines import engine
from fxsparse.models import build
from fxsparse.training import Sparsifier

Names = dict[str, Any]


@dataclass(frozen=True)
class Loss:
    """A loss whose `backward` runs whatever the page calls its model by then."""

    names: Names
    model: Callable[[Names], nn.Module]

    def backward(self) -> None:
        images, classes = batch()
        F.cross_entropy(self.model(self.names)(images), classes).backward()


def batch(size: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 16, 16), torch.randint(0, 10, (size,))


def small_model() -> nn.Module:
    return build("fxsparse:resnet20").model


def _base() -> Names:
    names: Names = {"torch": torch, "nn": nn, "F": F, "fxsparse": fxsparse, "model": small_model()}
    names |= {"example_inputs": (torch.randn(2, 3, 16, 16),), "loader": [batch() for _ in range(4)], "total_steps": 20}
    return names


def _network() -> Names:
    names = _base()
    traced = fxsparse.trace(names["model"], names["example_inputs"])
    return names | {"network": traced, "net": traced}


def _training() -> Names:
    names = _base()
    names |= {"optimizer": torch.optim.SGD(names["model"].parameters(), lr=0.1, momentum=0.9), "Sparsifier": Sparsifier}
    names["loss"] = Loss(names, lambda now: now["model"])
    return names


def _iee() -> Names:
    return _training() | {"loss_of": F.cross_entropy}


def _east() -> Names:
    names = _base() | {"build": build, "sharing": 0, "density": 0.001}
    names["loss"] = Loss(names, lambda now: now["network"].module)
    return names


def _engines() -> Names:
    two = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 3))
    network = fxsparse.trace(two, torch.randn(1, 3, 48, 48))
    pruned = network.shrink({"0": range(8)})
    runtime = engine("onnxruntime", threads=1)
    return {"network": network, "pruned": pruned, "dense": runtime.build(network), "small": runtime.build(pruned)}


SETUPS: dict[str, Callable[[], Names]] = {
    "docs/architecture.md": lambda: {"torch": torch},
    "docs/east.md": _east,
    "docs/engines.md": _engines,
    "docs/iee.md": _iee,
    "docs/passes.md": _network,
    "docs/pruning.md": _network,
    "docs/training.md": _training,
}
