"""How well a model does on images, and which model that is in the middle of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fxsparse.errors import Error
from fxsparse.models.specs import OPTIONS
from fxsparse.training.data import Images
from fxsparse.training.distributed import rank, world_size
from fxsparse.training.iee import ExploitExplore, ExploitExploreChannels
from fxsparse.training.masked import MaskedOptimizer


@contextlib.contextmanager
def resting(model: nn.Module, sparsifier: MaskedOptimizer | None) -> Iterator[nn.Module]:
    """Within, the network as the method would leave it now: a method that explores shows what lives alone."""
    if isinstance(sparsifier, ExploitExplore):
        with sparsifier.at_rest():
            yield model
    elif isinstance(sparsifier, ExploitExploreChannels):
        yield sparsifier.at_rest().module
    else:
        yield model


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, convert: Callable[[Tensor], Tensor], *, batch: int = 500) -> tuple[float, float]:
    """Accuracy and mean cross-entropy, in evaluation mode. Several processes share the images and get the same answer."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    right, loss = 0.0, 0.0
    try:
        for start in range(rank() * batch, len(images), batch * world_size()):
            pixels, labels = images[torch.arange(start, min(start + batch, len(images)), device=images.labels.device)]
            labels = labels.to(device)
            logits = as_logits(model(convert(pixels.to(device)))).float()
            right += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    finally:
        model.train(training)
    right, loss = summed(right, loss, device)
    return right / len(images), loss / len(images)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, all modules are in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def require_scores(model: nn.Module, example: Tensor, classes: int) -> None:
    """An error, before any work is done, for a model that does not take such images, or has no score for some class."""
    with evaluating(model), taking(tuple(example.shape[1:])):
        given = as_logits(model(example)).shape[1]
    if given < classes:
        raise Error(f"the model has scores for {given} classes, and the data have {classes}; build it for so many, as in {OPTIONS}")


@contextlib.contextmanager
def taking(shape: tuple[int, ...]) -> Iterator[None]:
    """Within, a model runs on images of this shape; whatever it raises is one sentence."""
    try:
        yield
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Error(f"the model does not take the images of shape {shape}: {said}; give what it was made for") from error


def summed(right: float, loss: float, device: torch.device) -> tuple[float, float]:
    """Sums of this process to sums of all."""
    if world_size() == 1:
        return right, loss
    both = torch.tensor([right, loss], dtype=torch.float64, device=device if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(both)
    return float(both[0]), float(both[1])


def as_logits(output: object) -> Tensor:
    """What the model returned, when that is one row of scores an image."""
    if not isinstance(output, Tensor) or output.dim() != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise Error(f"the model returned {found} where one row of class scores an image was expected; switch its auxiliary heads off")
    return output
