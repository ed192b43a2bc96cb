"""What a run needs to go on: all but its recipe's data, as tensors and plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from fxsparse.errors import CheckpointError
from fxsparse.sparsity.counting import Meter
from fxsparse.training.distributed import rank
from fxsparse.training.evaluate import summed
from fxsparse.training.iee import ExploitExploreChannels
from fxsparse.training.sparsifier import Sparsifier

if TYPE_CHECKING:
    from fxsparse.training.trainer import Trainer

PARTS = (
    "recipe",
    "step",
    "model",
    "optimizer",
    "sparsifier",
    "average",
    "scaler",
    "callbacks",
    "meter",
    "sums",
    "lines",
    "clock",
)
KINDS = {"recipe": dict, "step": int, "callbacks": list, "meter": dict, "sums": list, "lines": list, "clock": list}


def snapshot(trainer: Trainer) -> dict[str, Any]:
    """The state of a run between two steps. All processes must call it."""
    sums = summed(float(trainer.right), float(trainer.loss), trainer.device)
    sparsifier = cast("Sparsifier | ExploitExploreChannels | None", trainer.sparsifier)
    return {
        "recipe": trainer.recipe.to_plain(),
        "step": trainer.step,
        "model": dict(trainer.model.state_dict()),
        "optimizer": trainer.optimizer.state_dict(),
        "sparsifier": None if sparsifier is None else sparsifier.state_dict(),
        "average": None if trainer.average is None else dict(trainer.average.state_dict()),
        "scaler": None if trainer.scaler is None else trainer.scaler.state_dict(),
        "callbacks": [callback.state_dict() for callback in trainer.callbacks],
        "meter": asdict(trainer.meter),
        "sums": list(sums),
        "lines": trainer.lines,
        "clock": [trainer.seconds, trainer.processor_seconds],
    }


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Take a snapshot, in a run that has just been made. One of another recipe is refused before anything changes."""
    missing = next((part for part in PARTS if part not in state), None)
    if missing is not None:
        raise CheckpointError(f"the checkpoint in {trainer.folder} is none of a training run, as it lacks {missing!r}")
    for part, kind in KINDS.items():
        if not isinstance(state[part], kind):
            raise CheckpointError(f"the checkpoint in {trainer.folder} is damaged: {part!r} in it is a {type(state[part]).__name__}")
    odd = trainer.recipe.difference(state["recipe"])
    if odd is not None:
        raise CheckpointError(
            f"the run in {trainer.folder} was begun with another recipe ({odd}); resume it with its own, or give another folder"
        )
    if len(state["callbacks"]) != len(trainer.callbacks):
        raise CheckpointError(
            f"the run in {trainer.folder} had {len(state['callbacks'])} callbacks, and now there are {len(trainer.callbacks)}"
        )
    for callback, kept in zip(trainer.callbacks, state["callbacks"], strict=True):
        callback.load_state_dict(trainer, kept)
    try:
        _restore_weights(trainer, state)
        if trainer.scaler is not None:
            trainer.scaler.load_state_dict(state["scaler"])
        trainer.step, trainer.lines, trainer.meter = state["step"], list(state["lines"]), Meter(**state["meter"])
        right, loss = state["sums"]
        trainer.seconds, trainer.processor_seconds = state["clock"]
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:  # a damaged file can fail in any way
        raise CheckpointError(f"the checkpoint in {trainer.folder} does not fit the model: {str(error).splitlines()[0]}") from error
    if rank() == 0:  # the sums of all processes; the others begin with nothing
        trainer.right.fill_(right)
        trainer.loss.fill_(loss)


def _restore_weights(trainer: Trainer, state: dict[str, Any]) -> None:
    if isinstance(trainer.sparsifier, ExploitExploreChannels):  # it also holds the model's and the average's shapes
        trainer.sparsifier.load_state_dict(state["sparsifier"], state["optimizer"])
        return
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    if trainer.sparsifier is not None:
        cast(Sparsifier, trainer.sparsifier).load_state_dict(state["sparsifier"])
    if trainer.average is not None:
        trainer.average.load_state_dict(state["average"])
