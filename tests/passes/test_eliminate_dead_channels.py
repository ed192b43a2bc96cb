"""Dead channels: found, folded exactly, or left with the reason; the function of the masked network stays."""

from __future__ import annotations

import copy
import os
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
from fxsparse import PassError, VerificationError
from fxsparse.passes import Pipeline, eliminate_dead_channels
from fxsparse.passes.constants import layers
from fxsparse.passes.dead import analysis
from fxsparse.passes.eliminate_dead_channels import EliminateDeadChannels
from fxsparse.passes.equality import difference
from fxsparse.passes.mask import Mask
from fxsparse.surgery.graphs import graphs
from tests.networks.random_networks import RandomNetwork, networks
from tests.networks.randomise import randomise
from tests.passes.silence import silence

NIGHTLY = os.environ.get("FXSPARSE_HYPOTHESIS") == "nightly"


def traced(model: nn.Module, *shape: int) -> fxsparse.Network:
    return fxsparse.trace(model, torch.randn(*shape, dtype=torch.float64))


def prepared(model: nn.Module, **zeros: list[int]) -> nn.Module:
    """Random values; of each named module the given outputs have no weights left."""
    randomise(model.double())
    with torch.no_grad():
        for name, rows in zeros.items():
            weight = model.get_parameter(f"{name}.weight")
            weight[rows] = 0
    return model


def convolutions(padding: int = 0, act: Callable[[], nn.Module] = nn.ReLU, bias: bool = True, **options: Any) -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("a", nn.Conv2d(3, 6, 3, padding=1))
    model.add_module("norm", nn.BatchNorm2d(6))
    model.add_module("act", act())
    model.add_module("b", nn.Conv2d(6, 4, 3, padding=padding, bias=bias, **options))
    model.add_module("head", nn.Conv2d(4, 2, 1))
    return model


def units(result: Any, name: str) -> tuple[int, ...]:
    found: tuple[int, ...] = result.network.group(name).units
    return found


def assert_same(network: fxsparse.Network, other: fxsparse.Network, *shape: int) -> None:
    """On other inputs, another batch and other image sizes than those that were traced."""
    with torch.no_grad():
        for batch in (1, 3):
            x = torch.randn(batch, *shape, dtype=torch.float64)
            torch.testing.assert_close(network(x), other(x), rtol=1e-11, atol=1e-11)


# ---- by hand ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [nn.ReLU, nn.Sigmoid, nn.Hardswish, nn.GELU, nn.PReLU])
@pytest.mark.parametrize("bias", [True, False])
def test_a_constant_goes_into_the_next_bias(act: Callable[[], nn.Module], bias: bool) -> None:
    model = prepared(convolutions(act=act, bias=bias), a=[1, 4])
    with torch.no_grad():
        model.get_parameter("norm.bias").fill_(3.0)
    network = traced(model, 2, 3, 9, 9)
    result = EliminateDeadChannels()(network)
    assert units(result, "a") == (0, 2, 3, 5)
    assert "a: 2 of 6 units were dead and are gone" in result.notes
    assert "constants went into b.bias" in result.notes
    assert_same(network, result.network, 3, 11, 8)
    assert result.network.edits == (() if bias else ("add-bias{modules=[b]}",))


def test_graphs_before_and_after() -> None:
    network = traced(prepared(convolutions(bias=False), a=[1, 4]), 2, 3, 9, 9)
    with torch.no_grad():
        network.module.get_parameter("norm.bias").fill_(0.5)
    result = EliminateDeadChannels()(network)
    before, after = network.module.state_dict(), result.network.module.state_dict()
    assert set(after) - set(before) == {"b.bias"}
    assert {key: tuple(t.shape) for key, t in after.items() if t.dim() > 1} == {
        "a.weight": (4, 3, 3, 3), "b.weight": (4, 4, 3, 3), "head.weight": (2, 4, 1, 1),
    }  # fmt: skip
    code = [str(node.target) for place in graphs(result.network.module) for node in place.graph.nodes if node.op == "call_module"]
    assert code == ["a", "norm", "act", "b", "head"]


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding_mode": "reflect", "padding": 1}])
def test_strides_groups_and_paddings_that_are_no_zeros(options: dict[str, Any]) -> None:
    network = traced(prepared(convolutions(act=nn.Sigmoid, **options), a=[1, 4]), 2, 3, 9, 9)
    result = EliminateDeadChannels()(network)
    assert result.network.parameter_count < network.parameter_count or options == {"groups": 2}
    assert_same(network, result.network, 3, 9, 12)


