"""What of a network's outputs is compared with the dense network's: class scores, or anything else that it returns or computes inside.

A detector's answer is a list of boxes, of which a sparse network finds others than a dense one; its heads' outputs, before boxes are chosen
among them, have one shape in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from fxsparse.errors import Error
from fxsparse.training.evaluate import as_logits

Inputs = Tensor | Sequence[Tensor]

KINDS = {
    "classes": "scores of classes along the last axis",
    "channels": "scores of classes along axis 1",
    "yes-no": "each number the score of a yes",
    "values": "numbers whose error counts",
}


@dataclass(frozen=True, eq=False)
class Seen:
    """The outputs of one run by name, and what the modules that the other network follows gave."""

    tensors: dict[str, Tensor]
    led: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Heads:
    """Which outputs are compared, and as what. `kinds` maps `module:path` (or a module: all it returns; the network itself has the empty
    name) to one of KINDS; names may hold wildcards. The results of the modules in `follow` are the dense network's in both networks, so
    that what stands behind them sees the same boxes."""

    kinds: Mapping[str, str]
    follow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in self.kinds.items():
            if kind not in KINDS:
                raise Error(f"the head {name!r} cannot be {kind!r}; say {', '.join(f'{k} ({what})' for k, what in KINDS.items())}")

    @property
    def plain(self) -> bool:
        """One row of class scores an image, as classifiers return."""
        return dict(self.kinds) == {"": "classes"}

    def kind(self, name: str) -> str | None:
        """What the output of this name is compared as; None: not at all."""
        module = name.partition(":")[0]
        return next((kind for pattern, kind in self.kinds.items() if fnmatchcase(name if ":" in pattern else module, pattern)), None)

    def run(self, model: nn.Module, inputs: Inputs, led: Mapping[str, list[Any]] | None = None) -> Seen:
        """Run the model in the mode that it is in. With `led`, it follows another run."""
        if self.plain:
            return Seen({"": as_logits(model(inputs)).float()})
        outputs: list[tuple[str, Any]] = []
        with ExitStack() as stack:
            told = stack.enter_context(self.following(model, led))
            for module in self._modules(model):
                stack.callback(model.get_submodule(module).register_forward_hook(_keeper(module, outputs)).remove)
            whole = model(inputs)
        outputs += [("", whole)] if any(pattern.partition(":")[0] == "" for pattern in self.kinds) else []
        tensors: dict[str, Tensor] = {}
        for module, output in outputs:
            for path, leaf in tree_flatten_with_path(output)[0]:
                name = f"{module}:{'.'.join(_step(step) for step in path)}"
                if isinstance(leaf, Tensor) and leaf.is_floating_point() and self.kind(name) is not None:
                    again = sum(other.partition("#")[0] == name for other in tensors)
                    tensors[f"{name}#{again}" if again else name] = leaf.float()
        if not tensors:
            raise Error(f"{type(model).__name__} gave nothing that fits heads={dict(self.kinds)}; name modules and outputs that it has")
        return Seen(tensors, told)

    @contextmanager
    def following(self, model: nn.Module, led: Mapping[str, list[Any]] | None) -> Iterator[dict[str, list[Any]]]:
        """Within, the modules in `follow` give what they gave in the run `led`; without one, what they give is noted."""
        told: dict[str, list[Any]] = {name: [] for name in self.follow}
        queues = None if led is None else {name: iter(results) for name, results in led.items()}
        with ExitStack() as stack:
            for name in self.follow:
                stack.callback(model.get_submodule(name).register_forward_hook(_follower(name, told, queues)).remove)
            yield told

    def pairs(self, given: Seen, wanted: Seen) -> list[tuple[str, str, Tensor, Tensor]]:
        """Name, kind, sparse and dense output, of each output that is compared."""
        if given.tensors.keys() != wanted.tensors.keys():
            odd = sorted(given.tensors.keys() ^ wanted.tensors.keys())[0]
            raise Error(f"only one of the sparse and the dense network gave the output {odd!r}; {_ADVICE}")
        made = []
        for name, tensor in given.tensors.items():
            other = wanted.tensors[name]
            if tensor.shape != other.shape:
                shapes = f"{tuple(tensor.shape)} in the sparse network and {tuple(other.shape)} in the dense one"
                raise Error(f"the output {name!r} is {shapes}; {_ADVICE}")
            made.append((name, self.kind(name.partition("#")[0]) or "", tensor, other))
        return made

    def alike(self, given: Seen, wanted: Seen) -> float:
        """1 where both networks say the same: the part of equal classes; of other outputs, the mean part of the variance that is hit."""
        pairs = self.pairs(given, wanted)
        if self.plain:
            return float((pairs[0][2].argmax(1) == pairs[0][3].argmax(1)).float().mean())
        return 1 - sum(float(relative_error(s, t)) for _, _, s, t in pairs) / len(pairs)

    def _modules(self, model: nn.Module) -> list[str]:
        wanted = {pattern.partition(":")[0] for pattern in self.kinds} - {""}
        found = [name for name, _ in model.named_modules() if name and any(fnmatchcase(name, pattern) for pattern in wanted)]
        for pattern in wanted:
            if not any(fnmatchcase(name, pattern) for name in found):
                raise Error(f"{type(model).__name__} has no module {pattern!r}, which heads= names; `named_modules()` lists what it has")
        return found


_ADVICE = "name outputs that are there and of one shape for the same images, as heads={'head:cls_logits': 'classes', ...}"


def relative_error(given: Tensor, wanted: Tensor) -> Tensor:
    """The squared error as a part of the variance."""
    return (given - wanted).square().mean() / wanted.var(correction=0).clamp_min(1e-12)


def heads_of(model: nn.Module, inputs: Inputs, asked: Mapping[str, str] | None = None, follow: Sequence[str] = ()) -> Heads:
    """The heads that were asked for; else torchvision's detectors by what they are, and other networks by what they return."""
    if asked is not None:
        return Heads(dict(asked), tuple(follow))
    for kind in type(model).__mro__:
        if kind.__module__.startswith("torchvision.models.detection") and kind.__name__ in DETECTORS:
            return DETECTORS[kind.__name__]
    with torch.no_grad():
        output = model(inputs)
    leaves = [leaf for _, leaf in tree_flatten_with_path(output)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not leaves:
        raise Error(f"{type(model).__name__} returned no numbers to compare; name modules inside it, as heads={{'head': 'values'}}")
    scores = isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1  # a single number is no choice among classes
    return Heads({"": "classes" if scores else "values"})


def blocks(model: nn.Module, masked: Sequence[str]) -> list[str]:
    """The smallest parts of a model that hold at least two of these tensors of their own: a residual block, an attention, a perceptron."""
    left, found = set(masked), []
    for name in sorted((name for name, _ in model.named_modules() if name), key=lambda name: -name.count(".")):
        own = {each for each in left if each.startswith(f"{name}.")}
        if len(own) >= 2:
            found.append(name)
            left -= own
    return [name for name, _ in model.named_modules() if name in found]


_SCORED = {"head:bbox_regression": "values", "head:bbox_ctrness": "yes-no"}
DETECTORS = {
    "SSD": Heads({"head:cls_logits": "classes", **_SCORED}),
    "RetinaNet": Heads({"head:cls_logits": "yes-no", **_SCORED}),
    "FCOS": Heads({"head:cls_logits": "yes-no", **_SCORED}),
    "FasterRCNN": Heads(
        {
            "rpn.head:0.*": "yes-no",
            "rpn.head:1.*": "values",
            "roi_heads.box_predictor:0": "classes",
            "roi_heads.box_predictor:1": "values",
        },
        ("rpn",),
    ),
}


def _keeper(name: str, outputs: list[tuple[str, Any]]) -> Callable[..., None]:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append((name, output))

    return keep


def _follower(name: str, told: dict[str, list[Any]], queues: Mapping[str, Iterator[Any]] | None) -> Callable[..., Any]:
    def follow(module: nn.Module, args: Any, output: Any) -> Any:
        told[name].append(output if queues is None else next(queues[name]))
        return told[name][-1]

    return follow


def _step(key: Any) -> str:
    """One step of a path into nested outputs: a key, a place or an attribute."""
    return str(next(getattr(key, attribute) for attribute in ("key", "idx", "name") if hasattr(key, attribute)))
