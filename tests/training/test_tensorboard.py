"""The trainer writes TensorBoard's files where TensorBoard is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fxsparse.training import Recipe, Trainer
from fxsparse.training.data import Data, Images
from tests.training.small import network

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="no TensorBoard: pip install tensorboard")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_numbers_of_every_epoch_are_there(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (40, 6, 6, 3), dtype=torch.uint8)
    images = Images(pixels, torch.randint(0, 4, (40,)))
    data = Data(images, images, classes=("a", "b", "c", "d"))
    options = {"density": 0.2}
    recipe = Recipe(model="given", data="given", method="static", options=options, epochs=3, batch=8, crop=0, lr=0.01)
    Trainer(recipe, tmp_path, model=network(), data=data).run()
    written = scalars(tmp_path / "tensorboard")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "accuracy", "density", "lr", "train_macs"} <= set(written)
    assert [step for step, _ in written["accuracy"]] == [5, 10, 15]
    assert [value for _, value in written["loss"]] == pytest.approx([line["loss"] for line in lines], rel=1e-6)
