"""EAST: the curve of its density, exact counts, its parts, resuming, and what it says of a network that falls apart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse
from fxsparse.errors import BudgetError, Error
from fxsparse.models import cifar_resnet
from fxsparse.passes.phase_dyrelu import dyrelus, set_beta
from fxsparse.sparsity.chance import generator
from fxsparse.sparsity.schedules import Cyclic
from fxsparse.training import SET, RigL, Static
from fxsparse.training.east import Connections, Extreme, adjusted_density, finished, prepared
from fxsparse.training.east.extreme import evened
from fxsparse.training.east.schedules import exchanged, fading
from fxsparse.training.registry import make_sparsifier
from tests.training.small import require_masked, same, state


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stage = nn.Sequential(Block(8), Block(8), Block(8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.stage(self.stem(x)).mean((2, 3)))
        return out


def network(seed: int = 0, **parts: Any) -> fxsparse.Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return prepared(Net(), torch.zeros(1, 3, 6, 6), **parts)


def made(net: fxsparse.Network, **options: Any) -> tuple[nn.Module, torch.optim.SGD, Extreme]:
    module = net.module.train()
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    chosen = {"density": 0.05, "steps": 40, "interval": 2, **options}
    return module, optimizer, Extreme(net, optimizer, **chosen)


def run(module: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: Any, steps: range) -> Iterator[int]:
    for step in steps:
        chance = generator("batch", step)
        images, labels = torch.randn(8, 3, 6, 6, generator=chance), torch.randint(0, 4, (8,), generator=chance)
        optimizer.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        sparsifier.clip_grad_norm_(1.0)
        sparsifier.step()
        yield step + 1


def test_the_curve_of_the_density_is_exact() -> None:
    module, optimizer, sparsifier = made(network(sharing=0))
    size = sum(mask.numel() for mask in sparsifier.masks.values())
    assert size == 3 * 8 * 9 + 6 * 8 * 8 * 9 + 32
    before = dict(sparsifier.masks)
    for step in run(module, optimizer, sparsifier, range(40)):
        place = step % 8 / 8 if step < 16 else 0
        density = 185 / 3704 * (1 + 2 * (1 - math.cos(2 * math.pi * place)) / 2)  # 185 is 5 %
        if step % 2 == 0:
            assert sum(sparsifier.nonzeros.values()) == round(density * size)
        require_masked(optimizer, sparsifier)
        if step <= 16:  # up: grow only; down: prune only
            came = any(bool((sparsifier.masks[key] & ~before[key]).any()) for key in before)
            went = any(bool((before[key] & ~sparsifier.masks[key]).any()) for key in before)
            assert (came, went) == ((0 < step % 8 <= 4 or step == 0) and step % 2 == 0, (step % 8 > 4 or step % 8 == 0) and step % 2 == 0)
        before = dict(sparsifier.masks)
    assert sum(sparsifier.nonzeros.values()) == round(0.05 * size)
    assert sparsifier.exchanged["dropped"] == sparsifier.exchanged["grown"]


def test_exchange_begins_after_the_cycles() -> None:
    shares = exchanged(0.5, 0.005, 11, 30)
    assert [shares(step) for step in (0, 10, 30)] == [0, 0, 0]
    assert shares(15) == pytest.approx(0.005 + 0.495 / 2)
    with pytest.raises(Error, match="fraction is a share between 0 and 1"):
        exchanged(1.5, 0.0, 0, 10)


def test_2127_weights_of_a_resnet34() -> None:
    with torch.device("meta"):
        model = cifar_resnet.resnet34()
        plain = fxsparse.trace(model, torch.zeros(1, 3, 32, 32))
        shared = prepared(plain, dyrelu=True)
    assert adjusted_density(plain.module, 1e-4) == 2127 / 21_265_088
    assert adjusted_density(shared.module, 1e-4) == 2127 / 11_164_352
    thin = prepared(cifar_resnet.resnet20(), torch.zeros(1, 3, 16, 16))
    optimizer = torch.optim.SGD(thin.module.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = Extreme(thin, optimizer, 0.01, steps=100).nonzeros
    assert sum(counts.values()) == 2683
    assert "layer3.1.conv1.weight" in counts and "layer3.2.conv1.weight" not in counts
    assert not any("dyrelu" in name for name in counts)


def test_dyrelu_fades_on_time_and_goes() -> None:
    net = network()
    module, optimizer, sparsifier = made(net)
    assert sparsifier.dyrelu_parameters == sum(p.numel() for name, p in module.named_parameters() if name.startswith("dyrelu")) > 0
    seen = {step: {float(each.beta) for _, each in dyrelus(module)} for step in run(module, optimizer, sparsifier, range(40))}
    assert all(len(betas) == 1 for betas in seen.values())
    assert [seen[step].pop() for step in (1, 10, 15, 20, 40)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    result = finished(net, sparsifier.masks)
    x = torch.randn(4, 3, 6, 6)
    assert torch.equal(result.module.eval()(x), module.eval()(x))
    assert not any("dyrelu" in key for key in result.module.state_dict())
    assert sum(int(mask.sum()) for mask in result.masks.values()) == sum(sparsifier.nonzeros.values())


def test_resumes_to_the_bit() -> None:
    module, optimizer, sparsifier = made(network())
    list(run(module, optimizer, sparsifier, range(13)))
    kept = state(module, optimizer, sparsifier)
    kept["optimizer"] = {
        **kept["optimizer"],
        "state": {k: {n: t.clone() for n, t in v.items()} for k, v in kept["optimizer"]["state"].items()},
    }
    list(run(module, optimizer, sparsifier, range(13, 40)))
    again, other, resumed = made(network(seed=1))
    again.load_state_dict(kept["model"])
    other.load_state_dict(kept["optimizer"])
    resumed.load_state_dict(kept["sparsifier"])
    assert {float(each.beta) for _, each in dyrelus(again)} == {torch.tensor(sparsifier.fade(13)).item()}
    list(run(again, other, resumed, range(13, 40)))
    assert same(state(module, optimizer, sparsifier), state(again, other, resumed))


@pytest.mark.parametrize("kind", [Static, SET, RigL])
def test_the_parts_under_other_methods(kind: Any) -> None:
    net = network()
    module = net.module.train()
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    curve = Cyclic(0.05, 0.15, 8, 2)
    exclude = [f"{name}.*" for name, _ in dyrelus(module)]
    chosen: dict[str, Any] = {} if kind is Static else {"fraction": 0.3, "stop": 0.5}
    sparsifier = kind(module, optimizer, 0.05 if kind is Static else curve, steps=40, interval=2, exclude=exclude, **chosen)
    size = sum(mask.numel() for mask in sparsifier.masks.values())
    fade = fading(40)
    for step in run(module, optimizer, sparsifier, range(40)):
        set_beta(module, fade(step))
        if step % 2 == 0:
            assert sum(sparsifier.nonzeros.values()) == round((0.05 if kind is Static else curve(step)) * size)
    assert {float(each.beta) for _, each in dyrelus(module)} == {0.0}
    require_masked(optimizer, sparsifier)


def test_gradients_of_empty_filters_count_like_others() -> None:
    grad = torch.tensor([[1.0, 2.0], [300.0, 600.0], [3.0, 4.0], [0.5, 0.1], [40.0, 10.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, -2.0], [0.0, 0.0], [0.05, 0.0]])
    even = evened(grad, weight)
    assert torch.equal(even[[0, 2, 3]], grad[[0, 2, 3]])
    torch.testing.assert_close(even[1], torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(even[4], torch.tensor([2.0, 0.5]))
    assert evened(grad, torch.ones_like(weight)) is grad and evened(grad, torch.zeros_like(weight)) is grad


@pytest.mark.parametrize("calm", [False, True])
def test_a_filter_of_zeros_does_not_decide_on_the_step(calm: bool) -> None:
    module, optimizer, sparsifier = made(network(dyrelu=False, sharing=0), density=0.3, cyclic=False, calm=calm)
    norms: list[float] = []
    clip = sparsifier.clip_grad_norm_

    def clipped(limit: float) -> Tensor:
        norms.append(float(norm := clip(limit)))
        return norm

    sparsifier.clip_grad_norm_ = clipped  # type: ignore[method-assign]
    list(run(module, optimizer, sparsifier, range(1)))
    with torch.no_grad():
        module.get_parameter("stage.1.conv2.weight")[3] = 0  # as where all its weights have just grown
    list(run(module, optimizer, sparsifier, range(1, 2)))
    assert (norms[1] < 2 * norms[0]) == calm, norms


def test_a_batch_norm_inflates_the_gradients_of_an_empty_filter() -> None:
    """What `evened` is there for: the factor is up to 1 / sqrt(eps) = 316."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)
    with torch.no_grad():
        conv.weight[0] = 0
    (norm(conv(torch.randn(8, 4, 6, 6))) * torch.randn(8, 6, 4, 4)).sum().backward()
    assert conv.weight.grad is not None
    largest = conv.weight.grad.flatten(1).abs().amax(1)
    assert largest[0] > 50 * largest[1:].max()


