"""Post-training sparsity on a small trained network: counts, objectives, search, baselines, and what is refused."""

from __future__ import annotations

import copy
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fxsparse.errors import BudgetError, CheckpointError, Error
from fxsparse.training import Distribution, calibrate
from fxsparse.training.calibration.distribution import express
from fxsparse.training.calibration.objective import base_decayed, distillation
from fxsparse.training.calibration.search import Search
from fxsparse.training.calibration.settings import METHODS, Settings
from fxsparse.training.calibration.variety import augmented


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four classes: a bright quarter of a noisy image."""
    generator = torch.Generator().manual_seed(seed)
    x, y = 0.5 * torch.randn(count, 1, 8, 8, generator=generator), torch.randint(4, (count,), generator=generator)
    for i, label in enumerate(y.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        x[i, 0, row : row + 4, column : column + 4] += 0.7
    return x, y


@functools.cache
def _trained() -> nn.Module:
    torch.manual_seed(0)
    model, (x, y) = network(), images(512, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def trained() -> nn.Module:
    return copy.deepcopy(_trained())


def batches(count: int = 256) -> list[tuple[Tensor, Tensor]]:
    x, y = images(count, 1)
    return [(x[i : i + 64], y[i : i + 64]) for i in range(0, count, 64)]


def accuracy(model: nn.Module) -> float:
    x, y = images(400, 2)
    return float((model(x).argmax(1) == y).float().mean())


FAST: dict[str, Any] = {"epochs": 4, "population": 4, "generations": 2, "parents": 2, "layer_steps": 40}


@pytest.mark.parametrize("method", list(METHODS))
def test_counts_are_exact_and_the_dense_model_stays(method: str) -> None:
    model = trained()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = calibrate(model, batches(), 0.8, method, **FAST)
    total = sum(mask.numel() for mask in result.masks.values())
    parameters = dict(result.model.named_parameters())
    assert sum(int(mask.sum()) for mask in result.masks.values()) == total - round(0.8 * total)
    assert all(not parameters[name][~mask].any() for name, mask in result.masks.items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert result.sparsity == pytest.approx(0.8, abs=1e-3)


def test_learning_from_the_teacher_beats_cutting() -> None:
    cut = accuracy(calibrate(trained(), batches(), 0.97, "magnitude", allocation="erk").model)
    for method in ("distill", "unipts", "recommended"):
        taught = calibrate(trained(), batches(), 0.97, method, allocation="erk", epochs=15, augment=False).model
        assert accuracy(taught) > cut + 0.1, method


def test_layer_wise_reconstruction_brings_layers_back() -> None:
    pot = calibrate(trained(), batches(), 0.7, "pot", allocation="erk", layer_steps=150, layer_lr=0.01)
    assert accuracy(pot.model) > accuracy(calibrate(trained(), batches(), 0.7, "magnitude", allocation="erk").model) - 0.05
    assert pot.agreement > 0.6


def test_images_without_labels_and_with_n_of_m() -> None:
    result = calibrate(
        trained(), [x for x, _ in batches()], 0.5, "recommended", pattern="2:4", exclude=["0"], epochs=2, allocation="uniform"
    )
    assert result.sparsity == pytest.approx(0.5)
    kept = result.masks["3.weight"].movedim(1, -1).reshape(-1, 4).sum(1)
    assert (kept == 2).all()


def test_the_objective_is_the_paper_s_and_its_gradient_a_weighted_distillation() -> None:
    settings, generator = Settings(), torch.Generator().manual_seed(0)
    student = torch.randn(6, 5, generator=generator, requires_grad=True, dtype=torch.float64)
    teacher = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    for epoch in (0, 7):
        tau = 8 * 0.99**epoch
        p = (teacher / 4).softmax(1)
        loss = base_decayed(student, teacher, epoch, settings)
        assert loss.item() == pytest.approx((16 / 6 * (p * (p.log() - student.log_softmax(1) / tau)).sum()).item())
        (gradient,) = torch.autograd.grad(loss, student)
        torch.testing.assert_close(gradient, 16 / tau * (student.softmax(1) - p).detach() / 6)
    assert distillation(teacher, teacher, 0, settings).item() == pytest.approx(0, abs=1e-12)


def test_augmented_images_are_moved_and_mirrored_ones() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8).expand(200, 1, 8, 8)
    made = augmented(x, torch.Generator().manual_seed(0))
    padded = F.pad(x[:1], (1, 1, 1, 1))[0, 0]
    windows = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    possible = {tuple(w.flatten().tolist()) for window in windows for w in (window, window.flip(1))}
    seen = {tuple(each.flatten().tolist()) for each in made}
    assert seen <= possible and len(seen) > 10


@given(st.lists(st.integers(4, 400), min_size=2, max_size=6), st.floats(0.0, 0.97), st.integers(0, 100))
def test_every_genome_keeps_the_exact_count_and_no_layer_is_empty(sizes: list[int], sparsity: float, seed: int) -> None:
    total = sum(sizes) - round(sparsity * sum(sizes))
    genome = 3 * np.random.default_rng(seed).standard_normal(len(sizes))
    if total < len(sizes):
        return
    try:
        counts = express(genome, sizes, total, 0.05)
    except BudgetError as error:
        assert "fewer than the" in str(error)
        return
    assert sum(counts) == total
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))


def _fitness(counts: Any, seed: int) -> float:
    return float(-abs(counts[0] - 30) / 100 + (seed % 7) * 1e-6)


def _search(**where: Any) -> Search:
    settings = replace(Settings(), population=6, generations=5, parents=3)
    return Search(_fitness, ("a", "b", "c"), (100, 200, 50), 120, settings, **where)


def test_a_search_is_the_same_on_any_executor_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    alone = _search()
    best = alone.run()
    with ThreadPoolExecutor(3) as pool:
        together = _search(executor=pool)
        assert together.run() == best and together.history == alone.history
    stopped = _search(path=tmp_path / "s.json")
    stopped.settings = replace(stopped.settings, generations=2)
    stopped.run()
    resumed = _search(path=tmp_path / "s.json")
    assert resumed.run() == best and resumed.history == alone.history
    assert best.fitness == max(fitness for _, fitness in alone.history) >= alone.history[0][1]
    other = Search(_fitness, ("a", "b"), (100, 200), 120, alone.settings, path=tmp_path / "s.json")
    with pytest.raises(CheckpointError, match="it belongs to another search"):
        other.run()


def test_a_distribution_is_saved_and_applied_again(tmp_path: Path) -> None:
    found = calibrate(trained(), batches(), 0.8, "unipts", **FAST)
    found.distribution.save(tmp_path / "d.json")
    again = calibrate(trained(), batches(), 0.8, "magnitude", allocation=str(tmp_path / "d.json"))
    assert again.distribution.counts == found.distribution.counts
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be used"):
        Distribution.load(tmp_path / "d.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "unitps"}, "there is no method 'unitps' (did you mean 'unipts'"),
        ({"epoch": 3}, "calibrate has no option 'epoch' (did you mean 'epochs'"),
        ({"sparsity": 1.0}, "at least 0 and below 1"),
        ({"sparsity": 0.9999}, "weights for 3 layers, which need 3; ask for less"),
        ({"loader": batches()[:0]}, "0 calibration images are too few"),
        ({"epochs": 0}, "epochs of calibrate is a whole number"),
        ({"loader": [(x, torch.zeros_like(y)) for x, y in batches()]}, "3 of 4 classes are missing"),
        ({"loader": [(x, (y + 1) % 4) for x, y in batches()]}, "which is chance for 4 classes"),
        ({"loader": [(x, y + 10) for x, y in batches()]}, "and the model has 4 classes"),
        ({"loader": ["image"]}, "a calibration batch is a tensor"),
    ],
)
def test_what_is_refused_before_any_work(change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"loader": batches(), "sparsity": 0.9, "method": "distill", **change}
    with pytest.raises(Error) as caught:
        calibrate(trained(), given.pop("loader"), given.pop("sparsity"), given.pop("method"), **given)
    assert said in str(caught.value)
