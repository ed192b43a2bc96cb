"""The channel form: physically small in exploitation, whole in exploration, nothing lost between the two."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse
from fxsparse.errors import BudgetError, CheckpointError, Error
from fxsparse.models.cifar_resnet import BasicBlock, CifarResNet
from fxsparse.network import Network
from fxsparse.sparsity.chance import generator
from fxsparse.surgery.journal import take
from fxsparse.training.checkpoint import load_checkpoint, save_checkpoint
from fxsparse.training.iee.channels import ExploitExploreChannels
from fxsparse.training.iee.spending import Counted, best_within
from fxsparse.training.iee.units import UnitCriterion, bn_taylor, magnitude, squared_taylor, taylor
from tests.training.iee.small import bits, same
from tests.training.iee.small import network as plain

STEPS = 30
OPTIONS: dict[str, Any] = {"steps": STEPS, "macs": 0.5, "cycles": 2, "estimate": 2, "explore": 3, "growth": 0.4}


def residual(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return CifarResNet(BasicBlock, depths=(1, 1), widths=(6, 8), option="A")


def batch(step: int) -> tuple[Tensor, Tensor]:
    chance = generator("images", step)
    return torch.randn(4, 3, 8, 8, generator=chance), torch.randint(0, 10, (4,), generator=chance)


def made(seed: int = 0, **options: Any) -> ExploitExploreChannels:
    network = fxsparse.trace(residual(seed), torch.randn(2, 3, 8, 8))
    kind = options.pop("optimizer", "sgd")
    parameters = network.module.parameters()
    optimizer = (
        torch.optim.AdamW(parameters, lr=0.01) if kind == "adam" else torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)
    )
    return ExploitExploreChannels(network, optimizer, **{**OPTIONS, **options})


def train(sparsifier: ExploitExploreChannels, start: int = 0, stop: int = STEPS, watch: Any = None) -> None:
    sparsifier.model.train()
    for step in range(start, stop):
        images, labels = batch(step)
        loss = F.cross_entropy(sparsifier.model(images), labels)
        sparsifier.optimizer.zero_grad()
        loss.backward()
        sparsifier.step()
        if watch is not None:
            watch(step + 1)


def living_part(sparsifier: ExploitExploreChannels) -> dict[str, Tensor]:
    """All tensors, cut to what lives."""
    at_rest = sparsifier.network.shrink(sparsifier.active)
    return dict(at_rest.module.state_dict())


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"macs": None, "parameters": 0.4}, {"macs": None, "units": 0.5}])
def test_the_budget_holds_and_is_used_up(budget: dict[str, Any]) -> None:
    sparsifier = made(criterion="taylor", ramp=0.4, **budget)
    what = next(name for name, value in budget.items() if value is not None)
    cost, whole = Counted(what), sparsifier.whole  # type: ignore[arg-type]
    limits: list[tuple[float, float]] = []

    def watch(done: int) -> None:
        calendar = sparsifier.calendar
        if calendar.prunes(done) or calendar.grows(done):
            share = (0.4, 0.2)[calendar.cycle(done)] if calendar.grows(done) else 0.0
            limits.append(((1 + share) * sparsifier._limit(), cost(sparsifier.network, sparsifier.active)))
        assert sparsifier.exploring == (calendar.stage(done + 1) == "explore")
        held = sparsifier.network.living if not sparsifier.exploring else sparsifier.active
        assert dict(held) == sparsifier.active

    train(sparsifier, watch=watch)
    assert len(limits) == 5
    assert all(spent <= limit for limit, spent in limits)
    assert limits[-1][0] == pytest.approx(next(v for v in budget.values() if v is not None) * whole)
    assert limits[0][0] > limits[2][0] > limits[4][0] or limits[2][0] == limits[4][0]
    assert limits[-1][1] > 0.9 * limits[-1][0]
    assert sparsifier.density == limits[-1][1] / whole


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("value", ["last", "random"])
def test_what_lives_keeps_every_bit_while_others_explore(optimizer: str, value: str) -> None:
    sparsifier = made(optimizer=optimizer, value=value, criterion="bn-taylor")
    phases: list[list[dict[str, Tensor]]] = []
    moved = []
    asides: list[Any] = []

    def watch(done: int) -> None:
        calendar = sparsifier.calendar
        if calendar.enters(done):
            phases.append([])
            asides.append([bits(v).clone() for s in sparsifier._exploration.aside.values() for v in s.values() if isinstance(v, Tensor)])  # type: ignore[union-attr]
            assert not sparsifier.optimizer.state
        if sparsifier.exploring:
            phases[-1].append({name: tensor.clone() for name, tensor in living_part(sparsifier).items()})
            moved.append(sparsifier.network.module.get_parameter("layer2.0.conv1.weight").detach().clone())
        if calendar.grows(done):
            grown, active = sparsifier.network, replace_living(sparsifier)
            now = {name: take(t, relative(active, grown, name)) for name, t in grown.module.state_dict().items()}
            phases[-1].append(now)

    def replace_living(sparsifier: ExploitExploreChannels) -> Network:
        """The network as it was before the growth."""
        recent = sparsifier.memory.recent
        before = {name: tuple(u for u in units if name not in recent or not recent[name][u]) for name, units in sparsifier.active.items()}
        return sparsifier.network.shrink(before)

    def relative(small: Network, large: Network, key: str) -> Any:
        places, inside = small.places(key), large.places(key)
        return {axis: index if axis not in inside else inside[axis].searchsorted(index) for axis, index in places.items()}

    train(sparsifier, watch=watch)
    assert len(phases) == 2
    for phase in phases:
        assert len(phase) == OPTIONS["explore"] + 1
        assert all(same(phase[0], other) for other in phase)
    assert not torch.equal(moved[0], moved[1])
    assert all(aside for aside in asides)


def test_statistics_of_the_whole_network_rest_as_well() -> None:
    sparsifier = made()
    buffers: list[dict[str, Tensor]] = []

    def watch(done: int) -> None:
        if sparsifier.exploring:
            buffers.append({name: buffer.clone() for name, buffer in sparsifier.model.named_buffers()})

    train(sparsifier, watch=watch)
    assert same(buffers[0], buffers[1]) and same(buffers[0], buffers[2])


def test_what_went_wakes_with_its_last_values_and_momentum() -> None:
    sparsifier = made()
    train(sparsifier, stop=1)
    images, labels = batch(1)
    F.cross_entropy(sparsifier.model(images), labels).backward()
    whole: dict[str, Any] = {}
    original = sparsifier.prune

    def prune() -> None:
        whole["values"] = {name: tensor.clone() for name, tensor in sparsifier.model.state_dict().items()}
        whole["momentum"] = [sparsifier.optimizer.state[p]["momentum_buffer"].clone() for p in sparsifier.model.parameters()]
        original()

    sparsifier.prune = prune  # type: ignore[method-assign]
    sparsifier.step()
    assert sparsifier.network.macs < 0.5 * sparsifier.network.regrow().macs + 1
    again = sparsifier.network.regrow()
    fxsparse.carry(sparsifier.network, again, sparsifier.optimizer)
    assert same(dict(again.module.state_dict()), whole["values"])
    assert same([sparsifier.optimizer.state[p]["momentum_buffer"] for p in again.module.parameters()], whole["momentum"])


def test_without_exploration_and_growth_it_is_prune_and_train_bit_for_bit() -> None:
    sparsifier = made(explore=0, growth=0.0, cycles=0)
    train(sparsifier)
    network = fxsparse.trace(residual(), torch.randn(2, 3, 8, 8))
    optimizer = torch.optim.SGD(network.module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    worth: list[dict[str, Tensor]] = []
    for step in range(STEPS):
        images, labels = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(network.module(images), labels).backward()
        if step < 2:
            worth.append(magnitude(network))
        optimizer.step()
        if step == 1:
            mean = {name: (worth[0][name] + worth[1][name]) / 2 for name in worth[0]}
            small = network.shrink(best_within(network, mean, Counted("macs"), 0.5 * network.macs))
            fxsparse.carry(network, small, optimizer)
            network = small
    assert dict(network.living) == dict(sparsifier.network.living)
    assert same(dict(network.module.state_dict()), dict(sparsifier.model.state_dict()))


@pytest.mark.parametrize("stop", [1, 2, 6, 10, 12, 13, 24])
def test_a_saved_run_goes_on_as_if_nothing_had_been(stop: int, tmp_path: Path) -> None:
    def fresh(seed: int) -> ExploitExploreChannels:
        sparsifier = made(seed, criterion="taylor", grow="squared-taylor", optimizer="adam")
        sparsifier.followers = (copy.deepcopy(sparsifier.model),)
        return sparsifier

    whole = fresh(0)
    train(whole)
    first = fresh(0)
    train(first, stop=stop)
    save_checkpoint(tmp_path / "run.pt", {"run": first.state_dict(), "optimizer": first.optimizer.state_dict()})
    saved = load_checkpoint(tmp_path / "run.pt")
    later = fresh(5)
    later.load_state_dict(saved["run"], saved["optimizer"])
    train(later, start=stop)
    assert same(later.state_dict(), whole.state_dict())
    assert same(later.optimizer.state_dict(), whole.optimizer.state_dict())
    assert later.timeline.to_dict() == whole.timeline.to_dict()
    with pytest.raises(CheckpointError, match="calendar"):
        made(explore=4).load_state_dict(saved["run"], saved["optimizer"])


def test_a_state_of_another_budget_and_a_plain_module_are_refused() -> None:
    sparsifier = made(macs=0.5)
    saved = sparsifier.state_dict()
    with pytest.raises(CheckpointError, match=r"a run to 0\.5 of the cost, not 0\.8; make it with that budget"):
        made(macs=0.8).load_state_dict(saved, sparsifier.optimizer.state_dict())
    with pytest.raises(CheckpointError, match="a run with cost='macs', not 'parameters'"):
        made(macs=None, parameters=0.5).load_state_dict(saved, sparsifier.optimizer.state_dict())
    with pytest.raises(CheckpointError, match="a run with criterion='magnitude', not 'taylor'; make it as it was made then"):
        made(criterion="taylor").load_state_dict(saved, sparsifier.optimizer.state_dict())
    model = residual()
    with pytest.raises(Error, match=r"a .* stands where the network should; give fxsparse\.trace"):
        ExploitExploreChannels(model, torch.optim.SGD(model.parameters(), lr=0.1), macs=0.5, steps=10)  # type: ignore[arg-type]


def test_an_averaged_copy_follows() -> None:
    sparsifier = made()
    average = copy.deepcopy(sparsifier.model)
    sparsifier.followers = (average,)
    seen: list[int] = []
    sparsifier.on_change = lambda network: seen.append(network.macs)
    shapes = []

    def watch(done: int) -> None:
        shapes.append([tuple(p.shape) for p in average.parameters()] == [tuple(p.shape) for p in sparsifier.model.parameters()])

    train(sparsifier, watch=watch)
    assert all(shapes)
    assert len(seen) == 7  # three prunes, two explorations, two growths
    average.eval()
    assert average(batch(0)[0]).shape == (4, 10)


def test_the_result_is_small_plain_and_whole() -> None:
    model = residual()
    network = fxsparse.trace(model, torch.randn(2, 3, 8, 8))
    optimizer = torch.optim.SGD(network.module.parameters(), lr=0.05, momentum=0.9)
    sparsifier = ExploitExploreChannels(network, optimizer, **{**OPTIONS, "criterion": "taylor"})
    train(sparsifier)
    final = sparsifier.network
    assert 0.45 * network.macs < final.macs <= 0.5 * network.macs
    assert not any(isinstance(getattr(m, "_forward_pre_hooks", None), dict) and m._forward_pre_hooks for m in final.module.modules())
    assert optimizer.param_groups[0]["params"][0].grad is not None
    assert set(map(id, optimizer.param_groups[0]["params"])) == set(map(id, final.module.parameters()))
    final.module.eval()
    rebuilt = fxsparse.trace(residual(), torch.randn(2, 3, 8, 8)).shrink({n: u for n, u in final.living.items()})
    rebuilt.module.load_state_dict(final.module.state_dict())
    rebuilt.module.eval()
    images = batch(3)[0]
    assert torch.equal(rebuilt.module(images), final.module(images))
    assert any(event.total("grown") for event in sparsifier.timeline.events)
    assert sparsifier.spent["explore"] == 6 * network.macs


def test_what_has_just_grown_may_be_safe_from_the_next_prune() -> None:
    sparsifier = made(grace=True, value="random")
    train(sparsifier)
    assert any(event.total("grown") for event in sparsifier.timeline.events) and sparsifier.timeline.regret == 0


def test_one_criterion_object_decides_both_ways() -> None:
    criterion = UnitCriterion("taylor")
    sparsifier = made(criterion=criterion)
    assert sparsifier.criterion is sparsifier.growth_criterion is criterion


@pytest.mark.parametrize("name", ["lamp", "bn-scale", "fpgm", "random", "l1"])
def test_the_criteria_that_prune_will_do(name: str) -> None:
    sparsifier = made(criterion=name, explore=0 if name == "l1" else 3)
    train(sparsifier)
    assert sparsifier.network.macs <= 0.5 * sparsifier.whole
    assert sparsifier.timeline.events[2].total("grown") > 0


def test_tied_weights_stay_one_tensor() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
    second.weight = first.weight
    layers = [nn.Conv2d(3, 8, 1), first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    network = fxsparse.trace(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 10)), torch.randn(2, 3, 8, 8))
    optimizer = torch.optim.SGD(network.module.parameters(), lr=0.05, momentum=0.9)
    sparsifier = ExploitExploreChannels(network, optimizer, **{**OPTIONS, "criterion": "taylor"})
    seen: list[bool] = []

    def watch(done: int) -> None:
        named = dict(sparsifier.model.named_parameters(remove_duplicate=False))
        seen.append(named["1.weight"] is named["4.weight"])

    train(sparsifier, watch=watch)
    assert all(seen) and len(seen) == STEPS
    assert sparsifier.network.macs <= 0.5 * sparsifier.whole


def test_worth_by_hand() -> None:
    network = fxsparse.trace(residual(), torch.randn(2, 3, 8, 8)).shrink({"layer1.0.conv1": [0, 2, 5]})
    images, labels = batch(0)
    F.cross_entropy(network.module(images), labels).backward()
    block: Any = network.module.get_submodule("layer1.0")
    w, g, norm = block.conv1.weight, block.conv1.weight.grad, block.bn1
    assert torch.allclose(taylor(network)["layer1.0.conv1"], (w * g).sum((1, 2, 3)).square(), rtol=1e-4)
    assert torch.allclose(squared_taylor(network)["layer1.0.conv1"], (w * g).square().sum((1, 2, 3)), rtol=1e-4)
    length, order = w.detach().square().sum((1, 2, 3)).double().sort()
    by_hand = torch.empty(3, dtype=torch.float64)
    by_hand[order] = length / length.flip(0).cumsum(0).flip(0)
    assert torch.allclose(magnitude(network)["layer1.0.conv1"], by_hand)
    by_hand = (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).abs()
    assert torch.allclose(bn_taylor(network)["layer1.0.conv1"], by_hand, rtol=1e-4)
    stem: Any = network.module.get_submodule("bn1")
    wider: Any = network.module.get_submodule("layer2.0.bn2")  # its channels 1 to 6 are those of the stem, padded
    parts = [norm.weight * norm.weight.grad + norm.bias * norm.bias.grad for norm in (stem, block.bn2, wider)]
    assert torch.allclose(bn_taylor(network)["conv1"], (parts[0] + parts[1] + parts[2][1:7]).abs(), rtol=1e-4)


@pytest.mark.parametrize("limit", [0.25, 0.35, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("what", ["macs", "parameters", "units"])
def test_the_best_of_each_group_are_kept_and_nothing_more_fits(limit: float, what: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 3))
    network = fxsparse.trace(model, torch.randn(1, 3, 8, 8))
    worth = {"0": torch.tensor([3.0, 1.0, 4.0, 1.5]), "2": torch.tensor([0.5, 2.0, 6.0, 3.5, 2.5])}
    cost = Counted(what)
    whole = cost(network, network.living)
    kept = best_within(network, worth, cost, limit * whole)
    assert whole == {"macs": network.macs, "parameters": network.parameter_count, "units": 9}[what]
    assert cost(network, kept) <= limit * whole
    for name, scores in worth.items():
        order = scores.argsort(descending=True).tolist()
        assert set(order[: len(kept[name])]) == set(kept[name])
        if len(kept[name]) < len(order):
            assert cost(network, {**kept, name: tuple(order[: len(kept[name]) + 1])}) > limit * whole


def test_what_is_safe_stays_and_what_is_not_there_does_not_come() -> None:
    network = fxsparse.trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(1, 3))
    worth = {"0": torch.tensor([1.0, torch.inf, -torch.inf, 4.0])}
    assert best_within(network, worth, Counted("units"), 2)["0"] == (1, 3)
    assert best_within(network, worth, Counted("units"), 1)["0"] == (1,)
    assert best_within(network, worth, Counted("units"), 4)["0"] == (0, 1, 3)


def test_more_worth_is_kept_than_by_any_prefix_with_one_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    network = fxsparse.trace(model, torch.randn(1, 3))
    worth = {"0": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    subsets = chain.from_iterable(combinations(range(4), k) for k in (1, 2, 3, 4))
    cost = Counted("parameters")
    possible = [s for s in subsets if cost(network, {**network.living, "0": s}) <= 20]
    best = max(possible, key=lambda s: sum(float(worth["0"][u]) for u in s))
    assert best_within(network, worth, cost, 20)["0"] == best


def test_any_cost_will_do() -> None:
    def staircase(network: Network, living: Mapping[str, tuple[int, ...]]) -> float:
        """As latency is: widths cost in steps of four."""
        return float(sum(-(-len(units) // 4) for name, units in living.items() if network.origin.structure.groups[name].prunable))

    sparsifier = made(macs=None, spending=staircase, part=0.7)
    train(sparsifier)
    whole = staircase(sparsifier.network, {name: units for name, units in sparsifier.network.regrow().living.items()})
    assert staircase(sparsifier.network, sparsifier.network.living) <= 0.7 * whole < whole
    assert sparsifier.whole == whole


def test_complaints() -> None:
    cases: list[tuple[dict[str, Any], type[Error], str]] = [
        ({"units": 0.5}, Error, "one budget"),
        ({"macs": None}, Error, "one budget"),
        ({"macs": 1.5}, Error, "above 0 and at most 1"),
        ({"macs": "half"}, Error, "above 0 and at most 1, not 'half'"),
        ({"estimate": "2"}, Error, "estimate is a whole number, not '2'"),
        ({"least": 0}, Error, "at least one unit, not least=0"),
        ({"exclude": "nothing"}, Error, "no group 'nothing'"),
        ({"criterion": "beauty"}, Error, "no score of units 'beauty'"),
        ({"explore": 0, "criterion": "taylor"}, Error, "no gradients unless it explores"),
        ({"scale": 2.0}, Error, "leave scale"),
        ({"exclude": ["nothing"]}, Error, "no group 'nothing'"),
        ({"macs": 0.001}, BudgetError, r"the budget of 0\.001 cannot be reached: at its narrowest the network still costs"),
    ]
    for options, error, text in cases:
        with pytest.raises(error, match=text):
            made(**options)
    with pytest.raises(Error, match="set requires_grad=False on what must not train"):
        made().freeze({"conv1.weight": None})
    foreign = torch.optim.SGD(residual().parameters(), lr=0.1)
    with pytest.raises(Error, match="the SGD holds no parameter of the network"):
        ExploitExploreChannels(fxsparse.trace(residual(), torch.randn(2, 3, 8, 8)), foreign, **OPTIONS)


def test_excluded_groups_and_minimal_widths() -> None:
    sparsifier = made(exclude=["conv1"], least=3, units=0.6, macs=None, growth=0.2)
    train(sparsifier)
    widths = {group.name: len(group.units) for group in sparsifier.network.groups if group.prunable}
    assert widths["conv1"] == 6
    assert min(widths.values()) >= 3
    assert "conv1" not in sparsifier.timeline.events[-1].changes


@pytest.mark.parametrize(("foresight", "left"), [(True, (4, 8)), (False, (4, 4))])
def test_what_the_end_keeps_is_safe_while_the_budget_comes_down(foresight: bool, left: tuple[int, int]) -> None:
    """The first layer is worth more for what it costs, but costs in steps of 40: in the end half of it must go, which alone would do."""

    def cost(network: Network, living: Mapping[str, tuple[int, ...]]) -> float:
        return 40 * math.ceil(len(living["0"]) / 4) + len(living["3"])

    def worth(network: Network) -> dict[str, Tensor]:
        return {name: torch.linspace(2, 1, len(network.living[name])) for name in ("0", "3")}

    network, data = fxsparse.trace(plain(), torch.randn(2, 3, 6, 6)), torch.randn(4, 3, 6, 6)
    optimizer = torch.optim.SGD(network.module.parameters(), lr=0.01)
    plan: dict[str, Any] = {"steps": 24, "cycles": 10, "estimate": 1, "explore": 0, "growth": 0.0, "ramp": 0.7, "stop": 0.9}
    sparsifier = ExploitExploreChannels(network, optimizer, spending=cost, part=48 / 88, criterion=worth, foresight=foresight, **plan)
    for _ in range(24):
        sparsifier.model(data).square().mean().backward()
        sparsifier.step()
        optimizer.zero_grad()
    assert (len(sparsifier.network.living["0"]), len(sparsifier.network.living["3"])) == left
    assert sparsifier.spending(sparsifier.network, sparsifier.network.living) <= 48


def test_a_step_that_overflows_is_none() -> None:
    sparsifier = made(criterion="taylor", steps=12, cycles=1)
    sparsifier.model.train()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=10_000)
    for step, factor in product(range(12), (float("inf"), 1.0)):
        images, labels = batch(step)
        sparsifier.optimizer.zero_grad()
        scaler.scale(factor * F.cross_entropy(sparsifier.model(images), labels)).backward()
        scaler.unscale_(sparsifier.optimizer)
        sparsifier.clip_grad_norm_(1e9)
        sparsifier.step(scaler=scaler)
        scaler.update()
    other = made(criterion="taylor", steps=12, cycles=1)
    train(other, stop=12)
    assert sparsifier.steps_done == 12 and sparsifier.active == other.active


def test_units_behind_a_norm_of_all_cannot_wake_from_zero() -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)), torch.randn(2, 6))
    optimizer = torch.optim.SGD(network.module.parameters(), lr=0.01)
    options: dict[str, Any] = {"steps": 40, "units": 0.5, "cycles": 2, "estimate": 2, "value": "zero"}
    with pytest.raises(Error, match=r"group '0' is normalised .* cannot wake with value='zero'; give value='last', or exclude=\['0'\]"):
        ExploitExploreChannels(network, optimizer, explore=2, **options)
    ExploitExploreChannels(network, optimizer, explore=0, growth=0.0, **options)  # nothing wakes