def test_padding_with_zeros_leaves_other_constants_alone() -> None:
    model = prepared(convolutions(padding=1), a=[0, 1, 2])
    with torch.no_grad():
        model.get_parameter("norm.bias").copy_(torch.tensor([-1.0, 1.0, -2.0, 0.1, 0.1, 0.1]))
        model.get_parameter("a.bias").zero_()
        model.get_submodule("norm").running_mean.zero_()  # type: ignore[operator]
    network = traced(model, 2, 3, 9, 9)
    result = EliminateDeadChannels()(network)
    assert units(result, "a") == (1, 3, 4, 5)  # ReLU makes zeros of the two negative ones
    assert result.notes[-1] == "a: 1 units are constant and stay: b pads with zeros, and its constant is not zero"
    assert_same(network, result.network, 3, 7, 7)


class Branches(nn.Module):
    """Two convolutions that pad, behind other functions of the same channels, and one that does not."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b, self.c, self.d = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 4, 5, padding=2, stride=2), nn.Conv2d(6, 4, 2)
        self.tied = tied

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.a(x)
        c = F.conv2d(F.relu(x - 1), self.c.weight, stride=2) if self.tied else self.d(F.softplus(x))
        return [self.b(torch.sigmoid(x)), self.c(torch.tanh(x)), c]


def test_in_front_of_pads_one_constant_carries_the_others() -> None:
    model = prepared(Branches(), a=[0, 2, 3, 5])
    with torch.no_grad():
        model.get_parameter("a.bias").copy_(torch.tensor([0.4, 0.1, -0.9, 0.0, 0.2, 0.3]))
    network = Mask(sparsity=0.5, include=("b", "c"))(traced(model, 2, 3, 9, 9)).network
    result = EliminateDeadChannels()(network)
    assert units(result, "a") == (0, 1, 4)
    assert "a: unit 0 carries the constants of 3 others, as there are pads" in result.notes
    for size in (6, 11):
        x = torch.randn(2, 3, size, size, dtype=torch.float64)
        for one, other in zip(network(x), result.network(x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    for key, mask in result.network.masks.items():
        assert not result.network.module.get_parameter(key)[~mask].any()
    assert difference(network, result.network.regrow()) < 1e-12


def test_constants_do_not_move_where_the_weight_has_other_uses() -> None:
    result = EliminateDeadChannels()(traced(prepared(Branches(tied=True), a=[0, 2, 3, 5]), 2, 3, 9, 9))
    assert not result.modified
    assert result.notes[-1] == "a: 4 units are constant and stay: b pads with zeros, and its constant is not zero"


def test_nobody_listens() -> None:
    model = prepared(convolutions(padding=1))
    with torch.no_grad():
        model.get_parameter("b.weight")[:, [2, 3]] = 0
    network = traced(model, 2, 3, 9, 9)
    result = EliminateDeadChannels()(network)
    assert units(result, "a") == (0, 1, 4, 5)
    assert_same(network, result.network, 3, 7, 7)
    assert all(torch.equal(t, network.module.state_dict()[key]) for key, t in result.network.regrow().module.state_dict().items())


def test_what_has_gone_silences_others() -> None:
    """Back to front, nobody listens; front to back, nothing comes."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    randomise(model.double())
    with torch.no_grad():
        model.get_parameter("6.weight")[:, 0] = 0
        model.get_parameter("4.weight")[1:, 1] = 0  # only unit 0 of layer 4 listens to unit 1 of layer 2
        model.get_parameter("0.weight")[3] = 0
        model.get_parameter("2.weight")[4] = 0
        model.get_parameter("2.weight")[4, 3] = 1.0  # only what is constant itself makes unit 4 of layer 2
    network = traced(model, 2, 4)
    result = EliminateDeadChannels()(network)
    assert (units(result, "0"), units(result, "2"), units(result, "4")) == ((0, 1, 2, 4, 5), (0, 2, 3, 5), (1, 2, 3, 4, 5))
    assert_same(network, result.network, 4)
    assert not EliminateDeadChannels()(result.network).modified


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a, self.b = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.Conv2d(5, 6, 3, padding=1, bias=False)
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.b(F.relu(self.a(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def test_a_unit_of_a_residual_stream_is_dead_only_when_all_its_producers_are() -> None:
    network = traced(prepared(Residual(), stem=[1], b=[2]), 2, 3, 6, 6)
    assert not EliminateDeadChannels()(network).modified
    model = prepared(Residual(), stem=[1, 2], b=[1, 2])
    with torch.no_grad():
        model.get_parameter("stem.bias")[1:3] = torch.tensor([0.0, 0.7])
    network = traced(model, 2, 3, 6, 6)
    result = EliminateDeadChannels()(network)
    assert units(result, "stem") == (0, 2, 3, 4, 5)
    assert result.notes[-1] == "stem: 1 units are constant and stay: a pads with zeros, and its constant is not zero"
    with torch.no_grad():
        network.module.get_parameter("a.weight")[:, 2] = 0
    result = EliminateDeadChannels()(network)
    assert units(result, "stem") == (0, 3, 4, 5) and "constants went into head.bias" in result.notes
    assert_same(network, result.network, 3, 5, 9)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return out


def test_a_transformer_loses_hidden_units_and_keeps_what_norms_look_at() -> None:
    model = prepared(Attention(), up=[0, 5, 7])
    network = traced(model, 2, 5, 8)
    result = EliminateDeadChannels()(network)
    assert len(units(result, "up")) == 9
    assert_same(network, result.network, 4, 8)

    class Normed(nn.Sequential):
        pass

    stream = prepared(Normed(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)))
    with torch.no_grad():
        stream.get_parameter("0.weight")[2] = 0
    result = EliminateDeadChannels()(traced(stream, 2, 4))
    assert not result.modified
    assert result.notes == ("0: 1 units are constant and stay: a norm takes its statistics over it",)


def test_a_grouped_kernel_that_is_computed_is_understood() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 3, groups=2))
    model = prepared(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), normed, nn.Conv2d(4, 2, 1)), **{"0": [1, 4]})
    network = traced(model, 2, 3, 9, 9)
    assert_same(network, EliminateDeadChannels()(network).network, 3, 9, 9)


