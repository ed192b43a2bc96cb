"""The residual network of the demo, for the 8 x 8 digits that come with scikit-learn."""

from __future__ import annotations

import torch
from torch import Tensor

from fxsparse.models.cifar_resnet import BasicBlock, CifarResNet


def digits_resnet(batch: int = 32) -> tuple[CifarResNet, tuple[Tensor]]:
    """Six blocks of 32, 64 and 128 channels, with a batch of inputs that keeps an engine busy for milliseconds: what is shorter than the
    start of an operator cannot be halved.

    >>> model, inputs = digits_resnet()
    >>> model(*inputs).shape
    torch.Size([32, 10])
    """
    model = CifarResNet(BasicBlock, depths=(2, 2, 2), widths=(32, 64, 128), option="B")
    return model.eval(), (torch.zeros(batch, 3, 8, 8),)
