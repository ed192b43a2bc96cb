"""Norms that are written out in a forward pass, of activations and of weights, and means that are no norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse
from fxsparse.channels.groups import Group

NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean square": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "root mean square": lambda x: x / torch.sqrt((x * x).mean(dim=(-1,), keepdim=True) + 1e-6),
    "in another type": lambda x: x * (x.float().square().mean(-1, keepdim=True).to(x.dtype) + 1e-6).pow(-0.5),
    "one over": lambda x: x * (1 / (x.std(-1, keepdim=True) + 1e-6)),
    "mean and deviation": lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6),
    "var_mean": lambda x: (x - torch.var_mean(x, -1, keepdim=True)[1]) * (x.var(-1, keepdim=True) + 1e-6).rsqrt(),
    "centred twice": lambda x: (c := x - x.mean(-1, keepdim=True)) / ((c**2).mean(-1, keepdim=True) + 1e-6).sqrt(),
    "gone before it is used": lambda x: x - x.mean(-1)[..., None],
    "expanded": lambda x: (x - x.mean(-1, keepdim=True).expand_as(x)) / x.std(-1, keepdim=True).expand(x.shape),
    "scaled first": lambda x: x * (s := x.var(-1, keepdim=True).rsqrt()) - x.mean(-1, keepdim=True) * s,
    "response": lambda x: x * (g := x.norm(dim=1, keepdim=True)) / (g.mean(-1, keepdim=True) + 1e-6),
}
NO_NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "taken off": lambda x: x - torch.tanh(x.mean(-1, keepdim=True)),
    "a variance that is taken off": lambda x: x - x.var(-1, keepdim=True),
    "a gate": lambda x: x * torch.sigmoid(x.mean(-1, keepdim=True)),
    "a factor": lambda x: x * x.mean(-1, keepdim=True),
    "a numerator": lambda x: x.mean(-1, keepdim=True) / (x.abs() + 1),
    "joined": lambda x: x + F.pad(x.mean(-1, keepdim=True), (0, 7)),
    "one that comes back and one that does not": lambda x: (x - (m := x.mean(-1, keepdim=True))) * torch.sigmoid(m),
    "its own square": lambda x: x - (m := x.mean(-1, keepdim=True)) * m,
}


class Between(nn.Module):
    """Eight channels, a function of them, and a head."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head, self.function = nn.Linear(4, 8), nn.Linear(8, 3), function

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.function(self.body(x)))
        return found


def group_of(function: Callable[[Tensor], Tensor]) -> tuple[fxsparse.Network, Group]:
    network = fxsparse.trace(Between(function), torch.randn(2, 5, 4))
    return network, next(group for group in network.groups if group.name == "body")


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_by_hand_takes_its_statistics_over_what_is_left(name: str) -> None:
    network, group = group_of(NORMS[name])
    assert group.prunable, group.reason
    proof = fxsparse.verify(network, network.shrink({"body": [1, 4, 7]}))
    assert proof.effect > 1e-3
    with pytest.raises(fxsparse.PlanError, match="is normalised over its units"):
        network.shrink({"body": [1, 2]}).regrow(init="zero")


@pytest.mark.parametrize("name", NO_NORMS)
def test_a_mean_that_goes_elsewhere_protects_what_it_is_taken_of(name: str) -> None:
    _, group = group_of(NO_NORMS[name])
    assert not group.prunable and group.reason in ("mean reduces it", "var reduces it", "coupled to a protected axis")


class Normed(nn.Module):
    """A norm module or function of torch between two layers, with or without a weight of its own."""

    def __init__(self, norm: nn.Module | None, **options: Any) -> None:
        super().__init__()
        self.body, self.norm, self.head, self.options = nn.Linear(4, 8), norm, nn.Linear(8, 3), options

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        found: Tensor = self.head(F.rms_norm(x, **self.options) if self.norm is None else self.norm(x))
        return found


@pytest.mark.parametrize(
    "model",
    [
        Normed(nn.RMSNorm(8)),
        Normed(nn.RMSNorm(8, elementwise_affine=False)),
        Normed(nn.LayerNorm(8, elementwise_affine=False)),
        Normed(None, normalized_shape=[8]),
        Normed(None, normalized_shape=(8,), weight=None, eps=1e-3),
    ],
)
def test_norms_that_torch_takes_apart_follow_a_change(model: nn.Module) -> None:
    network = fxsparse.trace(model, torch.randn(2, 5, 4))
    for units in ([1, 4, 7], [3]):
        assert fxsparse.verify(network, network.shrink({"body": units})).effect > 1e-3


