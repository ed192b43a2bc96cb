"""The five stages: exact budgets, frozen bits, one criterion, and nothing else than pruning when nothing explores."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsparse.errors import BudgetError, CheckpointError, Error
from fxsparse.sparsity.schedules import Linear
from fxsparse.sparsity.scores import Mean, Weight, magnitude
from fxsparse.training import OneShot
from fxsparse.training.iee import PRESETS, ExploitExplore
from tests.training.iee.small import OPTIONS, STEPS, batch, bits, everything, network, same, sgd, train


def made(model: nn.Module | None = None, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer, ExploitExplore]:
    model = network() if model is None else model
    optimizer = sgd(model)
    return model, optimizer, ExploitExplore(model, optimizer, **{**OPTIONS, **options})


def digest(*tensors: Tensor) -> str:
    return hashlib.sha256(b"".join(bits(tensor).numpy().tobytes() for tensor in tensors)).hexdigest()


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


@pytest.mark.parametrize("allocation", ["erk", "uniform", "global"])
@pytest.mark.parametrize(
    "options", [{}, {"criterion": "squared-taylor"}, {"explore": 0, "criterion": "taylor"}, {"ranking": "joint"}, {"ramp": 0.6}]
)
def test_the_budget_is_exact_at_every_moment(allocation: str, options: dict[str, Any]) -> None:
    model, optimizer, sparsifier = made(allocation=allocation, **options)
    total = size(model)
    start = total if "ramp" in options else round(0.25 * total)
    budget, seen = [start], set()

    def watch(sparsifier: ExploitExplore, step: int) -> None:
        calendar, done = sparsifier.calendar, step + 1
        if calendar.prunes(done):
            budget[0] = sparsifier.budget.total(done)
        elif calendar.grows(done):
            cycle = calendar.cycle(done)
            budget[0] = min(total, budget[0] + round({0: 0.4, 1: 0.2}[cycle] * budget[0]))
        living = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
        assert sum(living.values()) == budget[0]
        awake = sparsifier.exploring
        seen.add(awake)
        resting = sum(int((t.parameter * ~sparsifier.masks[t.name]).count_nonzero()) for t in sparsifier.targets)
        assert (resting > 0) == (awake and budget[0] < total)
        assert sparsifier.nonzeros == ({t.name: t.parameter.numel() for t in sparsifier.targets} if awake else living)

    train(model, sparsifier, optimizer, watch=watch)
    assert seen == ({False} if options.get("explore") == 0 else {False, True})
    assert budget[0] == round(0.25 * total)
    assert [event.kind for event in sparsifier.timeline.events] == ["start", "prune", "grow", "prune", "grow", "prune"]


@pytest.mark.parametrize("statistics", ["restore", "eval"])
@pytest.mark.parametrize("optimizer_type", ["sgd", "adam"])
def test_what_lives_and_all_statistics_keep_every_bit_while_others_explore(statistics: Any, optimizer_type: str) -> None:
    model = network()
    optimizer = sgd(model) if optimizer_type == "sgd" else torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    sparsifier = ExploitExplore(model, optimizer, statistics=statistics, value="random", **OPTIONS)
    prints: dict[int, list[str]] = {}
    states: list[Any] = []

    def watch(sparsifier: ExploitExplore, step: int) -> None:
        cycle = sparsifier.calendar.cycle(step + 1)
        if sparsifier.exploring or prints.get(cycle):
            masks = dict(sparsifier.masks) if sparsifier.exploring else watch.masks  # type: ignore[attr-defined]
            watch.masks = masks  # type: ignore[attr-defined]
            named = dict(model.named_parameters())
            living = [named[name].detach()[masks[name]] if name in masks else named[name] for name in named]
            prints.setdefault(cycle, []).append(digest(*living, *model.buffers()))
            states.append({id(p): dict(optimizer.state[p]) for p in optimizer.state})
            if not sparsifier.exploring:
                prints[-cycle - 1] = prints.pop(cycle)

    before: list[Any] = []

    def both(sparsifier: ExploitExplore, step: int) -> None:
        if sparsifier.calendar.enters(step + 1):
            before.append([bits(t).clone() for t in _tensors(sparsifier._exploration.aside.values())])  # type: ignore[union-attr]
            assert not optimizer.state
        watch(sparsifier, step)
        if sparsifier.calendar.grows(step + 1):
            after = [bits(t) for t in _tensors(optimizer.state.values())]
            assert len(after) == len(before[-1])
            assert all(torch.equal(a, b) for a, b in zip(after, before[-1], strict=True))

    train(model, sparsifier, optimizer, watch=both)
    assert len(prints) == 2
    assert all(len(line) == OPTIONS["explore"] + 1 and len(set(line)) == 1 for line in prints.values())


def _tensors(states: Any) -> list[Tensor]:
    return [value for state in states for value in state.values() if isinstance(value, Tensor)]


def test_resting_weights_move_while_they_explore_and_by_nothing_else() -> None:
    model, optimizer, sparsifier = made()
    values: list[Tensor] = []
    resting: list[Tensor] = []

    def watch(sparsifier: ExploitExplore, step: int) -> None:
        rests = ~sparsifier.masks["3.weight"]
        if sparsifier.exploring:
            values.append(sparsifier.targets[1].parameter.detach()[rests].clone())
        elif not values and step >= 3:
            resting.append(sparsifier.resting["3.weight"][rests].clone())

    train(model, sparsifier, optimizer, watch=watch, steps=15)
    assert sparsifier.targets[1].name == "3.weight"
    assert len(values) == 4 and not any(torch.equal(a, b) for a, b in pairwise(values))
    assert resting and all(torch.equal(resting[0], other) for other in resting)
    assert torch.equal(resting[-1], values[0])  # the remembered values wake


def test_one_criterion_object_decides_both_ways() -> None:
    asked: list[str] = []

    class Recorded(Mean):
        def __call__(self, weight: Weight) -> Tensor:
            asked.append(f"{weight.name}@{id(self)}")
            return super().__call__(weight)

    criterion = Recorded(magnitude)
    model, optimizer, sparsifier = made(criterion=criterion)
    train(model, sparsifier, optimizer)
    assert sparsifier.criterion is sparsifier.growth_criterion is criterion
    assert asked == [f"{name}@{id(criterion)}" for _ in range(5) for name in sparsifier.masks]  # 3 prunes, 2 growths


def test_the_criterion_is_the_mean_over_the_stage_and_picks_the_best() -> None:
    model, optimizer, sparsifier = made(criterion="taylor")
    seen: list[Tensor] = []
    original = sparsifier.observe

    def observe() -> None:
        target = sparsifier.targets[1]
        assert target.parameter.grad is not None
        seen.append((target.parameter.detach() * target.parameter.grad).abs())
        original()

    sparsifier.observe = observe  # type: ignore[method-assign]
    train(model, sparsifier, optimizer, steps=15)
    living = sparsifier.masks["3.weight"].clone()
    grown = sparsifier.timeline.events[-1].changes["3.weight"].grown
    worth = torch.stack(seen[-4:]).mean(0)
    chosen = sparsifier.memory.recent["3.weight"]
    assert grown == int(chosen.sum()) > 0
    resting = living & ~chosen | ~living
    assert worth[chosen].min() >= worth[~living].max()
    assert bool(resting.any())


def test_without_exploration_and_growth_it_is_prune_and_train_bit_for_bit() -> None:
    model, optimizer, sparsifier = made(explore=0, growth=0.0, start="magnitude")
    train(model, sparsifier, optimizer)
    twin = network()
    twin_optimizer = sgd(twin)
    train(twin, OneShot(twin, twin_optimizer, density=0.25), twin_optimizer)
    assert same(model.state_dict(), twin.state_dict())
    assert same(optimizer.state_dict(), twin_optimizer.state_dict())


def test_from_dense_it_is_train_prune_train_bit_for_bit() -> None:
    model, optimizer, sparsifier = made(explore=0, growth=0.0, ramp=1e-9, estimate=5, criterion="taylor", cycles=0)
    train(model, sparsifier, optimizer)
    twin = network()
    twin_optimizer = sgd(twin)
    worth: dict[str, list[Tensor]] = {name: [] for name in sparsifier.masks}

    class ByHand:
        masks: dict[str, Tensor] = {}  # noqa: RUF012
        done = 0

        def step(self) -> None:
            named = dict(twin.named_parameters())
            for name, scores in worth.items():
                grad = named[name].grad
                assert grad is not None
                scores.append((named[name].detach() * grad).abs())
                if self.masks:
                    grad.mul_(self.masks[name])
            twin_optimizer.step()
            self.done += 1
            if self.done == 5:
                for name, scores in worth.items():
                    mean = sum(scores[1:], scores[0].clone()) / 5
                    mask = torch.zeros(mean.numel())
                    mask[mean.flatten().argsort(descending=True)[: sparsifier.nonzeros[name]]] = 1
                    self.masks[name] = mask.view(mean.shape)
                    twin_optimizer.state[named[name]]["momentum_buffer"].mul_(self.masks[name])
            with torch.no_grad():
                for name, mask in self.masks.items():
                    named[name].mul_(mask)

    train(twin, ByHand(), twin_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))


def test_tied_weights_are_one_tensor() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
    second.weight = first.weight
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)]
    tied = nn.Sequential(nn.Conv2d(3, 4, 1), first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(4), nn.ReLU(), *head)
    model, optimizer, sparsifier = made(tied)
    train(model, sparsifier, optimizer)
    assert list(sparsifier.masks) == ["0.weight", "1.weight", "9.weight"]
    assert first.weight is second.weight
    assert sum(sparsifier.nonzeros.values()) == round(0.25 * (12 + 144 + 16))
    assert int(first.weight.count_nonzero()) <= sparsifier.nonzeros["1.weight"]


def test_an_unused_parameter_does_no_harm() -> None:
    spare = nn.Parameter(torch.ones(3))
    body = network()
    body.register_parameter("spare", spare)
    model, optimizer, sparsifier = made(body)
    train(model, sparsifier, optimizer)
    assert torch.equal(spare, torch.ones(3))


def test_at_rest_shows_the_sparse_network() -> None:
    model, optimizer, sparsifier = made()
    train(model, sparsifier, optimizer, steps=13)
    assert sparsifier.exploring and sparsifier.stage == "explore"
    awake = [bits(p).clone() for p in model.parameters()]
    with sparsifier.at_rest():
        assert all(int(t.parameter.count_nonzero()) <= int(sparsifier.masks[t.name].sum()) for t in sparsifier.targets)
    assert all(torch.equal(a, bits(p)) for a, p in zip(awake, model.parameters(), strict=True))


def test_clipping_counts_what_explores_alone() -> None:
    model, optimizer, sparsifier = made()
    train(model, sparsifier, optimizer, steps=13)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    resting = sum(int((~mask).sum()) for mask in sparsifier.masks.values())
    assert float(sparsifier.clip_grad_norm_(1e9)) == pytest.approx(resting**0.5)


def test_the_exploration_may_have_its_own_learning_rate() -> None:
    model, optimizer, sparsifier = made(explore_lr=0.0)

    def watch(sparsifier: ExploitExplore, step: int) -> None:
        assert optimizer.param_groups[0]["lr"] == 0.1 * (1 - step / (2 * STEPS))

    train(model, sparsifier, optimizer, steps=12, watch=watch)
    before = [bits(p).clone() for p in model.parameters()]
    train(model, sparsifier, optimizer, start=12, steps=14, watch=watch)
    assert sparsifier.exploring
    assert all(torch.equal(a, bits(p)) for a, p in zip(before, model.parameters(), strict=True))


def test_what_wakes() -> None:
    for value, scale in (("zero", 1.0), ("last", 0.5), ("random", 1.0)):
        model, optimizer, sparsifier = made(value=value, scale=scale)
        train(model, sparsifier, optimizer, steps=10)
        rests, last = ~sparsifier.masks["3.weight"], sparsifier.resting["3.weight"].clone()
        train(model, sparsifier, optimizer, start=10, steps=11)
        now = sparsifier.targets[1].parameter.detach()[rests]
        assert sparsifier.exploring
        if value == "zero":
            assert not now.any()
        elif value == "last":
            assert torch.equal(now, last[rests] * 0.5)
        else:
            living = sparsifier.targets[1].parameter.detach()[~rests]
            assert 0.5 < float(now.std() / living.square().mean().sqrt()) < 2


@pytest.mark.parametrize("allocation", ["erk", "global"])
def test_what_has_just_grown_may_be_safe_from_the_next_prune(allocation: str) -> None:
    regrets = []
    for grace in (False, True):
        model, optimizer, sparsifier = made(grace=grace, allocation=allocation, value="zero")
        train(model, sparsifier, optimizer)
        regrets.append(sparsifier.timeline.regret)
        assert sum(sparsifier.nonzeros.values()) == round(0.25 * size(model))
    assert regrets[0] > 0 and regrets[1] == 0


def test_unfrozen_is_a_choice() -> None:
    model, optimizer, sparsifier = made(freeze=False)
    train(model, sparsifier, optimizer, steps=12)
    before = bits(model.get_parameter("8.bias")).clone()
    train(model, sparsifier, optimizer, start=12, steps=13)
    assert sparsifier.exploring and not torch.equal(before, bits(model.get_parameter("8.bias")))


def test_the_presets() -> None:
    for preset, cycles in (("stated", 4), ("sparse", 8), ("ramp", 12)):
        model = network()
        sparsifier = ExploitExplore(model, sgd(model), density=0.25, steps=540, preset=preset)
        assert sparsifier.calendar.cycles == cycles, preset
    assert sparsifier.settings.growth == 0 and sum(sparsifier.nonzeros.values()) == size(model)
    model = network()
    assert ExploitExplore(model, sgd(model), density=0.25, steps=540, growth=0.1).settings == replace(PRESETS["sparse"], growth=0.1)
    stated = PRESETS["stated"]
    assert (stated.explore, stated.growth, stated.decay, stated.stop, stated.explore_lr) == (30, 0.3, "cosine", 0.75, 1.0)
    assert (stated.value, stated.ranking, stated.freeze, stated.grow) == ("last", "inside", True, None)


def test_complaints() -> None:
    cases: list[tuple[dict[str, Any], type[Error], str]] = [
        ({"value": "best"}, Error, "choose last, zero, random"),
        ({"growth": 1.5}, Error, "share between 0 and 1"),
        ({"growth": "much"}, Error, "growth is a number, not 'much'"),
        ({"explore": "5"}, Error, "explore is a whole number, not '5'"),
        ({"cycles": 1.5}, Error, r"cycles is a whole number, not 1\.5"),
        ({"cycles": 20}, Error, "no room"),
        ({"explore": 0, "value": "zero"}, Error, "all alike"),
        ({"steps": 0}, Error, "whole run"),
        ({"drop": "taylor"}, Error, "criterion decides"),
        ({"preset": "perfect"}, Error, "no preset"),
        ({"density": Linear(1.0, 0.25, end=39)}, BudgetError, "final at the last"),
        ({"density": Linear(0.25, 0.5, end=20)}, BudgetError, "must fall"),
        ({"pattern": "2:4", "density": None, "include": ["3"]}, BudgetError, "fixes the density"),
    ]
    for options, error, text in cases:
        with pytest.raises(error, match=text):
            made(**options)
    model, optimizer, sparsifier = made()
    with pytest.raises(Error, match="nothing is pruned or grown"):
        sparsifier.update()
    state = sparsifier.state_dict()
    others: list[tuple[dict[str, Any], str]] = [
        ({"criterion": "taylor"}, "criterion='magnitude', not 'taylor'"),
        ({"value": "random"}, "value='last', not 'random'"),
    ]
    for changed, said in others:
        with pytest.raises(CheckpointError, match=f"the state is of a run with {said}; make it as it was made then"):
            made(**changed)[2].load_state_dict(state)
    other = made(explore=5)[2]
    with pytest.raises(CheckpointError, match="calendar"):
        other.load_state_dict(state)
    train(model, sparsifier, optimizer, steps=12)
    with pytest.raises(Error, match="middle of an exploration"):
        sparsifier.rebind(model, sparsifier.masks)


def test_two_of_four_by_joint_ranking() -> None:
    model, optimizer, sparsifier = made(pattern="2:4", density=None, include=["3"], growth=0.0, ranking="joint", value="random")
    train(model, sparsifier, optimizer)
    lines = sparsifier.masks["3.weight"].movedim(1, -1).reshape(-1, 4)
    assert bool((lines.sum(1) == 2).all())
    assert sparsifier.timeline.events[2].total("grown") > 0


@pytest.mark.parametrize("stop", range(1, STEPS, 3))
def test_a_saved_run_goes_on_as_if_nothing_had_been(stop: int) -> None:
    whole = made(criterion="taylor", grow="gradient")
    train(whole[0], whole[2], whole[1])
    model, optimizer, sparsifier = made(criterion="taylor", grow="gradient")
    train(model, sparsifier, optimizer, steps=stop)
    saved = everything(model, optimizer, sparsifier)
    later_model, later_optimizer, later = made(network(3), criterion="taylor", grow="gradient")
    train(later_model, later, later_optimizer, steps=12)  # in the middle of its own exploration
    later_model.load_state_dict(saved["model"])
    later_optimizer.load_state_dict(saved["optimizer"])
    later.load_state_dict(saved["sparsifier"])
    train(later_model, later, later_optimizer, start=stop)
    assert same(everything(later_model, later_optimizer, later), everything(*whole))
    assert later.timeline.to_dict() == whole[2].timeline.to_dict()


class Rebinding(nn.Module):
    """A norm that puts new tensors in place of its statistics."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        return x - self.mean[:, None, None]


