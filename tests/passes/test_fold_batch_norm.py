"""Batch norms that fold, batch norms that stay, and what folding goes together with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxsparse
from fxsparse.passes import Pipeline
from fxsparse.passes.equality import difference
from fxsparse.passes.fold_batch_norm import FoldBatchNorm
from fxsparse.surgery.graphs import graphs
from tests.networks.random_networks import RandomNetwork, networks
from tests.networks.randomise import randomise


class Net(nn.Module):
    """Layers by name, and a forward pass over them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.__dict__["function"] = forward

    def forward(self, x: Tensor) -> Tensor:
        function: Callable[[Any, Tensor], Tensor] = self.__dict__["function"]
        return function(self, x)


def made(module: nn.Module, *shape: int) -> fxsparse.Network:
    return fxsparse.trace(randomise(module.double()), torch.randn(*shape, dtype=torch.float64))


def calls(network: fxsparse.Network) -> list[str]:
    """What the graphs call, in order."""
    return [f"{place.mode} {node.target}" for place in graphs(network.module) for node in place.graph.nodes if node.op.startswith("call")]


FOLDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()), (2, 3, 8, 8)),
    "conv-without-bias": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, groups=2, bias=False), nn.BatchNorm1d(6)), (2, 4, 9)),
    "depthwise": (lambda: nn.Sequential(nn.Conv3d(4, 8, 2, groups=4), nn.BatchNorm3d(8, affine=False)), (2, 4, 4, 4, 4)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, eps=0.1)), (5, 4)),
    "before-conv": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2, bias=False)), (2, 4, 8, 8)),
    "before-reflected": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")), (2, 4, 8, 8)),
    "before-same": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1, padding="same")), (2, 4, 8, 8)),
    "before-linear": (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3)), (5, 4)),
    "two-in-a-row": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), (2, 3, 4, 4)),
    "around": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 3, 6, 6)),
}