def test_a_variance_of_one_number_is_none() -> None:
    network, _ = group_of(NORMS["mean and deviation"])
    with pytest.raises(fxsparse.PlanError, match=r"nothing to vary: the forward pass takes a variance of 1 number\(s\)"):
        network.shrink({"body": [3]})
    biased, _ = group_of(lambda x: x / (x.std(-1, keepdim=True, correction=0) + 0.1))
    assert torch.isfinite(biased.shrink({"body": [3]})(torch.randn(2, 5, 4))).all()


def test_a_mean_that_is_an_output_is_no_norm() -> None:
    class Both(Between):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            y = self.body(x)
            mean = y.mean(-1, keepdim=True)
            return self.head(y - mean), mean

    network = fxsparse.trace(Both(lambda x: x), torch.randn(2, 4))
    assert not next(group for group in network.groups if group.name == "body").prunable


class Standardised(nn.Conv2d):
    """Weight standardisation, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5), self.bias, padding=1)


class StandardisedByBatchNorm(nn.Conv2d):
    """Weight standardisation, as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        line = self.weight.reshape(1, self.out_channels, -1)
        return F.conv2d(x, F.batch_norm(line, None, None, training=True, momentum=0.0).reshape_as(self.weight), self.bias, padding=1)


class StandardisedStepByStep(nn.Conv2d):
    """Weight standardisation, as its authors write it (Qiao et al., 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True).mean(dim=3, keepdim=True)
        weight = self.weight - mean
        std = weight.view(weight.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
        return F.conv2d(x, weight / std.expand_as(weight), self.bias, padding=1)


class OfUnitLength(nn.Conv2d):
    """Each output's weights have length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, F.normalize(self.weight, dim=(1, 2, 3)), self.bias, padding=1)  # type: ignore[arg-type]


class Demodulated(nn.Conv2d):
    """As StyleGAN 2 demodulates, without a style."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * torch.rsqrt((self.weight**2).sum((1, 2, 3), keepdim=True) + 1e-8), self.bias, padding=1)


def weight_norm(inputs: int, outputs: int, size: int) -> nn.Module:
    found: nn.Module = nn.utils.parametrizations.weight_norm(nn.Conv2d(inputs, outputs, size, padding=1))
    return found


def transposed(inputs: int, outputs: int, size: int) -> nn.Module:
    """The norm of each input, over the outputs."""
    found: nn.Module = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(inputs, outputs, size, padding=1))
    return found


WEIGHTS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "by hand": Standardised,
    "by batch norm": StandardisedByBatchNorm,
    "step by step": StandardisedStepByStep,
    "of unit length": OfUnitLength,
    "demodulated": Demodulated,
    "weight norm": weight_norm,
    "weight norm, transposed": transposed,
}


class Residual(nn.Module):
    def __init__(self, conv: Callable[[int, int, int], nn.Module]) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = conv(3, 6, 3), conv(6, 8, 3), conv(8, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        found: Tensor = self.head((x + self.two(F.relu(self.one(x)))).mean((2, 3)))
        return found


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_that_is_normalised_loses_inputs_and_outputs(name: str) -> None:
    network = fxsparse.trace(Residual(WEIGHTS[name]), torch.randn(2, 3, 5, 5))
    small = network.shrink({"stem": [0, 5], "one": [2, 3, 7]})
    assert fxsparse.verify(network, small).effect > 1e-3


def test_the_proof_knows_the_norm_of_a_weight_by_what_is_left_of_it() -> None:
    network = fxsparse.trace(Residual(Standardised), torch.randn(2, 3, 5, 5))
    small = network.shrink({"one": [2]})
    fxsparse.verify(network, small)
    network.origin.structure.reading.book.statistics.clear()  # as if the rule had not said so
    with pytest.raises(fxsparse.VerificationError, match="differs from the reference"):
        fxsparse.verify(network, small)


def test_a_sum_over_a_weight_that_is_no_norm_protects_it() -> None:
    class Summed(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.weight.sum((1, 2, 3))[:, None, None]

    def conv(inputs: int, outputs: int, size: int) -> nn.Module:
        return Summed(inputs, outputs, size, padding=1)

    network = fxsparse.trace(Residual(conv), torch.randn(2, 3, 5, 5))
    assert {g.reason for g in network.groups if g.name in ("stem", "one")} == {"sum reduces it"}
