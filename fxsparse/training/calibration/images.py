"""The calibration set: gathered, checked, labelled by the teacher where it has no labels."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxsparse.errors import Error
from fxsparse.training.calibration.heads import Heads, Inputs, heads_of
from fxsparse.training.calibration.settings import Settings
from fxsparse.training.evaluate import as_logits, evaluating, taking

LEAST = 32
CHUNK = 256
NUMBERS = 1 << 20  # in one chunk of images, unless that leaves less than SMALLEST
SMALLEST = 8
LEAST_SEEN = 4  # images that are enough to see that a model says something
FLAT = 1e-10  # of the mean square: rounding


@dataclass(frozen=True, eq=False)
class Calibration:
    """Inputs, and where the network is a classifier, what the teacher says of them and their classes."""

    inputs: Inputs
    heads: Heads
    teacher: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, index: Tensor) -> Calibration:
        teacher, labels = (None if each is None else each[index.to(each.device)] for each in (self.teacher, self.labels))
        return Calibration(take(self.inputs, index), self.heads, teacher, labels)


def take(inputs: Inputs, index: Tensor) -> Inputs:
    return inputs[index] if isinstance(inputs, Tensor) else [inputs[i] for i in index.tolist()]


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    return inputs.to(device) if isinstance(inputs, Tensor) else [each.to(device) for each in inputs]


def chunks(inputs: Inputs, device: torch.device, most: int = CHUNK) -> Iterator[Inputs]:
    """All inputs in pieces, on the device; the larger an image, the fewer in a piece."""
    size = max(1, min(most, max(SMALLEST, NUMBERS // max(1, inputs[0].numel()))))
    for start in range(0, len(inputs), size):
        yield moved(inputs[start : start + size], device)


def gather(model: nn.Module, loader: Iterable[Any], settings: Settings) -> Calibration:
    """All batches in one piece. What makes a calibration hopeless is said here, before any work is done."""
    inputs, labels = _batches(model, loader)
    count = sum(map(len, inputs))
    if count < LEAST:
        raise Error(f"{count} calibration images are too few; give at least {LEAST}, some thousands are usual")
    whole = [each for each in inputs if isinstance(each, Tensor)]
    x: Inputs = torch.cat(whole) if len(whole) == len(inputs) else [image for each in inputs for image in each]
    _check_kind(x, settings)
    with evaluating(model), taking(tuple(x[0].shape)):
        heads = heads_of(model, moved(x[:2], _device(model)), settings.heads, settings.follow)
    if not heads.plain:
        _check_outputs(model, x, heads)
        return Calibration(x, heads)
    y = torch.cat(labels) if len(labels) == len(inputs) else None
    with evaluating(model), torch.no_grad():
        classes = as_logits(model(moved(x[:2], _device(model)))).shape[1]
    if classes == 1:
        raise Error("the model gives one score an image, which is no choice among classes; give heads={'': 'yes-no'}, or 'values'")
    if y is not None:
        _check_classes(y, classes)
    teacher = predictions(model, x)
    if y is None:
        _check_answers(teacher)
        return Calibration(x, heads, teacher, teacher.argmax(1))
    _check_teacher(teacher, y.to(teacher.device))
    return Calibration(x, heads, teacher, y.to(teacher.device))


def _batches(model: nn.Module, loader: Iterable[Any]) -> tuple[list[Inputs], list[Tensor]]:
    """A batch is a tensor of images, or a list of images of several sizes; or (one of these, classes or anything else)."""
    inputs: list[Inputs] = []
    labels: list[Tensor] = []
    takes_lists: bool | None = None
    for batch in loader:
        pair = batch if isinstance(batch, (tuple, list)) else (batch,)
        if _is_images(batch):
            if takes_lists is None and len(batch) <= 2:  # perhaps a batch of sequences, alone or with others
                takes_lists = _takes_lists(model, batch[0])
            pair = (batch,) if takes_lists or len(batch) > 2 else batch
        x, y = (*pair, None, None)[:2]
        if not isinstance(x, Tensor) and not _is_images(x):
            found = type(x).__name__
            raise Error(f"a calibration batch is a tensor, a list of images, or (one of these, classes), not a {found}; wrap the loader")
        inputs.append(x)
        if isinstance(y, Tensor) and y.dim() == 1 and not y.is_floating_point():
            labels.append(y)
    kinds = {(x.shape[1:], x.dtype) for x in inputs if isinstance(x, Tensor)}
    if len(kinds) > 1:
        shapes = " and ".join(sorted(str(tuple(shape)) for shape, _ in kinds))
        raise Error(f"the calibration images have the shapes {shapes}; give them one size, or lists to a model that takes lists")
    return inputs, labels


@torch.no_grad()
def _takes_lists(model: nn.Module, image: Tensor) -> bool:
    try:
        with evaluating(model):
            model([image.to(_device(model))])
    except Exception:  # in its own words
        return False
    return True


def _is_images(batch: Any) -> bool:
    """A list of at least one image, each (channels, height, width)."""
    return isinstance(batch, (tuple, list)) and len(batch) > 0 and all(isinstance(x, Tensor) and x.dim() == 3 for x in batch)


def _check_kind(inputs: Inputs, settings: Settings) -> None:
    """Whether the inputs are such as the settings change them."""
    if isinstance(inputs, Tensor) and settings.augment and inputs.dim() != 4:
        raise Error(f"inputs of shape {tuple(inputs.shape[1:])} are no images that could be mirrored and moved; give augment=False")
    if isinstance(inputs, Tensor) and settings.mix and not inputs.is_floating_point():
        raise Error(f"inputs of {inputs.dtype} cannot be blended; give mix=0")


def _check_classes(labels: Tensor, classes: int) -> None:
    if int(labels.max()) >= classes or int(labels.min()) < 0:
        odd = int(labels.max()) if int(labels.max()) >= classes else int(labels.min())
        raise Error(f"the calibration set has class {odd}, and the model has {classes} classes; give the labels that it was trained with")
    missing = classes - len(labels.unique())
    if missing and classes * (1 - 1 / classes) ** len(labels) < 0.05:  # by chance, hardly one would be
        raise Error(
            f"{missing} of {classes} classes are missing in {len(labels)} calibration images; draw them from all classes, or give no labels"
        )


def _check_answers(teacher: Tensor) -> None:
    """Without labels, a teacher can be seen through only where it says the same of everything."""
    if not bool(teacher.var(0, correction=0).max() > FLAT * teacher.square().mean()):
        raise Error(
            f"the dense model gives all {len(teacher)} calibration images the same scores, so nothing can be learnt from it; "
            "load its weights, or normalise the images as in its training"
        )


def _check_teacher(teacher: Tensor, labels: Tensor) -> None:
    classes, accuracy = teacher.shape[1], float((teacher.argmax(1) == labels).float().mean())
    chance = 1 / classes
    deviation = math.sqrt(chance * (1 - chance) / len(labels))
    if classes > 1 and accuracy <= max(1.2 * chance, chance + 3 * deviation):
        raise Error(
            f"the dense model is right on {accuracy:.1%} of the calibration images, which is chance for {classes} classes; "
            "load its weights, or normalise the images as in its training"
        )


@torch.no_grad()
def _check_outputs(model: nn.Module, inputs: Inputs, heads: Heads) -> None:
    with evaluating(model):
        seen = heads.run(model, moved(inputs[:LEAST_SEEN], _device(model)))
    flat = next((name for name, tensor in seen.tensors.items() if not bool(tensor.var(correction=0) > FLAT * tensor.square().mean())), None)
    if flat is not None:
        raise Error(f"the dense model's output {flat!r} is the same everywhere, so nothing can be learnt from it; load the model's weights")


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@torch.no_grad()
def predictions(model: nn.Module, inputs: Inputs) -> Tensor:
    """A classifier's scores in evaluation mode."""
    with evaluating(model):
        return torch.cat([as_logits(model(x)).float() for x in chunks(inputs, _device(model))])


