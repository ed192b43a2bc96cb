"""The Lightning callback: masks in force at every step, a run that goes on from a checkpoint, and what is refused."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fxsparse.errors import Error
from tests.training.small import network

if importlib.util.find_spec("lightning") is None:
    pytest.skip("Lightning is not installed: pip install 'fxsparse[lightning]'", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what Lightning says of its own imports
    from fxsparse.training.lightning import Sparsify  # isort: skip (it makes Lightning importable where torchvision's wheel is another)
    from lightning.pytorch import Callback, LightningModule, Trainer

# Lightning's remarks on loggers, workers and itself are its own.
pytestmark = [pytest.mark.filterwarnings("ignore::Warning:lightning"), pytest.mark.filterwarnings("ignore::UserWarning")]


class Classifier(LightningModule):
    def __init__(self, optimizers: int = 1) -> None:
        super().__init__()
        self.net = network()
        self.count = optimizers
        self.automatic_optimization = optimizers == 1
        self.zeros: list[int] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.zeros.append(sum(int((p == 0).sum()) for name, p in self.named_parameters() if name.endswith("weight") and p.dim() > 1))

    def configure_optimizers(self) -> Any:
        parts = [list(self.net[:3].parameters()), list(self.net[3:].parameters())]
        groups = [[p for part in parts for p in part]] if self.count == 1 else parts
        return [torch.optim.SGD(group, lr=0.05, momentum=0.9) for group in groups]


def batches() -> DataLoader[Any]:
    chance = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(24, 3, 6, 6, generator=chance), torch.randint(0, 4, (24,), generator=chance))
    return DataLoader(data, batch_size=8)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    one = {"accelerator": "cpu", "devices": 1, "max_epochs": 4}
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**quiet, **one, **options})


def masked(callback: Sparsify, module: nn.Module) -> bool:
    """Every weight that a mask excludes is zero."""
    assert callback.sparsifier is not None
    parameters = dict(module.named_parameters())
    return all(not parameters[name].detach()[~mask].any() for name, mask in callback.sparsifier.masks.items())


class Watch(Callback):
    """After every step, the masks hold."""

    def __init__(self, sparsify: Sparsify) -> None:
        self.sparsify, self.steps = sparsify, 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        assert masked(self.sparsify, pl_module)
        self.steps += 1


@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_masks_hold_at_every_step(tmp_path: Path, clip: float | None) -> None:
    callback = Sparsify("rigl", density=0.2, interval=2)
    watch, module = Watch(callback), Classifier()
    trainer(tmp_path, callback, watch, gradient_clip_val=clip).fit(module, batches(), batches())
    assert callback.sparsifier is not None
    assert callback.sparsifier.steps_done == watch.steps == 12
    assert callback.sparsifier.density == pytest.approx(0.2, abs=1e-3)


def test_the_density_is_logged(tmp_path: Path) -> None:
    run = trainer(tmp_path, Sparsify("static", density=0.25))
    run.fit(Classifier(), batches())
    assert float(run.logged_metrics["sparse/density"]) == pytest.approx(0.25, abs=1e-3)


def test_clipping_counts_living_weights_alone(tmp_path: Path) -> None:
    norms: list[float] = []

    class Norms(Callback):
        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

    trainer(tmp_path, Sparsify("static", density=0.05), Norms(), gradient_clip_val=1e-3).fit(Classifier(), batches())
    assert len(norms) == 11
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-3)  # all of the limit is spent on weights that live


def test_a_run_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole = Classifier()
    first = Sparsify("rigl", density=0.2, interval=2, steps=12)
    trainer(tmp_path, first).fit(whole, batches())

    part = Classifier()
    begun = trainer(tmp_path, Sparsify("rigl", density=0.2, interval=2, steps=12), max_epochs=2)
    begun.fit(part, batches())
    begun.save_checkpoint(tmp_path / "half.ckpt")
    rest, callback = Classifier(), Sparsify("rigl", density=0.2, interval=2, steps=12)
    trainer(tmp_path, callback).fit(rest, batches(), ckpt_path=str(tmp_path / "half.ckpt"))

    assert callback.sparsifier is not None and first.sparsifier is not None
    assert callback.sparsifier.steps_done == 12
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))
    assert all(torch.equal(mask, first.sparsifier.masks[name]) for name, mask in callback.sparsifier.masks.items())


def test_a_method_that_explores_is_validated_at_rest(tmp_path: Path) -> None:
    callback, module = Sparsify("iee", density=0.1, estimate=2, explore=4), Classifier()
    trainer(tmp_path, callback, max_epochs=8, val_check_interval=1).fit(module, batches(), batches())
    assert callback.sparsifier is not None
    weights = sum(mask.numel() for mask in callback.sparsifier.masks.values())
    assert min(module.zeros[3:]) > 0.5 * weights  # three batches of Lightning's sanity check come before the first mask


def test_of_several_optimizers_one_is_masked(tmp_path: Path) -> None:
    callback, module = Sparsify("static", density=0.3, optimizer=1, include=["net.3", "net.7"]), Classifier(optimizers=2)
    trainer(tmp_path, callback).fit(module, batches())
    assert callback.sparsifier is not None
    assert set(callback.sparsifier.masks) == {"net.3.weight", "net.7.weight"}
    assert masked(callback, module)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"no method 'riggle'; choose static"):
        Sparsify("riggle")
    with pytest.raises(Error, match=r"optimizer 3, and configure_optimizers gave 1"):
        trainer(tmp_path, Sparsify("static", density=0.1, optimizer=3)).fit(Classifier(), batches())
    with pytest.raises(Error, match=r"give it steps="):
        trainer(tmp_path, Sparsify("rigl", density=0.1), max_epochs=-1).fit(Classifier(), batches())
