"""What a pass is: a frozen dataclass of options over a function from network to network, with a check before and a check after."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fxsparse.errors import PassError
from fxsparse.network import Network
from fxsparse.passes.options import check_options
from fxsparse.passes.text import written
from fxsparse.version import __version__

Watcher = Callable[["Pass", Network, "PassResult", float], None]  # the pass, what it was given, what it gave, in how many seconds


@dataclass(frozen=True)
class Context:
    """What a pass may need beside the network, and no text can hold."""

    data: Iterable[Any] | None = None  # batches: (inputs, targets), or inputs alone
    loss: Callable[..., Tensor] | None = None  # (outputs, targets) -> loss; cross-entropy when nothing is said
    between: Callable[[Network], Network] | None = None  # called between the steps of an iterative pass, to train on
    progress: Callable[[int, int], object] | None = None  # of long work: done, in all
    watchers: tuple[Watcher, ...] = ()  # called after each pass of a pipeline; see fxsparse.passes.instrumentation


@dataclass(frozen=True)
class PassResult:
    """What a pass gives back. `notes` say what was changed, and what was left alone and why."""

    network: Network
    modified: bool
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Pass:
    """A transformation of networks. Its name and its options are a text as well: `prune{macs=0.5}`."""

    name: ClassVar[str] = ""
    in_place: ClassVar[bool] = False  # whether it changes the network that it is given, and returns that one

    def __post_init__(self) -> None:
        check_options(self)

    def requires(self, network: Network, context: Context) -> None:
        """Raise where the pass cannot work on this network. Nothing has been changed yet."""

    def run(self, network: Network, context: Context) -> PassResult:
        """The work itself."""
        raise NotImplementedError

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        """Raise where the result is not what the pass guarantees."""

    def __call__(self, network: Network, context: Context | None = None, **given: Any) -> PassResult:
        """Run the pass with its checks. The fields of `Context` may be given by name."""
        if not isinstance(network, Network):
            raise PassError(f"{self.name} works on a Network, not on a {type(network).__name__}; make one with fxsparse.trace")
        context = replace(context or Context(), **given)
        self.requires(network, context)
        before = _state(network)
        result = self.run(network, context)
        self._check_in_place(network, before, result)
        self.ensures(network, result, context)
        return self._remembered(result) if result.modified else result

    def _remembered(self, result: PassResult) -> PassResult:
        line = f"{self} (fxsparse {__version__}, torch {torch.__version__})"
        object.__setattr__(result.network, "provenance", (*result.network.provenance, line))
        return result

    def _check_in_place(self, network: Network, before: dict[str, tuple[int, int]], result: PassResult) -> None:
        if self.in_place and result.network is not network:
            raise PassError(f"{self.name} says that it works in place, and returned another network; this is an error in the pass")
        if not self.in_place and _state(network) != before:
            raise PassError(f"{self.name} says that it leaves its input alone, and changed it; this is an error in the pass")
        if not self.in_place and result.modified and result.network is network:
            raise PassError(f"{self.name} says that it changed something, and returned its input; this is an error in the pass")

    def __str__(self) -> str:
        return written(self)


def _state(network: Network) -> dict[str, tuple[int, int]]:
    """Identity and version of every tensor: any write changes them."""
    return {key: (id(tensor), tensor._version) for key, tensor in network.tensors().items()}
