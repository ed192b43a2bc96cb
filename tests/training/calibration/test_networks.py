"""Calibration as a whole: every method on several networks, exact counts, and what is refused before any work."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxsparse.errors import BudgetError, Error
from fxsparse.models import build
from fxsparse.training.calibration import METHODS, Settings, calibrate
from fxsparse.training.calibration.absorb import absorb, pairs
from fxsparse.training.calibration.heads import blocks
from fxsparse.training.calibration.images import gather, recalibrate
from fxsparse.training.calibration.settings import settings_of
from tests.training.calibration.trained import accuracy, calibration, images, trained

SMALL: dict[str, Any] = {"epochs": 4, "population": 4, "generations": 1, "parents": 2, "layer_steps": 40}


@pytest.mark.parametrize("kind", ["plain", "tied", "transformer"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_exactly_the_asked_weights(method: str, kind: str) -> None:
    model = trained(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = calibrate(model, calibration(), 0.7, method, **SMALL)
    size = sum(mask.numel() for mask in made.masks.values())
    living = {name: int(torch.count_nonzero(p)) for name, p in made.model.named_parameters() if name in made.masks}
    assert sum(living.values()) == size - round(0.7 * size)
    assert living == dict(made.distribution.counts)
    assert min(living.values()) > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not made.model.training


@pytest.mark.parametrize("method", ["unipts", "distill", "pot", "recommended"])
def test_learning_beats_magnitude(method: str) -> None:
    model = trained("plain")
    magnitude = accuracy(calibrate(model, calibration(), 0.85, "magnitude").model)
    assert accuracy(calibrate(model, calibration(), 0.85, method, **{**SMALL, "epochs": 15}).model) > magnitude + 0.1


def test_patterns() -> None:
    made = calibrate(trained("plain"), calibration(), 0.5, exclude=("conv0",), pattern="2:4", **SMALL)
    for name, mask in made.masks.items():
        groups = mask.movedim(1, -1).reshape(-1, 4)
        assert bool((groups.sum(1) == 2).all()), name
    blocks = calibrate(trained("plain"), calibration(), 0.5, exclude=("conv0",), pattern="block:2x4", **SMALL)
    assert all(count % 8 == 0 for count in blocks.distribution.counts.values())


def test_a_plan_is_applied_again(tmp_path: Path) -> None:
    first = calibrate(trained("plain"), calibration(), 0.8, **SMALL)
    first.distribution.save(tmp_path / "plan.json")
    again = calibrate(trained("plain"), calibration(), 0.8, "distill", allocation=tmp_path / "plan.json", **SMALL)
    assert dict(again.distribution.counts) == dict(first.distribution.counts)


def test_the_same_seed_gives_the_same_network() -> None:
    one, other = (calibrate(trained("plain"), calibration(), 0.8, **SMALL) for _ in range(2))
    assert all(torch.equal(value, other.model.state_dict()[name]) for name, value in one.model.state_dict().items())


def test_images_without_classes_do() -> None:
    x, _ = images()
    made = calibrate(trained("plain"), [x[:256]], 0.7, **SMALL)
    assert made.agreement > 0.3


def test_an_objective_of_one_s_own() -> None:
    def squares(student: Tensor, teacher: Tensor, epoch: int, settings: Settings) -> Tensor:
        return (student - teacher).square().mean()

    made = calibrate(trained("plain"), calibration(), 0.7, "distill", objective=squares, **SMALL)
    assert made.losses[-1] < 0.7 * made.losses[0]


def test_errors_behind_blocks_count_beside_the_objective() -> None:
    alone, both = (calibrate(trained("transformer"), calibration(), 0.7, "distill", features=f, **SMALL) for f in (0.0, 10.0))
    assert both.losses[0] > alone.losses[0]
    named = [name for name, _ in trained("transformer").named_parameters() if name in both.masks]
    assert blocks(trained("transformer"), named) == [f"body.layers.{i}{part}" for i in range(2) for part in ("", ".self_attn")]
    assert blocks(trained("plain"), [*both.masks]) == []


def test_sparsity_can_rise_during_the_run() -> None:
    for dynamic in (False, True):
        made = calibrate(trained("plain"), calibration(), 0.8, "distill", ramp=0.5, dynamic=dynamic, mix=0.5, **SMALL)
        assert made.sparsity == pytest.approx(0.8, abs=1e-3)


VIT = ("timm:vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "num_classes": 6})
CONVNEXT = ("timm:convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16), "num_classes": 6})
AUXILIARY = ("torchvision:googlenet", {"num_classes": 6})


@pytest.mark.parametrize(
    ("network", "method"),
    [(network, method) for network in (VIT, CONVNEXT) for method in ("unipts", "pot", "recommended")] + [(AUXILIARY, "distill")],
)
def test_networks_of_others(network: tuple[str, dict[str, Any]], method: str) -> None:
    spec, options = network
    if importlib.util.find_spec(spec.partition(":")[0]) is None:
        pytest.skip("timm or torchvision is not installed")
    model = build(spec, **options).model
    x = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    recalibrate(model, x)
    small = {**SMALL, "epochs": 1, "population": 2, "layer_steps": 1, "allocation": "search" if method == "unipts" else "erk"}
    made = calibrate(model, [x], 0.6, method, **small)
    size = sum(mask.numel() for mask in made.masks.values())
    assert sum(made.distribution.counts.values()) == size - round(0.6 * size)
    assert set(made.model.state_dict()) == set(model.state_dict()) and made.classifies


def test_a_layer_and_its_norm_are_one_layer_with_a_shift() -> None:
    model, (x, _) = copy.deepcopy(trained("plain")), images()
    data = gather(model, [x[:64]], settings_of("pot", {}))
    found = pairs(model, data)
    assert found == {f"conv{i}": f"norm{i}" for i in range(3)}
    before = model(x)
    absorb(model, found)
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)
    assert bool((model.get_parameter("norm1.weight") == 1).all())


def test_bfloat16_trains_the_weights() -> None:
    """Weights that autocast keeps in its cache would stay what they were."""
    made = calibrate(trained("plain"), calibration(), 0.7, "distill", precision="bf16", **SMALL)
    assert made.losses[-1] < 0.8 * made.losses[0]


def test_tokens_are_calibrated_with() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(20, 16), torch.nn.Flatten(), torch.nn.Linear(96, 32), torch.nn.ReLU(), torch.nn.Linear(32, 5)
    )
    made = calibrate(model, [torch.randint(0, 20, (64, 6))], 0.5, "unipts", **SMALL)
    assert abs(made.sparsity - 0.5) < 1e-3


X, Y = images()


@pytest.mark.parametrize(
    ("loader", "sparsity", "options", "said"),
    [
        ([(X[:8], Y[:8])], 0.9, {}, "8 calibration images are too few"),
        ([(X[Y != 3][:256], Y[Y != 3][:256])], 0.9, {}, "1 of 10 classes are missing"),
        ([(X[:256], Y[:256].roll(1))], 0.9, {}, "chance for 10 classes"),
        ([(X[:256], Y[:256] + 90)], 0.9, {}, "the model has 10 classes"),
        ([(X[:256], Y[:256])], 0.9999, {}, "weights for 4 layers"),
        ([(X[:256], Y[:256])], 1.0, {}, "sparsity is the part"),
        ([(X[:256], Y[:256])], 0.9, {"method": "uni-pts"}, "there is no method"),
        ([(X[:256], Y[:256])], 0.9, {"epoch": 3}, "no option 'epoch'"),
        ([(X[:256], Y[:256])], 0.9, {"objective": "hinton"}, "there is no objective"),
        ([(X[:256], Y[:256])], 0.9, {"precision": "fp8"}, "there is no precision"),
        ([X[:256].repeat(1, 2, 1, 1)], 0.9, {}, "the model does not take the images of shape"),
        ([X[:256].flatten(1)], 0.9, {"method": "recommended"}, "no images that could be mirrored and moved; give augment=False"),
        ([torch.zeros(64, 9, dtype=torch.long)], 0.9, {"mix": 0.5}, "inputs of torch.int64 cannot be blended; give mix=0"),
    ],
)
def test_what_cannot_work_is_said_at_once(loader: list[Any], sparsity: float, options: dict[str, Any], said: str) -> None:
    with pytest.raises(Error, match=said):
        calibrate(trained("plain"), loader, sparsity, **options)


def test_a_layer_without_weights_is_refused() -> None:
    model = trained("plain")
    with pytest.raises(BudgetError, match="would be left without weights"):
        calibrate(model, calibration(), 0.5, "magnitude", allocation={"conv0": 1e-4, "*": 0.9}, recalibrate=False)


def test_without_labels_a_model_that_says_the_same_of_everything_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    calibrate(model, [torch.rand(40, 3, 2, 2)], 0.5, "magnitude")
    nn.init.zeros_(model.get_parameter("1.weight"))
    with pytest.raises(Error, match="gives all 40 calibration images the same scores, so nothing can be learnt from it"):
        calibrate(model, [torch.rand(40, 3, 2, 2)], 0.5, "magnitude")


def test_dropout_is_drawn_by_the_seed_and_draws_nothing_of_the_caller_s() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))
    made, drawn = [], []
    for chance in (1, 2):
        torch.manual_seed(chance)
        made.append(calibrate(model, [images()[0][:64]], 0.5, "distill", **SMALL).model.state_dict())
        drawn.append(torch.rand(1))
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
    torch.manual_seed(2)
    assert torch.equal(drawn[1], torch.rand(1))
