"""Small networks that know their ten classes, and images of these."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, LEAST = 10, 256


@cache
def images() -> tuple[Tensor, Tensor]:
    """Noisy pictures of ten patterns, and which pattern each one shows."""
    chance = torch.Generator().manual_seed(1)
    labels = torch.arange(768) % CLASSES
    patterns = torch.randn(CLASSES, 1, 8, 8, generator=chance)
    return patterns[labels] + torch.randn(len(labels), 1, 8, 8, generator=chance), labels


def calibration() -> list[tuple[Tensor, Tensor]]:
    x, y = images()
    return [(x[:LEAST], y[:LEAST])]


class Convolutional(nn.Module):
    """Three convolutions, two of which share their weights on request, and a classifier."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.conv0, self.norm0 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv1, self.norm1 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        if tied:
            self.conv2.weight = self.conv1.weight
        self.fc = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.conv0(x)))
        x = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        fc: Tensor = self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return fc


class Transformer(nn.Module):
    """Eight rows of pixels as tokens, two encoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, CLASSES)
        self.place = nn.Parameter(torch.zeros(1, 8, 32))
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0), 2)

    def forward(self, x: Tensor) -> Tensor:
        head: Tensor = self.head(self.body(self.embed(x[:, 0]) + self.place).mean(1))
        return head


@cache
def trained(kind: str) -> nn.Module:
    """`plain`, `tied` or `transformer`, trained for a moment. Do not change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Transformer() if kind == "transformer" else Convolutional(kind == "tied")
        optimizer, (x, y) = torch.optim.Adam(model.parameters(), 3e-3), images()
        for _ in range(150):
            index = torch.randint(0, len(x), (64,))
            loss = F.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    x, y = images()
    return float((model.eval()(x).argmax(1) == y).float().mean())
