"""Models whose eval mode is a graph and whose train mode looks at values: layers that are left out at random, masks drawn with numpy."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.passes.insert_dyrelu import InsertDyrelu


class Block(nn.Module):
    """Heads of a written width, as user code has them."""

    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        self.plain = plain
        self.norm, self.make, self.back = nn.BatchNorm1d(8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.plain:
            return x + torch.relu(self.back(self.make(self.norm(x)).relu()))
        heads = self.make(self.norm(x)).view(x.shape[0], 3, 4).relu()
        result: Tensor = x + self.back((heads * heads.softmax(1)).reshape(x.shape[0], 12))
        return result


class Dropping(nn.Module):
    """Leaves layers out at random in train mode."""

    def __init__(self, drop: float = 0.1, plain: bool = False, chance: Callable[[], Any] = lambda: torch.rand([])) -> None:
        super().__init__()
        self.stem, self.head, self.drop, self.chance = nn.Linear(5, 8), nn.Linear(8, 3), drop, chance
        self.layers = nn.ModuleList([Block(plain), Block(plain)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for layer in self.layers:
            if self.training and self.chance() < self.drop:
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


CHANCE: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.rand([]),
    "exponential": lambda: torch.empty([]).exponential_() / 5,
    "random": random.random,
    "numpy": lambda: np.random.uniform(),
}


@pytest.mark.parametrize("name", sorted(CHANCE))
def test_a_dense_network_trains_as_the_model_does(name: str) -> None:
    model = Dropping(drop=0.5, chance=CHANCE[name])
    network = traced(copy.deepcopy(model))
    model.train()
    network.module.train()
    for seed in range(6):
        outputs = []
        for each in (model, network.module):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            outputs.append(each(X))
        assert torch.equal(*outputs)


class Skipping(nn.Module):
    """Without a residual stream: a layer that is skipped gives the next one what it was given itself."""

    def __init__(self, other: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers, self.head, self.other = nn.ModuleList([nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8)]), nn.Linear(8, 3), other

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            if number == 1 and self.training and torch.rand([]) < 0.1:
                x = self.other(x)
                continue
            x = layer(x).relu()
        result: Tensor = self.head(x)
        return result


OTHERWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "skipped": lambda x: x,
    "flipped": lambda x: x.flip(1),
    "shuffled": lambda x: x.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8),
}


@pytest.mark.parametrize("name", sorted(OTHERWISE))
def test_where_the_branch_not_taken_would_couple_channels_nothing_goes(name: str) -> None:
    assert not [group.name for group in traced(Skipping(OTHERWISE[name])).groups if group.prunable]


def test_a_part_without_a_mode_of_its_own_may_be_frozen_in_eval_mode() -> None:
    small = smaller(traced(Dropping(plain=True)))
    small.module.train()
    small.module.get_submodule("layers.0").eval()
    small.module(X).sum().backward()


def test_what_the_code_between_the_parts_has_written_is_held() -> None:
    for cls in (Dropping, Written):
        network = traced(cls())
        assert network.group("layers.0.make").prunable and not network.group("stem").prunable
        assert "may do something else with it another time" in str(network.group("stem").reason)


def test_a_layer_that_was_left_out_when_recorded_is_held_whole() -> None:
    network = traced(Dropping(drop=0.99))
    assert not network.group("layers.0.make").prunable and not network.group("stem").prunable
    assert "no recorded call uses it in train mode" in str(network.group("layers.0.make").reason)


def test_a_pass_that_edits_graphs_takes_train_mode_away_and_says_so() -> None:
    network = traced(Dropping())
    with_dyrelu = InsertDyrelu(beta=0.0)(network).network
    torch.testing.assert_close(with_dyrelu.module(X), network.module(X))
    with_dyrelu.module.train()
    with pytest.raises(fxsparse.TraceError, match="the train mode of Dropping could not be traced"):
        with_dyrelu.module(X)
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
    network = traced(Dropping(plain=True))
    small = network.shrink({"layers.0.make": [0, 1, 2, 3, 4, 9, 11]})
    own = small.as_original()
    assert type(own) is Dropping and type(own.get_submodule("layers.0")) is Block
    torch.testing.assert_close(own.eval()(X), small.module.eval()(X))


class Scaled(Dropping):
    """Gives its parts another number each time, or now and then a mask."""

    def __init__(self, masks: bool) -> None:
        super().__init__(plain=True)
        self.parts, self.masks = nn.ModuleList([Scaling(), Scaling()]), masks

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        for part in self.parts:
            chance = random.random() if self.training else 0.5
            y = (part(y, mask=torch.ones(8)) if chance < 0.4 else part(y)) if self.masks else part(y, chance)
        result: Tensor = self.head(y)
        return result


class Scaling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 9), nn.Linear(9, 8)

    def forward(self, x: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
        y: Tensor = x + self.second(self.first(x).relu()) * scale
        return y if mask is None else y * mask


@pytest.mark.parametrize("masks", [True, False])
def test_parts_that_are_called_in_another_way_each_time_stay_python(masks: bool) -> None:
    small = smaller(traced(Scaled(masks)))
    small.module.train()
    for _ in range(60):
        small.module(X).sum().backward()


class DropPath(Dropping):
    """Its name is that of a module of other libraries, which drops samples and holds nothing."""


class TwoNames(Dropping):
    """A layer that stands in another module as well, which looks after it."""

    def __init__(self) -> None:
        super().__init__()
        self.watch = nn.ModuleDict({"first": self.layers[0]})


def test_a_part_with_two_names_follows() -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(TwoNames().eval(), torch.randn(2, 5))
    group = next(group for group in network.groups if group.name.startswith("layers.0.make") and group.prunable)
    proof = fxsparse.verify(network, network.shrink({group.name: group.units[1:]}))
    assert proof.max_error < 1e-9 < proof.effect


def test_a_name_alone_makes_no_leaf() -> None:
    assert "train mode stays in plain Python" in traced(DropPath()).notes[0]


def test_train_mode_may_be_left_out(tmp_path: Path) -> None:
    model, x = Dropping().eval(), torch.randn(4, 5)
    both, alone = fxsparse.trace(model, x), fxsparse.trace(model, x, train=False)
    assert not both.group("stem").prunable and alone.group("stem").prunable
    assert [each.tape.mode for each in alone.origin.structure.reading.tapes] == ["eval"]
    small = alone.shrink({"stem": [0, 2, 3, 7]})
    assert fxsparse.verify(alone, small).max_error < 1e-9
    with pytest.raises(fxsparse.TraceError, match="train=False"):
        small.module.train()(x)
    small.module.eval()
    fxsparse.save(small, tmp_path)
    again = fxsparse.load(tmp_path, Dropping().eval())
    assert torch.equal(again(x), small(x)) and not again.origin.train


def test_what_does_not_ask_for_its_mode_trains_all_the_same() -> None:
    network = fxsparse.trace(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)), torch.randn(3, 4), train=False)
    assert not network.notes
    network.module.train()(torch.randn(3, 4)).sum().backward()
    assert network.module.get_parameter("0.weight").grad is not None


class AskingTwice(nn.Module):
    """Looks at a value, and joins two layers in train mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out, self.beside = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x).relu(), self.right(x).relu()
        if bool(x.sum() > 1e9):
            a = a * 2
        if self.training:
            a = a + b
        result: Tensor = self.out(a) + self.beside(b)
        return result


def test_plain_python_traced_for_eval_mode_alone_refuses_to_train(tmp_path: Path) -> None:
    model, x = AskingTwice().eval(), torch.randn(2, 4)
    network = fxsparse.trace(model, x, train=False)
    small = network.shrink({"left": [0, 1, 2], "right": [3, 4, 5]})  # which train mode would add
    assert fxsparse.verify(network, small).max_error < 1e-9
    fxsparse.save(small, tmp_path / "small")
    for each in (network, small, small.regrow({"left": [7]}), fxsparse.load(tmp_path / "small", model)):
        assert each(x).shape == (2, 3)
        with pytest.raises(fxsparse.TraceError, match="train=False"):
            each.module.train()(x)
    assert model.train()(x).shape == (2, 3)
