"""A run of classification: from a recipe to the accuracy after the last epoch. Killed at any moment, it goes on bit for bit."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from fxsparse.errors import Error
from fxsparse.network import Network, trace
from fxsparse.sparsity.chance import seed_of
from fxsparse.sparsity.counting import Meter, Profile, profile
from fxsparse.training.assembly import average_of, device_of, model_of, optimizer_of, placed, wrapped
from fxsparse.training.augment import Augment, Normalise
from fxsparse.training.callbacks import Callback
from fxsparse.training.checkpoint import alone_in, load_checkpoint, random_state, save_checkpoint, seed_everything, set_random_state
from fxsparse.training.data import Batches, Data, load_data
from fxsparse.training.distributed import rank, world_size
from fxsparse.training.east.parts import Parts, as_unshared, parts_of
from fxsparse.training.evaluate import as_logits, evaluate, require_scores, resting, summed
from fxsparse.training.masked import MaskedOptimizer
from fxsparse.training.outcome import outcome_of
from fxsparse.training.rates import Rate
from fxsparse.training.recipe import Recipe
from fxsparse.training.registry import CHANNELS, make_channels, make_method
from fxsparse.training.reporting import Reporter
from fxsparse.training.results import Result, write_result
from fxsparse.training.trainer_state import restore, snapshot

CHECKPOINT = "checkpoint.pt"


class Trainer:
    """`run()` trains to the end and returns the last epoch's numbers. With a `folder`, metrics, checkpoints and the final weights go there.

    Every random number is drawn from seeds that name the step it is for; under torchrun, several processes share each batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path | None = None,
        *,
        model: nn.Module | None = None,
        data: Data | None = None,
        callbacks: Sequence[Callback] = (),
        console: Console | None = None,
    ) -> None:
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        self.recipe, self.folder, self.console = recipe, folder, console
        own = () if any(isinstance(each, Parts) for each in callbacks) else parts_of(recipe)  # what the recipe asks for beside a method
        self.callbacks = (*own, *callbacks)
        self.device = device_of(recipe)
        cache = None if recipe.cache is None else Path(recipe.cache)
        given = {"validation": recipe.validation, "subset": recipe.subset, "seed": recipe.seed}
        loaded = load_data(recipe.data, cache=cache, size=recipe.size, **given) if data is None else data  # type: ignore[arg-type]
        self.data = placed(loaded, self.device)
        self.normalise = Normalise(tuple(recipe.mean), tuple(recipe.std))
        self.batches = Batches(self.data.train, recipe.batch, recipe.seed, Augment(recipe.flip, recipe.crop), rank(), world_size())
        if recipe.batch // world_size() % recipe.accumulate:
            raise Error(f"a batch of {recipe.batch} on {world_size()} processes cannot be accumulated in {recipe.accumulate} equal parts")
        self.step, self.steps = 0, recipe.epochs * len(self.batches)
        self.rate = Rate(recipe.schedule, self.steps, round(recipe.warmup * len(self.batches)), tuple(recipe.milestones), recipe.gamma)
        model = model_of(recipe, self.data) if model is None else model
        self.model = model.to(self.device, memory_format=torch.channels_last) if recipe.channels_last else model.to(self.device)  # type: ignore[call-overload]
        example = torch.zeros(1, *self.data.shape, device=self.device)
        require_scores(self.model, example, len(self.data.classes))
        self.network: Network | None = None  # of the model, where what the recipe asks for needs one
        for callback in self.callbacks:
            callback.attach(self)
        self.sparsifier: MaskedOptimizer | None
        self.optimizer: Optimizer
        self.average: AveragedModel | None
        if recipe.method == CHANNELS:
            self._channels(example)
        else:
            self.optimizer, self.average = optimizer_of(recipe, self.model), average_of(recipe, self.model)
            self.sparsifier = make_method(
                recipe.method, self.model, self.optimizer, self.steps, as_unshared(recipe, self.model), recipe.seed
            )
        if self.average is not None and self.sparsifier is not None:
            self.sparsifier.mask_module(self.average)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.running = wrapped(self.model, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type) if recipe.precision == "fp16" else None
        self.meter, self.example, self._profile = Meter(), example, None
        self.right, self.loss = torch.zeros((), device=self.device), torch.zeros((), device=self.device, dtype=torch.float64)
        self.lines: list[dict[str, Any]] = []
        self.seconds = self.processor_seconds = 0.0

    _profile: Profile | None

    def _channels(self, example: Tensor) -> None:
        """Exploitation trains a network that is physically small: the module changes during the run."""
        network = self.network = trace(self.model, (example,)) if self.network is None else self.network
        self.model = network.module
        self.optimizer, self.average = optimizer_of(self.recipe, self.model), average_of(self.recipe, self.model)
        followers = () if self.average is None else (self.average,)
        self.sparsifier = make_channels(
            network, self.optimizer, self.steps, self.recipe.options, followers=followers, on_change=lambda after: self.swap(after.module)
        )

    def swap(self, model: nn.Module) -> None:
        """Go on with another module, whose parameters the optimizer holds already (`fxsparse.carry` sees to that)."""
        self.model, self.running, self._profile = model, wrapped(model, self.device), None

    # ---- the run --------------------------------------------------------------------------------------------------------------

    def run(self, *, resume: bool = False) -> Result:
        """Train to the end. With `resume`, go on from the folder's checkpoint, if it has one."""
        file = None if self.folder is None else self.folder / CHECKPOINT
        main = rank() == 0
        if file is not None and file.exists() and not resume:
            raise Error(f"{self.folder} holds a run already; resume it, or give another folder")
        if self.folder is not None and main:
            self.folder.mkdir(parents=True, exist_ok=True)
        with alone_in(self.folder if main else None):
            return self._run(file, main)

    def _run(self, file: Path | None, main: bool) -> Result:
        if file is not None and file.exists():
            restore(self, load_checkpoint(file))
        reporter = Reporter(self.folder if main else None, self.steps, console=self.console if main else None, done=self.step)
        reporter.begin(self.lines)
        chance = random_state()
        try:
            with reporter:
                self._train(reporter)
        finally:
            set_random_state(chance)  # the caller's own, as if nothing had been drawn
        with resting(self.model, self.sparsifier) as final:
            outcome = outcome_of(self, final)
            result = Result.of(self, outcome)
            if self.folder is not None and main:
                write_result(self.folder, result, outcome, self.sparsifier)
        return result

    def _train(self, reporter: Reporter) -> None:
        recipe, length = self.recipe, len(self.batches)
        began, began_processor = time.perf_counter(), time.process_time()

        def clock() -> None:
            nonlocal began, began_processor
            now, now_processor = time.perf_counter(), time.process_time()
            self.seconds, self.processor_seconds = self.seconds + now - began, self.processor_seconds + now_processor - began_processor
            began, began_processor = now, now_processor

        for epoch in range(self.step // length, recipe.epochs):
            for pixels, labels in self.batches.epoch(epoch, self.step % length):
                self._step(pixels.to(self.device), labels.to(self.device))
                reporter.progress(self.step, f"epoch {epoch + 1}/{recipe.epochs}")
                if recipe.checkpoint_every and self.step % recipe.checkpoint_every == 0 and self.step % length:
                    clock()
                    self._save(reporter)
            line = self._epoch(epoch)
            self.lines.append(line)
            reporter.epoch(line)
            clock()
            self._save(reporter)

    def _step(self, pixels: Tensor, labels: Tensor) -> None:
        recipe, sparsifier = self.recipe, self.sparsifier
        seed_everything(seed_of("noise", recipe.seed, self.step, rank()))
        for callback in self.callbacks:
            callback.before_step(self)
        factor = self.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.running.train()
        self.optimizer.zero_grad(set_to_none=True)
        self._gradients(pixels, labels)
        exploring = bool(getattr(sparsifier, "exploring", False))
        self._count(exploring)
        if recipe.clip:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            everything = [p for group in self.optimizer.param_groups for p in group["params"]]
            sparsifier.clip_grad_norm_(recipe.clip) if sparsifier else nn.utils.clip_grad_norm_(everything, recipe.clip)
        if self.scaler is None:
            (sparsifier or self.optimizer).step()
        else:
            sparsifier.step(scaler=self.scaler) if sparsifier else self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None and not exploring:
            self.average.update_parameters(self.model)
            if sparsifier is not None:
                sparsifier.mask_module(self.average)
        self.step += 1
        for callback in self.callbacks:
            callback.after_step(self)

    def _gradients(self, pixels: Tensor, labels: Tensor) -> None:
        parts = self.recipe.accumulate
        for index, (some, classes) in enumerate(zip(pixels.chunk(parts), labels.chunk(parts), strict=True)):
            last = index == parts - 1
            alone = contextlib.nullcontext() if last or world_size() == 1 else self.running.no_sync()  # type: ignore[operator]
            with alone:
                with self._autocast():
                    logits = as_logits(self.running(self.normalise(some))).float()
                loss = F.cross_entropy(logits, classes, label_smoothing=self.recipe.label_smoothing)
                part = loss / parts
                (part if self.scaler is None else self.scaler.scale(part)).backward()
            with torch.no_grad():
                self.loss += loss.detach() * len(classes)
                self.right += (logits.argmax(1) == classes).sum()

    def _count(self, exploring: bool) -> None:
        """What the step costs, from shapes and masks."""
        if self._profile is None:
            self._profile = profile(self.model, self.example)
        living = getattr(self.sparsifier, "nonzeros", None) or None
        dense = bool(getattr(self.sparsifier, "dense_gradients", False))
        self.meter.step(self._profile, self.recipe.batch, living, dense, exploring)

    def _autocast(self) -> torch.autocast:
        half = torch.float16 if self.recipe.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, half, enabled=self.recipe.precision != "fp32")

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """Evaluate, and begin to count anew."""
        right, loss = summed(float(self.right), float(self.loss), self.device)
        seen = len(self.batches) * self.recipe.batch
        if not math.isfinite(loss):
            raise Error(f"the loss is {loss} in epoch {epoch + 1}; lower the learning rate, clip gradients, or use another precision")
        self.right.zero_()
        self.loss.zero_()
        with resting(self.model, self.sparsifier) as model, self._autocast():
            tested = model if self.average is None else self.average
            accuracy, test_loss = evaluate(tested, self.data.test, self.normalise)
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "step": self.step,
            "loss": loss / seen,
            "train_accuracy": right / seen,
            "test_loss": test_loss,
        }
        line |= {"accuracy": accuracy, "reported": self.data.reported, "lr": self.optimizer.param_groups[0]["lr"]}
        line |= {"train_macs": self.meter.total}
        metrics = getattr(self.sparsifier, "metrics", None)
        return line | (metrics() if metrics is not None else {})

    def _save(self, reporter: Reporter) -> None:
        if self.folder is None:
            return
        content = snapshot(self)
        if rank() == 0:
            save_checkpoint(self.folder / CHECKPOINT, content)
