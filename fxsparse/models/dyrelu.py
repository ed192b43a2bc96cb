"""DyReLU-B (Chen et al., 2020), with a dial that fades it into a plain ReLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Lines(torch.autograd.Function):
    """The larger of two lines, or ReLU where beta is 0. The gradients that torch derives for `maximum` and `where` take three times as long
    as all of this does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope1: Tensor, offset1: Tensor, slope2: Tensor, offset2: Tensor, beta: Tensor) -> Tensor:
        first, second = slope1 * x + offset1, slope2 * x + offset2
        ctx.save_for_backward(x, slope1, slope2, first - second)
        # Chosen, not computed: 0 * x + 0 is not ReLU for infinite x, nor for the sign of zero.
        return torch.where(beta == 0, torch.relu(x), torch.maximum(first, second))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, slope1, slope2, ahead = ctx.saved_tensors
        upper = torch.ops.aten.threshold_backward(gradient, ahead, 0)  # where the first line is ahead; with beta 0, where x > 0
        lower = gradient - upper
        over = [axis for axis in range(x.dim()) if slope1.shape[axis] == 1 != x.shape[axis]]
        reach = upper * slope1 + lower * slope2
        theirs = [each.sum(over, keepdim=True) if over else each for each in (upper * x, upper, lower * x, lower)]
        return reach, *theirs, None


class DyReLU(nn.Module):
    """y = max(a1 x + b1, a2 x + b2): two lines per sample and channel, chosen by the global average of the input.

        theta = 2 sigmoid(fc2(relu(fc1(mean of x)))) - 1
        (a1, a2, b1, b2) = (1, 0, 0, 0) + beta * theta * (1, 1, 1/2, 1/2)

    The buffer `beta` is the dial: 1 is DyReLU, 0 is ReLU, exactly. Channels lie on axis 1; any number of axes may follow.

    >>> activation = DyReLU(8)
    >>> activation.beta.zero_()
    tensor(0.)
    >>> activation(torch.tensor([[[-1.0], [2.0]]]).repeat(1, 4, 1)).flatten()
    tensor([0., 2., 0., 2., 0., 2., 0., 2.], grad_fn=<ViewBackward0>)
    """

    beta: Tensor

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, 4 * channels)
        self.register_buffer("beta", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.unsqueeze(-1).flatten(2).mean(2)
        theta = 2 * torch.sigmoid(self.fc2(torch.relu(self.fc1(mean)))) - 1
        for _ in range(x.dim() - 2):
            theta = theta.unsqueeze(-1)
        slope1, slope2, offset1, offset2 = (self.beta * theta).unflatten(1, (4, -1)).unbind(1)
        return _Lines.apply(x, 1 + slope1, 0.5 * offset1, slope2, 0.5 * offset2, self.beta)  # type: ignore[no-any-return, no-untyped-call]
