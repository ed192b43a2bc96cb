"""The proof: a changed network against the one it came from, in float64.

The reference is the wider network's own run with the removed units tainted, and knows nothing of the indices that the surgery computed for
the tensors that consume them; see `fxsparse.surgery.reference`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fxsparse.axes.factors import Atoms, Axis, Factor
from fxsparse.errors import Error, PlanError, VerificationError
from fxsparse.surgery.journal import Places, take
from fxsparse.surgery.reference import InDouble, Reference, randomised_state, run_in_double, run_reference
from fxsparse.surgery.reference_state import GAIN
from fxsparse.tracing.copies import double_copy

if TYPE_CHECKING:
    from fxsparse.network import Network

# Where a random network is chaotic, as deep ones with DyReLUs are, rounding alone makes other outputs: then a calmer one is drawn.
GAINS = (GAIN, 0.8, 0.5)


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared, and how close it is."""

    max_error: float  # largest difference, relative to the largest value of the reference
    tolerance: float
    effect: float  # how much the removal changed the outputs at all, on the same scale
    removed: int  # units that the narrower network lacks
    outputs: int  # numbers compared
    seed: int

    def __str__(self) -> str:
        return (
            f"equal to {self.max_error:.1e} over {self.outputs} outputs in float64; "
            f"{self.removed} units gone changed them by {self.effect:.1e}"
        )


def verify(wide: Network, narrow: Network, *, inputs: Any = None, seed: int = 0, tolerance: float = 1e-9) -> Proof:
    """Prove that `narrow` is `wide` without the units that it lacks; raises `VerificationError` where it is not.

    Parameters and buffers are random, so that zero-initialised scales hide nothing; the proof is of the structure and holds for every
    value. `inputs` (positional arguments) replace the example inputs.
    """
    for each in (wide, narrow):
        if not hasattr(each, "origin"):
            raise PlanError(f"verify compares two Networks, as fxsparse.trace and shrink make them, and got a {type(each).__name__}")
    if wide.origin is not narrow.origin:
        raise PlanError("verify compares networks that come from one trace; these two do not")
    strangers = [name for name, units in narrow.living.items() if not set(units) <= set(wide.living[name])]
    if strangers:
        raise PlanError(f"the second network has units that the first lacks, in {strangers[0]!r}; give the wider one first")
    args, kwargs = _inputs(wide, inputs, seed)
    probes = [name for name in wide.origin.islands if name]
    removed = sum(len(wide.living[name]) - len(units) for name, units in narrow.living.items())
    for gain in GAINS:
        state = randomised_state(wide.module, seed, gain)
        taint, cut = _taint(wide, narrow, state), _cut(wide, narrow, state)
        try:
            reference = run_reference(wide.module, args, kwargs, state, taint, probes, spend=not _writes(wide))
            outputs = _run(narrow.module, cut, args, kwargs, probes)
        except Error:
            raise
        except Exception as error:  # the user's own code runs here
            raise VerificationError(f"the proof could not be run: {type(error).__name__}: {error}") from error
        flat = [t for line in outputs for t in line]
        try:
            return _compare(reference, flat, len(outputs[0]), removed, seed, tolerance)
        except VerificationError as error:
            if reference.nan is not None:
                raise VerificationError(
                    f"nothing can be compared, as the original network makes NaN, first by {reference.nan}, and goes on without it, while "
                    "NaN stands for what was removed here; give inputs for which it makes none"
                ) from error
            nudged = _run(narrow.module, _nudged(cut, seed), args, kwargs, probes)
            if gain == GAINS[-1] or _apart(flat, [t for line in nudged for t in line]) <= tolerance:
                raise
    raise AssertionError


def _writes(network: Network) -> bool:
    """Whether a forward pass may write to parameters, buffers, or what is made of them alone: then each run needs numbers of its own."""
    for each in network.origin.structure.reading.tapes:
        for call in each.tape.calls if each.tape.mode == "eval" else ():
            if call.op.namespace == "module":  # nobody has looked into it
                return True
            if any(ref.id in each.weights for ref in call.writes):
                return True
    return False


