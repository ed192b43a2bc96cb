"""Statistics from data: the cumulative average, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse import PassError, VerificationError
from fxsparse.passes.fold_batch_norm import FoldBatchNorm
from fxsparse.passes.recalibrate_batch_norm import RecalibrateBatchNorm
from tests.networks.randomise import randomise


def made() -> fxsparse.Network:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    return fxsparse.trace(randomise(model), torch.randn(2, 3, 4, 4))


def batches(count: int = 5) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(8, 3, 4, 4) + 1, torch.zeros(8, dtype=torch.long)) for _ in range(count)]


def test_statistics_are_the_average_of_all_batches() -> None:
    network, data = made(), batches()
    result = RecalibrateBatchNorm()(network, data=data)
    conv = network.module.get_submodule("0")
    with torch.no_grad():
        outs = [conv(x) for x, _ in data]
    state = result.network.module.state_dict()
    torch.testing.assert_close(state["1.running_mean"], torch.stack([o.mean((0, 2, 3)) for o in outs]).mean(0))
    torch.testing.assert_close(state["1.running_var"], torch.stack([o.var((0, 2, 3)) for o in outs]).mean(0))
    assert int(state["1.num_batches_tracked"]) == 5
    assert result.notes == ("1 batch norms have seen 5 batches",)


def test_nothing_else_changes() -> None:
    network = made()
    before = {key: tensor.clone() for key, tensor in network.module.state_dict().items()}
    result = RecalibrateBatchNorm(batches=2)(network, data=batches())
    after = result.network.module.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {
        "1.running_mean", "1.running_var", "1.num_batches_tracked",
    }  # fmt: skip
    assert all(torch.equal(before[key], tensor) for key, tensor in network.module.state_dict().items())
    assert not any(each.training for each in result.network.module.modules())
    assert result.network.module.get_submodule("1").momentum == 0.3
    assert int(after["1.num_batches_tracked"]) == 2


@pytest.mark.parametrize("batch", [lambda x: x, lambda x: (x, 0), lambda x: ((x,), 0)], ids=["alone", "with-targets", "tuple"])
def test_batches_come_in_several_forms(batch) -> None:  # type: ignore[no-untyped-def]
    data = [x for x, _ in batches()]
    results = [RecalibrateBatchNorm()(made(), data=given).network.module.state_dict() for given in (data, [batch(x) for x in data])]
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_works_on_a_network_that_was_cut() -> None:
    small = made().shrink({"0": [0, 2]})
    result = RecalibrateBatchNorm()(small, data=batches())
    assert result.network.module.state_dict()["1.running_mean"].shape == (2,)
    assert fxsparse.verify(result.network.regrow(), result.network).max_error < 1e-12


def test_refuses_with_a_sentence() -> None:
    network = made()
    with pytest.raises(PassError, match="needs data"):
        RecalibrateBatchNorm()(network)
    with pytest.raises(PassError, match="got no batch"):
        RecalibrateBatchNorm()(network, data=[])
    with pytest.raises(PassError, match="not -1"):
        RecalibrateBatchNorm(batches=-1)(network, data=batches())
    with pytest.raises(PassError, match="finds no batch norm"):
        RecalibrateBatchNorm()(FoldBatchNorm()(network).network, data=batches())
    with pytest.raises(VerificationError, match=r"1\.running_mean is not finite"):
        RecalibrateBatchNorm()(network, data=[torch.full((2, 3, 4, 4), torch.nan)])
    line = fxsparse.trace(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(2, 3))
    with pytest.raises(PassError, match=r"cannot take a batch of shape \(1, 3\): Expected more than 1 value per channel"):
        RecalibrateBatchNorm()(line, data=[torch.randn(1, 3)])
