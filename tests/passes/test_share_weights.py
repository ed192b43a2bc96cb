"""Blocks that share are one tensor with several uses: the gradient is the sum of those of explicit copies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse import PassError, PlanError
from fxsparse.models import cifar_resnet
from fxsparse.passes import Pipeline
from fxsparse.passes.share_weights import ShareWeights, plan
from tests.networks.randomise import randomise


class Block(nn.Module):
    def __init__(self, width: int, bias: bool = False) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=bias), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 1, bias=bias), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


class Net(nn.Module):
    def __init__(self, depth: int = 4, bias: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.stage = nn.Sequential(*(Block(6, bias) for _ in range(depth)))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.stage(self.stem(x)).mean((2, 3)))
        return out


def traced(model: nn.Module) -> fxsparse.Network:
    return fxsparse.trace(randomise(model.double().eval()), torch.randn(2, 3, 5, 5, dtype=torch.float64))


class ByHand(nn.Module):
    """The same network with explicit copies of the weights, each times its scale."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.net = Net(bias=True).double()
        self.net.load_state_dict({key: value.clone() for key, value in module.state_dict().items() if not key.endswith("scale")})
        self.scales = {name: p.item() for name, p in module.named_parameters() if name.endswith("scale")}

    def forward(self, x: Tensor) -> Tensor:
        x = self.net.stem(x)
        for index in range(4):
            block, name = self.net.stage.get_submodule(str(index)), f"stage.{index}"
            y = torch.relu(block.get_submodule("norm1")(block.get_submodule("conv1")(x) * self.scales.get(f"{name}.conv1.scale", 1.0)))
            y = block.get_submodule("norm2")(block.get_submodule("conv2")(y) * self.scales.get(f"{name}.conv2.scale", 1.0))
            x = torch.relu(x + y)
        out: Tensor = self.net.head(x.mean((2, 3)))
        return out


@pytest.mark.parametrize("training", [False, True])
def test_equal_to_explicit_copies_with_summed_gradients(training: bool) -> None:
    made = ShareWeights(own=2)(traced(Net(bias=True))).network.module
    hand = ByHand(made)
    made.train(training)
    hand.train(training)
    x = torch.randn(3, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(made(x), hand(x), rtol=1e-12, atol=1e-12)
    made(x).square().sum().backward()
    hand(x).square().sum().backward()
    copies = dict(hand.net.named_parameters())
    for name in ("conv1", "conv2"):
        gradients = [copies[f"stage.{index}.{name}.weight"].grad for index in (1, 2, 3)]
        expected = torch.stack([each for each in gradients if each is not None]).sum(0)
        torch.testing.assert_close(made.get_parameter(f"stage.1.{name}.weight").grad, expected, rtol=1e-8, atol=1e-8)
        assert made.get_parameter(f"stage.3.{name}.weight") is made.get_parameter(f"stage.1.{name}.weight")
    assert made.get_parameter("stage.3.conv1.scale").grad is not None


def test_one_tensor_everywhere(tmp_path: Path) -> None:
    network = traced(Net())
    result = ShareWeights(scale=0.5)(network)
    shared = result.network
    assert result.notes == (f"4 convolutions use another's weight: {2 * (6 * 6 * 9 + 6 * 6)} weights are no more",)
    assert network.parameter_count - shared.parameter_count == 2 * (6 * 6 * 9 + 6 * 6) - 4
    assert shared.module.get_parameter("stage.2.conv1.scale").item() == 0.5
    assert set(shared.module.state_dict()) - set(network.module.state_dict()) == {
        f"stage.{i}.conv{j}.scale" for i in (2, 3) for j in (1, 2)
    }
    small = shared.shrink({group.name: group.units[::2] for group in shared.groups if group.prunable})
    assert fxsparse.verify(shared, small).max_error < 1e-12
    assert small.module.get_parameter("stage.2.conv1.weight") is small.module.get_parameter("stage.1.conv1.weight")
    fxsparse.save(small, tmp_path / "out")
    again = fxsparse.load(tmp_path / "out", Net().double().eval())
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(again.module.eval()(x), small(x))
    assert len(list(again.module.parameters())) == len(list(small.module.parameters())) == len(list(network.module.parameters()))

    optimizer = torch.optim.SGD(shared.module.parameters(), 0.1, momentum=0.9)
    shared(x).sum().backward()
    optimizer.step()
    fxsparse.carry(shared, small, optimizer)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(small.module.parameters()))


