"""Models whose eval mode is a graph and whose train mode looks at values: layers that are left out at random, masks drawn with numpy."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.passes.fold_batch_norm import FoldBatchNorm


class Block(nn.Module):
    """Heads of a written width, as user code has them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.make, self.back = nn.BatchNorm1d(8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.make(self.norm(x)).view(x.shape[0], 3, 4).relu()
        result: Tensor = x + self.back((heads * heads.softmax(1)).reshape(x.shape[0], 12))
        return result


class Dropping(nn.Module):
    """Leaves layers out at random in train mode."""

    def __init__(self, drop: float = 0.1) -> None:
        super().__init__()
        self.stem, self.layers, self.head, self.drop = nn.Linear(5, 8), nn.ModuleList([Block(), Block()]), nn.Linear(8, 3), drop

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for layer in self.layers:
            if self.training and torch.rand([]) < self.drop:
                continue
            y = layer(y)
        result: Tensor = self.head(y)
        return result


class Written(Dropping):
    """The same, with a width that is written into the code between the layers."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = super().forward(x) + self.stem(x).view(-1, 2, 4).sum((1, 2)).unsqueeze(1)
        return result


X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def traced(model: nn.Module) -> fxsparse.Network:
    return fxsparse.trace(model.eval(), X)


def smaller(network: fxsparse.Network) -> fxsparse.Network:
    return network.shrink({group.name: group.units[1:] for group in network.groups if group.prunable and len(group.units) > 1})


def test_eval_is_a_graph_and_train_the_users_code_with_traced_parts() -> None:
    network = traced(Dropping())
    assert [each.tape.mode for each in network.origin.structure.reading.tapes] == ["eval", "train"]
    assert network.origin.islands == ("",)
    assert "train mode stays in plain Python, with 2 traced parts" in network.notes[0]
    assert "__bool__" in network.notes[0]


@pytest.mark.parametrize("cls", [Dropping, Written])
def test_what_is_pruned_trains_and_comes_back(cls: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = traced(cls())
    small = smaller(network)
    assert small.module.get_parameter("layers.0.make.weight").shape[0] < 12
    fxsparse.verify(network, small)
    back = small.regrow()
    assert all(torch.equal(a, b) for a, b in zip(back.module.state_dict().values(), network.module.state_dict().values(), strict=True))
    small.module.train()
    for _ in range(20):  # with and without each layer
        small.module(X).square().mean().backward()
    assert all(parameter.grad is not None for parameter in small.module.parameters())


def test_a_dense_network_trains_as_the_model_does() -> None:
    model = Dropping()
    network = traced(copy.deepcopy(model))
    model.train()
    network.module.train()
    for seed in range(6):
        outputs = []
        for each in (model, network.module):
            torch.manual_seed(seed)
            outputs.append(each(X))
        assert torch.equal(*outputs)


def test_what_the_code_between_the_parts_has_written_is_held() -> None:
    assert traced(Dropping()).group("stem").prunable
    assert traced(Written()).group("layers.0.make").prunable and not traced(Written()).group("stem").prunable


def test_a_layer_that_was_left_out_when_recorded_is_held_whole() -> None:
    network = traced(Dropping(drop=0.99))
    assert not network.group("layers.0.make").prunable and not network.group("stem").prunable
    assert "no recorded call uses it in train mode" in str(network.group("layers.0.make").reason)


def test_a_part_alone_refuses_eval_mode() -> None:
    network = traced(Dropping())
    network.module.eval()
    with pytest.raises(fxsparse.TraceError, match="this Block was traced for train mode alone; call the whole network"):
        network.module.get_submodule("layers.0")(torch.randn(2, 8))


def test_a_pass_that_edits_graphs_takes_train_mode_away_and_says_so() -> None:
    network = traced(Dropping())
    folded = FoldBatchNorm()(network).network
    torch.testing.assert_close(folded.module(X), network.module(X))
    folded.module.train()
    with pytest.raises(fxsparse.TraceError, match="the train mode of Dropping could not be traced"):
        folded.module(X)
    network.module.train()
    network.module(X)  # the one it came from still does


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Dropping()
    small = smaller(traced(model))
    fxsparse.save(small, tmp_path / "saved")
    loaded = fxsparse.load(tmp_path / "saved", Dropping().eval())
    torch.testing.assert_close(loaded.module.eval()(X), small.module.eval()(X))
    loaded.module.train()(X).sum().backward()


def test_it_becomes_the_users_own_class_again() -> None:
    network = traced(Dropping())
    small = network.shrink({"stem": network.group("stem").units[1:]})
    own = small.as_original()
    assert type(own) is Dropping and type(own.get_submodule("layers.0")) is Block
    torch.testing.assert_close(own.eval()(X), small.module.eval()(X))