@pytest.mark.parametrize("name", FOLDS)
def test_folds_and_computes_the_same(name: str) -> None:
    build, shape = FOLDS[name]
    network = made(build(), *shape)
    result = FoldBatchNorm()(network)
    assert result.modified and all("is folded into" in note for note in result.notes), result.notes
    assert difference(network, result.network) < 1e-13
    assert not [key for key in result.network.module.state_dict() if "running" in key]
    assert not [m for m in result.network.module.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    again = FoldBatchNorm()(result.network)
    assert not again.modified and again.network is result.network


def test_graphs_before_and_after() -> None:
    network = made(FOLDS["conv"][0](), 2, 3, 8, 8)
    assert calls(network) == ["eval 0", "eval 1", "eval 2"]
    result = FoldBatchNorm()(network)
    assert calls(result.network) == ["eval 0", "eval 2"]
    assert list(result.network.module.state_dict()) == ["0.weight", "0.bias"]
    assert result.notes == ("1 is folded into 0",)


class Functional(nn.Module):
    """The code asks for its mode, so that there are two graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.scale, self.shift = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.register_buffer("running_mean", torch.zeros(6))
        self.register_buffer("running_var", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = F.batch_norm(x, self.running_mean, self.running_var, self.scale, self.shift, self.training, 0.1, 1e-3)  # type: ignore[arg-type]
        return F.relu(x)


def test_functional_norms_go_from_both_graphs() -> None:
    network = made(Functional(), 2, 3, 8, 8)
    result = FoldBatchNorm()(network)
    assert len(list(graphs(result.network.module))) == 2
    assert not any("batch_norm" in call for call in calls(result.network))
    assert difference(network, result.network) < 1e-13
    assert set(result.network.module.state_dict()) == {"conv.weight", "conv.bias"}
    result.network.module.train()
    assert torch.isfinite(result.network(torch.randn(2, 3, 8, 8, dtype=torch.float64))).all()


class Padded(nn.Conv2d):
    """Pads by itself, as layers do that keep the size for any stride."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Functions(nn.Module):
    """Layers as functions, with and without biases, in two graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = Padded(3, 6, 2, stride=2, groups=3, bias=False), nn.BatchNorm2d(6)
        self.up, self.norm1 = nn.Parameter(torch.randn(6, 2, 3, 3)), nn.BatchNorm2d(4)
        self.weight, self.norm2 = nn.Parameter(torch.randn(5, 4)), nn.BatchNorm1d(5)
        self.norm3, self.norm4 = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
        self.head, self.shift = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.stem(x)))
        x = self.norm1(F.conv_transpose2d(x, self.up, stride=2, groups=2))
        x = F.dropout(x, 0.5, self.training).mean((2, 3))
        x = torch.tanh(self.norm3(self.norm2(F.linear(x, self.weight))))
        return F.linear(self.norm4(x), self.head, bias=self.shift)


def test_layers_that_are_functions(tmp_path: Path) -> None:
    network = made(Functions(), 4, 3, 9, 9)
    result = FoldBatchNorm()(network)
    into = {"norm0": "stem", "norm1": "up", "norm2": "weight", "norm3": "weight", "norm4": "head"}
    assert set(result.notes) == {f"{norm} is folded into {layer}" for norm, layer in into.items()}
    assert len(list(graphs(result.network.module))) == 2
    assert difference(network, result.network) < 1e-13
    assert set(result.network.module.state_dict()) == {
        *("stem.weight", "stem.bias", "up", "up_bias", "weight", "bias", "head", "shift"),
    }  # fmt: skip
    result.network.module.train()(torch.randn(4, 3, 9, 9, dtype=torch.float64)).sum().backward()
    assert result.network.module.get_parameter("up_bias").grad is not None
    small = result.network.shrink({group.name: group.units[1:] for group in result.network.groups if group.prunable})
    assert fxsparse.verify(result.network, small).max_error < 1e-12
    fxsparse.save(small, tmp_path / "out")
    again = fxsparse.load(tmp_path / "out", Functions().double().eval())
    assert difference(small, again) == 0.0


def test_functions_whose_weight_is_computed_keep_the_norm() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        out: Tensor = net.norm(F.conv2d(x, net.conv.weight * 2))
        return out

    network = made(Net(forward, conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)), 2, 3, 4, 4)
    result = FoldBatchNorm()(network)
    assert not result.modified and result.notes[0].startswith("norm stays: the weight of conv2d is computed in the forward pass")

    def padded(net: Any, x: Tensor) -> Tensor:
        return F.conv2d(net.norm(x), net.conv.weight, padding=1)

    result = FoldBatchNorm()(made(Net(padded, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(3)), 2, 3, 4, 4))
    assert not result.modified and result.notes[0].endswith("and conv pads with zeros, to which the norm's shift would have to be added")


def twice(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    out: Tensor = net.norm(y) + y
    return out


STAYS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "other-reader": (
        lambda: Net(twice, conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)), (2, 3, 4, 4), "its input conv has other readers",
    ),
    "no-layer": (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU()), (2, 3, 4, 4), "is no convolution and no linear layer"),
    "padding": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)), (2, 3, 6, 6), "1 pads with zeros"),
    "same": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding="same")), (2, 3, 6, 6), "1 pads with zeros"),
    "before-transposed": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 3)), (2, 3, 6, 6), "1 is a transposed convolution",
    ),
    "no-statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), (2, 3, 4, 4), "takes those of each batch",
    ),
    "other-axis": (lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(4)), (2, 4, 6), "does not normalise the channels of 0"),
    "parametrized": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)), (2, 3, 4, 4), "parametrized",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_says_why(name: str) -> None:
    build, shape, reason = STAYS[name]
    network = made(build(), *shape)
    result = FoldBatchNorm()(network)
    assert not result.modified and result.network is network
    assert len(result.notes) == 1 and reason in result.notes[0] and " stays: " in result.notes[0]


def test_a_layer_that_is_called_twice_stays() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        out: Tensor = net.conv(net.norm(net.conv(x)))
        return out

    network = made(Net(forward, conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)), 2, 3, 4, 4)
    result = FoldBatchNorm()(network)
    assert not result.modified
    assert result.notes == (
        "norm stays: conv.weight is used by conv_1 in eval mode as well, and conv.weight is used by conv in eval mode as well",
    )


def test_a_norm_whose_input_is_changed_later_stays() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = torch.tanh(x)
        y = net.norm(x)
        x.mul_(2.0)
        out: Tensor = net.conv(y) + x
        return out

    result = FoldBatchNorm()(made(Net(forward, conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)), 2, 3, 4, 4))
    assert not result.modified and result.notes[0].endswith("and its input is changed in place later on")


def test_a_layer_with_a_tied_weight_stays() -> None:
    module = Net(lambda net, x: net.norm(net.a(x)) + net.b(x), a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3))
    module.get_submodule("b").weight = module.get_submodule("a").weight
    result = FoldBatchNorm()(made(module, 2, 3, 4, 4))
    assert result.notes[0].startswith("norm stays: a.weight is tied to another tensor")


def test_a_norm_that_is_watched_stays() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    module[1].register_forward_hook(lambda *args: None)
    assert FoldBatchNorm()(made(module, 2, 3, 4, 4)).notes == ("1 stays: hooks watch it",)


def test_excluded_norms_stay() -> None:
    network = made(FOLDS["around"][0](), 2, 3, 6, 6)
    result = FoldBatchNorm(exclude=("2",))(network)
    assert result.notes == ("0 is folded into 1", "2 stays: '2' excludes it")
    assert str(FoldBatchNorm(exclude=("2",))) == 'fold-batch-norm{exclude=["2"]}'
    assert str(Pipeline.parse('fold-batch-norm{exclude=["2"]}')) == 'fold-batch-norm{exclude=["2"]}'


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.a, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.norm(self.a(x)))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def test_goes_together_with_shrink_regrow_save_and_load(tmp_path: Path) -> None:
    model = randomise(Block().double())
    network = fxsparse.trace(model, torch.randn(2, 3, 8, 8, dtype=torch.float64))
    keep = {"stem.0": [1, 2, 5]}
    one = FoldBatchNorm()(network.shrink(keep)).network
    other = FoldBatchNorm()(network).network.shrink(keep)
    for key, tensor in one.module.state_dict().items():
        torch.testing.assert_close(tensor, other.module.state_dict()[key])
    assert fxsparse.verify(one.regrow(), one).max_error < 1e-12
    assert difference(network, one.regrow()) < 1e-13
    fxsparse.save(one, tmp_path / "out", journal=True)
    again = fxsparse.load(tmp_path / "out", Block().double().eval())
    assert again.edits == ("fold-batch-norm",)
    assert all(torch.equal(again.module.state_dict()[key], tensor) for key, tensor in one.module.state_dict().items())
    assert difference(network, again.regrow()) < 1e-13


def test_input_is_left_alone() -> None:
    model = randomise(Block())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    FoldBatchNorm()(fxsparse.trace(model, torch.randn(2, 3, 8, 8)))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@settings(max_examples=30)
@given(networks(max_ops=10, families=["convolutions", "normalisations", "linears", "joins", "sharing"]), st.integers(0, 1000))
def test_random_networks_compute_the_same(network: RandomNetwork, seed: int) -> None:
    note(repr(network))
    call = network.example_inputs(2, seed, torch.float64)
    model = network.build(seed).double()
    result = FoldBatchNorm()(fxsparse.trace(model, call.args, call.kwargs))
    args, kwargs = network.example_inputs(3, seed + 1, torch.float64)
    with torch.no_grad():
        for a, b in zip(tree_leaves(model(*args, **kwargs)), tree_leaves(result.network(*args, **kwargs)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert len(result.notes) >= sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in result.network.module.modules())


def test_parts_inside_plain_python_fold_though_train_mode_runs_them_as_well() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y: Tensor = net.stem(x)
        result: Tensor = net.stage(y) + y if bool(y.sum() > 0) else net.stage(y)
        return result

    def part(inputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    network = made(Net(forward, stem=part(3), stage=part(4)), 2, 3, 6, 6)
    assert {each.tape.mode for each in network.origin.structure.reading.tapes} == {"eval", "train"}
    result = FoldBatchNorm()(network)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in result.network.module.modules())
    for scale in (1.0, -1.0):
        x = scale * torch.rand(2, 3, 6, 6, dtype=torch.float64)
        torch.testing.assert_close(result.network(x), network(x))
