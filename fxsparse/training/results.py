"""What a finished run leaves: its numbers, and its weights."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxsparse.models.weights import write_weights
from fxsparse.saving import save
from fxsparse.training.iee import plot
from fxsparse.training.masked import MaskedOptimizer
from fxsparse.training.outcome import Outcome

if TYPE_CHECKING:
    from fxsparse.training.trainer import Trainer

RESULT, WEIGHTS, NETWORK = "result.json", "weights.safetensors", "network"
TIMELINE, PICTURE = "timeline.json", "timeline.svg"


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
    macs: int  # of one image, without the multiplications by zero
    dyrelu_parameters: int  # dense ones, which were trained and are gone
    train_macs: int
    exploration_macs: int
    seconds: float
    processor_seconds: float

    @classmethod
    def of(cls, trainer: Trainer, outcome: Outcome) -> Result:
        last, meter = trainer.lines[-1], trainer.meter
        return cls(
            accuracy=last["accuracy"],
            loss=last["test_loss"],
            reported=last["reported"],
            epochs=tuple(trainer.lines),
            steps=trainer.step,
            parameters=outcome.parameters,
            nonzeros=sum(outcome.nonzeros().values()),
            macs=outcome.macs(trainer.example),
            dyrelu_parameters=outcome.dyrelu_parameters,
            train_macs=meter.total,
            exploration_macs=meter.exploration,
            seconds=trainer.seconds,
            processor_seconds=trainer.processor_seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_result(folder: Path, result: Result, outcome: Outcome, sparsifier: MaskedOptimizer | None) -> None:
    """result.json, and weights.safetensors; a network that has changed more than its weights as a folder that `fxsparse.load` reads."""
    if outcome.network is not None:
        save(outcome.network, folder / NETWORK)
    write_weights(folder / WEIGHTS, outcome.weights)
    timeline = getattr(sparsifier, "timeline", None)
    if timeline is not None:
        write_json(folder / TIMELINE, timeline.to_dict())
        if importlib.util.find_spec("matplotlib") is not None:
            plot(timeline, folder / PICTURE)
    write_json(folder / RESULT, result.to_dict())


def write_json(path: Path, content: Any) -> None:
    """Whoever reads the file finds the old one or the new one, whole."""
    half = path.with_name(path.name + ".tmp")
    half.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(half, path)
