"""`trace(..., check=True)`: the traced module against the user's own model, on real values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.models import build
from tests import cases


class Branching(nn.Module):
    """Takes another way for large batches, by a number that has forgotten where it is from: tracing keeps the way that the example took."""

    def __init__(self) -> None:
        super().__init__()
        self.few, self.many = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.many(x) if 0.5 * x.shape[0] > 1 else self.few(x)
        return out


class Remembering(nn.Module):
    """Every second call does something else, and the model itself is no measure."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.linear(x) * (1 + self.calls)
        return out


class Counting(nn.Module):
    """Writes to a buffer in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.get_buffer("seen")
        seen += 1
        out: Tensor = self.linear(x) + seen
        return out


@pytest.mark.parametrize("spec", ["fxsparse:resnet20", "torchvision:mobilenet_v3_small", "torchvision:shufflenet_v2_x0_5"])
def test_models_that_are_traced_as_they_are(spec: str) -> None:
    loaded = build(spec, seed=0)
    training = {name: module.training for name, module in loaded.model.named_modules()}
    before = torch.get_rng_state()
    network = fxsparse.trace(loaded.model, loaded.inputs, check=True)
    assert any(group.prunable for group in network.groups)
    assert {name: module.training for name, module in loaded.model.named_modules()} == training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_branch_on_the_batch_is_found() -> None:
    model = Branching().eval()
    fxsparse.trace(model, torch.randn(2, 4))  # documented: what is traced is the way that the example took
    message = r"the traced Branching gives other outputs than the model for twice as many inputs \(output 0 is off"
    with pytest.raises(fxsparse.TraceError, match=message):
        fxsparse.trace(model, torch.randn(2, 4), check=True)
    fxsparse.trace(model, torch.randn(3, 4), check=True)


def test_what_tracing_itself_gets_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof compares networks of one trace. This does not: attention with another scale is seen."""
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    fxsparse.trace(model, torch.randn(2, 5, 8), check=True)
    real = nn.functional.scaled_dot_product_attention

    def other(*args: Any, **kwargs: Any) -> Tensor:
        return real(*args, **{**kwargs, "scale": 3.0})

    monkeypatch.setattr("fxsparse.tracing.replacements.F.scaled_dot_product_attention", other)
    with pytest.raises(fxsparse.TraceError, match="gives other outputs than the model"):
        fxsparse.trace(nn.Sequential(model), torch.randn(2, 5, 8), check=True)


def test_a_model_that_differs_from_itself_says_nothing() -> None:
    fxsparse.trace(Remembering().eval(), torch.randn(2, 4), check=True)


def test_buffers_and_modes_stay() -> None:
    model = Counting()
    network = fxsparse.trace(model, torch.randn(2, 4), check=True)
    assert model.training and float(model.get_buffer("seen")) == 0.0
    assert float(network.module.get_buffer("seen")) == 0.0


def test_without_values_there_is_nothing_to_run() -> None:
    with torch.device("meta"):
        model = cases.Residual()
    with pytest.raises(fxsparse.TraceError, match=r"check=True runs the model, and .* has no values"):
        fxsparse.trace(model, torch.randn(2, 3, 8, 8), check=True)


class Sized(nn.Module):
    """Remembers the size of its last image, and what it made for it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.size = nn.Linear(4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        if self.size != x.shape[0]:
            self.size, self.shift = x.shape[0], torch.arange(x.shape[0]) / 10
        out: Tensor = self.linear(x) + self.shift[:, None]
        return out


def test_what_the_model_remembers_is_not_that_of_a_check() -> None:
    model = Sized()
    network = fxsparse.trace(model, torch.randn(2, 4), check=True)
    assert model.size == 0 and not hasattr(model, "shift")
    assert network(torch.randn(5, 4)).shape == (5, 3)
