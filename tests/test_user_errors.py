"""What went wrong while the documentation was written: each mistake of a user is one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fxsparse
from fxsparse.models import build
from fxsparse.models.weights import read_weights
from fxsparse.passes import Prune
from fxsparse.training import RigL
from tests.training.small import batch, network

# Each gets a network, typed loosely: most of these a type checker would refuse.
MISTAKES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a number of units": (lambda net: net.shrink({"0": 8}), r"a list of their numbers, such as \[0, 3, 4\], not as 8"),
    "a number to regrow": (lambda net: net.shrink({"0": [0]}).regrow({"0": 4}), r"a list of their numbers"),
    "a mask": (lambda net: net.shrink({"0": torch.arange(16) < 8}), r"not as a mask; give mask\.nonzero\(\)\.flatten\(\)"),
    "a list of truth values": (lambda net: net.shrink({"0": [True] * 16}), r"not as a mask"),
    "a tensor's name": (lambda net: net.shrink({"0.weight": [0]}), r"no group '0\.weight'.*did you mean '0'"),
    "a used generator": (
        lambda net: Prune(macs=0.5, criterion="taylor", steps=2)(net, data=(batch(step) for step in range(2))),
        r"give a list or a DataLoader",
    ),
    "a network for a model": (
        lambda net: RigL(net, sgd(net), density=0.1, steps=9),
        r"a Network stands where .* give its \.module",
    ),
    "swapped": (lambda net: RigL(sgd(net), net.module, density=0.1, steps=9), r"a SGD stands .* model comes first, then the optimizer"),
    "a model to save": (lambda net: fxsparse.save(net.module, "x"), r"save writes a Network"),
    "a model to verify": (lambda net: fxsparse.verify(net, net.module), r"verify compares two Networks"),
    "load the other way round": (lambda net: fxsparse.load(net.module, net.module), r"load takes the folder first"),
    "a criterion of one argument": (
        lambda net: Prune(macs=0.5, criterion=lambda network: {})(net),
        r"the criterion <lambda> cannot be called with what a criterion gets: \(network, names of groups, data\)",
    ),
    "a factory that fails": (lambda net: build("asyncio:get_running_loop"), r"the factory raised RuntimeError: no running"),
    "a factory with arguments": (lambda net: build("os.path:join"), r"the factory raised TypeError: .* options go behind its name"),
}


def sgd(net: Any) -> Any:
    return torch.optim.SGD(net.module.parameters(), lr=0.1)


@pytest.mark.parametrize("name", MISTAKES)
def test_the_sentence(name: str) -> None:
    act, sentence = MISTAKES[name]
    with pytest.raises(fxsparse.Error, match=sentence) as caught:
        act(fxsparse.trace(network(), batch(0)[0]))
    assert "\n" not in str(caught.value)


def test_a_file_where_a_folder_belongs(tmp_path: Path) -> None:
    net = fxsparse.trace(network(), batch(0)[0])
    (tmp_path / "out").write_text("")
    with pytest.raises(fxsparse.CheckpointError, match=r"a file is in its place; give a folder"):
        fxsparse.save(net, tmp_path / "out")
    fxsparse.save(net, tmp_path / "saved")
    with pytest.raises(fxsparse.CheckpointError, match=r"is not there; a saved network is a folder with structure\.json"):
        fxsparse.load(tmp_path / "saved" / "structure.json", network())


def test_text_that_is_no_weights(tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_text("hello")
    with pytest.raises(fxsparse.CheckpointError, match=r"cannot be read as weights \(\w+.* \d+\)|cannot be read as weights \(\w+ \w+"):
        read_weights(tmp_path / "bad.pth")