def _nudged(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same numbers with an error of 1e-13 in each."""
    generator = torch.Generator().manual_seed(seed)

    def nudge(value: Tensor) -> Tensor:
        noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
        return value * (1 + 1e-13 * noise) if value.is_floating_point() or value.is_complex() else value

    made = {id(value): nudge(value) for value in state.values()}
    return {key: made[id(value)] for key, value in state.items()}


def _apart(outputs: list[Tensor], others: list[Tensor]) -> float:
    """How far two runs are apart, relative to the largest value; infinitely, where one is not finite."""
    worst = scale = 0.0
    if len(outputs) != len(others):  # the code went another way
        return float("inf")
    for a, b in zip(outputs, others, strict=True):
        if a.shape != b.shape or not bool(torch.isfinite(a - b).all()):
            return float("inf")
        if a.numel():
            worst, scale = max(worst, float((a - b).abs().max())), max(scale, float(a.abs().max()))
    return worst / scale if scale else worst


def _compare(reference: Reference, outputs: list[Tensor], final: int, removed: int, seed: int, tolerance: float) -> Proof:
    if reference.tainted_outputs:
        raise VerificationError(
            f"a removed unit reaches output {reference.tainted_outputs[0]} without passing a contraction; it should be protected"
        )
    worst, scale, count = 0.0, 0.0, 0
    if len(reference.outputs) != len(outputs):
        raise VerificationError(f"the changed network gives {len(outputs)} tensors, the reference {len(reference.outputs)}")
    for index, (wanted, got) in enumerate(zip(reference.outputs, outputs, strict=True)):
        if index >= final:
            if not wanted.numel():
                continue  # no value says which slices are there
            wanted = _living_part(wanted)
        if wanted.shape != got.shape:
            raise VerificationError(f"output {index} has shape {tuple(got.shape)} instead of {tuple(wanted.shape)}")
        if not wanted.numel():
            continue
        a, b = wanted.to(torch.float64) if not wanted.is_complex() else wanted, got.to(torch.float64) if not got.is_complex() else got
        if not bool(torch.isfinite(b).all()):
            raise VerificationError(f"output {index} of the changed network is not finite where the reference is")
        scale = max(scale, float(a.abs().max()))
        worst = max(worst, float((a - b).abs().max()))
        count += wanted.numel()
    error = worst / scale if scale else worst
    if not error <= tolerance:
        raise VerificationError(
            f"the changed network differs from the reference by {error:.1e} of its largest output, more than {tolerance:.0e}; "
            "this is an error in fxsparse or in a registered rule"
        )
    return Proof(error, tolerance, reference.effect, removed, count, seed)


def _inputs(network: Network, given: Any, seed: int) -> tuple[Any, dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)

    def real(tensor: Tensor) -> Tensor:
        if not tensor.dtype.is_floating_point:
            return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.detach().cpu()
        if tensor.is_meta or (tensor.numel() > 1 and bool((tensor == tensor.reshape(-1)[0]).all())):  # zeros or ones would hide errors
            return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor.detach().cpu().double()

    args, kwargs = network.origin.inputs
    if given is not None:
        args = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    made: tuple[Any, dict[str, Any]] = tree_map_only(Tensor, real, (args, kwargs))
    return made


def _positions(wide: Network, narrow: Network, key: str) -> Places:
    """Where narrow's coordinates stand among wide's."""
    reading = wide.origin.structure.reading
    first = reading.aliases.get(key, key)
    if first not in reading.tensors:
        return {}
    found: Places = {}
    for i, axis in enumerate(reading.tensors[first]):
        a, b = wide.prediction.mask(axis), narrow.prediction.mask(axis)
        if not np.array_equal(a, b):
            found[i] = np.flatnonzero(b[a])
    return found


def _taint(wide: Network, narrow: Network, keys: Iterable[str]) -> dict[str, dict[int, list[int]]]:
    """The coordinates that define the removed units: where they are made or kept; those that no weight makes, where they are consumed.
    A consuming weight that is normalised is told as well, for its norm is that of what is left."""
    reading, solution = wide.origin.structure.reading, wide.origin.structure.solution
    consuming: list[tuple[str, int]] = []
    made: set[int] = set()
    found: dict[str, dict[int, list[int]]] = {}
    for first, axes in reading.tensors.items():
        for i, axis in enumerate(axes):
            if any(reading.book.roles.get(factor.uid) == "consumes" for factor in axis):
                consuming.append((first, i))
                if not any(factor.uid in reading.book.statistics for factor in axis):
                    continue
            else:
                made.update(_generators(wide, axis))
            gone = _gone(wide, narrow, axis)
            if len(gone):
                found.setdefault(first, {})[i] = gone.tolist()
    alike = _generators(wide, [reading.algebra.factors[uid] for uid in reading.book.alike])
    unmade = {c for c in _removed(wide, narrow) if c not in made or c in alike}
    for first, i in consuming if unmade else []:
        axis = reading.tensors[first][i]
        living = np.flatnonzero(wide.prediction.mask(axis))
        for coordinate in _gone(wide, narrow, axis).tolist():
            atom = axis[0].atoms[living[coordinate]] if axis[0].atoms is not None else 0  # a tensor's own axis is one factor
            if unmade & set(solution.generators(solution.class_of[[atom]]).tolist()):
                found.setdefault(first, {}).setdefault(i, []).append(coordinate)
    return {key: found[first] for key in keys if (first := reading.aliases.get(key, key)) in found}


def _generators(network: Network, factors: Iterable[Factor]) -> set[int]:
    solution = network.origin.structure.solution
    return {c for f in factors if f.atoms is not None for c in solution.generators(solution.class_of[f.atoms]).tolist()}


def _removed(wide: Network, narrow: Network) -> set[int]:
    """Classes of the units that `narrow` lacks."""
    classes = wide.origin.structure.classes
    return {int(classes[name][unit]) for name, units in wide.living.items() for unit in set(units) - set(narrow.living[name])}


def _gone(wide: Network, narrow: Network, axis: Axis) -> Atoms:
    """Positions, among those that live in `wide`, of coordinates that `narrow` lacks."""
    return np.flatnonzero(~narrow.prediction.mask(axis)[wide.prediction.mask(axis)])


def _cut(wide: Network, narrow: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same random numbers in the narrow network's shapes; tied names share one tensor. Gathers keep their own indices."""
    made: dict[int, Tensor] = {}
    state = {key: value for key, value in state.items() if not key.rpartition(".")[2].startswith("_gather_")}
    for key, value in state.items():
        if id(value) not in made:
            made[id(value)] = take(value, _positions(wide, narrow, key))
    return {key: made[id(value)] for key, value in state.items()}


def _run(module: nn.Module, state: dict[str, Tensor], args: Any, kwargs: Any, probes: list[str]) -> list[list[Tensor]]:
    return run_in_double(double_copy(module, hollow=True).eval(), state, args, kwargs, InDouble(), probes)


def _living_part(tensor: Tensor) -> Tensor:
    """A tainted intermediate tensor without the slices that are not there."""
    if not tensor.is_floating_point() and not tensor.is_complex():
        return tensor
    dead = tensor.isnan()
    if not bool(dead.any()):
        return tensor
    for dim in range(tensor.dim()):
        gone = dead.movedim(dim, 0).reshape(tensor.shape[dim], -1).all(dim=1)
        tensor = tensor.index_select(dim, torch.nonzero(~gone).reshape(-1))
        dead = tensor.isnan()
    return tensor
