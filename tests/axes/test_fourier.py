"""Fourier transforms: channels pass, what is transformed stays whole, and complex weights are pruned and proved like real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.passes import Prune
from fxsparse.passes.base import Context


class Spectral(nn.Module):
    """The layer of a Fourier neural operator: low frequencies are mixed across channels by complex weights."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(channels, channels, modes, modes, dtype=torch.cfloat))
        self.modes = modes

    def forward(self, x: Tensor) -> Tensor:
        spectrum, low = torch.fft.rfft2(x), slice(0, self.modes)
        mixed = torch.zeros(x.shape[0], self.weight.shape[1], *spectrum.shape[-2:], dtype=spectrum.dtype, device=x.device)
        mixed[:, :, low, low] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, low, low], self.weight)
        out: Tensor = torch.fft.irfft2(mixed, s=x.shape[-2:])
        return out


class Operator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Conv2d(1, 12, 1), nn.Conv2d(12, 1, 1)
        self.spectral = nn.ModuleList([Spectral(12, 4), Spectral(12, 4)])
        self.local = nn.ModuleList([nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for spectral, local in zip(self.spectral, self.local, strict=True):
            x = torch.relu(spectral(x) + local(x))
        out: Tensor = self.head(x)
        return out


class GlobalFilter(nn.Module):
    """Each channel has a filter in the frequencies of its positions, whose complex numbers are kept as pairs of real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), nn.Linear(16, 5)
        self.filter = nn.Parameter(0.1 * torch.randn(8, 5, 16, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        spectrum = torch.fft.rfft2(self.norm(x), dim=(1, 2), norm="ortho") * torch.view_as_complex(self.filter)
        out: Tensor = self.head((x + torch.fft.irfft2(spectrum, s=x.shape[1:3], dim=(1, 2), norm="ortho")).mean((1, 2)))
        return out


class Mixer(nn.Module):
    """FNet's mixing: a transform over positions and channels at once, which leaves nothing to remove but the hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 20), nn.Linear(20, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real
        out: Tensor = x + self.down(torch.relu(self.up(x)))
        return out


@pytest.mark.parametrize(
    ("model", "inputs", "units"),
    [(Operator, (2, 1, 16, 16), [12, 12, 12]), (GlobalFilter, (2, 3, 32, 32), [16]), (Mixer, (2, 10, 6), [20])],
)
def test_channels_pass_and_what_is_transformed_stays(model: Any, inputs: tuple[int, ...], units: list[int]) -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(model().eval(), torch.randn(inputs))
    prunable = [group for group in network.groups if group.prunable]
    assert sorted(len(group.units) for group in prunable) == units
    small = network.shrink({group.name: list(group.units)[::2] for group in prunable})
    proof = fxsparse.verify(network, small)
    assert proof.max_error < 1e-9 < proof.effect
    again = small.regrow()
    for key, tensor in network.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[key], tensor)


def test_the_reason_names_the_transform() -> None:
    network = fxsparse.trace(Mixer().eval(), torch.randn(2, 10, 6))
    assert "_fft_r2c transforms it" in {group.reason for group in network.groups if not group.prunable}


def test_positions_may_be_others_after_pruning() -> None:
    torch.manual_seed(0)
    network = fxsparse.trace(Operator().eval(), torch.randn(2, 1, 16, 16))
    dead = {"lift": [1, 4, 7]}
    with torch.no_grad():
        name = next(group.name for group in network.groups if any(member.tensor == "lift.weight" for member in group.members))
        network.module.get_parameter("lift.weight")[dead["lift"]] = 0
        network.module.get_parameter("lift.bias")[dead["lift"]] = 0
    small = network.shrink({name: [unit for unit in range(12) if unit not in dead["lift"]]})
    for extent in (16, 24):
        images = torch.randn(3, 1, extent, extent)
        torch.testing.assert_close(small.module(images), network.module(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "fpgm", "taylor"])
def test_complex_weights_are_judged_by_both_of_their_parts(criterion: str) -> None:
    torch.manual_seed(0)
    model = Operator().eval()
    with torch.no_grad():
        for index in range(2):  # what produces the last channels is imaginary, and large
            model.get_parameter(f"spectral.{index}.weight")[:, 8:] = torch.complex(torch.zeros(12, 4, 4, 4), torch.full((12, 4, 4, 4), 3.0))
    network = fxsparse.trace(model, torch.randn(2, 1, 16, 16))
    data = [(torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16)) for _ in range(2)]
    result = Prune(units=0.6, criterion=criterion)(network, Context(data=data, loss=nn.functional.mse_loss))
    left = result.network
    assert left.macs < network.macs
    if criterion == "magnitude":
        name = next(g.name for g in network.groups if any(m.tensor == "spectral.1.weight" and m.axis == 1 for m in g.members))
        assert set(left.living[name]) >= {8, 9, 10, 11}
    assert fxsparse.verify(network, left).max_error < 1e-9


def test_a_complex_weight_alone_is_tainted_in_the_proof() -> None:
    """No real layer stands beside the spectral one: only its own complex weight says that a channel is gone."""
    torch.manual_seed(0)
    network = fxsparse.trace(nn.Sequential(Spectral(4, 3), Spectral(4, 3), nn.Conv2d(4, 2, 1)).eval(), torch.randn(2, 4, 8, 8))
    prunable = [group for group in network.groups if group.prunable]
    assert [len(group.units) for group in prunable] == [4, 4]
    small = network.shrink({group.name: [0, 3] for group in prunable})
    proof = fxsparse.verify(network, small)
    assert proof.max_error < 1e-9 < proof.effect