def by_search(net: fxsparse.Network, masks: dict[str, Tensor]) -> int:
    """Outputs that the input reaches, by hand for `Net`: channels of the stream, one block after another."""
    import networkx

    graph: Any = networkx.DiGraph()
    graph.add_node("x")

    def edges(key: str, source: str, sink: str) -> None:
        table = masks[key].flatten(2).any(2) if masks[key].dim() > 2 else masks[key]
        for o, i in table.nonzero().tolist():
            graph.add_edge("x" if source == "x" else f"{source}{i}", f"{sink}{o}")

    edges("stem.weight", "x", "stream")
    for block in range(3):
        edges(f"stage.{block}.conv1.weight", "stream", f"inner{block}-")
        edges(f"stage.{block}.conv2.weight", f"inner{block}-", "stream")
    edges("head.weight", "stream", "out")
    found = networkx.descendants(graph, "x")
    return sum(str(node).startswith("out") for node in found)


@pytest.mark.parametrize("seed", range(8))
def test_paths_from_the_input_to_the_outputs(seed: int) -> None:
    net = network(dyrelu=False, sharing=0)
    chance = torch.Generator().manual_seed(seed)
    masks = {
        key: torch.rand(parameter.shape, generator=chance) < (0.01 if parameter.dim() == 4 else 0.12)
        for key, parameter in net.module.named_parameters()
        if parameter.dim() > 1
    }
    health = Connections(net).health(masks)
    assert (health.reached, health.outputs) == (by_search(net, masks), 4)
    assert health.connected == (health.reached > 0)
    for key, mask in masks.items():  # a weight that is not on a path may go
        for place in mask.nonzero()[:2].tolist():
            less = {**masks, key: mask.clone()}
            less[key][tuple(place)] = False
            assert Connections(net).health(less).reached <= health.reached


