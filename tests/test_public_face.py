"""The names that scripts outside of this repository rely on, each used as they use it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse import passes

X = torch.randn(2, 3, 8, 8)


def _model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4)
    ).eval()


def test_tracing_and_groups() -> None:
    model = _model()
    network = fxsparse.trace(model, (X,))
    assert isinstance(fxsparse.trace(model, X), fxsparse.Network)
    assert set(network.module.state_dict()) == set(model.state_dict())
    assert torch.equal(network(X), model(X)) and torch.equal(network.module(X), model(X))
    assert isinstance(network.groups, tuple)
    first = next(group for group in network.groups if group.prunable)
    assert (first.name, first.size, first.units, first.kind, first.reason) == ("0", 16, tuple(range(16)), "channels", "")
    assert first.cost.parameters > 0 and first.cost.macs > 0
    assert {(member.tensor, member.axis) for member in first.members} >= {("0.weight", 0), ("3.weight", 1)}
    assert all(isinstance(member.role, str) and member.role for member in first.members)
    protected = [group for group in network.groups if not group.prunable]
    assert protected and all(group.reason for group in protected)
    assert network.to_networkx().number_of_nodes() > 0


def test_surgery(tmp_path: Path) -> None:
    model = _model()
    network = fxsparse.trace(model, (X,))
    optimizer = torch.optim.SGD(network.module.parameters(), 0.1, momentum=0.9)
    average = copy.deepcopy(network.module)
    small = network.shrink({"0": [0, 3, 4]})
    assert small.kept["0.weight"][0] == [0, 3, 4] and "[0, 3, 4]" in repr(small.kept)
    assert next(group for group in small.groups if group.name == "0").units == (0, 3, 4)
    assert all(torch.equal(a, b) for a, b in zip(small.regrow().module.state_dict().values(), model.state_dict().values(), strict=True))
    for init in ("journal", "zero", "fresh"):
        assert next(g for g in small.regrow({"0": [7, 9]}, init=init).groups if g.name == "0").size == 5
    plain = small.as_original()
    assert type(plain) is nn.Sequential
    torch.testing.assert_close(plain(X), small(X))
    fxsparse.carry(network, small, optimizer)
    fxsparse.carry(network, small, average)
    assert [p.shape for p in optimizer.param_groups[0]["params"]] == [p.shape for p in small.module.parameters()]
    assert fxsparse.verify(network, small).max_error < 1e-9
    fxsparse.save(small, tmp_path / "out")
    assert {each.name for each in (tmp_path / "out").iterdir()} == {"structure.json", "weights.safetensors"}
    assert torch.equal(fxsparse.load(tmp_path / "out", _model(1))(X), small(X))


def test_passes(tmp_path: Path) -> None:
    network = fxsparse.trace(_model(), (X,))
    result = passes.Prune(macs=0.5, criterion="magnitude", align=8)(network)
    assert isinstance(result.network, fxsparse.Network) and result.modified and result.notes
    pipeline = fxsparse.Pipeline.parse(f"prune{{macs=0.5,align=8}},fold-batch-norm,lower-onnx{{path={tmp_path}/model.onnx}}")
    assert str(fxsparse.Pipeline.parse(str(pipeline))) == str(pipeline)
    assert pipeline(network).notes and (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", ["Static", "SET", "RigL", "Gradual", "ExploitExplore", "Extreme"])
def test_sparsifiers(name: str) -> None:
    model = _model().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = getattr(fxsparse.training, name)(model, optimizer, density=0.3, allocation="erk", steps=10)
    before = [p.detach().clone() for p in model.parameters()]
    nn.functional.cross_entropy(model(X), torch.tensor([1, 2])).backward()
    sparsifier.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_calibration() -> None:
    model = _model()
    images = torch.randn(64, 3, 8, 8)
    labels: Tensor = model(images).argmax(1)
    loader = [(images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
    sparse = fxsparse.training.calibrate(model, loader, sparsity=0.5, method="magnitude")
    weights = [p for p in sparse.parameters() if p.dim() > 1]
    assert sum(int((p == 0).sum()) for p in weights) == sum(p.numel() for p in weights) // 2
    assert sparse(images).shape == (*labels.shape, 4) and set(sparse.state_dict()) == set(model.state_dict())
    assert isinstance(sparse.model, nn.Module) and copy.copy(sparse).sparsity == sparse.sparsity


def test_errors() -> None:
    kinds = ["TraceError", "RuleError", "PlanError", "VerificationError", "LoweringError", "BudgetError", "CheckpointError"]
    assert all(issubclass(getattr(fxsparse, kind), fxsparse.Error) for kind in kinds)
