"""The images that `--data` names, as batches for passes that look at data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from torch import Tensor

from fxsparse.training.augment import Normalise
from fxsparse.training.data import Images, load_data

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH | digits",
        help="Training images, for criteria, scores and statistics that need data: "
        "torchvision's CIFAR-10 folder, class folders in train/ and test/, or digits.",
    ),
]
ImagesOption = Annotated[int, typer.Option("--images", min=1, help="So many of the training images, drawn by --seed.")]
SizeOption = Annotated[
    int | None, typer.Option("--size", min=1, help="Scale the images of class folders so that they are squares of so many pixels.")
]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")]


@dataclass(frozen=True, eq=False)
class Sample:
    """Batches of (inputs, targets), the same each time they are asked for. The last one may be smaller, but is never a single image."""

    images: Images
    batch: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        normalise = Normalise()
        for start in range(0, len(self.images), self.batch):
            pixels, labels = self.images.pixels[start : start + self.batch], self.images.labels[start : start + self.batch]
            if start == 0 or len(labels) > 1:  # a batch norm takes no statistics from one image
                yield normalise(pixels), labels


def sample(data: str | None, images: int, batch: int, seed: int, size: int | None = None) -> Sample | None:
    """What the options ask for."""
    if data is None:
        return None
    train = load_data(data, size=size).train
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:images]
    return Sample(Images(*train[chosen]), batch)
