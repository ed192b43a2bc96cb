"""Masks hold under every optimizer, and under what people do between backward and step."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsparse.errors import Error
from fxsparse.training import RigL, Static
from tests.training.small import backward, batch, network, require_masked, same, sgd, train, weight

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.05}),
    "sgd-momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2}),
    "sgd-nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "foreach": False}),
    "sgd-foreach": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "foreach": True}),
    "sgd-fused": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "fused": True}),
    "adam": (torch.optim.Adam, {"lr": 1e-3}),
    "adam-amsgrad": (torch.optim.Adam, {"lr": 1e-3, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.1}),
    "adamw-foreach": (torch.optim.AdamW, {"lr": 1e-3, "foreach": True}),
    "adamw-fused": (torch.optim.AdamW, {"lr": 1e-3, "fused": True}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 1e-3, "momentum": 0.9, "centered": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 1e-2}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_weights_and_their_state_are_zero_after_each_step(name: str) -> None:
    kind, options = OPTIMIZERS[name]
    model = network()
    optimizer = kind(model.parameters(), **options)
    sparsifier = RigL(model, optimizer, 0.2, steps=40, interval=3)
    for step in range(10):
        train(model, optimizer, sparsifier, range(step, step + 1))
        require_masked(optimizer, sparsifier)
    assert all(int(weight(model, layer).count_nonzero()) > 0 for layer in "037")


def test_a_masked_step_is_the_plain_step_of_the_masked_gradient() -> None:
    model, plain = network(), network()
    optimizer = sgd(model)
    sparsifier = Static(model, optimizer, 0.3)
    plain.load_state_dict(model.state_dict())
    reference = sgd(plain)
    for step in range(5):
        for net, opt in ((model, optimizer), (plain, reference)):
            opt.zero_grad()
            net.train()
            backward(net, step)
        for name, parameter in plain.named_parameters():
            if name in sparsifier.masks and parameter.grad is not None:
                parameter.grad.mul_(sparsifier.masks[name])
        sparsifier.step()
        reference.step()
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def test_the_optimizers_own_step_does_the_same() -> None:
    found = []
    for by_hand in (True, False):
        model = network()
        optimizer = sgd(model)
        sparsifier = RigL(model, optimizer, 0.2, steps=40, interval=3)
        for step in range(8):
            optimizer.zero_grad()
            backward(model, step)
            (optimizer if by_hand else sparsifier).step()
        found.append(model.state_dict())
    assert same(dict(found[0]), dict(found[1]))


def test_closures() -> None:
    found = []
    for closed in (True, False):
        model = network()
        optimizer = sgd(model)
        sparsifier = RigL(model, optimizer, 0.2, steps=40, interval=2)
        for step in range(6):

            def closure(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer, step: int = step) -> Tensor:
                optimizer.zero_grad()
                return backward(model, step)

            if closed:
                assert float(sparsifier.step(closure)) > 0
            else:
                closure()
                sparsifier.step()
            require_masked(optimizer, sparsifier)
        found.append(dict(model.state_dict()))
    assert same(*found)


def test_accumulation_is_one_step() -> None:
    found = []
    for parts in (1, 4):
        model = network(norms=False).double()
        optimizer = sgd(model)
        sparsifier = RigL(model, optimizer, 0.2, steps=40, interval=2)
        for step in range(6):
            optimizer.zero_grad()
            images, labels = batch(step)
            for some, classes in zip(images.double().chunk(parts), labels.chunk(parts), strict=True):
                (F.cross_entropy(model(some), classes) / parts).backward()
            sparsifier.step()
        assert sparsifier.steps_done == 6
        found.append((dict(sparsifier.masks), model.state_dict()))
    assert same(found[0][0], found[1][0])
    for name, value in found[0][1].items():
        torch.testing.assert_close(value, found[1][1][name])


def test_clipping_counts_living_weights_alone() -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = Static(model, optimizer, 0.05)
    backward(model, 0)
    masked = [sparsifier.masks.get(name, torch.tensor(True)) * p.grad for name, p in model.named_parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.cat([part.flatten() for part in masked]))
    torch.testing.assert_close(sparsifier.clip_grad_norm_(1e-3), norm)
    clipped = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(torch.linalg.vector_norm(clipped), torch.tensor(1e-3), rtol=1e-2, atol=0.0)
    sparsifier.step()
    require_masked(optimizer, sparsifier)


def test_clipping_does_not_hide_the_dense_gradients_from_rigl() -> None:
    grown = []
    for clip in (False, True):
        model = network()
        optimizer = sgd(model)
        sparsifier = RigL(model, optimizer, 0.1, steps=100, interval=1)
        backward(model, 0)
        if clip:
            sparsifier.clip_grad_norm_(1e6)
        sparsifier.step()
        grown.append(dict(sparsifier.masks))
        assert sparsifier.exchanged["grown"] > 0
    assert same(*grown)


def test_a_step_that_was_prepared_and_given_up_leaves_no_trace() -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = RigL(model, optimizer, 0.1, steps=100, interval=3)
    for step in range(4):
        backward(model, 100 + step)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(torch.nan)
        sparsifier.clip_grad_norm_(1.0)
        optimizer.zero_grad()
        backward(model, step)
        sparsifier.step()
        require_masked(optimizer, sparsifier)
    assert sparsifier.steps_done == 4


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_is_none(fused: bool) -> None:
    model = network(norms=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    sparsifier = RigL(model, optimizer, 0.2, steps=40, interval=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    images, labels = batch(0)
    scaler.scale(F.cross_entropy(model(images), labels)).backward()
    gradient = model.get_parameter("7.bias").grad
    assert gradient is not None
    gradient[0] = torch.inf
    sparsifier.step(scaler=scaler)
    scaler.update()
    assert sparsifier.steps_done == 0
    assert same(before, dict(model.state_dict())) and same(masks, dict(sparsifier.masks))
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(model(images), labels)).backward()
    sparsifier.step(scaler=scaler)
    scaler.update()
    assert sparsifier.steps_done == 1
    assert not same(masks, dict(sparsifier.masks))
    require_masked(optimizer, sparsifier)


def test_bf16_autocast_and_bf16_weights() -> None:
    for half in (False, True):
        model = network().bfloat16() if half else network()
        optimizer = sgd(model)
        sparsifier = RigL(model, optimizer, 0.1, steps=40, interval=2)
        for step in range(6):
            optimizer.zero_grad()
            images, labels = batch(step)
            with torch.autocast("cpu", torch.bfloat16, enabled=not half):
                loss = F.cross_entropy(model(images.bfloat16() if half else images).float(), labels)
            loss.backward()
            sparsifier.step()
            require_masked(optimizer, sparsifier)


def test_channels_last_gives_the_same_masks_and_stays() -> None:
    found = []
    for form in (torch.contiguous_format, torch.channels_last):
        model = network(norms=False).double().to(memory_format=form)  # type: ignore[call-overload]
        optimizer = sgd(model)
        sparsifier = RigL(model, optimizer, 0.2, steps=40, interval=2)
        for step in range(6):
            optimizer.zero_grad()
            images, labels = batch(step)
            F.cross_entropy(model(images.double()), labels).backward()
            sparsifier.step()
            require_masked(optimizer, sparsifier)
        assert weight(model, "3").is_contiguous(memory_format=form)
        assert sparsifier.masks["3.weight"].stride() == weight(model, "3").stride()
        found.append(dict(sparsifier.masks))
    assert same(*found)


def test_a_compiled_model() -> None:
    model, plain = network(), network()
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    found = []
    for net in (compiled, plain):
        optimizer = sgd(net)
        sparsifier = RigL(net, optimizer, 0.2, steps=40, interval=2)
        for step in range(5):
            optimizer.zero_grad()
            backward(net, step)
            sparsifier.step()
            require_masked(optimizer, sparsifier)
        found.append(dict(sparsifier.masks))
    assert list(found[0]) == ["0.weight", "3.weight", "7.weight"]
    assert same(*found)


def test_frozen_parts_do_not_change_by_a_bit() -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = RigL(model, optimizer, 0.5, steps=100, interval=50)
    train(model, optimizer, sparsifier, range(3))  # now there is momentum that would move weights
    part = torch.zeros_like(weight(model, "3"), dtype=torch.bool)
    part[:16] = True
    before = {name: value.clone() for name, value in model.named_parameters()}
    momentum = optimizer.state[weight(model, "0")]["momentum_buffer"].clone()
    sparsifier.freeze({"3.weight": part, "0.weight": None})
    train(model, optimizer, sparsifier, range(3, 6))
    assert torch.equal(weight(model, "0"), before["0.weight"])
    assert torch.equal(optimizer.state[weight(model, "0")]["momentum_buffer"], momentum)
    assert torch.equal(weight(model, "3")[part], before["3.weight"][part])
    assert not torch.equal(weight(model, "3")[~part], before["3.weight"][~part])
    sparsifier.freeze(None)
    train(model, optimizer, sparsifier, range(6, 7))
    assert not torch.equal(weight(model, "0"), before["0.weight"])


def test_release_makes_steps_plain_again() -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = Static(model, optimizer, 0.1)
    with pytest.raises(Error, match="has masks of a Static already; call its release"):
        RigL(model, optimizer, 0.1, steps=10)
    sparsifier.release()
    backward(model, 0)
    optimizer.step()
    assert int(weight(model, "3").count_nonzero()) > sparsifier.nonzeros["3.weight"]
    RigL(model, optimizer, 0.1, steps=10)


def test_tied_weights_are_one_target() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.first(x).relu(), self.second.weight, self.second.bias)

    model = Tied()
    optimizer = sgd(model)
    sparsifier = RigL(model, optimizer, 0.25, steps=40, interval=2)
    assert [target.names for target in sparsifier.targets] == [("first.weight", "second.weight")]
    assert sparsifier.nonzeros == {"first.weight": 16}
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(2, 8)).square().sum().backward()
        sparsifier.step()
        require_masked(optimizer, sparsifier)
    assert model.second.weight is model.first.weight


def test_averaged_copies_are_masked() -> None:
    model = network()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = sgd(model)
    sparsifier = RigL(model, optimizer, 0.1, steps=40, interval=2)
    train(model, optimizer, sparsifier, range(4))
    average.update_parameters(model)
    sparsifier.mask_module(average)
    for name, mask in sparsifier.masks.items():
        assert not average.get_parameter(f"module.{name}").detach()[~mask].any()


def test_state_dict_and_module_know_nothing_of_masks() -> None:
    model = network()
    keys, names = list(model.state_dict()), [type(module) for module in model.modules()]
    Static(model, sgd(model), 0.1)
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == names


def test_one_bool_a_masked_weight() -> None:
    model = network()
    sparsifier = RigL(model, sgd(model), 0.1, steps=10)
    assert {mask.dtype for mask in sparsifier.masks.values()} == {torch.bool}
    assert sum(mask.untyped_storage().nbytes() for mask in sparsifier.masks.values()) == 16 * 27 + 32 * 144 + 128


def test_a_copy_of_a_whole_run_goes_on_as_the_run() -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = RigL(model, optimizer, 0.2, steps=40, interval=3)
    train(model, optimizer, sparsifier, range(4))
    run = copy.deepcopy((model, optimizer, sparsifier))
    train(run[0], run[1], run[2], range(4, 8))
    assert run[2].steps_done == 8 and sparsifier.steps_done == 4
    require_masked(*run[1:])
    train(model, optimizer, sparsifier, range(4, 8))
    assert same(model.state_dict(), run[0].state_dict()) and same(dict(sparsifier.masks), dict(run[2].masks))
    sparsifier.release()
    free = copy.deepcopy((model, optimizer, sparsifier))
    train(free[0], free[1], free[2], range(8, 9))
    assert free[2].steps_done == 8


class Nested(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class Unhooked(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return None


Unhooked.step.hooked = True  # type: ignore[attr-defined]  # as torch marks what it has wrapped


@pytest.mark.parametrize(("kind", "times"), [(Nested, 2), (Unhooked, 0)])
def test_an_optimizer_whose_hooks_do_not_run_once_a_step_is_refused(kind: type[torch.optim.SGD], times: int) -> None:
    model = network()
    sgd(model)  # torch wraps the step of SGD itself with the first one of it
    sparsifier = Static(model, kind(model.parameters(), lr=0.1), 0.2)
    backward(model, 0)
    with pytest.raises(Error, match=f"ran the hooks of a step {times} times in one, so that steps cannot be masked"):
        sparsifier.step()
