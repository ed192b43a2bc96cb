"""A small network and batches that depend on their number alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from fxsparse.sparsity.chance import generator
from fxsparse.training import Sparsifier


def network(seed: int = 0, norms: bool = True) -> nn.Sequential:
    """Two convolutions and a classifier: 5,000 weights that are masked, and biases and norms that are not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16) if norms else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 4),
        )


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, **options})


def batch(step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    chance = generator("batch", step)
    return torch.randn(size, 3, 6, 6, generator=chance), torch.randint(0, 4, (size,), generator=chance)


def weight(model: nn.Module, name: str) -> nn.Parameter:
    return model.get_parameter(f"{name}.weight")


def backward(model: nn.Module, step: int, size: int = 8) -> Tensor:
    images, labels = batch(step, size)
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return loss.detach()


def train(model: nn.Module, optimizer: Optimizer, sparsifier: Sparsifier, steps: range) -> None:
    model.train()
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        sparsifier.step()


def require_masked(optimizer: Optimizer, sparsifier: Sparsifier) -> None:
    """Masked weights, and all of the optimizer's state of their shape, are zero; counts are what the sparsifier says."""
    for target in sparsifier.targets:
        dead = ~sparsifier.masks[target.name]
        assert int(sparsifier.masks[target.name].sum()) == sparsifier.nonzeros[target.name]
        assert not target.parameter.detach()[dead].any(), target.name
        for key, value in optimizer.state[target.parameter].items():
            if isinstance(value, Tensor) and value.shape == target.parameter.shape:
                assert not value[dead].any(), (target.name, key)


def state(model: nn.Module, optimizer: Optimizer, sparsifier: Sparsifier) -> dict[str, Any]:
    copies = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {"model": copies, "optimizer": optimizer.state_dict(), "sparsifier": sparsifier.state_dict()}


def same(one: Any, other: Any) -> bool:
    """Equal, tensors to the bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
