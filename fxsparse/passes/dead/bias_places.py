"""Where the constant of a channel can go: into the bias of the layer that reads it, the mean of the norm behind it, or a new bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fxsparse.axes.reader import Reading, TapeReading
from fxsparse.passes.constants.step import Step
from fxsparse.tracing.tape import Call, Ref, Tape
from fxsparse.tracing.taught import is_parametrized

Sources = Mapping[int, tuple[str, bool]]  # value -> the parameter that it is, and whether it was turned over


@dataclass(frozen=True)
class Bias:
    """A tensor with a number for each output: a bias, or a mean that a norm takes off."""

    key: str
    sign: int = 1
    layer: str | None = None  # the layer that must get this bias first

    @property
    def owner(self) -> str:
        return self.key.rpartition(".")[0] or self.key


class BiasPlaces:
    """What all tapes say of layers and their biases."""

    def __init__(self, reading: Reading, skeleton: nn.Module) -> None:
        self.skeleton = skeleton
        self.tapes = {id(each.tape): _Tape(each.tape) for each in reading.tapes}
        self.aliases = {*reading.aliases, *reading.aliases.values()}
        self.strange: Counter[str] = Counter()  # tensor -> how often it is read by anything but the layer that it is the bias of
        for each in self.tapes.values():
            self.strange += each.reads
            self.strange.subtract(each.as_bias)

    def sources(self, reading: TapeReading) -> Sources:
        return self.tapes[id(reading.tape)].sources

    def find(self, step: Step, weight: Ref) -> Bias | str:
        """Where the constants of this layer can go, or why nowhere."""
        call, tape = step.call, self.tapes[id(step.tape)]
        name = call.owner.module or call.owner.node or "the forward pass"
        if step.arg("beta", 1) != 1 or step.arg("alpha", 1) != 1:
            return f"the bias of {name} is scaled"
        if weight.id not in tape.sources:
            return f"the weight of {name} is computed in the forward pass"
        ref = bias_of(call)
        if ref is not None:
            key = step.tape.values[ref.id].key
            if key is None or self.strange[key] or len(step.tape.shape(ref)) != 1:
                return f"the bias of {name} is not its own"
            return Bias(key)
        mean = self._mean(tape, call, tape.sources[weight.id][0])
        if mean is not None:
            return Bias(mean, sign=-1)
        layer = self.skeleton.get_submodule(call.owner.module) if call.owner.module else None
        own = isinstance(layer, (_ConvNd, nn.Linear)) and not isinstance(layer, _ConvTransposeNd) and not is_parametrized(layer)
        if not own or layer is None or layer._parameters.get("bias", 0) is not None:
            return f"{name} has no bias, and is no layer that could get one"
        return Bias(f"{call.owner.module}.bias", layer=call.owner.module)

    def _mean(self, tape: _Tape, call: Call, weight: str) -> str | None:
        """The running mean of a norm that alone reads this layer, and reads nothing else."""
        result = call.results[0]
        key = tape.norms.get(result.id) if isinstance(result, Ref) else None
        if key is None or key in self.aliases:
            return None
        uses = sum(each.reads[key] for each in self.tapes.values())
        own = sum(tape.behind.get(key, Counter())[weight] for tape in self.tapes.values())
        return key if uses == own else None


class _Tape:
    """One tape's layers."""

    def __init__(self, tape: Tape) -> None:
        self.sources = _weight_sources(tape)
        self.reads: Counter[str] = Counter()
        self.as_bias: Counter[str] = Counter()
        readers: dict[int, list[Call]] = {}
        makers: dict[int, Call] = {}
        for call in tape.calls:
            for ref in call.reads:
                key = tape.values[ref.id].key
                if key is not None:
                    self.reads[key] += 1
                if call.name != "aten.as_strided_":
                    readers.setdefault(ref.id, []).append(call)
            bias = bias_of(call)
            if bias is not None and (key := tape.values[bias.id].key) is not None:
                self.as_bias[key] += 1
            if call.name in ("aten.convolution", "aten.mm") and isinstance(call.results[0], Ref):
                makers[call.results[0].id] = call
        self.norms: dict[int, str] = {}  # result of a layer -> the mean that alone is taken off it
        self.behind: dict[str, Counter[str]] = {}  # mean -> the weights of the layers in front of it
        outputs = {ref.id for ref in tape.outputs}
        for result, maker in makers.items():
            found = readers.get(result, [])
            mean = _mean_of(found[0], tape) if len(found) == 1 and result not in outputs else None
            weight = self.sources.get(maker.args[1].id)
            if mean is not None and weight is not None and bias_of(maker) is None and found[0].args[0] == Ref(result):
                self.norms[result] = mean
                self.behind.setdefault(mean, Counter())[weight[0]] += 1


def bias_of(call: Call) -> Ref | None:
    """The summand of a contraction."""
    position = {"aten.convolution": 2, "aten.addmm": 0}.get(call.name)
    ref = None if position is None else call.args[position]
    return ref if isinstance(ref, Ref) else None


def _mean_of(call: Call, tape: Tape) -> str | None:
    """The name of the running mean that a norm takes off in eval mode."""
    if "batch_norm" not in call.name:
        return None
    given = {a.name: value for a, value in zip(call.op._schema.arguments, call.args, strict=False)} | call.kwargs
    ref = given.get("running_mean")
    if not isinstance(ref, Ref) or (tape.mode == "eval" and given.get("training", False)):
        return None
    return tape.values[ref.id].key


def _weight_sources(tape: Tape) -> Sources:
    """Values that are a parameter, or one turned over as `linear` does."""
    found = {ref.id: (key, False) for key, ref in tape.keys.items() if tape.values[ref.id].key == key}
    for call in tape.calls:
        if call.name == "aten.t" and isinstance(call.args[0], Ref) and call.args[0].id in found:
            key, turned = found[call.args[0].id]
            found[call.results[0].id] = (key, not turned)
    return found
