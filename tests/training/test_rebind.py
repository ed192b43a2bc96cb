"""Networks that shrink and regrow while they are trained sparsely."""

from __future__ import annotations

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fxsparse
from fxsparse.errors import Error
from fxsparse.training import RigL
from tests.training.small import network, require_masked, sgd, train


def test_shrunk_and_regrown_with_optimizer_and_masks() -> None:
    net = fxsparse.trace(network(), (torch.zeros(2, 3, 6, 6),))
    optimizer = sgd(net.module)
    sparsifier = RigL(net.module, optimizer, 0.3, steps=40, interval=3)
    train(net.module, optimizer, sparsifier, range(6))
    before = {name: value.clone() for name, value in net.module.state_dict().items()}
    dense = {name: mask.clone() for name, mask in sparsifier.masks.items()}

    group = next(group for group in net.groups if group.prunable and len(group.units) == 16)
    small = net.shrink({group.name: list(range(0, 16, 2))})
    fxsparse.carry(net, small, optimizer)
    masks = {}
    for name, mask in dense.items():
        for axis, kept in small.kept.get(name, {}).items():
            mask = mask.index_select(axis, torch.tensor(kept))
        masks[name] = mask
    sparsifier.rebind(small.module, masks)
    assert sparsifier.masks["3.weight"].shape == (32, 8, 3, 3)
    train(small.module, optimizer, sparsifier, range(6, 12))
    require_masked(optimizer, sparsifier)
    assert sum(sparsifier.nonzeros.values()) == round(0.3 * sum(mask.numel() for mask in masks.values()))

    whole = small.regrow()
    fxsparse.carry(small, whole, optimizer)
    masks = {name: mask.clone() for name, mask in dense.items()}
    sparsifier.rebind(whole.module, masks)
    dead = [unit for unit in range(16) if unit % 2]
    assert torch.equal(whole.module.state_dict()["0.weight"][dead], before["0.weight"][dead])
    train(whole.module, optimizer, sparsifier, range(12, 18))
    require_masked(optimizer, sparsifier)
    assert sum(sparsifier.nonzeros.values()) == round(0.3 * 5168)


def test_an_average_goes_along_and_stays_masked() -> None:
    net = fxsparse.trace(network(), (torch.zeros(2, 3, 6, 6),))
    optimizer = torch.optim.AdamW(net.module.parameters(), 1e-2)
    average = AveragedModel(net.module, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    sparsifier = RigL(net.module, optimizer, 0.3, steps=40, interval=3)

    def trained(now: fxsparse.Network, steps: range) -> None:
        for step in steps:
            train(now.module, optimizer, sparsifier, range(step, step + 1))
            average.update_parameters(now.module)
            sparsifier.mask_module(average)

    def masked() -> bool:
        values = dict(average.module.named_parameters())
        return not any(values[name].detach()[~mask].any() for name, mask in sparsifier.masks.items())

    trained(net, range(5))
    group = next(group for group in net.groups if group.prunable and len(group.units) == 16)
    keep = list(range(0, 16, 2))
    small, before = net.shrink({group.name: keep}), {name: value.clone() for name, value in average.module.state_dict().items()}
    fxsparse.carry(net, small, optimizer, average)
    cut = dict(sparsifier.masks)
    for name in cut:
        for axis, kept in small.kept.get(name, {}).items():
            cut[name] = cut[name].index_select(axis, torch.tensor(kept))
    sparsifier.rebind(small.module, cut)
    assert torch.equal(average.module.state_dict()["0.weight"], before["0.weight"][keep]) and masked()
    trained(small, range(5, 10))
    assert masked()
    whole = small.regrow()
    fxsparse.carry(small, whole, optimizer, average)
    lost = [unit for unit in range(16) if unit % 2]
    assert torch.equal(average.module.state_dict()["0.weight"][lost], before["0.weight"][lost])


def test_masks_that_do_not_fit_are_refused_and_nothing_changes() -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = RigL(model, optimizer, 0.3, steps=40, interval=3)
    targets, masks = sparsifier.targets, dict(sparsifier.masks)
    with pytest.raises(Error, match="does not fit the new model"):
        sparsifier.rebind(model, {**masks, "3.weight": torch.ones(2, 2, dtype=torch.bool)})
    other = network()
    with pytest.raises(Error, match="does not own"):
        sparsifier.rebind(other, masks)
    assert sparsifier.targets == targets and all(sparsifier.masks[name] is mask for name, mask in masks.items())


def test_what_is_frozen_in_old_shapes_is_asked_about() -> None:
    model = network()
    sparsifier = RigL(model, sgd(model), 0.3, steps=40, interval=3)
    sparsifier.freeze({"3.weight": None})
    with pytest.raises(Error, match=r"frozen in its old shapes; call freeze\(None\) first"):
        sparsifier.rebind(model, dict(sparsifier.masks))
    sparsifier.freeze(None)
    sparsifier.rebind(model, dict(sparsifier.masks))
