"""DyReLU-B (Chen et al., 2020), with a dial that fades it into a plain ReLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        dynamic = torch.maximum((1 + slope1) * x + 0.5 * offset1, slope2 * x + 0.5 * offset2)
        # Chosen, not computed: 0 * x + 0 is not ReLU for infinite x, nor for the sign of zero.
        return torch.where(self.beta == 0, torch.relu(x), dynamic)
