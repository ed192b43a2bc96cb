"""CIFAR-10 as it is distributed: the binary version, and the Python version, whose pickles are read without running them."""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from fxsparse.errors import Error

PYTHON, BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))

Part = tuple[Tensor, Tensor]


def read_binary(folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
    """Records of one byte for the class and 3,072 for the pixels."""

    def part(*names: str) -> Part:
        raw = [numpy.fromfile(folder / f"{name}.bin", dtype=numpy.uint8) for name in names]
        odd = next((name for name, values in zip(names, raw, strict=True) if values.size == 0 or values.size % (PIXELS + 1)), None)
        if odd is not None:
            raise Error(f"{folder / odd}.bin is no file of CIFAR-10: its size is no multiple of {PIXELS + 1} bytes")
        records = torch.from_numpy(numpy.concatenate(raw)).view(-1, PIXELS + 1)
        return _images(records[:, 1:]), records[:, 0].long()

    return part(*TRAIN), part("test_batch"), CLASSES


def read_python(folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
    """Pickled dictionaries with the keys `data` and `labels`. Their opcodes are listed, and the two values are found in the list; nothing
    is ever unpickled, so that a file from anywhere is harmless.
    """

    def part(*names: str) -> Part:
        parts = [_batch(folder / name) for name in names]
        return torch.cat([pixels for pixels, _ in parts]), torch.cat([labels for _, labels in parts])

    return part(*TRAIN), part("test_batch"), CLASSES


def _batch(path: Path) -> Part:
    if not path.is_file():
        raise Error(f"there is no file {path}; a part of CIFAR-10 is missing")
    try:
        labels, data = _values(path.read_bytes())
    except Exception as error:  # pickletools raises what it likes on a damaged file
        raise Error(f"{path} cannot be read as a batch of CIFAR-10: {error}") from error
    if not labels or len(data) != len(labels) * PIXELS or not set(labels) <= set(range(10)):
        raise Error(f"{path} is no batch of CIFAR-10: {len(labels)} labels and {len(data)} bytes of pixels")
    pixels = torch.from_numpy(numpy.frombuffer(data, dtype=numpy.uint8).copy()).view(-1, PIXELS)
    return _images(pixels), torch.tensor(labels)


def _values(content: bytes) -> tuple[list[int], bytes]:
    """The integers that follow the string `labels`, and the longest string."""
    labels: list[int] = []
    longest: Any = b""
    key = ""
    for opcode, argument, _ in pickletools.genops(content):
        if isinstance(argument, str | bytes) and not opcode.name.startswith(("GLOBAL", "PUT", "GET")):
            text = argument if isinstance(argument, str) else argument.decode("latin-1")
            longest = max(longest, argument, key=len)
            key = text if len(text) < 32 else ""
        elif key == "labels" and isinstance(argument, int) and opcode.name in ("BININT", "BININT1", "BININT2", "INT", "LONG1"):
            labels.append(argument)
    return labels, longest.encode("latin-1") if isinstance(longest, str) else longest


def _images(pixels: Tensor) -> Tensor:
    return pixels.reshape(-1, 3, 32, 32).permute(0, 2, 3, 1).contiguous()
