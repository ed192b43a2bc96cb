"""The pass `mask`: masks on single weights, in patterns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fxsparse.criteria.batches import cross_entropy, outputs_of, split
from fxsparse.errors import BudgetError, Error, PassError
from fxsparse.network import Network
from fxsparse.passes.apply_masks import masked, require_zeros
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.equality import require_values
from fxsparse.sparsity.allocation import Layer, as_allocation
from fxsparse.sparsity.chance import seed_of
from fxsparse.sparsity.masks import choose, nonzeros
from fxsparse.sparsity.patterns import Pattern, Unstructured, as_pattern
from fxsparse.sparsity.scores import Score, Weight, as_score, reads_gradient
from fxsparse.sparsity.targets import Target, find_targets


@dataclass(frozen=True)
class Mask(Pass):
    """Mask the weights that are worth least.

    `sparsity` is the share of the masked tensors' weights that go, `pattern` what may go together: `unstructured`, `2:4` and any N:M along
    the input channels that are there now, `block:4x4`, `channel`. `allocation` shares out what stays among the tensors: `erk`, `uniform`,
    `global`, or densities by name. `score` is what a weight is worth: `magnitude`, `random`, or, with data, `taylor`, `gradient`,
    `squared-taylor`. `include` and `exclude` name tensors or modules by pattern; without `include`, the weights of convolutions, linear,
    recurrent and attention layers are masked. N:M leaves out the tensors that it does not fit, and says so.

    Assumes weights that are trained. An N:M pattern holds for the channels that are there; removing input channels later breaks it.

    Guarantees that the asked number of weights is zero, exactly, or to one unit of the pattern. The masks stand beside the module, in
    `network.masks`, and not in its state dict; they follow when units are removed or grown back, and are saved with the network.

    Example: `mask{pattern="2:4",exclude=[conv1]}`
    """

    name: ClassVar[str] = "mask"
    sparsity: float | None = None
    pattern: str | Pattern = "unstructured"
    allocation: Any = "erk"
    score: Any = "magnitude"
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    seed: int = 0

    def requires(self, network: Network, context: Context) -> None:
        require_values(self.name, network)
        fixed = self._pattern().density
        if fixed is None and self.sparsity is None:
            raise PassError(f"{self.name} needs a sparsity with the pattern {self._pattern()}: the share of weights that go, as in 0.9")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise PassError(f"{self.name}: sparsity is at least 0 and below 1, not {self.sparsity}")
        if fixed is not None and self.sparsity is not None and abs(1 - self.sparsity - fixed) > 1e-9:
            raise PassError(f"{self.name}: the pattern {self._pattern()} has the sparsity {1 - fixed:g}, not {self.sparsity}; leave it out")
        if reads_gradient(self._score()) and not callable(self.score) and context.data is None:
            raise PassError(f"{self.name}: the score {self.score!r} needs gradients; pass data=loader, or --data")

    def run(self, network: Network, context: Context) -> PassResult:
        pattern, score = self._pattern(), self._score()
        targets, units, notes = self._targets(network, pattern)
        gradients = _gradients(network, context) if reads_gradient(score) and context.data is not None else {}
        unread = [t.name for t in targets if reads_gradient(score) and gradients and t.name not in gradients]
        if unread:  # as auxiliary heads, in eval mode
            gradients |= {t.name: torch.zeros_like(t.parameter) for t in targets if t.name in unread}
            named = ", ".join(unread[:4]) + (f" and {len(unread) - 4} more" if len(unread) > 4 else "")
            notes.append(f"no gradient reaches {named}; what they hold scores zero")
        weights = {t.name: self._weight(t, network, gradients) for t in targets}
        with torch.no_grad():
            scores = {name: score(weight) for name, weight in weights.items()}
            counts = self._counts(targets, units, pattern, scores)
            masks = {name: choose(pattern, scores[name], count, units[name]) for name, count in counts.items()}
        left, total = sum(map(nonzeros, masks.values())), sum(mask.numel() for mask in masks.values())
        notes.insert(0, f"{total - left:,} of {total:,} weights in {len(masks)} tensors are masked ({1 - left / total:.2%})")
        return PassResult(masked(network, masks), True, tuple(notes))

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        require_zeros(self.name, result.network, result.network.masks)

    def _pattern(self) -> Pattern:
        try:
            return as_pattern(self.pattern)
        except Error as error:
            raise PassError(f"{self.name}: {error}") from error

    def _score(self) -> Score:
        try:
            return as_score(self.score)
        except Error as error:
            raise PassError(f"{self.name}: {error}") from error

    def _targets(self, network: Network, pattern: Pattern) -> tuple[tuple[Target, ...], dict[str, int], list[str]]:
        """The tensors to mask and the weights in one unit of each; tensors that the pattern does not fit are left out with a note."""
        try:
            targets = find_targets(network.module, self.include, self.exclude)
        except Error as error:
            raise PassError(f"{self.name}: {error}") from error
        units, notes = {}, []
        for target in targets:
            if target.transposed and type(pattern) is not Unstructured:
                notes.append(f"{target.name} stays dense: it belongs to a transposed convolution, whose axes {pattern} does not know")
                continue
            try:
                units[target.name] = pattern.unit(target.name, target.shape)
            except Error as error:
                notes.append(f"{target.name} stays dense: {str(error).partition(';')[0]}")
        if not units:
            raise PassError(f"{self.name}: the pattern {pattern} fits none of the tensors; {notes[0]}")
        return tuple(t for t in targets if t.name in units), units, notes

    def _weight(self, target: Target, network: Network, gradients: dict[str, Tensor]) -> Weight:
        return Weight(
            target.name,
            target.parameter.detach(),
            network.masks.get(target.name),
            gradients.get(target.name, target.parameter.grad),
            seed_of(self.seed, target.name),
        )

    def _counts(self, targets: tuple[Target, ...], units: dict[str, int], pattern: Pattern, scores: dict[str, Tensor]) -> dict[str, int]:
        if pattern.density is not None:
            return {t.name: round(t.parameter.numel() * pattern.density) for t in targets}
        assert self.sparsity is not None
        layers = {t.name: Layer(t.shape, units[t.name], pattern.pool(scores[t.name])) for t in targets}
        total = sum(layer.size for layer in layers.values())
        try:
            return as_allocation(self.allocation)(layers, round(total * (1 - self.sparsity)))
        except BudgetError as error:
            raise PassError(f"{self.name}: {error}") from error


def _gradients(network: Network, context: Context) -> dict[str, Tensor]:
    """Gradients of the loss, summed over the batches, in eval mode; the network's own `grad`s stay as they are."""
    assert context.data is not None
    twin = network.with_living(network.living).module.eval()
    parameters = dict(twin.named_parameters())
    device = next(iter(parameters.values())).device
    loss = context.loss or cross_entropy
    for batch in context.data:
        args, targets = tree_map_only(Tensor, lambda t: t.to(device), split(batch))
        loss(outputs_of(twin, args), targets).backward()
    found = {key: parameter.grad for key, parameter in parameters.items() if parameter.grad is not None}
    if not found:
        raise PassError("mask: no batch gave a gradient; the data is empty, or the loss does not depend on the weights")
    return found
