"""Data sets as users have them, and batches that depend on nothing but their number."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy
import pytest
import torch

from fxsparse.errors import Error
from fxsparse.training.augment import Augment, Normalise
from fxsparse.training.data import Batches, Images, load_data
from fxsparse.training.data_cifar import TRAIN

PIL = pytest.importorskip("PIL.Image")


def records(count: int, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    chance = numpy.random.default_rng(seed)
    return chance.integers(0, 10, count, dtype=numpy.uint8), chance.integers(0, 256, (count, 3072), dtype=numpy.uint8)


def pickled(labels: list[int], data: bytes) -> bytes:
    """A dictionary as the opcodes of protocol 2, with the strings and numbers that a batch of CIFAR-10 has."""

    def text(word: bytes) -> bytes:
        return b"U" + bytes([len(word)]) + word

    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return b"\x80\x02}(" + text(b"data") + b"T" + struct.pack("<i", len(data)) + data + text(b"labels") + b"](" + numbers + b"eu."


def test_torchvisions_files_are_read_without_running_them(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    wanted = []
    for number, name in enumerate((*TRAIN, "test_batch")):
        labels, pixels = records(5, number)
        wanted.append((labels, pixels))
        (folder / name).write_bytes(pickled(labels.tolist(), pixels.tobytes()))
    for given in (tmp_path, folder):
        data = load_data(given)
        assert (len(data.train), len(data.test), len(data.classes), data.shape) == (25, 5, 10, (3, 32, 32))
        assert data.test.labels.tolist() == wanted[5][0].tolist()
        assert torch.equal(data.train.pixels[7].permute(2, 0, 1).flatten(), torch.from_numpy(wanted[1][1][2]))
    (folder / "test_batch").write_bytes(b"\x80\x02cos\nsystem\n(U\x04exitt" + b"R.")
    with pytest.raises(Error, match="is no batch of CIFAR-10"):
        load_data(folder)
    (folder / "test_batch").write_bytes(b"nonsense")
    with pytest.raises(Error, match="cannot be read as a batch of CIFAR-10"):
        load_data(folder)
    (folder / "test_batch").unlink()
    with pytest.raises(Error, match="a part of CIFAR-10 is missing"):
        load_data(folder)


def test_the_binary_version(tmp_path: Path) -> None:
    for number, name in enumerate((*TRAIN, "test_batch")):
        labels, pixels = records(4, number)
        (tmp_path / f"{name}.bin").write_bytes(b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True)))
    data = load_data(tmp_path)
    assert (len(data.train), len(data.test)) == (20, 4)
    assert data.train.labels[:4].tolist() == records(4, 0)[0].tolist()
    (tmp_path / "test_batch.bin").write_bytes(b"123")
    with pytest.raises(Error, match="its size is no multiple of 3073 bytes"):
        load_data(tmp_path)


def folders(root: Path, size: tuple[int, int] = (7, 5)) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = numpy.full((size[1], size[0], 3), 100 * number + index, dtype=numpy.uint8)
                PIL.fromarray(pixels).save(root / part / name / f"{index}.png")


def test_class_folders_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path / "data")
    data = load_data(tmp_path / "data", cache=tmp_path / "cache")
    assert data.classes == ("cat", "dog") and data.shape == (3, 5, 7)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    monkeypatch.setattr("fxsparse.training.data_folder._pixels", None)  # decoding again would fail
    again = load_data(tmp_path / "data", cache=tmp_path / "cache")
    assert torch.equal(again.train.pixels, data.train.pixels) and torch.equal(again.test.labels, data.test.labels)


def test_class_folders_are_scaled_and_cut(tmp_path: Path) -> None:
    folders(tmp_path / "data")
    assert load_data(tmp_path / "data", cache=tmp_path / "cache", size=4).shape == (3, 4, 4)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(Error, match="there is no folder"):
        load_data(tmp_path / "nothing")
    with pytest.raises(Error, match="is none of the data sets that can be read"):
        load_data(tmp_path)
    folders(tmp_path / "a")
    (tmp_path / "a" / "test" / "cow").mkdir()
    with pytest.raises(Error, match="the class 'cow' is in one of train/ and test/ only"):
        load_data(tmp_path / "a", cache=tmp_path / "cache")
    folders(tmp_path / "b")
    (tmp_path / "b" / "train" / "cat" / "0.png").write_bytes(b"nothing")
    with pytest.raises(Error, match=r"0.png cannot be read as an image"):
        load_data(tmp_path / "b", cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.tmp"))
    folders(tmp_path / "c")
    PIL.fromarray(numpy.zeros((9, 9, 3), dtype=numpy.uint8)).save(tmp_path / "c" / "train" / "dog" / "2.png")
    with pytest.raises(Error, match="give one size for all"):
        load_data(tmp_path / "c", cache=tmp_path / "cache")


def test_digits_validation_and_subsets() -> None:
    pytest.importorskip("sklearn")
    data = load_data("digits")
    assert (len(data.train), len(data.test), data.shape, data.reported) == (1437, 360, (3, 8, 8), "test")
    held = load_data("digits", validation=0.1, subset=500, seed=3)
    assert (len(held.train), len(held.test), held.reported) == (500, 144, "validation")
    same = load_data("digits", validation=0.1, subset=500, seed=3)
    assert torch.equal(held.train.pixels, same.train.pixels) and torch.equal(held.test.pixels, same.test.pixels)
    with pytest.raises(Error, match="size=4 is for image folders, and the images of digits have one size already"):
        load_data("digits", size=4)
    for wrong in ({"validation": 1.0}, {"validation": 1e-4}, {"validation": 0.9999}, {"subset": 0}, {"subset": 5000}):
        with pytest.raises(Error):
            load_data("digits", **wrong)


def numbered(count: int = 20) -> Images:
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 4, 4, 3).contiguous()
    return Images(pixels, torch.arange(count))


def test_every_image_once_an_epoch_and_each_epoch_anew() -> None:
    batches = Batches(numbered(), 5, 0, Augment())
    epochs = [[labels for _, labels in batches.epoch(number)] for number in (0, 1, 0)]
    assert sorted(torch.cat(epochs[0]).tolist()) == list(range(20))
    assert all(torch.equal(a, b) for a, b in zip(epochs[0], epochs[2], strict=True))
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    assert not torch.equal(torch.cat(epochs[0]), torch.cat([labels for _, labels in Batches(numbered(), 5, 1, Augment()).epoch(0)]))


def test_any_step_can_be_made_without_the_ones_before() -> None:
    batches = Batches(numbered(), 5, 0, Augment(crop=1))
    whole, late = list(batches.epoch(3)), list(batches.epoch(3, start=2))
    assert len(late) == 2
    for (pixels, labels), (others, their) in zip(whole[2:], late, strict=True):
        assert torch.equal(pixels, others) and torch.equal(labels, their)


def test_processes_share_a_batch() -> None:
    whole = list(Batches(numbered(), 8, 0, Augment(crop=1)).epoch(0))
    parts = [list(Batches(numbered(), 8, 0, Augment(crop=1), rank, 2).epoch(0)) for rank in range(2)]
    for index, (pixels, labels) in enumerate(whole):
        assert torch.equal(pixels, torch.cat([part[index][0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[index][1] for part in parts]))
    with pytest.raises(Error, match="cannot be shared evenly by 3 processes"):
        Batches(numbered(), 8, 0, Augment(), 0, 3)


def test_augmentation_is_a_flip_and_a_shift() -> None:
    pixels = torch.randint(0, 256, (1, 5, 6, 3), dtype=torch.uint8)
    move = Augment(crop=2)
    assert torch.equal(move(pixels, torch.tensor([[2, 2, 0]])), pixels)
    assert torch.equal(move(pixels, torch.tensor([[2, 2, 1]])), pixels.flip(2))
    down = move(pixels, torch.tensor([[4, 2, 0]]))  # the window moves down by two: two black rows come in below
    assert torch.equal(down[:, :3], pixels[:, 2:]) and not down[:, 3:].any()
    assert torch.equal(Augment(flip=False, crop=0)(pixels, move.draw(1, torch.Generator())), pixels)
    assert torch.equal(Augment(flip=False, crop=2)(pixels, torch.tensor([[2, 2, 1]])), pixels)


def test_normalisation() -> None:
    pixels = torch.full((2, 4, 5, 3), 255, dtype=torch.uint8)
    made = Normalise((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))(pixels)
    assert made.shape == (2, 3, 4, 5) and made.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made[0, :, 0, 0], torch.tensor([1.0, 3.0, 1.0]))