class MeanSquare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3)


def test_a_norm_that_is_written_out_keeps_what_it_counts() -> None:
    stream = prepared(nn.Sequential(nn.Linear(4, 6, bias=False), MeanSquare(), nn.Linear(6, 3)), **{"0": [2]})
    result = EliminateDeadChannels()(traced(stream, 2, 4))
    assert not result.modified
    assert result.notes == ("0: 1 units are constant and stay: a norm takes its statistics over it",)


def test_a_weight_that_is_normalised_keeps_what_it_counts() -> None:
    model = prepared(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 2, 1)), **{"0": [1, 4]})
    with torch.no_grad():
        model.get_parameter("0.bias")[[1, 4]] = -1
    plain = EliminateDeadChannels()(traced(copy.deepcopy(model), 2, 3, 9, 9))
    assert len(units(plain, "0")) == 4
    nn.utils.parametrizations.weight_norm(model.get_submodule("2"))
    result = EliminateDeadChannels()(traced(model, 2, 3, 9, 9))
    assert not result.modified
    assert result.notes == ("0: 2 units are constant and stay: the weight of 2 is normalised over it",)


def grouped(groups: int, dead: list[int], bias: bool = True) -> fxsparse.Network:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(groups, 6), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=bias), nn.Conv2d(4, 2, 1))
    randomise(model.double())
    with torch.no_grad():
        model.get_parameter("0.weight")[dead] = 0
        model.get_parameter("1.bias").fill_(2.0)
    return traced(model, 2, 3, 9, 9)


@pytest.mark.parametrize("groups", [3, 6])
@pytest.mark.parametrize("bias", [True, False])
def test_whole_groups_of_a_group_norm_go(groups: int, bias: bool) -> None:
    network = grouped(groups, [2, 3], bias)
    result = EliminateDeadChannels()(network)
    assert result.network.module.get_submodule("1").num_groups == groups - 2 * groups // 6
    assert result.network.module.get_parameter("0.weight").shape[0] == 4
    assert "constants went into 3.bias" in result.notes
    assert_same(network, result.network, 3, 7, 8)
    assert fxsparse.verify(result.network.regrow(), result.network).max_error < 1e-12


def test_a_group_of_a_group_norm_to_which_nobody_listens_goes() -> None:
    network = grouped(3, [])
    with torch.no_grad():
        network.module.get_parameter("3.weight")[:, 4:] = 0
    result = EliminateDeadChannels()(network)
    assert units(result, "0/groups") == (0, 1) and units(result, "0/group_channels") == (0, 1)
    assert_same(network, result.network, 3, 7, 8)


@pytest.mark.parametrize(
    ("groups", "dead", "said"),
    [
        (1, [2, 3], "0/group_channels: 2 units are constant and stay: a norm takes its statistics over it"),
        (3, [0, 2, 4], "0/group_channels: 1 units are constant and stay: a norm takes its statistics over it"),
        (3, [3], "0/group_channels: 1 units are constant and stay: a norm takes its statistics over it, and only in some groups is it"),
    ],
)
def test_channels_do_not_leave_a_group_that_is_normalised(groups: int, dead: list[int], said: str) -> None:
    result = EliminateDeadChannels()(grouped(groups, dead))
    assert not result.modified
    assert result.notes[0].startswith(said)


