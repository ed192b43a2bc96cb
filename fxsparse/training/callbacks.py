"""What may be done to a run beside the steps of its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxsparse.training.trainer import Trainer


class Callback:
    """Replace what you need. `trainer.step` is the number of optimizer steps that are done, `trainer.steps` that of the whole run."""

    def attach(self, trainer: Trainer) -> None:
        """The model is there; optimizer, average and sparsifier are not. `trainer.model` may be changed or replaced."""

    def before_step(self, trainer: Trainer) -> None:
        """Called before the forward pass of each optimizer step."""

    def after_step(self, trainer: Trainer) -> None:
        """Called when the optimizer has acted and `trainer.step` counts it. For another model, call `trainer.swap`."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a resumed run needs."""
        return {}

    def load_state_dict(self, trainer: Trainer, state: Mapping[str, Any]) -> None:
        """Called before weights and optimizer are loaded, so that the model can be given the structure that it had."""
