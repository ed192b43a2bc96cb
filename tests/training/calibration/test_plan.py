"""What each layer is to keep: agreements and disagreements, before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxsparse.errors import BudgetError, Error
from fxsparse.sparsity.allocation import Layer
from fxsparse.training.calibration import Distribution, calibrate
from fxsparse.training.calibration.plan import NoneEmpty, planned
from fxsparse.training.calibration.settings import Settings, settings_of
from tests.training.calibration.trained import calibration, trained

OPTIONS: dict[str, Any] = {"epochs": 1, "warmup": 0}


class Never(nn.Module):
    """A model that must not run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("work was done")


def refused(said: str, sparsity: float | None = 0.9, **options: Any) -> None:
    with pytest.raises(Error, match=said):
        calibrate(Never(), [torch.zeros(64, 8)], sparsity, options.pop("method", "distill"), **options)


@pytest.mark.parametrize("method", ["unipts", "distill", "pot", "magnitude", "recommended"])
def test_too_much_sparsity_is_said_before_the_model_runs(method: str) -> None:
    refused("leaves 0 weights for 2 layers, which need 2; ask for less, or exclude layers", 0.999, method=method)


def test_a_layer_that_would_be_empty_is_said_before_the_model_runs() -> None:
    model = trained("plain")
    scaled = model.get_parameter("conv1.weight").detach() * 1e-3
    faint = trained("plain").__class__(False)
    faint.load_state_dict(model.state_dict())
    with torch.no_grad():
        faint.get_parameter("conv1.weight").copy_(scaled)
    with pytest.raises(BudgetError, match=r"conv1.weight would be left without weights by the allocation 'global' .* use allocation='erk'"):
        planned(faint, 0.9, settings_of("distill", {}))
    refused("would be left without weights", 0.9, allocation={"a": 0.001, "*": 0.9})
    made = calibrate(faint, [x for x, _ in calibration()], 0.9, "magnitude", allow_empty=True)
    assert made.distribution.counts["conv1.weight"] == 0


def test_a_renewal_leaves_each_layer_something() -> None:
    layers = planned(trained("plain"), 0.5, settings_of("distill", {"allocation": "erk"})).targets

    def nothing_first(layers: Any, total: int) -> dict[str, int]:
        names = list(layers)
        return {name: 0 if name == names[0] else total // (len(names) - 1) for name in names}

    counts = NoneEmpty(nothing_first)({t.name: Layer(t.shape) for t in layers}, 300)
    assert min(counts.values()) == 1 and sum(counts.values()) == 300


def test_a_pattern_says_its_own_sparsity() -> None:
    assert calibrate(trained("plain"), calibration(), method="magnitude", pattern="2:4", exclude=("conv0",)).sparsity == 0.5
    assert calibrate(trained("plain"), calibration(), method="magnitude").sparsity == pytest.approx(0.9, abs=1e-3)
    refused(
        "the pattern 2:4 keeps 96 of 192 weights, which is a sparsity of 0.5, and 0.9 was asked for; leave the sparsity out", pattern="2:4"
    )


def test_a_saved_distribution_says_its_own_sparsity(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    found = calibrate(trained("plain"), calibration(), 0.8, "magnitude").distribution
    found.save(path)
    assert Distribution.load(path).counts == found.counts
    for sparsity in (None, 0.8):
        again = calibrate(trained("plain"), calibration(), sparsity, "magnitude-bn", allocation=str(path))
        assert again.distribution.counts == found.counts
    with pytest.raises(BudgetError, match=r"the saved distribution keeps .* and 0.9 was asked for; leave the sparsity out"):
        calibrate(trained("plain"), calibration(), 0.9, "magnitude-bn", allocation=path)
    with pytest.raises(BudgetError, match=r"are not the same: 'a\.weight'"):
        calibrate(Never(), [torch.zeros(64, 8)], None, "distill", allocation=path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs of calibrate is a whole number, at least 1, not 0"),
        ({"epochs": True}, "epochs of calibrate is a whole number"),
        ({"lr": 0.0}, "lr of calibrate is a number above 0"),
        ({"lr": "high"}, "lr of calibrate is a number above 0, not 'high'"),
        ({"held_out": 1.0}, "held_out of calibrate is a number above 0 and below 1"),
        ({"mix": 2}, "mix of calibrate is a number from 0 to 1"),
        ({"inputs": "both"}, "there is no inputs 'both'; there are dense, sparse"),
        ({"allocation": "ekr"}, "there is no allocation 'ekr'"),
        ({"pattern": "2of4"}, "is no pattern"),
        ({"exclude": ("nothing",)}, "fits no parameter of the model"),
    ],
)
def test_wrong_options_are_said_before_the_model_runs(options: dict[str, Any], said: str) -> None:
    refused(said, **options)


def test_settings_are_checked_where_they_are_made() -> None:
    with pytest.raises(Error, match="ramp of calibrate is a number from 0 to 1"):
        Settings(ramp=-1)
