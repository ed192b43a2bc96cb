"""torch.compile as an engine: equal to the module, and refusals. Compiling needs a C++ compiler and takes its time."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

import fxsparse
from fxsparse.engines import engine
from fxsparse.errors import LoweringError
from tests.engines.test_onnx import pruned

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, while it loads its compiler


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="TorchInductor needs a C++ compiler")
def test_a_pruned_network_is_compiled() -> None:
    network: fxsparse.Network = pruned(nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3)), torch.randn(1, 3, 8, 8))
    built = engine("inductor", threads=1).build(network)
    inputs = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(built.run(inputs)[0], network.module.eval()(inputs), rtol=1e-4, atol=1e-4)
    assert built.prepare()() is not None and built.describe()["engine"] == "inductor"


def test_refusals() -> None:
    model, inputs = nn.Linear(4, 3), [torch.randn(2, 4)]
    with pytest.raises(LoweringError, match="give example inputs"):
        engine("inductor").build(model)
    with pytest.raises(LoweringError, match=r"shape \(2, 5\), and the engine was built for float32 of shape \(2, 4\)"):
        engine("inductor").build(model, inputs).run(torch.randn(2, 5))
    with pytest.raises(LoweringError, match=r"there is no engine 'inductr'.*inductor"):
        engine("inductr")
    with pytest.raises(LoweringError, match="'inductor': got an unexpected keyword argument 'colour'"):
        engine("inductor", colour="red")


@pytest.mark.skipif(torch.cuda.is_available(), reason="only without a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(LoweringError, match="the device 'cuda' is not there; use device='cpu'"):
        engine("inductor", device="cuda").build(nn.Linear(4, 3), [torch.randn(2, 4)])
