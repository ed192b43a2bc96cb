"""The pass `insert-dyrelu`: every ReLU becomes a DyReLU, for training at extreme sparsity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxsparse.axes.reader import Reading
from fxsparse.errors import PassError
from fxsparse.models.dyrelu import DyReLU
from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.equality import require_same_function
from fxsparse.passes.phase_dyrelu import HOLDER, set_beta
from fxsparse.surgery.graphs import Place, graphs
from fxsparse.tracing.tape import Ref

FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
METHODS = ("relu", "relu_")
IN_PLACE = (F.relu_, torch.relu_, "relu_")


@dataclass(frozen=True)
class InsertDyrelu(Pass):
    """Replace every ReLU by a DyReLU (`fxsparse.models.DyReLU`) that fades back into a ReLU with its buffer `beta`.

    ReLUs are found as modules, functions and methods, in place or not; a module that is used several times gets one DyReLU a use. Each is
    named after the module before it, as in `dyrelu.layer1_0_bn1`. `exclude` holds patterns of the names of those modules. `reduction` says
    how much narrower its hidden layer is, and `seed` draws its weights. The eval and the train graph share them.

    Assumes that channels lie on axis 1; a ReLU of something else stays, with a note.

    Guarantees that with beta 0 the function is what it was. All other names of the state dict stay.

    Example: `insert-dyrelu{reduction=4,exclude=[layer4.*]}`
    """

    name: ClassVar[str] = "insert-dyrelu"
    reduction: int = 4
    beta: float = 1.0
    exclude: tuple[str, ...] = ()
    seed: int = 0

    def requires(self, network: Network, context: Context) -> None:
        if self.reduction < 1:
            raise PassError(f"{self.name}: reduction is at least 1, not {self.reduction}")
        if not 0 <= self.beta <= 1:
            raise PassError(f"{self.name}: beta is between 0 and 1, not {self.beta}")
        if any(HOLDER in place.owner._modules for place in graphs(network.module)):
            raise PassError(f"{self.name}: the network has DyReLUs already; take them out with remove-dyrelu first")

    def run(self, network: Network, context: Context) -> PassResult:
        reading = network.origin.structure.reading
        widths, notes = self._plan(network.origin.skeleton, reading)
        if not widths:
            return PassResult(network, False, (*notes, "no ReLU was replaced"))
        made = network.edited(lambda module: self._insert(module, widths), str(self))
        numbers = sum(p.numel() for name, p in made.module.named_parameters() if f".{HOLDER}." in f".{name}")
        return PassResult(made, True, (f"{len(widths)} ReLUs became DyReLUs, with {numbers:,} dense parameters of their own", *notes))

    def ensures(self, network: Network, result: PassResult, context: Context) -> None:
        if result.modified:
            faded = result.network.with_living(result.network.living)
            _own_buffers(faded.module)
            set_beta(faded.module, 0.0)
            require_same_function(self.name, network, faded)

    def _plan(self, module: nn.Module, reading: Reading) -> tuple[dict[tuple[str, str], int], list[str]]:
        """(owner of the graph, name) -> channels; and why others stay."""
        widths: dict[tuple[str, str], int] = {}
        notes: dict[str, str] = {}
        for place, key, node in relus(module):
            pattern = next((each for each in self.exclude if fnmatchcase(key, each)), None)
            found = f"{pattern!r} excludes it" if pattern is not None else _width(reading, place, node)
            if isinstance(found, str):
                notes[key] = f"the ReLU after {key} stays: {found}"
            elif widths.setdefault((place.prefix, key), found) != found:
                notes[key] = f"the ReLU after {key} stays: it has other channels in train mode"
        for key in notes:
            for where in [each for each in widths if each[1] == key]:
                del widths[where]
        return widths, list(notes.values())

    def _insert(self, module: nn.Module, widths: dict[tuple[str, str], int]) -> None:
        like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
        names: dict[tuple[str, str], str] = {}
        for place, key, node in list(relus(module)):
            width = widths.get((place.prefix, key))
            if width is None:
                continue
            holder = place.owner._modules.setdefault(HOLDER, nn.Module())
            assert holder is not None
            if (place.prefix, key) not in names:
                name = slug(key)
                while name in holder._modules:  # `a.b` and `a_b`
                    name += "_"
                names[place.prefix, key] = name
                holder._modules[name] = self._made(width, name, like)
            _replace(place, node, f"{HOLDER}.{names[place.prefix, key]}")

    def _made(self, width: int, name: str, like: torch.Tensor) -> DyReLU:
        if like.is_meta:
            with torch.device("meta"):
                return DyReLU(width, self.reduction).to(like.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + sum(place * ord(letter) for place, letter in enumerate(name, 1)))
            made = DyReLU(width, self.reduction).to(like.device, like.dtype)
        made.beta.fill_(self.beta)
        return made


def relus(module: nn.Module) -> Iterator[tuple[Place, str, fx.Node]]:
    """The ReLUs of all graphs, each with a name that it has in the graphs of all modes: that of the module before it, the second behind
    one module being 2, and so on."""
    places = list(graphs(module))
    called = {(p.prefix, p.mode): {str(node.target) for node in p.graph.nodes if node.op == "call_module"} for p in places}
    for place in places:
        common = set.intersection(*(names for (prefix, _), names in called.items() if prefix == place.prefix))
        seen: Counter[str] = Counter()
        for node in list(place.graph.nodes):
            if is_relu(place, node):
                before = _module_before(place, node, common)
                seen[before] += 1
                yield place, (before if seen[before] == 1 else f"{before}.{seen[before]}"), node


def is_relu(place: Place, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(place.module_of(node)) is nn.ReLU
    return (node.op == "call_function" and node.target in FUNCTIONS) or (node.op == "call_method" and node.target in METHODS)


def slug(key: str) -> str:
    return key.replace(".", "_")


def _module_before(place: Place, node: fx.Node, common: Collection[str]) -> str:
    """The nearest module on the way back, by the first inputs. What learns nothing and does not run in all modes, as noise that is added
    in training, is passed over."""
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        before = place.module_of(node)
        if before is not None and (str(node.target) in common or any(True for _ in before.parameters())):
            return str(node.target)
    return "input"


def _width(reading: Reading, place: Place, node: fx.Node) -> int | str:
    """The channels of what a ReLU gets, or why axis 1 does not hold them."""
    for each in reading.tapes:
        if each.tape.mode != place.mode:
            continue
        for call in each.tape.calls:
            if call.owner.node == node.name and call.owner.graph == place.prefix and isinstance(call.args[0], Ref):
                shape, axes = each.tape.shape(call.args[0]), each.axes[call.args[0].id]
                if len(shape) < 2:
                    return f"its input has {len(shape)} axes, so that axis 1 holds no channels"
                if any(factor.free for factor in axes[1]):
                    return f"axis 1 of its input, of shape {shape}, holds no channels"
                return shape[1]
    return "it did not run on the example inputs"


def _replace(place: Place, node: fx.Node, target: str) -> None:
    source: Any = node.args[0] if node.args else node.kwargs["input"]
    changes = node.target in IN_PLACE or bool(node.kwargs.get("inplace", False)) or (len(node.args) > 1 and bool(node.args[1]))
    if node.op == "call_module":
        changes = bool(getattr(place.module_of(node), "inplace", False))
    with place.graph.inserting_after(node):
        made = place.graph.create_node("call_module", target, (source,))
    node.replace_all_uses_with(made)
    if changes:  # who read the input later saw what the ReLU had made of it
        order = {each: position for position, each in enumerate(place.graph.nodes)}
        source.replace_all_uses_with(made, lambda user: order[user] > order[made])
    place.graph.erase_node(node)


def _own_buffers(module: nn.Module) -> None:
    for each in module.modules():
        if isinstance(each, DyReLU):
            each.beta = each.beta.clone()
