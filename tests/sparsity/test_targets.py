"""Which tensors are masked, by default and by name."""

from __future__ import annotations

import warnings
from typing import cast

import pytest
import torch
from torch import nn

from fxsparse.errors import Error
from fxsparse.sparsity import find_targets


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.table = nn.Embedding(5, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.memory = nn.LSTM(8, 4)
        self.head = nn.Linear(8, 5)
        self.again = nn.Linear(8, 5)
        self.again.weight = self.head.weight


def names(**options: list[str]) -> list[str]:
    return [target.name for target in find_targets(Many(), **options)]


def test_contractions_alone_by_default() -> None:
    assert names() == [
        "stem.weight",
        "grouped.weight",
        "up.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "memory.weight_ih_l0",
        "memory.weight_hh_l0",
        "head.weight",
    ]


def test_tied_and_transposed() -> None:
    targets = {target.name: target for target in find_targets(Many())}
    assert targets["head.weight"].names == ("head.weight", "again.weight")
    assert [name for name, target in targets.items() if target.transposed] == ["up.weight"]


def test_include_and_exclude() -> None:
    assert names(include=["table"]) == ["table.weight"]
    assert names(include=["depthwise", "stem.*"]) == ["stem.weight", "depthwise.weight"]
    assert names(exclude=["attention*", "memory", "again"]) == ["stem.weight", "grouped.weight", "up.weight"]
    with pytest.raises(Error, match=r"'nothing' fits no parameter of the model; names look like stem\.weight"):
        names(include=["nothing"])
    with pytest.raises(Error, match="Many has no weights to mask"):
        names(include=["norm"])


def test_what_does_not_train_is_left_out() -> None:
    model = Many()
    model.stem.weight.requires_grad_(False)
    assert "stem.weight" not in [target.name for target in find_targets(model)]


def test_weights_behind_weight_norm_are_left_out() -> None:
    model = Many()
    torch.nn.utils.parametrizations.weight_norm(model.grouped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's older weight_norm, which many models still use
        torch.nn.utils.weight_norm(model.stem)  # type: ignore[no-untyped-call, unused-ignore]
    assert [target.name for target in find_targets(model)] == names(exclude=["stem", "grouped"])


def test_wrappers_do_not_show_in_names() -> None:
    plain = [target.name for target in find_targets(Many())]
    compiled = cast(nn.Module, torch.compile(Many(), backend="eager"))
    assert [target.name for target in find_targets(compiled)] == plain
    inside = Many()
    inside.head = cast(nn.Linear, torch.compile(nn.Linear(8, 5), backend="eager"))
    assert [t.name for t in find_targets(inside)] == [*plain[:-1], "head.weight", "again.weight"]
    assert [t.name for t in find_targets(torch.optim.swa_utils.AveragedModel(Many()))] == plain