@torch.no_grad()
def alike(model: nn.Module, teacher: nn.Module, data: Calibration) -> float:
    """How much the model says what its teacher says, in evaluation mode: see `Heads.alike`."""
    if data.teacher is not None:
        return float((predictions(model, data.inputs).argmax(1) == data.teacher.argmax(1)).float().mean())
    found = []
    with evaluating(model), evaluating(teacher):
        for x in chunks(data.inputs, _device(model), SMALLEST):
            wanted = data.heads.run(teacher, x)
            found.append((len(x), data.heads.alike(data.heads.run(model, x, wanted.led), wanted)))
    return sum(count * value for count, value in found) / sum(count for count, _ in found)


NORMS = nn.modules.batchnorm._NormBase  # batch norms, and instance norms, which may keep statistics as well


@torch.no_grad()
def recalibrate(model: nn.Module, inputs: Inputs, exclude: Collection[str] = ()) -> None:
    """Batch-norm statistics anew: the plain average over batches."""
    norms = [m for name, m in model.named_modules() if isinstance(m, NORMS) and m.running_mean is not None and name not in exclude]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum, norm.training = None, True
        for x in chunks(inputs, _device(model)):
            if len(x) > 1 or len(inputs) == 1:  # one image alone has no variance where a layer sees one place of it
                model(x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
