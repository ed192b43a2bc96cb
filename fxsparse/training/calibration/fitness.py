"""How good a distribution is, before anything is trained: the fitness of the search."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxsparse.sparsity.masks import apply, choose
from fxsparse.training.calibration.heads import Inputs
from fxsparse.training.calibration.images import Calibration, alike, predictions, recalibrate
from fxsparse.training.calibration.plan import Plan
from fxsparse.training.calibration.settings import Settings


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, sums are made in one order, so that the same numbers come out on every machine of one kind, beside any number of others."""
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class Fitness:
    """Everything that a fitness needs, wherever it is computed: it is sent to the executor's workers."""

    model: nn.Module
    plan: Plan
    names: tuple[str, ...]
    calibration: Inputs  # what statistics are estimated on
    judged: Calibration  # what accuracy is taken on
    noise: float
    half: bool

    def __call__(self, counts: Sequence[int], seed: int) -> float:
        """The accuracy of the network with these counts: largest weights kept, statistics estimated anew, inputs a little noisy. Where
        there are no classes, how much it says what the dense network says."""
        with one_thread(), torch.no_grad(), torch.autocast(self._device, torch.bfloat16, enabled=self.half, cache_enabled=False):
            twin = self.cut(counts)
            noisy = self._noisy(torch.Generator().manual_seed(seed))
            if self.judged.labels is None:
                return alike(twin, self.model, Calibration(noisy, self.judged.heads))
            return float((predictions(twin, noisy).argmax(1).cpu() == self.judged.labels.cpu()).float().mean())

    def cut(self, counts: Sequence[int]) -> nn.Module:
        """The network with these counts."""
        twin = copy.deepcopy(self.model)
        parameters = dict(twin.named_parameters())
        with torch.no_grad():
            for name, count, unit in zip(self.names, counts, self.plan.units, strict=True):
                weight = parameters[name].detach()
                apply(choose(self.plan.pattern, weight.abs(), count, unit), weight)
        recalibrate(twin, self.calibration)
        return twin

    def fingerprint(self) -> str:
        """Changes with the weights and the images, so that a search does not go on with others."""
        digest = hashlib.blake2b(digest_size=8)
        tensors = [*self.model.state_dict().values(), *_first(self.calibration), *_first(self.judged.inputs)]
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def _device(self) -> str:
        return next(self.model.parameters()).device.type

    def _noisy(self, generator: torch.Generator) -> Inputs:
        if isinstance(self.judged.inputs, Tensor):
            return _disturbed(self.judged.inputs, self.noise, generator)
        return [_disturbed(image, self.noise, generator) for image in self.judged.inputs]


def fitness_of(model: nn.Module, plan: Plan, data: Calibration, settings: Settings) -> Fitness:
    """Judged is a part of the images that statistics are not estimated on."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(settings.seed))
    held = min(len(order) - 1, max(1, round(settings.held_out * len(order))))
    names = {id(p): name for name, p in model.named_parameters()}
    judged, rest = data.part(order[:held]), data.part(order[held:])
    own = tuple(names[id(t.parameter)] for t in plan.targets)
    light = Plan((), plan.pattern, plan.units, plan.total, plan.allocation)  # workers need no second copy of the weights
    return Fitness(copy.deepcopy(model), light, own, rest.inputs, judged, settings.noise, settings.precision == "bf16")


def _first(inputs: Inputs) -> Iterator[Tensor]:
    for start in range(0, len(inputs), max(1, len(inputs) // 8)):
        yield inputs[start]


def _disturbed(values: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    if not values.is_floating_point():  # tokens
        return values
    return values + noise * torch.randn(values.shape, generator=generator).to(values.device)
