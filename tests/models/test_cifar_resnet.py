from __future__ import annotations

import pytest
import torch
from torch import nn

from fxsparse.models import cifar_resnet
from fxsparse.models.cifar_resnet import CifarResNet, PadShortcut


def weights(model: nn.Module) -> int:
    """Of convolutions and linear layers, as the literature counts them."""
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", 268_336),
        ("resnet32", 461_872),
        ("resnet44", 655_408),
        ("resnet56", 848_944),
        ("resnet110", 1_719_856),
        ("resnet18", 11_164_352),
        ("resnet34", 21_265_088),
        ("resnet50", 23_467_712),
    ],
)
def test_weights_are_as_many_as_published(name: str, expected: int) -> None:
    with torch.device("meta"):
        assert weights(getattr(cifar_resnet, name)()) == expected


def test_names_are_those_of_public_checkpoints() -> None:
    keys = set(cifar_resnet.resnet20().state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer3.2.bn2.bias", "linear.weight", "linear.bias"} <= keys
    assert not [key for key in keys if "shortcut" in key]
    assert "layer2.0.shortcut.0.weight" in cifar_resnet.resnet20(shortcut="B").state_dict()


def test_option_a_takes_every_second_pixel_and_pads_both_sides() -> None:
    x = torch.randn(1, 2, 4, 4)
    y = PadShortcut(1, 1, 2)(x)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3]].any()


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("block", [cifar_resnet.BasicBlock, cifar_resnet.Bottleneck])
def test_trains(block: type[cifar_resnet.BasicBlock], shortcut: cifar_resnet.Shortcut) -> None:
    model = CifarResNet(block, (1, 2), (4, 8), shortcut, num_classes=5)
    logits = model(torch.randn(2, 3, 16, 16))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_first_stage_keeps_the_size_and_each_later_one_halves_it() -> None:
    model = cifar_resnet.resnet20().eval()
    sizes = []
    for name in ("layer1", "layer2", "layer3"):
        model.get_submodule(name).register_forward_hook(lambda module, args, output: sizes.append(tuple(output.shape[1:])))
    model(torch.randn(1, 3, 32, 32))
    assert sizes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
