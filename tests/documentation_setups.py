"""The names that a page's code takes for granted: a model, batches, a loss. All small, so that the pages run in seconds."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fxsparse
from fxsparse.engines import engine
from fxsparse.models import build
from fxsparse.passes import Prune
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


def _two() -> Names:
    """A network of two convolutions, and the half of it."""
    two = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 3))
    network = fxsparse.trace(two, torch.randn(1, 3, 48, 48))
    return {"network": network, "pruned": network.shrink({"0": range(8)})}


def _engines() -> Names:
    names, runtime = _two(), engine("onnxruntime", threads=1)
    return names | {"dense": runtime.build(names["network"]), "small": runtime.build(names["pruned"])}


def _engine() -> Names:
    names = _two()
    return {"net": names["network"], "result": Prune(macs=0.5)(names["network"])}


def _post_training() -> Names:
    """The labels are what the model says: it is right on all images."""
    names = _base()
    with torch.no_grad():
        names["loader"] = [(images, names["model"].eval()(images).argmax(1)) for images, _ in names["loader"]]
    return names


def _without() -> Names:
    inputs = (torch.randn(2, 3, 32, 32),)
    network = fxsparse.trace(build("torchvision:resnet18", shape=(2, 3, 32, 32)).model, inputs)
    return {"torch": torch, "example_inputs": inputs, "small": network.shrink({"layer1.0.conv1": range(8)})}


def _lightning() -> Names:
    importlib.import_module("fxsparse.training.lightning")  # before Lightning itself: see the page
    lightning: Any = importlib.import_module("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = small_model()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    images, classes = batch(32)
    return _base() | {"module": Module(), "loader": DataLoader(TensorDataset(images, classes), batch_size=8)}


def _tensorboard() -> Names:
    names = _training()
    return names | {"sparsifier": fxsparse.training.RigL(names["model"], names["optimizer"], density=0.1, steps=20)}


def _pass() -> Names:
    """The page's own pass is found by a real entry point, as if its package were installed."""
    names = _network()
    package = Path("mypackage-1.0.dist-info")
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[fxsparse.passes]\ntrim = mypackage.trim:Trim\n")
    module: Any = ModuleType("mypackage.trim")

    def attribute(name: str) -> Any:  # the class appears when the page's block has run
        try:
            return names[name]
        except KeyError:
            raise AttributeError(name) from None

    module.__getattr__ = attribute
    sys.modules["mypackage"], sys.modules["mypackage.trim"] = ModuleType("mypackage"), module
    return names


def _checkpoints() -> Names:
    names = _network() | {"build": build, "again_model": small_model()}
    names["again_optimizer"] = torch.optim.SGD(names["again_model"].parameters(), lr=0.1, momentum=0.9)
    return names


SETUPS: dict[str, Callable[[], Names]] = {
    "docs/architecture.md": lambda: {"torch": torch},
    "docs/concepts/surgery.md": _network,
    "docs/east.md": _east,
    "docs/engines.md": _engines,
    "docs/how-to/checkpoints.md": _checkpoints,
    "docs/how-to/criterion.md": _network,
    "docs/how-to/distributed.md": _training,
    "docs/how-to/engine.md": _engine,
    "docs/how-to/lightning.md": _lightning,
    "docs/how-to/loop.md": lambda: _base() | {"small_model": small_model},
    "docs/how-to/n-m.md": lambda: _network() | _training(),
    "docs/how-to/pass.md": _pass,
    "docs/how-to/post-training.md": _post_training,
    "docs/how-to/tensorboard.md": _tensorboard,
    "docs/how-to/without-fxsparse.md": _without,
    "docs/iee.md": _iee,
    "docs/passes.md": _network,
    "docs/pruning.md": _network,
    "docs/training.md": _training,
}
