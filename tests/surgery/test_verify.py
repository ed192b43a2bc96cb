"""Negative controls: break something on purpose, and see that it is noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.axes.factors import Algebra, Axis
from fxsparse.axes.site import Site
from fxsparse.surgery import verify
from tests import cases


def shrunk(case: type[torch.nn.Module], shape: tuple[int, ...], plan: dict[str, Any]) -> tuple[fxsparse.Network, fxsparse.Network]:
    network = fxsparse.trace(case().eval(), torch.randn(*shape))
    return network, network.shrink(plan)


def test_a_wrong_index_list_is_seen() -> None:
    network, small = shrunk(cases.Chain, (2, 3, 8, 8), {"0": [0, 2, 5]})
    assert fxsparse.verify(network, small).max_error < 1e-12
    weight = small.module.get_parameter("3.weight")
    with torch.no_grad():
        weight.copy_(network.module.get_parameter("3.weight")[:, [0, 3, 5]])
    wrong = network.module.get_parameter("3.weight")[:, [0, 2, 5]]
    assert not torch.equal(weight, wrong)


def test_a_wrong_rule_for_cat_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Algebra.concatenate

    def reversed_cat(self: Algebra, axes: list[Axis]) -> Axis:
        return right(self, axes[::-1])

    monkeypatch.setattr(Algebra, "concatenate", reversed_cat)
    with pytest.raises((fxsparse.VerificationError, fxsparse.PlanError)):
        fxsparse.verify(*shrunk(cases.Concatenate, (2, 3, 8, 8), {"a": [0, 3], "b": [1, 2]}))


def test_an_add_that_does_not_unify_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(site: Site) -> None:
        site.give(site.axes(site.tensors[0]))

    fxsparse.register_rule("aten::add", careless)
    try:
        network = fxsparse.trace(cases.Residual().eval(), torch.randn(2, 3, 8, 8))
        assert len([g for g in network.groups if g.prunable and len(g.units) == 8]) == 2
        plan = {g.name: [0, 1, 2] if i else [3, 4, 5] for i, g in enumerate(g for g in network.groups if g.prunable and len(g.units) == 8)}
        with pytest.raises((fxsparse.VerificationError, fxsparse.PlanError)):
            fxsparse.verify(network, network.shrink(plan))
    finally:
        fxsparse.unregister_rule("aten::add")


def test_wrong_order_of_kept_coordinates_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxsparse.axes.predict import Prediction

    right = Prediction.positions
    monkeypatch.setattr(Prediction, "positions", lambda self, before, after: right(self, before, after)[::-1].copy())
    with pytest.raises(fxsparse.VerificationError, match="differs from the reference"):
        fxsparse.verify(*shrunk(cases.ViewShuffle, (2, 8, 6, 6), {"a": [0, 1, 2, 5, 7]}))


def test_a_softmax_that_is_taken_for_pointwise_is_seen() -> None:
    def careless(site: Site) -> None:
        site.give(site.axes("self"))

    fxsparse.register_rule("aten::cumsum", careless)
    try:
        network = fxsparse.trace(cases.AlongChannels().eval(), torch.randn(2, 6))
        assert not network.group("layers.0").prunable  # the other operators still hold it
    finally:
        fxsparse.unregister_rule("aten::cumsum")


def test_nan_weights_are_reported() -> None:
    """The proof is of the structure, with random values: NaN in the model's own weights does not disturb it."""
    model = cases.Chain().eval()
    with torch.no_grad():
        model.get_parameter("0.weight").fill_(float("nan"))
    network = fxsparse.trace(model, torch.randn(2, 3, 8, 8))
    small = network.shrink({"0": [0, 2]})
    assert fxsparse.verify(network, small).max_error < 1e-12
    assert bool(small.regrow().module.get_parameter("0.weight").isnan().all())


def test_order_and_origin_are_checked() -> None:
    network, small = shrunk(cases.Chain, (2, 3, 8, 8), {"0": [0, 2, 5]})
    with pytest.raises(fxsparse.PlanError, match="give the wider one first"):
        fxsparse.verify(small, network)
    other, _ = shrunk(cases.Chain, (2, 3, 8, 8), {})
    with pytest.raises(fxsparse.PlanError, match="one trace"):
        fxsparse.verify(other, small)
    narrower = small.shrink({"0": [2]})
    assert fxsparse.verify(small, narrower).removed == 2
    assert fxsparse.verify(network, network).removed == 0


