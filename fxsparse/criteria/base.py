"""What a criterion is, and the names by which texts and command lines ask for one."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fxsparse.errors import PassError, nearest
from fxsparse.network import Network

Scores = npt.NDArray[np.float64]  # of the living units of one group, in their order


@dataclass(frozen=True)
class Data:
    """Batches to look at, and the loss that gradients are taken of (cross-entropy when nothing is said)."""

    batches: Iterable[Any] | None = None
    loss: Callable[..., Tensor] | None = None


class Criterion(Protocol):
    """Scores units: the higher, the more worth keeping. Scores of different groups are on one scale, as far as the criterion can tell."""

    def __call__(self, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]: ...


# name -> module, class and its options
BY_NAME: dict[str, tuple[str, str, dict[str, Any]]] = {
    "magnitude": ("simple", "Magnitude", {}),
    "l1": ("simple", "Magnitude", {"power": 1}),
    "l2": ("simple", "Magnitude", {"power": 2}),
    "lamp": ("simple", "LAMP", {}),
    "bn-scale": ("simple", "BatchNormScale", {}),
    "random": ("simple", "Random", {}),
    "fpgm": ("distance", "FPGM", {}),
    "taylor": ("gradients", "Taylor", {}),
    "bn-taylor": ("gradients", "BatchNormTaylor", {}),
}


def criterion_names() -> list[str]:
    """What texts may say."""
    return sorted(BY_NAME)


def as_criterion(said: Any, seed: int = 0) -> Criterion:
    """A criterion from its name, a table of scores, one of Torch-Pruning's importance objects, or a callable."""
    if isinstance(said, str):
        if said not in BY_NAME:
            raise PassError(f"there is no criterion {said!r}{nearest(said, BY_NAME)}; there are {', '.join(criterion_names())}")
        file, name, options = BY_NAME[said]
        cls = getattr(importlib.import_module(f"fxsparse.criteria.{file}"), name)
        made: Criterion = cls(**options, **({"seed": seed} if name == "Random" else {}))
        return made
    if isinstance(said, Mapping):
        from fxsparse.criteria.simple import Given

        return Given(said)
    if type(said).__module__.startswith("torch_pruning."):
        from fxsparse.criteria.torch_pruning import TorchPruning

        return TorchPruning(said)
    if callable(said):
        _require_three(said)
        return said  # type: ignore[no-any-return]
    raise PassError(f"a criterion is a name, a table of scores or a callable, not a {type(said).__name__}")


def _require_three(function: Callable[..., Any]) -> None:
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        name = getattr(function, "__name__", type(function).__name__)
        raise PassError(
            f"the criterion {name} cannot be called with what a criterion gets: (network, names of groups, data); "
            "it returns a table from these names to scores"
        ) from None
    except ValueError:  # a function without a signature to look at
        return


def scored(criterion: Criterion, network: Network, groups: Sequence[str], data: Data) -> dict[str, Scores]:
    """The scores of these groups, checked: one finite number for each living unit."""
    try:
        found = criterion(network, groups, data)
    except NotImplementedError as error:
        empty = next((key for key, tensor in network.tensors().items() if tensor.is_meta), None)
        if empty is None:
            raise
        raise PassError(
            f"the criterion looks at weights, and {empty} has no values (it is on the meta device); load the weights first"
        ) from error
    if not isinstance(found, Mapping):
        raise PassError(f"a criterion gives a table of scores, group name -> a number for each living unit, not a {type(found).__name__}")
    result: dict[str, Scores] = {}
    for name in groups:
        if name not in found:
            raise PassError(f"the criterion gave no scores for group {name!r}; it has to score every group that may lose units")
        values = found[name]
        array = np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, dtype=np.float64).reshape(-1)
        if len(array) != len(network.living[name]):
            raise PassError(f"the criterion gave {len(array)} scores for the {len(network.living[name])} living units of group {name!r}")
        wrong = np.flatnonzero(np.isnan(array)).tolist()
        if wrong:
            which = f"unit {network.living[name][wrong[0]]}" if len(wrong) == 1 else f"{len(wrong)} units"
            raise PassError(f"the criterion gave NaN for {which} of group {name!r}; look for NaN in its weights or gradients")
        result[name] = np.nan_to_num(array)
    return result
