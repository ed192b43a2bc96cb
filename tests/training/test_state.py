"""What is saved loads without pickle, and goes on bit for bit; what does not fit changes nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fxsparse.errors import BudgetError, CheckpointError, Error
from fxsparse.training import SET, SRSTE, ExploitExplore, Gradual, OneShot, RigL, Sparsifier, Static
from fxsparse.training.checkpoint import load_checkpoint, save_checkpoint
from tests.training.small import network, same, sgd, state, train

MAKERS: dict[str, Callable[[nn.Module, torch.optim.Optimizer], Sparsifier]] = {
    "static": lambda model, optimizer: Static(model, optimizer, 0.1),
    "one-shot": lambda model, optimizer: OneShot(model, optimizer, 0.1),
    "set": lambda model, optimizer: SET(model, optimizer, 0.1, steps=30, interval=3),
    "rigl": lambda model, optimizer: RigL(model, optimizer, 0.1, steps=30, interval=3),
    "gradual": lambda model, optimizer: Gradual(model, optimizer, 0.1, steps=30, interval=3),
    "sr-ste": lambda model, optimizer: SRSTE(model, optimizer, steps=30, exclude=["0"]),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("cut", [1, 5, 6, 17])
def test_resumed_is_bit_identical(name: str, cut: int) -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer, Sparsifier]:
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return model, optimizer, MAKERS[name](model, optimizer)

    model, optimizer, sparsifier = fresh()
    train(model, optimizer, sparsifier, range(cut))
    file = io.BytesIO()
    torch.save(state(model, optimizer, sparsifier), file)
    train(model, optimizer, sparsifier, range(cut, 24))
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = fresh()
    other[0].load_state_dict(saved["model"])
    other[1].load_state_dict(saved["optimizer"])
    other[2].load_state_dict(saved["sparsifier"])
    train(*other, range(cut, 24))
    assert same(state(*other), state(model, optimizer, sparsifier))


def refused(damage: Callable[[dict[str, Any]], Any], words: str) -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = RigL(model, optimizer, 0.1, steps=30, interval=3)
    train(model, optimizer, sparsifier, range(4))
    saved = sparsifier.state_dict()
    train(model, optimizer, sparsifier, range(4, 7))
    before = state(model, optimizer, sparsifier)
    damaged = {**saved, "masks": dict(saved["masks"])}
    damage(damaged)
    with pytest.raises(CheckpointError, match=words):
        sparsifier.load_state_dict(damaged)
    assert same(before, state(model, optimizer, sparsifier))


def test_what_does_not_fit_is_refused_and_nothing_changes() -> None:
    refused(lambda saved: saved.update(method="SET"), "the state is of SET, not RigL; load it into a SET")
    refused(lambda saved: saved.pop("masks"), "lacks 'masks'")
    refused(lambda saved: saved["masks"].pop("3.weight"), "3.weight, the state lacks it")
    refused(lambda saved: saved["masks"].update(other=torch.ones(3, dtype=torch.bool)), "other, it is in the state alone")
    refused(lambda saved: saved["masks"].update({"3.weight": torch.ones(2, dtype=torch.bool)}), "its mask of 3.weight is")
    refused(lambda saved: saved["masks"].update({"7.weight": torch.ones(4, 32)}), "7.weight is .* of torch.float32")


def test_a_state_made_with_other_options_is_refused() -> None:
    def made(**options: Any) -> RigL:
        model = network()
        return RigL(model, sgd(model), **{"density": 0.1, "steps": 30, "interval": 3, **options})

    saved = made().state_dict()
    made().load_state_dict(saved)
    for options, words in (
        ({"density": 0.5}, "with another density, 0.1 at this step .* not 0.5 .*; make the RigL as it was made then"),
        ({"steps": 60}, "another fraction, 0.3 at this step and 0 at last .from step 22 on., not 0.3 and 0 .from 45."),
        ({"interval": 4}, "another interval, 3 and not 4;"),
        ({"density": 432 / 5168, "pattern": "channel"}, "another density"),
        ({"pattern": "channel"}, "another pattern;"),
        ({"allocation": "uniform"}, "another allocation;"),
        ({"seed": 1}, "another seed, 0 and not 1;"),
    ):
        other = made(**options)
        before = dict(other.masks)
        with pytest.raises(CheckpointError, match=words):
            other.load_state_dict(saved)
        assert same(before, dict(other.masks))


BAD: list[tuple[Callable[[nn.Module], object], type[Exception], str]] = [
    *(
        (lambda m, d=density: Static(m, sgd(m), d), BudgetError, "must be above 0 and at most 1")
        for density in (0.0, -0.1, 1.5, float("nan"), True, "0.1")
    ),
    (lambda m: Static(m, sgd(m)), BudgetError, "no density was given"),
    (lambda m: Static(m, sgd(m), 1e-6), BudgetError, "leaves none of 5,168 weights"),
    (lambda m: Static(m, sgd(m), 0.1, include=["layer9.*"]), Error, "'layer9.\\*' fits no parameter of the model"),
    (lambda m: Static(m, sgd(m), 0.1, exclude=["layer9.*"]), Error, "exclude: 'layer9.\\*' fits no parameter"),
    (lambda m: Static(m, sgd(m), 0.1, exclude=["*"]), Error, "has no weights to mask"),
    (lambda m: Static(m, sgd(m), 0.1, include=["*.bias"]), Error, "has no weights to mask"),
    (lambda m: Static(m, sgd(network()), 0.1), Error, "the SGD does not own 0.weight"),
    (lambda m: Static(m, torch.optim.SGD([m.get_parameter("0.weight")], lr=0.1), 0.1), Error, "does not own 3.weight"),
    (lambda m: Static(m, sgd(m), 0.1, allocation="best"), BudgetError, "there is no allocation 'best'"),
    (lambda m: Static(m, sgd(m), allocation={"0": 0.5}), BudgetError, "no explicit density fits 3.weight"),
    (lambda m: Static(m, sgd(m), allocation={"0": 0.5, "*": 2}), BudgetError, "must be above 0 and at most 1, not 2"),
    (lambda m: Static(m, sgd(m), allocation={"9": 0.5, "*": 0.1}), BudgetError, "'9', which fits none"),
    (lambda m: Static(m, sgd(m), 0.5, pattern="2-4"), Error, "'2-4' is no pattern"),
    (lambda m: Static(m, sgd(m), pattern="2:4"), Error, "cannot be 2:4"),
    (lambda m: Static(m, sgd(m), pattern="5:4"), Error, "5:4 is no pattern"),
    (lambda m: Static(m, sgd(m), 0.5, pattern="block:4x4"), Error, "cannot be cut into blocks of 4 x 4"),
    (lambda m: Static(m, sgd(m), 0.5, start="best"), Error, "there is no score 'best'"),
    (lambda m: Static(m, sgd(m), 0.5, start="gradient"), Error, "has no gradient to score it by; call backward"),
    (lambda m: RigL(m, sgd(m), 0.5, steps=0), Error, "steps is the number of optimizer steps"),
    (lambda m: RigL(m, sgd(m), 0.5, steps=10, interval=0), Error, "give an interval of at least 1"),
    (lambda m: RigL(m, sgd(m), 0.5, steps=10, interval=1.5), Error, "every 1.5 steps"),  # type: ignore[arg-type]
    (lambda m: Static(m, sgd(m), 0.2, allocation={"9": 0.5, "*": 0.1}), BudgetError, "'9', which fits none"),
    (lambda m: Static(m, sgd(m), 0.002, pattern="channel"), BudgetError, "less than any unit of the pattern channel; give at least 0.0052"),
    (lambda m: ExploitExplore(m, sgd(m), steps=40, pattern="2:4", exclude=["0"]), BudgetError, "2:4 fixes the density"),
    (lambda m: ExploitExplore(m, sgd(m), 0.5, steps=40, explore=0, value="zero"), Error, "are all alike"),
    (lambda m: (lambda empty: Static(empty, sgd(empty), 0.1))(network().to("meta")), Error, "0.weight has no values yet"),
    (lambda m: (lambda lazy: Static(lazy, sgd(lazy), 0.1))(nn.LazyLinear(3)), Error, "weight has no values yet"),
    (lambda m: RigL(m, sgd(m), 0.5, steps=10, fraction=1.5), Error, "fraction is a share between 0 and 1"),
    (lambda m: RigL(m, sgd(m), 0.5, steps=10, stop=-1.0), Error, "stop is a share"),
    (lambda m: RigL(m, sgd(m), 0.5, steps=10, stop="late"), Error, "stop is a share between 0 and 1, not 'late'"),  # type: ignore[arg-type]
    (lambda m: Gradual(m, sgd(m), 0.5, steps=10, begin=0.8, end=0.2), Error, "give 0 <= begin <= end"),
    (lambda m: Static(nn.ReLU(), sgd(m), 0.5), Error, "ReLU has no weights to mask"),
]


@pytest.mark.parametrize("index", range(len(BAD)))
def test_bad_input_is_one_error_and_changes_nothing(index: int) -> None:
    attempt, kind, words = BAD[index]
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(kind, match=words) as caught:
        attempt(model)
    assert "\n" not in str(caught.value)
    assert same(before, dict(model.state_dict()))
    optimizer = sgd(model)
    train(model, optimizer, Static(model, optimizer, 0.5), range(1))  # and no hook was left behind


def test_a_failed_attempt_leaves_no_hooks() -> None:
    model = network()
    optimizer = sgd(model)
    with pytest.raises(Error):
        Static(model, optimizer, 0.5, start="gradient")
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_nan_gradients_are_an_error_with_the_next_step() -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = RigL(model, optimizer, 0.1, steps=30, interval=1)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    with pytest.raises(Error, match="not a number"):
        sparsifier.step()


def test_checkpoints_are_whole_and_harmless(tmp_path: Any) -> None:
    path = tmp_path / "deep" / "checkpoint.pt"
    save_checkpoint(path, {"a": torch.arange(3), "b": 1})
    (tmp_path / "deep" / "checkpoint.pt.tmp").write_bytes(b"half")  # killed while writing: the old one stays
    assert same(load_checkpoint(path), {"a": torch.arange(3), "b": 1})
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "nothing.pt")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(path)
    torch.save({"a": print}, path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