def test_an_instance_norm_keeps_what_is_in_front_of_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.ReLU(), nn.Conv2d(6, 4, 3))
    randomise(model.double())
    with torch.no_grad():
        model.get_parameter("0.weight")[[1, 4]] = 0
    result = EliminateDeadChannels()(traced(model, 2, 3, 9, 9))
    assert result.notes == ("0: 2 units are constant and stay: the norm behind it takes the statistics of each input",)
    with torch.no_grad():
        model.get_parameter("3.weight")[:, [1, 4]] = 0
    network = traced(model, 2, 3, 9, 9)
    result = EliminateDeadChannels()(network)
    assert units(result, "0") == (0, 2, 3, 5)
    assert_same(network, result.network, 3, 7, 8)


def test_a_dead_group_keeps_one_unit() -> None:
    network = traced(prepared(convolutions(), a=[0, 1, 2, 3, 4, 5]), 2, 3, 9, 9)
    result = EliminateDeadChannels()(network)
    assert units(result, "a") == (0,)
    assert "a: a dead unit stays, as the group would be left without any" in result.notes
    assert_same(network, result.network, 3, 8, 8)


def test_a_layer_that_is_called_twice_takes_one_constant() -> None:
    class Twice(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
            self.shift = shift

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            out: Tensor = self.head(self.b(torch.sigmoid(x)) + self.b(torch.sigmoid(x + self.shift)))
            return out

    same = EliminateDeadChannels()(traced(prepared(Twice(0.0), a=[1]), 2, 4))
    assert same.modified and units(same, "a") == (0, 2, 3, 4)
    other = EliminateDeadChannels()(traced(prepared(Twice(1.0), a=[1]), 2, 4))
    assert not other.modified
    assert other.notes == ("a: 1 units are constant and stay: b is called several times, with other constants",)


def test_a_bias_that_is_not_the_layers_own_stays() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(torch.sigmoid(self.a(x))) * self.b.bias
            return out

    result = EliminateDeadChannels()(traced(prepared(Shared(), a=[1]), 2, 4))
    assert result.notes == ("a: 1 units are constant and stay: the bias of b is not its own",)


@pytest.mark.parametrize("bias", [0.0, 0.4])
def test_a_norm_along_the_channels_misses_only_zeros(bias: float) -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            out: Tensor = self.b(x) / x.norm(dim=1, keepdim=True)
            return out

    model = prepared(Normalised(), a=[1, 4])
    with torch.no_grad():
        model.get_parameter("a.bias")[[1, 4]] = bias
    network = traced(model, 2, 4)
    result = EliminateDeadChannels()(network)
    if bias:
        assert result.notes == ("a: 2 units are constant and stay: a sum over channels would miss it",)
    else:
        assert units(result, "a") == (0, 2, 3, 5)
    assert_same(network, result.network, 4)


def test_numbers_from_sizes_are_no_constants() -> None:
    """Traced on one image size, the constant would be another one on the next."""

    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x) * x.shape[2])
            return out

    network = traced(prepared(Sized(), a=[1]), 2, 3, 4, 4)
    assert not EliminateDeadChannels()(network).modified


def test_in_place_changes_of_views_are_seen() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y[:, :3].mul_(x[:, :3].sum(1, keepdim=True)).add_(x[:, :1])
            out: Tensor = self.b(y)
            return out

    network = traced(prepared(Written(), a=[1, 4]), 2, 4)
    result = EliminateDeadChannels()(network)
    assert_same(network, result.network, 4)
    assert 1 in units(result, "a") if any(group.name == "a" for group in result.network.groups) else not result.modified


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrower_numbers(dtype: torch.dtype) -> None:
    model = prepared(convolutions(act=nn.Sigmoid, bias=False), a=[1, 4]).to(dtype)
    network = fxsparse.trace(model, torch.randn(2, 3, 9, 9, dtype=dtype))
    result = EliminateDeadChannels()(network)
    assert units(result, "a") == (0, 2, 3, 5)
    assert {p.dtype for p in result.network.module.parameters()} == {dtype}
    assert difference(network, result.network) < (1e-6 if dtype == torch.float32 else 0.05)


def test_weights_must_be_there() -> None:
    with torch.device("meta"):
        model = convolutions()
    with pytest.raises(PassError, match=r"and a\.weight has no values"):
        EliminateDeadChannels()(fxsparse.trace(model, torch.randn(2, 3, 9, 9)))


