"""Sparse training in Lightning: a callback. Import it by name, `from fxsparse.training.lightning import Sparsify`; it needs Lightning."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fxsparse.errors import Error
from fxsparse.models import import_torchvision
from fxsparse.training.evaluate import resting
from fxsparse.training.registry import DENSE, METHODS, make_sparsifier
from fxsparse.training.sparsifier import Sparsifier

if importlib.util.find_spec("torchvision") is not None:
    import_torchvision()  # Lightning imports it by way of torchmetrics, and dies where its wheel does not go with torch's
try:
    from lightning.pytorch import Callback
except ImportError as _missing:
    raise Error("fxsparse.training.lightning needs Lightning, which is not installed; pip install 'fxsparse[lightning]'") from _missing

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer


class Sparsify(Callback):
    """Train a LightningModule sparse: `Trainer(callbacks=[Sparsify("rigl", density=0.1)])`.

    `method` is static, set, rigl, gradual, one-shot, sr-ste, iee or east, and the options are the method's own. `steps` is asked of the
    trainer where it is not given. With several optimizers, `optimizer` is the number of the one whose parameters are masked. After
    `fit` has begun, `callback.sparsifier` is there; its masks are in Lightning's checkpoints, and `fit(ckpt_path=...)` goes on with them.
    """

    def __init__(self, method: str = "rigl", *, steps: int | None = None, optimizer: int = 0, log: bool = True, **options: Any) -> None:
        super().__init__()
        if method == DENSE or method not in METHODS:
            raise Error(f"Sparsify has no method {method!r}; choose {', '.join(METHODS)}")
        self.method, self.steps, self.optimizer, self.log, self.options = method, steps, optimizer, log, options
        self.sparsifier: Sparsifier | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._rest = contextlib.ExitStack()

    @property
    def state_key(self) -> str:
        """Several of these in one trainer are told apart by the optimizer."""
        return f"fxsparse.Sparsify{{optimizer={self.optimizer}}}"

    # ---- the run ----------------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Optimizers are there, and a checkpoint has been read."""
        optimizer = self._its_optimizer(trainer)
        if self.sparsifier is not None:  # fit was called before, with other optimizers
            self.sparsifier.release()
        model, state = copy.deepcopy(pl_module.state_dict()), copy.deepcopy(optimizer.state_dict())
        self.sparsifier = make_sparsifier(self.method, pl_module, optimizer, self._all_steps(trainer), self.options)
        if self._loaded is not None and self.sparsifier is not None:
            # The first masks were drawn anew and zeroed what they mask: the values of the checkpoint come back under its own masks.
            self.sparsifier.load_state_dict(self._loaded)
            pl_module.load_state_dict(model)
            optimizer.load_state_dict(state)
            self._loaded = None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are masked before Lightning clips them, so that masked weights do not count in the norm."""
        if self.sparsifier is not None and optimizer is self.sparsifier.optimizer:
            self.sparsifier.prepare()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.log and self.sparsifier is not None:
            pl_module.log_dict({f"sparse/{name}": float(value) for name, value in self.sparsifier.metrics().items()})

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A method that explores is validated by what lives alone."""
        self._rest.enter_context(resting(pl_module, self.sparsifier))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rest.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._rest.close()

    # ---- checkpoints ------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {} if self.sparsifier is None else self.sparsifier.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict or None

    # ---- what the trainer knows -------------------------------------------------------------------------------------------------

    def _its_optimizer(self, trainer: Trainer) -> Optimizer:
        known = trainer.optimizers
        if not 0 <= self.optimizer < len(known):
            raise Error(f"Sparsify shall mask the parameters of optimizer {self.optimizer}, and configure_optimizers gave {len(known)}")
        found: Optimizer = known[self.optimizer]
        return found

    def _all_steps(self, trainer: Trainer) -> int:
        known = self.steps if self.steps is not None else trainer.estimated_stepping_batches
        if known == float("inf"):
            raise Error("the trainer has no end, so that Sparsify cannot know the number of steps; give it steps=, or max_epochs")
        return int(known)
