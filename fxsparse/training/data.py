"""Images for classification, in memory or mapped from a cache file: uint8, height x width x channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fxsparse.errors import Error
from fxsparse.sparsity.chance import generator
from fxsparse.training.augment import Augment
from fxsparse.training.data_cifar import BINARY, PYTHON, read_binary, read_python
from fxsparse.training.data_folder import read_folder

FORMS = "an image folder (train/ and test/ with one folder a class), torchvision's CIFAR-10 folder, or digits"


@dataclass(frozen=True, eq=False)
class Images:
    """Images (N, H, W, C) of uint8 and their classes (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.pixels[index], self.labels[index]

    def to(self, device: torch.device) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Data:
    """What to train on, and what to report on: the test images, or held-out training images."""

    train: Images
    test: Images
    classes: tuple[str, ...]
    reported: str = "test"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, height, width, channels = self.train.pixels.shape
        return channels, height, width


def load_data(
    source: str | Path,
    *,
    cache: Path | None = None,
    size: int | None = None,
    validation: float = 0.0,
    subset: int | None = None,
    seed: int = 0,
) -> Data:
    """Read a data set. With `validation`, that part of the training images is held out and reported on instead of the test images; with
    `subset`, only so many training images are used. Both are drawn by `seed`.
    """
    data = _read(source, cache, size)
    order = torch.randperm(len(data.train), generator=generator("split", seed))
    if not 0 <= validation < 1:
        raise Error(f"validation is the part of the training images that is held out, at least 0 and below 1, not {validation}")
    if validation:
        held = round(validation * len(order))
        if not 0 < held < len(order):
            raise Error(f"validation={validation} holds {held} of {len(order)} training images out; leave at least one on each side")
        held_out = Images(*data.train[order[:held].sort().values])
        data, order = replace(data, test=held_out, reported="validation"), order[held:]
    if subset is not None:
        if not 0 < subset <= len(order):
            raise Error(f"a subset of {subset} training images cannot be drawn from {len(order)}")
        order = order[:subset]
    if len(order) < len(data.train):
        data = replace(data, train=Images(*data.train[order.sort().values]))
    return data


def _read(source: str | Path, cache: Path | None, size: int | None) -> Data:
    if str(source) == "digits":
        _require_no_size(source, size)
        return _digits()
    folder = Path(source)
    if not folder.is_dir():
        raise Error(f"there is no folder {folder}; give {FORMS}")
    for inner in (folder, folder / PYTHON, folder / BINARY):
        if (inner / "data_batch_1").is_file() or (inner / "data_batch_1.bin").is_file():
            _require_no_size(source, size)
        if (inner / "data_batch_1").is_file():
            return _cifar(*read_python(inner))
        if (inner / "data_batch_1.bin").is_file():
            return _cifar(*read_binary(inner))
    test = next((name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test is None or not (folder / "train").is_dir():
        raise Error(f"{folder} is none of the data sets that can be read; give {FORMS}")
    train_pixels, train_labels, classes = read_folder(folder / "train", cache, size)
    test_pixels, test_labels, test_classes = read_folder(folder / test, cache, size)
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))[0]
        raise Error(f"{folder}: the class {odd!r} is in one of train/ and {test}/ only")
    if train_pixels.shape[1:] != test_pixels.shape[1:]:
        sizes = f"{tuple(train_pixels.shape[1:3])} and {tuple(test_pixels.shape[1:3])}"
        raise Error(f"{folder}: the images of train/ and {test}/ have the sizes {sizes}; give one size")
    return Data(Images(train_pixels, train_labels), Images(test_pixels, test_labels), classes)


def _require_no_size(source: str | Path, size: int | None) -> None:
    if size is not None:
        raise Error(f"size={size} is for image folders, and the images of {source} have one size already; leave it out")


def _cifar(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: tuple[str, ...]) -> Data:
    return Data(Images(*train), Images(*test), classes)


def _digits() -> Data:
    """The 1,797 digits of 8 x 8 pixels that come with scikit-learn; every fifth is for the test. Three equal channels, as models expect."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise Error("the digits come with scikit-learn; pip install scikit-learn, or give another data set") from error
    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)
    pixels, labels = grey.unsqueeze(3).repeat(1, 1, 1, 3), torch.from_numpy(bunch.target).long()
    test = torch.arange(len(labels)) % 5 == 0
    return Data(Images(pixels[~test], labels[~test]), Images(pixels[test], labels[test]), tuple(map(str, range(10))))


@dataclass(frozen=True)
class Batches:
    """The training batches of every epoch: drawn anew by (seed, epoch), so that any step of any epoch can be made without the ones before.

    Each of `world` processes gets its own part of every batch; together they see what one process alone would.
    """

    images: Images
    batch: int
    seed: int
    augment: Augment
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.batch <= len(self.images):
            raise Error(f"a batch of {self.batch} cannot be drawn from {len(self.images)} images")
        if self.batch % self.world:
            raise Error(f"a batch of {self.batch} cannot be shared evenly by {self.world} processes; give a multiple")

    def __len__(self) -> int:
        return len(self.images) // self.batch

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch from the batch `start` on; the last images, too few for a batch, wait for another epoch."""
        order = torch.randperm(len(self.images), generator=generator("order", self.seed, number))
        mine = slice(self.rank * self.batch // self.world, (self.rank + 1) * self.batch // self.world)
        for index in range(start, len(self)):
            chosen = order[index * self.batch : (index + 1) * self.batch]
            draw = self.augment.draw(self.batch, generator("augment", self.seed, number, index))
            pixels, labels = self.images[chosen[mine].to(self.images.labels.device)]
            yield self.augment(pixels, draw[mine]), labels
