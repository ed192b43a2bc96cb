"""What is said to be constant is so: the tape, run with real numbers on several inputs, has those numbers at those places."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import fxsparse
from fxsparse.passes.constants.values import Known, certain, product, reshaped, uniform, unknown
from fxsparse.passes.constants.walk import Walk, sized
from fxsparse.tracing.tape import Call, Ref
from tests.networks.random_networks import RandomNetwork, networks
from tests.networks.randomise import randomise
from tests.passes.silence import silence


def replayed(call: Call, values: dict[int, Tensor]) -> None:
    """Run one call of a tape on real tensors."""

    def real(value: Any) -> Any:
        if isinstance(value, Ref):
            return values[value.id]
        return torch.device("cpu") if isinstance(value, torch.device) else value

    if call.name == "aten.as_strided_":  # strides of the recording; here they may be others
        return
    args, kwargs = tree_map(real, (call.args, call.kwargs), is_leaf=lambda x: isinstance(x, (Ref, torch.device)))
    out = call.op(*args, **kwargs)
    for ref, tensor in zip(call.results, tree_leaves(out), strict=True):
        if isinstance(ref, Ref) and not (call.op._schema.is_mutable and ref.id in values):
            values[ref.id] = tensor


def assert_constant(known: Known, actual: Tensor, what: str) -> int:
    """The number of coordinates that were compared. That activations are finite is assumed."""
    chosen = known.known.expand(actual.shape) & actual.isfinite()
    if actual.is_floating_point():
        torch.testing.assert_close(
            known.value.expand(actual.shape)[chosen].to(actual.dtype), actual[chosen], rtol=1e-7, atol=1e-9, msg=what
        )
    else:
        assert torch.equal(known.value.expand(actual.shape)[chosen].to(actual.dtype), actual[chosen]), what
    return int(chosen.sum())


def compare(model: nn.Module, args: Any, kwargs: Any, inputs: list[list[Tensor]]) -> int:
    """Walks the eval tape beside its run on each list of inputs."""
    network = fxsparse.trace(model, args, kwargs)
    tape = network.origin.structure.reading.tapes[0].tape
    tensors = {key: t.detach() for key, t in network.tensors().items()}
    compared = 0
    for given_inputs in inputs:
        values = {ref.id: t.clone() for ref, t in zip(tape.inputs, given_inputs, strict=True)}
        values |= {value.id: tensors[value.key].clone() for value in tape.values if value.key is not None}
        for step in Walk(tape, tensors, {}, sized(network.module)).steps():
            for ref in step.tensors:
                value = tape.values[ref.id]
                if ref.id in values and value.key is None and step.look(ref).known.any():
                    assert tuple(values[ref.id].shape) == value.shape
                    compared += assert_constant(step.look(ref), values[ref.id], f"{step.call.op}: {ref}")
            try:
                with torch.no_grad():
                    replayed(step.call, values)
            except (KeyError, NotImplementedError, RuntimeError):  # meta kernels are called otherwise than real ones
                break
    return compared


@settings(max_examples=40)
@given(networks(max_ops=12), st.integers(0, 1000))
def test_what_is_known_of_random_networks_is_true(network: RandomNetwork, seed: int) -> None:
    note(repr(network))
    model = silence(network.build(seed).double(), seed)
    call = network.example_inputs(2, seed, torch.float64)
    inputs = []
    for other in range(2):
        args, kwargs = network.example_inputs(2, seed + other, torch.float64)
        inputs.append([leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)])
    compare(model, call.args, call.kwargs, inputs)


def test_something_is_known() -> None:
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 2)).double()
    )
    with torch.no_grad():
        model.get_parameter("0.weight")[:2] = 0
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert compare(model, (x,), {}, [[x], [torch.randn_like(x)]]) == 2 * (
        3 * 2 * 2 * 36 + 2 * 2 * 2 * 9 + 2 * 36
    )  # places, then flat and pooled ones, and weights turned over


# ---- values -------------------------------------------------------------------------------------------------------------------------


def test_a_reshape_keeps_apart_what_is_alike() -> None:
    channels = Known(torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1), torch.tensor([True, False, True]).reshape(1, 3, 1, 1))
    flat = reshaped(channels, (2, 3, 4, 4), (2, 48))
    assert flat.shape == (1, 48) and flat.known.sum() == 32
    assert reshaped(channels, (2, 3, 4, 4), (2, 3, 16)).shape == (1, 3, 1)
    assert reshaped(channels, (2, 3, 1, 1), (2, 3)).shape == (1, 3)
    back = reshaped(flat, (2, 48), (2, 3, 4, 4))
    assert torch.equal(back.known, channels.known.expand(1, 3, 4, 4))
    assert reshaped(unknown(2), (0, 3), (3, 0)).shape == (1, 1)


def test_a_product_is_known_where_every_term_is() -> None:
    a = Known(torch.tensor([[2.0, 9.0, 0.0]]), torch.tensor([[True, False, True]]))
    b = certain(torch.tensor([[1.0, 1.0], [0.0, 1.0], [5.0, 5.0]]))
    made = product(a, b, 3)
    assert made.known.tolist() == [[True, False]] and made.value[0, 0] == 2.0
    alike = product(uniform(2.0, 2, torch.float32), certain(torch.ones(3, 1)), 3)
    assert alike.shape == (1, 1) and alike.value.item() == 6.0


def test_numbers_that_are_none_are_not_known() -> None:
    assert certain(torch.tensor([1.0, torch.nan, torch.inf])).known.tolist() == [True, False, False]
