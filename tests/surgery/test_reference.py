"""The reference against networks that were pruned by hand, and errors that it must see."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsparse.errors import VerificationError
from fxsparse.surgery.reference import randomised_state, run_reference
from tests.surgery.by_hand import BN, CASES, GONE, LAST, Calls, Cut, Pruned, rows


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_reference_is_the_network_pruned_by_hand(case: Pruned) -> None:
    error, reference = case.error()
    assert error < 1e-10
    assert reference.effect > 1e-3
    assert reference.tainted_outputs == ()


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("conv bn relu conv", rows("1", GONE, *BN) | {"3.weight": {1: [1, 5]}}),
        ("conv bn relu conv", rows("1", [1, 5], *BN) | {"3.weight": {1: GONE}}),
        ("cat", {"head.weight": {1: [4 + 1, 4 + 4]}}),  # the halves of the cat in the other order
        ("heads", {"out.weight": {1: [0, 1, 2, 3]}}),
        ("residual", {"a.weight": {1: GONE}, "head.weight": {1: [0, 4]}}),
        ("lstm", {"cells.weight_hh_l0": {1: [0, 4]}, "head.weight": {1: GONE}}),
        ("layer norm", rows("1", [1, 5]) | LAST),
    ],
)
def test_a_wrong_index_is_seen(name: str, used: Cut) -> None:
    assert CASES[name].error(used)[0] > 1e-3


def test_an_add_that_does_not_unify_is_seen() -> None:
    case = CASES["residual"]
    wrong = Pruned(case.build, case.wide, case.narrow, rows("stem", GONE), {**case.used, **rows("b", [0, 2])})
    assert wrong.error()[0] > 1e-2


def test_a_unit_that_reaches_an_output_is_recorded() -> None:
    module = Calls(lambda m, x: [x, {"wide": m.a(x), "name": "text"}], a=nn.Linear(3, 4))
    reference = run_reference(module, (torch.randn(2, 3),), {}, randomised_state(module, 0), {"a.weight": {0: [2]}})
    assert reference.tainted_outputs == (1,)
    assert [t.dtype for t in reference.clean] == [torch.float64, torch.float64]


def test_the_module_is_left_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    module[1].eval()
    x, before, modes = torch.randn(2, 3), copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
    state = randomised_state(module, 0)
    values = {key: value.clone() for key, value in state.items()}
    reference = run_reference(module, (x,), {}, state, rows("0", [2]))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(values[key], state[key]) for key in state)
    assert x.dtype == torch.float32 and torch.get_default_dtype() == torch.float32 and torch.backends.mkldnn.enabled
    expected = (reference.outputs[0] - reference.clean[0]).abs().max() / reference.clean[0].abs().max()
    assert reference.effect == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("last", "kind", "operator"), [(lambda x: x.log(), "NaN", "aten::log"), (lambda x: 1 / (x - x), "infinity", "aten::reciprocal")]
)
def test_a_network_that_gives_no_numbers_is_refused(last: Callable[[Tensor], Tensor], kind: str, operator: str) -> None:
    module = nn.Sequential(nn.Linear(3, 4), Calls(lambda m, x: last(-x.abs() - 1)), nn.Identity())
    with pytest.raises(VerificationError, match=f"gives {kind} on random values, made first by {operator}.* in module '1'"):
        run_reference(module, (torch.randn(2, 3),), {}, randomised_state(module, 0), {})


def test_infinities_that_come_and_go_are_no_reason_to_refuse() -> None:
    assert CASES["heads"].error()[1].effect > 0  # its mask is made of them


def test_chance_is_the_same_in_every_run() -> None:
    module = Calls(lambda m, x: m.a(F.dropout(x, 0.5, training=True)) + torch.rand(4), a=nn.Linear(3, 4))
    before = torch.get_rng_state()
    reference = run_reference(module, (torch.randn(2, 3, generator=torch.Generator()),), {}, randomised_state(module, 0), {})
    assert torch.equal(reference.outputs[0], reference.clean[0]) and reference.effect == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_tensors_that_are_plain_attributes_are_cast_too() -> None:
    basis = torch.randn(4, 2)
    module = Calls(lambda m, x: (m.a(x) @ basis).float(), a=nn.Linear(3, 4))
    reference = run_reference(module, (torch.randn(2, 3),), {}, randomised_state(module, 0), rows("a", [1]))
    assert reference.outputs[0].dtype == torch.float64 and reference.effect > 0.01 and basis.dtype == torch.float32


def test_random_state() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 200)
            self.norm = nn.BatchNorm1d(200)
            self.head = nn.Linear(200, 7)
            self.head.weight = self.table.weight
            self.register_buffer("index", torch.arange(4), persistent=False)
            self.register_buffer("periods", torch.tensor([1.0, 2.0]))

    module = Odd()
    state, again, other = randomised_state(module, 0), randomised_state(module, 0), randomised_state(module, 1)
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert not torch.equal(state["head.bias"], other["head.bias"])
    assert state["table.weight"] is state["head.weight"]
    assert {value.dtype for value in state.values()} == {torch.float64, torch.int64}
    assert state["index"].tolist() == [0, 1, 2, 3] and state["periods"].tolist() == [1, 2] and state["norm.num_batches_tracked"] == 0
    for key in ("norm.weight", "norm.running_var"):
        assert float(state[key].min()) >= 0.5 and float(state[key].max()) <= 1.5 and float(state[key].std()) > 0.1
    assert 0.01 < float(state["norm.running_mean"].std()) < 0.2 and 0.01 < float(state["norm.bias"].std()) < 0.2
    assert float(state["head.weight"].std()) == pytest.approx(1.25 * 200**-0.5, rel=0.1)


def test_a_tied_tensor_is_tainted_under_both_names() -> None:
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    module = Calls(lambda m, x: (m.a.weight, m.b(m.a(x))), a=a, b=b)
    state = randomised_state(module, 0)
    reference = run_reference(module, (torch.randn(2, 4),), {}, state, {"a.weight": {0: [1]}, "b.weight": {1: [2]}})
    dead = reference.outputs[0].isnan()
    assert bool(dead[1].all()) and bool(dead[:, 2].all()) and int(dead.sum()) == 7
