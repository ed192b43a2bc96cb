"""Recipes: in Python, in TOML, and what is wrong with them. Learning rates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fxsparse.errors import Error
from fxsparse.sparsity.schedules import Cosine
from fxsparse.training.rates import Rate
from fxsparse.training.recipe import Recipe, read_recipe


def test_toml_and_python_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('model = "fxsparse:resnet20"\ndata = "digits"\nepochs = 3\nlr = 1\n[method]\nname = "rigl"\ndensity = 0.1\n')
    read = Recipe.from_dict(read_recipe(path))
    assert read == Recipe(model="fxsparse:resnet20", data="digits", epochs=3, lr=1, method="rigl", options={"density": 0.1})
    assert Recipe.from_dict(read.to_dict()) == read
    assert read.difference(read.to_plain()) is None
    assert read.difference({**read.to_plain(), "data": "elsewhere"}) is None  # data may move
    assert read.difference({**read.to_plain(), "lr": 0.2}) == "lr was 0.2 and is 1"


def test_options_that_are_objects_are_compared_by_their_text() -> None:
    one = Recipe(model="m", data="d", method="set", options={"density": Cosine(0.5, 0.1, end=10)})
    other = Recipe(model="m", data="d", method="set", options={"density": Cosine(0.5, 0.2, end=10)})
    assert one.difference(one.to_plain()) is None
    assert str(one.difference(other.to_plain())).startswith("options: density was {'first': 0.5, 'last': 0.2")


def test_a_run_that_was_begun_before_an_entry_existed_goes_on() -> None:
    run = Recipe(model="m", data="d")
    before = run.to_plain()
    del before["sharing"]
    assert run.difference(before) is None
    assert Recipe(model="m", data="d", sharing=2).difference(before) == "sharing was None and is 2"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"epochs": 0}, "epochs is 0; give at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5, which is no int"),
        ({"epochs": True}, "epochs is True"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"milestones": [0.5, "x"]}, "milestones is"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; choose sgd, adamw"),
        ({"precision": "fp8"}, "choose fp32, bf16, fp16"),
        ({"batch": 10, "accumulate": 3}, "cannot be accumulated in 3 equal parts"),
        ({"lr": -0.1}, "lr is -0.1; give at least 0$"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"momentum": 1.0}, "momentum is 1.0; give at least 0 and below 1"),
        ({"label_smoothing": 2}, "label_smoothing is 2; give at least 0 and below 1"),
        ({"ema": 1.5}, "ema is 1.5; give at least 0 and below 1"),
        ({"milestones": [0.5, 1.5]}, "milestones is .*; give at least 0 and at most 1"),
        ({"sharing": -1}, "sharing is -1; give at least 0"),
        ({"size": -8}, "size is -8; give at least 1"),
        ({"threads": 0}, "threads is 0; give at least 1"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "do not fit; give one of each for every channel"),
        ({"std": [0.2, 0.2, 0.0]}, "do not fit"),
        ({"epoch": 3}, "no entry 'epoch'"),
        ({"method": {"density": 0.1}}, "has no name"),
    ],
)
def test_what_is_wrong_is_said(entries: dict[str, Any], words: str) -> None:
    with pytest.raises(Error, match=words):
        Recipe.from_dict({"model": "m", "data": "d", **entries})


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(Error, match="cannot be read"):
        read_recipe(tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("model = ")
    with pytest.raises(Error, match="is no TOML"):
        read_recipe(tmp_path / "bad.toml")
    with pytest.raises(Error, match="does not say the data"):
        Recipe.from_dict({"model": "m"})


def test_rates() -> None:
    cosine = Rate("cosine", 100, warmup=10)
    assert cosine(0) == pytest.approx(0.1) and cosine(9) == 1.0 and cosine(10) == 1.0
    assert cosine(55) == pytest.approx(0.5) and cosine(100) == 0.0
    assert cosine(30) == pytest.approx((1 + math.cos(math.pi * 20 / 90)) / 2)
    steps = Rate("multistep", 100)
    assert [steps(step) for step in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    cycle = Rate("onecycle", 100)
    assert cycle(0) == pytest.approx(1 / 25) and cycle(30) == 1.0 and cycle(99) < 0.01
    assert Rate("constant", 100)(50) == 1.0
    with pytest.raises(Error, match="there is no learning-rate schedule 'linear'"):
        Rate("linear", 100)
    with pytest.raises(Error, match="a warm-up of 200 steps does not fit"):
        Rate("cosine", 100, warmup=200)