def test_finds_the_stages_of_residual_networks() -> None:
    with torch.device("meta"):
        thin, wide, deep = cifar_resnet.resnet20(), cifar_resnet.resnet34(), cifar_resnet.resnet50()
        counts = {}
        for name, model in (("resnet20", thin), ("resnet34", wide), ("resnet50", deep)):
            network = fxsparse.trace(model.eval(), torch.randn(1, 3, 32, 32))
            donors, notes = plan(network.origin.skeleton, 2)
            sizes = [network.origin.skeleton.get_parameter(f"{layer}.weight").numel() for layer in donors]
            counts[name] = (len(donors), sum(sizes))
            assert not notes
    assert counts["resnet20"] == (6, 268_336 - 171_568)
    assert counts["resnet34"] == (16, 21_265_088 - 11_164_352)
    assert counts["resnet50"][0] == 24


def test_stages_by_name_and_how_many_blocks_own() -> None:
    network = fxsparse.trace(cifar_resnet.resnet20().eval(), torch.randn(1, 3, 16, 16))
    assert set(plan(network.origin.skeleton, 1, ("layer3",))[0].items()) == set()  # its first block has another shape
    donors, _ = plan(network.origin.skeleton, 1, ("layer1",))
    assert donors == {f"layer1.{i}.conv{j}": f"layer1.0.conv{j}" for i in (1, 2) for j in (1, 2)}
    _, notes = plan(network.origin.skeleton, 1, ("layer2",))
    assert notes == ["layer2.1 keeps its weights: layer2.0 has other shapes", "layer2.2 keeps its weights: layer2.0 has other shapes"]


def test_refuses_with_a_sentence() -> None:
    network = traced(Net())
    with pytest.raises(PassError, match="own is at least 1"):
        ShareWeights(own=0)(network)
    with pytest.raises(PassError, match="stages: 'stages' fits no module; names look like stem, stage"):
        ShareWeights(stages=("stages",))(network)
    alone = network.shrink({"stage.3.conv1": [0, 2]})
    with pytest.raises(PlanError, match="make the change first, then prune"):
        ShareWeights()(alone)
    assert not ShareWeights(own=4)(network).modified
    again = ShareWeights()(ShareWeights()(network).network)
    assert not again.modified and "stage.2.conv1 keeps its weight: it is computed, or shared already" in again.notes
    assert str(Pipeline.parse("share-weights{own=1,stages=[layer*]}")) == "share-weights{own=1,stages=[layer*]}"


class Padded(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class Branches(nn.Module):
    """Blocks that are alike and run side by side, in front of a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = nn.ModuleList(Block(6) for _ in range(3))
        self.stage = nn.Sequential(Block(6), Block(6), Block(6))
        for block in self.stage:
            block.conv1 = Padded(6, 6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.stage(sum(side(x * (i + 1)) for i, side in enumerate(self.sides))).mean((2, 3))
        return out


def test_branches_side_by_side_are_no_stage() -> None:
    network = fxsparse.trace(Branches().double().eval(), torch.randn(2, 6, 5, 5, dtype=torch.float64))
    result = ShareWeights(own=1)(network)
    assert result.notes[0].startswith("4 convolutions use another's weight")
    assert result.notes[1:] == tuple(f"sides.{i} keeps its weights: it does not run behind sides.{i - 1}" for i in (1, 2))
    assert ShareWeights(own=1, stages=("stage",))(network).notes == result.notes[:1]
    shared = result.network.module
    assert shared.get_parameter("stage.1.conv1.weight") is shared.get_parameter("stage.0.conv1.weight")
    assert shared.get_parameter("sides.1.conv1.weight") is not shared.get_parameter("sides.0.conv1.weight")
    x = torch.randn(1, 6, 4, 4, dtype=torch.float64)
    undone = Pipeline.parse("unshare-weights")(result.network).network
    assert torch.allclose(undone(x), result.network(x))
    before = shared(x)
    with torch.no_grad():
        shared.get_parameter("stage.2.conv1.scale").add_(1.0)
    assert not torch.allclose(shared(x), before), "a function with the module's weight is scaled as well"


def test_what_is_frozen_is_not_shared_with_what_trains() -> None:
    """Else a layer that trains under a mask would become one that does neither."""
    model = Net()
    model.stage.get_submodule("0.conv1").requires_grad_(False)
    result = ShareWeights(own=1)(traced(model))
    assert [name for name, _ in result.network.module.named_parameters() if name.endswith("scale")] == [
        f"stage.{i}.conv2.scale" for i in (1, 2, 3)
    ]
    assert "stage.1.conv1 keeps its weight: of it and that of stage.0.conv1, one is frozen" in result.notes
    everything = model.requires_grad_(False)
    assert (
        len([name for name, _ in ShareWeights(own=1)(traced(everything)).network.module.named_parameters() if name.endswith("scale")]) == 6
    )