def test_says_when_the_network_falls_apart() -> None:
    net = network(dyrelu=False, sharing=0)
    masks = {key: torch.ones_like(p, dtype=torch.bool) for key, p in net.module.named_parameters() if p.dim() > 1}
    assert Connections(net).health(masks).advice() is None
    masks["stem.weight"].zero_()
    health = Connections(net).health(masks)
    assert health.empty == ("stem.weight",) and not health.connected and health.used == 0
    assert "1 layers have no weight left, stem.weight among them; no path of living weights leads from the input to the output" in str(
        health.advice()
    )
    optimizer = torch.optim.SGD(net.module.parameters(), 0.1)
    with pytest.warns(UserWarning, match="the network falls apart: .*raise the density"):
        sparsifier = Extreme(net, optimizer, 3 / 3704, steps=100)
    assert sparsifier.metrics()["empty_layers"] > 0


def test_metrics_tell_gradients_by_stage() -> None:
    module, optimizer, sparsifier = made(network())
    list(run(module, optimizer, sparsifier, range(2)))
    found = sparsifier.metrics()
    assert {"gradient_stem", "gradient_stage", "gradient_head", "beta", "outputs_reached", "weights_on_paths"} <= set(found)
    assert found["weights_on_paths"] <= found["nonzeros"] and found["outputs_reached"] == 4


def test_refuses_with_a_sentence() -> None:
    plain = fxsparse.trace(Net(), torch.zeros(1, 3, 6, 6))
    optimizer = torch.optim.SGD(plain.module.parameters(), 0.1)
    with pytest.raises(Error, match=r"the model has no DyReLU; make it with fxsparse\.training\.east\.prepared"):
        make_sparsifier("east", plain.module, optimizer, 100, {"density": 0.1, "dyrelu": True})
    with pytest.raises(Error, match="the model shares no weights"):
        Extreme(plain, optimizer, 0.1, steps=100, sharing=2)
    with pytest.raises(Error, match=r"steps is the number of optimizer steps of the whole run, not 1\.5"):
        Extreme(plain, optimizer, 0.1, steps=1.5)  # type: ignore[arg-type]
    with pytest.raises(Error, match="3 steps are too few for 2 cycles"):
        Extreme(plain, optimizer, 0.1, steps=3)
    with pytest.raises(Error, match="high is how many times the target"):
        Extreme(plain, optimizer, 0.1, steps=100, high=0.5)
    shared = network()
    with pytest.raises(BudgetError, match="unique tensors have 2,552; give at most 0"):
        adjusted_density(shared.module, 0.9)
    with pytest.raises(Error, match="0 <= begin <= end <= 1"):
        fading(10, 0.5, 0.25)


def test_a_part_that_finds_nothing_to_do_is_said() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 2, 3))
    example = torch.randn(2, 3, 8, 8)
    with pytest.warns(UserWarning, match="no ReLU was replaced; give dyrelu=False if that is right"):
        prepared(model, example, sharing=0)
    with pytest.warns(UserWarning, match="no stage has blocks that could share; give sharing=0 if that is right"):
        prepared(model, example, dyrelu=False)
    assert prepared(model, example, dyrelu=False, sharing=0).edits == ()
