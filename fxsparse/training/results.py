"""What a finished run leaves: its numbers, and its weights."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import nn

from fxsparse.saving import save
from fxsparse.sparsity.counting import nonzeros
from fxsparse.training.iee import ExploitExploreChannels
from fxsparse.training.masked import MaskedOptimizer

if TYPE_CHECKING:
    from fxsparse.training.trainer import Trainer

RESULT, WEIGHTS, NETWORK = "result.json", "weights.safetensors", "network"
TIMELINE = "timeline.json"


@dataclass(frozen=True)
class Result:
    """The last epoch's accuracy, never the best one's; and what the run cost, in multiply-accumulates from shapes and masks."""

    accuracy: float
    loss: float
    reported: str  # test or validation
    epochs: tuple[dict[str, Any], ...]
    steps: int
    parameters: int
    nonzeros: int
    train_macs: int
    exploration_macs: int
    seconds: float
    processor_seconds: float

    @classmethod
    def of(cls, trainer: Trainer, model: nn.Module) -> Result:
        last, meter = trainer.lines[-1], trainer.meter
        return cls(
            accuracy=last["accuracy"],
            loss=last["test_loss"],
            reported=last["reported"],
            epochs=tuple(trainer.lines),
            steps=trainer.step,
            parameters=sum(p.numel() for p in model.parameters()),
            nonzeros=sum(nonzeros(model).values()),
            train_macs=meter.total,
            exploration_macs=meter.exploration,
            seconds=trainer.seconds,
            processor_seconds=trainer.processor_seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_result(folder: Path, result: Result, model: nn.Module, sparsifier: MaskedOptimizer | None) -> None:
    """result.json, and weights.safetensors; a network that was shrunk as a folder that `fxsparse.load` reads."""
    if isinstance(sparsifier, ExploitExploreChannels):
        save(sparsifier.at_rest(), folder / NETWORK)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, str(folder / WEIGHTS))
    timeline = getattr(sparsifier, "timeline", None)
    if timeline is not None:
        write_json(folder / TIMELINE, timeline.to_dict())
    write_json(folder / RESULT, result.to_dict())


def write_json(path: Path, content: Any) -> None:
    """Whoever reads the file finds the old one or the new one, whole."""
    half = path.with_name(path.name + ".tmp")
    half.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(half, path)