class Chaotic(nn.Module):
    """With the first random weights that the proof draws, a sine of large numbers: rounding alone makes others of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(40)))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.sin(self.layers(x) * 1e8))
        return out


def test_a_calmer_network_is_drawn_where_rounding_drowns_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    network = fxsparse.trace(Chaotic(), torch.randn(2, 6))
    small = network.shrink({group.name: group.units[1:] for group in network.groups if group.prunable})
    proofs = [fxsparse.verify(network, small, seed=seed) for seed in range(3)]
    assert all(proof.effect > 1e-3 for proof in proofs)
    with monkeypatch.context() as patch:
        right = verify._cut
        patch.setattr(verify, "_cut", lambda *given: right(*given) | {"head.weight": right(*given)["head.weight"] * 1.01})
        with pytest.raises(fxsparse.VerificationError, match="differs from the reference"):
            fxsparse.verify(network, small)
    monkeypatch.setattr(verify, "GAINS", (1.25,))
    with pytest.raises(fxsparse.VerificationError, match="differs from the reference"):
        fxsparse.verify(network, small)


def test_networks_that_both_gather_are_compared() -> None:
    """Each has its own indices for what a shuffle has become."""
    network = fxsparse.trace(cases.ViewShuffle().eval(), torch.randn(2, 8, 6, 6))
    names = {group.name: group.units for group in network.groups if group.prunable and len(group.units) > 3}
    wide = network.shrink({name: units[1:] for name, units in names.items()})
    narrow = wide.shrink({name: units[3:] for name, units in names.items()})
    assert any("_gather_" in name for name, _ in wide.module.named_buffers())
    assert fxsparse.verify(wide, narrow).max_error < 1e-12
    assert fxsparse.verify(network, narrow).max_error < 1e-12


def each_unit_may_go(network: fxsparse.Network) -> None:
    for group in network.groups:
        for unit in group.units if group.prunable else ():
            small = network.shrink({group.name: [other for other in group.units if other != unit]})
            assert fxsparse.verify(network, small).max_error < 1e-12


def test_a_norm_counts_its_padding() -> None:
    """Padded channels meet made ones, and a norm over the padding alone would count fewer zeros without them."""

    class Padded(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.first, self.second, self.norm, self.last = nn.Linear(3, 8), nn.Linear(8, 12), norm, nn.Linear(12, 6)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.first(x)
            padded = torch.nn.functional.pad(y, (2, 2))
            return self.last(self.second(y) + padded) + self.last(self.norm(padded))

    for norm in (nn.LayerNorm(12), nn.GroupNorm(1, 12), nn.GroupNorm(2, 12)):
        network = fxsparse.trace(Padded(norm).eval(), torch.randn(4, 3))
        assert any("norm counts it, and no weight makes it" in group.reason for group in network.groups)
        each_unit_may_go(network)


def test_a_norm_counts_copies_that_were_merged() -> None:
    """Two copies of each input, in one axis, and joined with made channels."""

    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(3, 4), nn.LayerNorm(8), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> Any:
            twice = x[:, :, None].expand(-1, -1, 2).flatten(1)
            return self.last(self.norm(torch.cat([self.first(x), twice[:, :4]], 1)))

    network = fxsparse.trace(Merged().eval(), torch.randn(4, 3))
    assert network.group("first").prunable
    each_unit_may_go(network)


def test_a_sum_counts_copies() -> None:
    """Channels of the input, each twice, are multiplied with one another: no weight makes a copy, and without one the sum is another."""

    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Any:
            y = x.repeat_interleave(2, dim=1).flatten(2)
            return self.last((torch.tanh(y @ y.transpose(1, 2)) @ torch.tanh(y)).mean(2))

    network = fxsparse.trace(Copies().eval(), torch.randn(2, 3, 4, 4))
    assert not [group for group in network.groups if group.prunable]


@pytest.mark.parametrize("again", [lambda y: [y, 2 * y, -y], lambda y: [y, y], lambda y: [y, y.relu()]], ids=["three", "two", "crelu"])
def test_a_shuffle_of_channels_that_are_there_several_times(again: Any) -> None:
    """Copies of a channel live and die together, but they are not the same numbers: each must go where the shuffle brings it."""

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)
            self.last = nn.Linear(len(again(torch.zeros(1))) * 4, 5)

        def forward(self, x: Tensor) -> Any:
            y = torch.cat(again(self.first(x)), 1)
            b, c, h, w = y.shape
            return self.last(y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w).mean((2, 3)))

    network = fxsparse.trace(Shuffled().eval(), torch.randn(2, 3, 4, 4))
    each_unit_may_go(network)


def test_a_norm_counts_padding_beside_a_token() -> None:
    """The token is made by a weight, the places beside it are padding: a norm counts them all."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.scale = nn.Parameter(torch.randn(1, 1, 5)), nn.Parameter(torch.randn(5))
            self.other, self.last = nn.Linear(5, 3), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.nn.functional.pad(x, (2, 2))
            y = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
            normed = torch.nn.functional.rms_norm(y, (5,), self.scale, eps=1e-5)
            out: Tensor = torch.cat([self.last(normed).mean(1), self.other(x).mean(1)], 1)
            return out

    network = fxsparse.trace(Padded().eval(), torch.randn(2, 3, 1))
    each_unit_may_go(network)


def test_a_part_may_be_called_more_often_when_units_are_gone() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 1)
            self.part = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            chosen = self.b(self.a(x).relu())[:, 0] > 0
            for row in chosen.nonzero().tolist():
                x = self.part(x) + row[0]
            return x

    network = fxsparse.trace(Routed().eval(), torch.randn(40, 4))
    proofs = [fxsparse.verify(network, network.shrink({"a": [0, 2, 3]}), seed=seed) for seed in range(3)]
    assert all(proof.max_error <= 1e-9 for proof in proofs)
