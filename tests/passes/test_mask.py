"""Masks beside the module: exact counts, patterns along the channels that are there, and what they follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse import PassError
from fxsparse.passes import Pipeline
from fxsparse.passes.apply_masks import ApplyMasks
from fxsparse.passes.mask import Mask
from tests.networks.randomise import randomise


def made() -> fxsparse.Network:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip
    return fxsparse.trace(randomise(model), torch.randn(2, 3, 8, 8))


def zeros(network: fxsparse.Network) -> int:
    return sum(int((network.module.get_parameter(key) == 0).sum()) for key in network.masks)


@pytest.mark.parametrize("allocation", ["erk", "uniform", "global", {"0": 0.9, "*": 0.05}])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_the_count_is_exact(allocation: Any, sparsity: float) -> None:
    network = made()
    result = Mask(sparsity=sparsity, allocation=allocation)(network)
    total = 3 * 8 * 9 + 8 * 8 * 9 + 128 * 4
    assert zeros(result.network) == total - round(total * (1 - sparsity))
    assert set(result.network.masks) == {"0.weight", "3.weight", "6.weight"}
    assert list(result.network.module.state_dict()) == list(network.module.state_dict())
    assert zeros(network) == 0 and not network.masks


def test_the_smallest_go() -> None:
    network = made()
    result = Mask(sparsity=0.5, include=("3",))(network)
    weight, mask = network.module.get_parameter("3.weight").detach(), result.network.masks["3.weight"]
    assert weight[mask].abs().min() >= weight[~mask].abs().max()
    assert torch.equal(result.network.module.get_parameter("3.weight"), weight * mask)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:8"])
def test_n_of_m_along_the_surviving_input_channels(pattern: str) -> None:
    n, m = map(int, pattern.split(":"))
    small = made().shrink({"0": [0, 1, 4, 7]}) if m == 4 else made()
    result = Mask(pattern=pattern)(small)
    mask = result.network.masks["3.weight"]
    assert mask.shape[1] == (4 if m == 4 else 8)
    assert (mask.movedim(1, -1).reshape(-1, m).sum(1) == n).all()
    assert result.notes[1].startswith("0.weight stays dense: 0.weight of shape") and "no multiple of" in result.notes[1]
    assert set(result.network.masks) == {"3.weight", "6.weight"}


def test_blocks_and_channels() -> None:
    result = Mask(pattern="block:2x4", sparsity=0.75, include=("3",))(made())
    blocks = result.network.masks["3.weight"].reshape(4, 2, 2, 4, 3, 3).movedim(2, 1).flatten(2, 3)
    assert (blocks.all(2) | ~blocks.any(2)).all()
    assert result.network.masks["3.weight"].float().mean() == 0.25
    rows = Mask(pattern="channel", sparsity=0.5, include=("3",))(made()).network.masks["3.weight"].flatten(1)
    assert (rows.all(1) | ~rows.any(1)).all() and rows.any(1).sum() == 4


def test_transposed_convolutions_have_other_axes() -> None:
    network = fxsparse.trace(nn.Sequential(nn.ConvTranspose2d(4, 8, 3), nn.Conv2d(8, 4, 1)), torch.randn(1, 4, 5, 5))
    assert set(Mask(sparsity=0.5)(network).network.masks) == {"0.weight", "1.weight"}
    result = Mask(pattern="2:4")(network)
    assert set(result.network.masks) == {"1.weight"} and "transposed convolution" in result.notes[1]


def test_scores_by_gradients_need_data() -> None:
    network = made()
    with pytest.raises(PassError, match="needs gradients; pass data"):
        Mask(sparsity=0.5, score="taylor")(network)
    data = [(torch.randn(4, 3, 8, 8), torch.arange(4)) for _ in range(2)]
    result = Mask(sparsity=0.5, score="taylor", include=("6",))(network, data=data)
    parameter = network.module.get_parameter("6.weight")
    loss = torch.stack([nn.functional.cross_entropy(network(x), y) for x, y in data]).sum()
    worth = (parameter * torch.autograd.grad(loss, parameter)[0]).abs().detach()
    mask = result.network.masks["6.weight"]
    assert worth[mask].min() >= worth[~mask].max()
    assert parameter.grad is None


def test_masks_follow_the_units(tmp_path: Path) -> None:
    network = Mask(sparsity=0.6)(made()).network
    small = network.shrink({"0": [1, 3, 6]})
    assert torch.equal(small.masks["3.weight"], network.masks["3.weight"][:, [1, 3, 6]])
    assert torch.equal(small.masks["0.weight"], network.masks["0.weight"][[1, 3, 6]])
    back = small.regrow()
    assert all(torch.equal(back.masks[key], mask) for key, mask in network.masks.items())
    fxsparse.save(small, tmp_path / "out", journal=True)
    again = fxsparse.load(tmp_path / "out", made().as_original())
    assert {key: mask.tolist() for key, mask in again.masks.items()} == {key: mask.tolist() for key, mask in small.masks.items()}


def test_apply_makes_zeros_again_and_forgets() -> None:
    network = Mask(sparsity=0.5)(made()).network
    parameter = network.module.get_parameter("3.weight")
    with torch.no_grad():
        parameter.add_(1.0)  # an optimizer that knows no masks
    gone = int((~network.masks["3.weight"]).sum())
    result = ApplyMasks()(network)
    assert not result.network.masks and f"{gone:,} of them were not zero" in result.notes[0]
    weight = result.network.module.get_parameter("3.weight")
    assert torch.equal(weight, torch.where(network.masks["3.weight"], parameter, 0.0))
    kept = ApplyMasks(keep=True)(network).network
    assert all(torch.equal(kept.masks[key], mask) for key, mask in network.masks.items())
    with pytest.raises(PassError, match="finds no masks"):
        ApplyMasks()(result.network)


def test_second_mask_takes_the_place_of_the_first() -> None:
    once = Mask(sparsity=0.5, include=("0", "3"))(made()).network
    twice = Mask(sparsity=0.9, include=("3", "6"))(once).network
    assert set(twice.masks) == {"0.weight", "3.weight", "6.weight"}
    assert not (twice.masks["3.weight"] & ~once.masks["3.weight"]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a sparsity with the pattern unstructured"),
        ({"sparsity": 1.0}, "at least 0 and below 1"),
        ({"sparsity": 0.9, "pattern": "2:4"}, "has the sparsity 0.5, not 0.9"),
        ({"pattern": "5:4"}, "5:4 is no pattern"),
        ({"sparsity": 0.5, "score": "age"}, "there is no score 'age'"),
        ({"sparsity": 0.5, "include": ("9",)}, "fits no parameter"),
        ({"pattern": "2:5"}, "fits none of the tensors"),
        ({"sparsity": 0.5, "allocation": {"0": 0.5}}, "no explicit density fits 3.weight"),
    ],
)
def test_refuses_with_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PassError, match=message):
        Mask(**options)(made())


def test_scores_that_are_no_numbers_are_refused() -> None:
    def score(weight: Any) -> Tensor:
        found: Tensor = weight.value * torch.nan
        return found

    with pytest.raises(fxsparse.Error, match="not a number"):
        Mask(sparsity=0.5, score=score)(made())


def test_text() -> None:
    for text in ("mask{sparsity=0.9,exclude=[head*]},apply-masks", 'mask{pattern="2:4"}'):
        assert str(Pipeline.parse(text)) == text


def test_what_no_gradient_reaches_scores_zero() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.aux = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            x = torch.relu(self.body(x))
            return (self.head(x), self.aux(x)) if self.training else self.head(x)

    network = fxsparse.trace(Auxiliary().eval(), torch.randn(2, 6))
    data = [(torch.randn(5, 6), torch.arange(5) % 4)]
    result = Mask(sparsity=0.5, score="taylor", allocation="global")(network, data=data)
    assert result.notes[-1] == "no gradient reaches aux.weight; what they hold scores zero"
    assert not result.network.masks["aux.weight"].any()