def test_statistics_that_a_module_puts_anew_are_kept_as_well() -> None:
    changed = network()
    changed[1] = Rebinding()
    model, optimizer, sparsifier = made(changed)
    prints: list[str] = []

    def watch(sparsifier: ExploitExplore, step: int) -> None:
        if sparsifier.exploring or sparsifier.calendar.grows(step + 1):
            prints.append(digest(*model.buffers()))

    train(model, sparsifier, optimizer, watch=watch)
    each = OPTIONS["explore"] + 1
    assert len(prints) == 2 * each and len(set(prints[:each])) == len(set(prints[each:])) == 1
    assert prints[0] != prints[-1]


@pytest.mark.parametrize(("fused", "clip"), [(False, False), (False, True), (True, True)])
def test_a_step_that_overflows_is_none(fused: bool, clip: bool) -> None:
    """Beside a run without any: powers of two change no bit."""
    runs = []
    for factors in ((1.0,), (float("inf"), 1.0)):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
        sparsifier = ExploitExplore(model, optimizer, criterion="taylor", **OPTIONS)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60, growth_interval=10_000)
        for step, factor in product(range(STEPS), factors):
            images, labels = batch(step)
            optimizer.zero_grad()
            scaler.scale(factor * F.cross_entropy(model(images), labels)).backward()
            if clip:
                scaler.unscale_(optimizer)
                sparsifier.clip_grad_norm_(0.5)
            sparsifier.step(scaler=scaler)
            scaler.update()
        assert sparsifier.steps_done == STEPS
        runs.append(([p.detach() for p in model.parameters()], dict(sparsifier.masks)))
    assert same(*runs)


@pytest.mark.parametrize("late", [False, True])
def test_what_the_user_froze_stays_frozen_beside_what_an_exploration_holds(late: bool) -> None:
    model, optimizer, sparsifier = made(value="random")
    named = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    seen = []

    def watch(sparsifier: ExploitExplore, step: int) -> None:
        nonlocal before
        if sparsifier.exploring:
            if sparsifier.calendar.enters(step + 1):
                if late:
                    sparsifier.freeze({"3.weight": None})
            else:
                living = [name for name, mask in sparsifier.masks.items() if not torch.equal(named[name][mask], before[name][mask])]
                seen.append((torch.equal(named["3.weight"], before["3.weight"]), living))
            before = {name: p.detach().clone() for name, p in named.items()}

    if not late:
        sparsifier.freeze({"3.weight": None})
    train(model, sparsifier, optimizer, watch=watch)
    assert seen == [(True, [])] * len(seen) and len(seen) == 2 * (OPTIONS["explore"] - 1)