def test_excluded_groups_stay() -> None:
    network = traced(prepared(convolutions(), a=[1]), 2, 3, 9, 9)
    assert not EliminateDeadChannels(exclude=("a*",))(network).modified
    text = "mask{sparsity=0.98},apply-masks,eliminate-dead-channels{exclude=[head]}"
    assert str(Pipeline.parse(text)) == text


# ---- together with others -----------------------------------------------------------------------------------------------------------


def test_goes_together_with_masks_shrink_regrow_save_and_load(tmp_path: Path) -> None:
    model = prepared(convolutions(bias=False, act=nn.Sigmoid), a=[0])
    network = Mask(sparsity=0.4, exclude=("head",))(traced(model, 2, 3, 9, 9)).network.shrink({"b": [0, 2, 3]})
    result = EliminateDeadChannels()(network)
    small = result.network
    assert result.modified and 0 not in units(result, "a")
    assert all(mask.shape == small.module.get_parameter(key).shape for key, mask in small.masks.items())
    assert fxsparse.verify(small.regrow(), small).max_error < 1e-12
    regrown = small.regrow({"a": [0]})
    assert difference(network, regrown) < 1e-12, "what is grown back says nothing"
    fxsparse.save(small, tmp_path / "out", journal=True)
    again = fxsparse.load(tmp_path / "out", convolutions(bias=False, act=nn.Sigmoid).double().eval())
    assert again.edits == ("add-bias{modules=[b]}",)
    assert difference(small, again) == 0.0
    assert again.masks.keys() == small.masks.keys()


# ---- over random networks -----------------------------------------------------------------------------------------------------------


def check(network: RandomNetwork, seed: int) -> bool:
    """Eliminates, and compares with the masked network on inputs that the pass has not seen; whether something went."""
    call = network.example_inputs(2, seed, torch.float64)
    model = silence(network.build(seed).double(), seed)
    before = fxsparse.trace(model, call.args, call.kwargs)
    result = EliminateDeadChannels()(before)
    assert result.modified == (result.network.living != before.living)
    for other in range(2):
        args, kwargs = network.example_inputs(2, seed + 1 + other, torch.float64)
        with torch.no_grad():
            expected = [leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor)]
            for each in (result.network, result.network.regrow()):
                got = [leaf for leaf in tree_leaves(each(*args, **kwargs)) if isinstance(leaf, Tensor)]
                for a, b in zip(expected, got, strict=True):
                    torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10, equal_nan=True)
    return result.modified


@settings(max_examples=5_000 if NIGHTLY else 25)
@given(networks(max_ops=30 if NIGHTLY else 10), st.integers(0, 1000))
def test_random_networks_compute_what_the_masked_ones_do(network: RandomNetwork, seed: int) -> None:
    note(repr(network))
    check(network, seed)


@settings(max_examples=2_000 if NIGHTLY else 15)
@given(networks(max_ops=12, families=["convolutions", "normalisations", "activations", "joins", "resizing"]), st.integers(0, 1000))
def test_random_convolutions_with_any_padding_and_stride(network: RandomNetwork, seed: int) -> None:
    note(repr(network))
    check(network, seed)


def test_the_check_sees_a_wrong_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if pads were no zeros: the border would be wrong, and the pass says so instead of returning it."""
    right = layers.channel_constants

    def wrong(step: Any) -> Any:
        found = right(step)
        return None if found is None else (found[0], found[1], found[1])

    monkeypatch.setattr(analysis, "channel_constants", wrong)
    network = traced(prepared(convolutions(padding=1, act=nn.Sigmoid), a=[1]), 2, 3, 9, 9)
    with pytest.raises(VerificationError, match="changed the network's outputs by"):
        EliminateDeadChannels()(network)
    monkeypatch.setattr(eliminate_dead_channels, "require_same_function", lambda *given: None)
    result = EliminateDeadChannels()(network)
    assert difference(network, result.network) > 1e-3


def test_with_align_widths_stay_multiples_and_the_function_stays() -> None:
    model = prepared(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), **{"0": [1, 2, 3, 7, 9]})
    network = traced(model, 2, 4)
    assert len(EliminateDeadChannels()(network).network.living["0"]) == 11
    result = EliminateDeadChannels(align=4)(network)
    assert len(result.network.living["0"]) == 12
    assert {0, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15} < set(result.network.living["0"])
    assert "4 of 16" in " ".join(result.notes)
    assert len(EliminateDeadChannels(align=16)(network).network.living["0"]) == 16


def test_align_is_at_least_one() -> None:
    with pytest.raises(PassError, match="at least 1"):
        EliminateDeadChannels(align=0)
