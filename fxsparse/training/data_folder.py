"""Images in class folders, decoded once and kept in a cache file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from fxsparse.errors import Error

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def default_cache() -> Path:
    """Where decoded images are kept unless the user says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxsparse"


def read_folder(folder: Path, cache: Path | None = None, size: int | None = None) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Pixels, labels and class names. With `size`, images are scaled so that their shorter side has it, and cut to a square; without, they
    must be of one size. The pixels are mapped from the cache, so that several processes share one copy, and need not fit into memory.
    """
    classes = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if not classes:
        raise Error(f"{folder} has no class folders")
    files = [(path, number) for number, name in enumerate(classes) for path in _files(folder / name)]
    if not files:
        raise Error(f"{folder} has no images; looked for {', '.join(SUFFIXES)}")
    place = (cache or default_cache()) / f"{folder.resolve().parent.name}-{folder.name}-{_key(folder, files, size)}"
    if not place.is_dir():
        _decode(files, place, size)
    pixels = numpy.load(place / "pixels.npy", mmap_mode="c")  # copy-on-write: nobody changes the file
    labels = numpy.load(place / "labels.npy")
    return torch.from_numpy(pixels), torch.from_numpy(labels), classes


def _files(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES))


def _key(folder: Path, files: list[tuple[Path, int]], size: int | None) -> str:
    """Changes when a file is added, removed or written again."""
    digest = hashlib.blake2b(json.dumps([str(folder.resolve()), size]).encode(), digest_size=8)
    for path, _ in files:
        status = path.stat()
        digest.update(f"{path.name}/{status.st_size}/{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _decode(files: list[tuple[Path, int]], place: Path, size: int | None) -> None:
    """Decode everything into a folder of its own, which gets its name when it is complete."""
    image = _pillow()
    first = _pixels(image, files[0][0], size)
    half = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    half.mkdir(parents=True)
    try:
        shape = (len(files), *first.shape)
        pixels = numpy.lib.format.open_memmap(half / "pixels.npy", mode="w+", dtype=numpy.uint8, shape=shape)

        def one(index: int) -> None:
            found = _pixels(image, files[index][0], size)
            if found.shape != first.shape:
                raise Error(f"{files[index][0]} is {found.shape[:2]} pixels, {files[0][0]} {first.shape[:2]}; give one size for all")
            pixels[index] = found

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(one, range(len(files)), chunksize=256):
                pass
        pixels.flush()
        numpy.save(half / "labels.npy", numpy.array([label for _, label in files], dtype=numpy.int64))
        try:
            half.rename(place)
        except OSError:  # another process was faster, with the same files
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _pixels(image: Any, path: Path, size: int | None) -> numpy.ndarray[Any, Any]:
    try:
        with image.open(path) as picture:
            picture = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise Error(f"{path} cannot be read as an image: {error}") from error
    if size is not None:
        width, height = picture.size
        scale = size / min(width, height)
        picture = picture.resize((max(size, round(width * scale)), max(size, round(height * scale))), image.Resampling.BILINEAR)
        left, upper = (picture.size[0] - size) // 2, (picture.size[1] - size) // 2
        picture = picture.crop((left, upper, left + size, upper + size))
    return numpy.asarray(picture, dtype=numpy.uint8)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise Error("image folders are read with Pillow; pip install pillow") from error
    return Image
