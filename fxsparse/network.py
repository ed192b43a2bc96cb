"""`Network`: the one value that passes take and return.

A network is a module together with what is known of it: its groups, which of their units live, and a journal of what was removed. It is
never changed; shrinking and regrowing give new networks. Unit numbers are those of the network as it was first traced, for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fxsparse.axes.predict import Prediction
from fxsparse.axes.reader import read
from fxsparse.axes.solve import solve
from fxsparse.channels.costs import network_macs, network_parameters, with_costs
from fxsparse.channels.groups import Group, Structure, group
from fxsparse.channels.view import to_networkx
from fxsparse.errors import PlanError
from fxsparse.surgery.build import as_new_parameter, build
from fxsparse.surgery.faithful import require_faithful
from fxsparse.surgery.feasible import feasible
from fxsparse.surgery.growth import initialised
from fxsparse.surgery.input_sizes import protect_what_input_sizes_split
from fxsparse.surgery.journal import Init, Journal, Places, convert
from fxsparse.surgery.original import as_original
from fxsparse.surgery.plan import Units, checked, numbers, predict
from fxsparse.surgery.silence import Silences
from fxsparse.surgery.transfer import transferred
from fxsparse.tracing.copies import copy_with, to_meta_but_flags
from fxsparse.tracing.garbage import collected_later
from fxsparse.tracing.recording import as_arguments, record
from fxsparse.tracing.shapes import remembered
from fxsparse.tracing.trace import Traced
from fxsparse.tracing.trace import trace as trace_module
from fxsparse.tracing.traced_module import TracedModule, graphs_alone, traced_graphs

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, eq=False)
class Origin:
    """What all networks that come from one trace share."""

    skeleton: nn.Module  # the dense module on meta tensors
    structure: Structure
    inputs: tuple[Any, dict[str, Any]]  # the example inputs
    notes: tuple[str, ...]
    islands: tuple[str, ...]
    original: type[nn.Module]
    train: bool = True  # whether train mode was looked at
    silences: Silences = field(default_factory=Silences)


class Kept(Mapping[str, dict[int, list[int]]]):
    """state_dict key -> axis -> the original indices that are still there."""

    def __init__(self, network: Network) -> None:
        self._structure = network.origin.structure
        self._prediction = network.prediction
        aliases = self._structure.reading.aliases
        held = network.module.state_dict().items()  # modules may put other things there
        self._keys = {key: aliases.get(key, key) for key, each in held if isinstance(each, Tensor)}

    def __getitem__(self, key: str) -> dict[int, list[int]]:
        axes = self._structure.reading.tensors[self._keys[key]]
        return {i: np.flatnonzero(self._prediction.mask(axis)).tolist() for i, axis in enumerate(axes)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return repr(dict(self))


@dataclass(frozen=True, eq=False)
class Network:
    """A traced network and its coupled channels. Make one with `fxsparse.trace`."""

    module: nn.Module
    origin: Origin
    living: Mapping[str, tuple[int, ...]]
    journal: Journal = field(default_factory=Journal)
    masks: Mapping[str, Tensor] = field(default_factory=dict)  # parameter -> which of its weights live; the others are zero
    edits: tuple[str, ...] = ()  # the passes that changed what the user's model is made of, as text
    provenance: tuple[str, ...] = ()  # all passes, as text

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def __repr__(self) -> str:
        prunable = [g for g in self.groups if g.prunable]
        units = sum(len(g.units) for g in prunable)
        protected = len(self.groups) - len(prunable)
        return f"Network({self.origin.original.__name__}, {len(prunable)} prunable groups of {units} units, {protected} protected)"

    # ---- what it is made of -----------------------------------------------------------------------------------------------

    @cached_property
    def prediction(self) -> Prediction:
        return predict(self.origin.structure, self.living)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All groups, in the order of the network; costs are those of the present widths."""
        present = tuple(replace(g, units=self.living[g.name]) for g in self.origin.structure.groups.values())
        return with_costs(self.origin.structure, self.prediction, present)

    def group(self, name: str) -> Group:
        """One group by name."""
        checked(self.origin.structure, {name: self.living.get(name, (0,))}, {**self.living})
        return next(g for g in self.groups if g.name == name)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one run on the example inputs."""
        return network_macs(self.origin.structure, self.prediction)

    @cached_property
    def parameter_count(self) -> int:
        """Trainable numbers; tied tensors are counted once."""
        return network_parameters(self.origin.structure, self.prediction)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be traced or understood, in words."""
        return (*self.origin.notes, *(f"{name.replace('.', '::')}: {why}" for name, why in self.origin.structure.reading.unknown.items()))

    @property
    def kept(self) -> Kept:
        return Kept(self)

    def places(self, key: str) -> Places:
        """axis -> surviving coordinates of a tensor; axes that lost nothing are not there."""
        reading = self.origin.structure.reading
        axes = reading.tensors[reading.aliases.get(key, key)]
        masks = {i: self.prediction.mask(axis) for i, axis in enumerate(axes) if axis}
        return {i: np.flatnonzero(mask) for i, mask in masks.items() if not mask.all()}

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by every name, tied names sharing one object."""
        named = {**dict(self.module.named_parameters(remove_duplicate=False)), **dict(self.module.named_buffers(remove_duplicate=False))}
        known = self.origin.structure.reading
        return {key: tensor for key, tensor in named.items() if key in known.tensors or key in known.aliases}

    def to_networkx(self) -> networkx.MultiDiGraph[str]:
        """Groups and tensors as a graph: an edge for each member, with its axis and role."""
        return to_networkx(self.groups, {key: tuple(t.shape) for key, t in self.tensors().items()})

    # ---- changing it --------------------------------------------------------------------------------------------------------

    def shrink(self, keep: Units) -> Network:
        """A new network that keeps these units of the named groups, and all others whole."""
        plan = checked(self.origin.structure, keep, self.living)
        return self.with_living({**self.living, **plan})

    def regrow(self, grow: Units | None = None, init: Init = "journal") -> Network:
        """A new network with removed units back: all of them, or these. `journal` restores their values bit for bit, `zero` keeps the
        function as it is (consuming slices are zero), `fresh` draws new values."""
        structure = self.origin.structure
        everything = {name: tuple(range(len(classes))) for name, classes in structure.classes.items()}
        if grow is None:
            return self.with_living(everything, init)
        wanted: dict[str, tuple[int, ...]] = {}
        for name, units in grow.items():
            checked(structure, {name: self.living.get(name, (0,))}, {**self.living})
            chosen = numbers(name, units, everything[name])
            there = sorted(set(chosen) & set(self.living[name]))
            if there:
                raise PlanError(f"unit {there[0]} of group {name!r} has not been removed; name units that are gone")
            wanted[name] = tuple(sorted({*self.living[name], *chosen}))
        return self.with_living({**self.living, **wanted}, init)

    @collected_later()
    @remembered()
    def with_living(self, living: Mapping[str, tuple[int, ...]], init: Init = "journal") -> Network:
        """The network in which exactly these units live."""
        prediction = predict(self.origin.structure, living)
        target = replace(self, living=dict(living))
        target.__dict__["prediction"] = prediction
        tensors, journal = self._converted(target, init)
        masks, hidden = self._converted_masks(target, init)
        module = build(self.origin.skeleton, self.origin.structure, prediction, tensors, self.origin.inputs)
        module.train(self.module.training)
        for name, old in self.module.named_modules():
            module.get_submodule(name).training = old.training
        result = replace(target, module=module, journal=replace(journal, masks=hidden), masks=masks)
        result.__dict__["prediction"] = prediction
        return result

    def edited(self, edit: Callable[[nn.Module], None], text: str) -> Network:
        """A new network after a change of what it is made of: other modules, other nodes in its graphs, tensors tied or untied.

        `edit` changes a copy of the dense module; what comes out is recorded and analysed anew, and units that had gone go again. `text`
        is the pass that does the same to the user's dense model, for `load`.
        """
        whole = {name: g.units for name, g in self.origin.structure.groups.items()}
        remembers = bool(self.journal.tensors)
        dense = self.with_living(whole, "journal" if remembers else "fresh")  # fresh values are cut off again
        graphs_alone(dense.module)
        edit(dense.module)
        result = analysed(retraced(dense.module, self.origin), self.origin.inputs, self.origin.original)
        result = replace(result, masks=_fitting(dense.masks, result), edits=(*self.edits, text), provenance=self.provenance)
        if self.living == whole:
            return result
        result = result.with_living(transferred(self.origin.structure, self.prediction, result.origin.structure))
        return result if remembers else replace(result, journal=Journal())

    def _converted(self, target: Network, init: Init) -> tuple[dict[str, Tensor], Journal]:
        """This network's tensors in the target's shapes, and the target's journal."""
        dense_shapes = {
            **dict(self.origin.skeleton.named_parameters(remove_duplicate=False)),
            **dict(self.origin.skeleton.named_buffers(remove_duplicate=False)),
        }
        reading = self.origin.structure.reading
        made: dict[str, Tensor] = {}
        remembered: dict[str, Tensor] = {}
        with torch.no_grad():
            for key, tensor in self.tensors().items():
                first = reading.aliases.get(key, key)
                if first not in made:
                    before, after = self.places(first), target.places(first)
                    dense = self.journal.tensors.get(first)
                    if dense is None and init != "journal":
                        dense = torch.zeros(dense_shapes[key].shape, dtype=tensor.dtype, device=tensor.device)
                    values, full = convert(tensor, before, after, dense, dense_shapes[key].shape)
                    if init != "journal":
                        values = initialised(self, target, first, values, init)
                    made[first] = as_new_parameter(tensor, values)
                    if full is not None:
                        remembered[first] = full
                made[key] = made[first]
        return made, Journal(remembered, self.journal.followers, init=init)

    def _converted_masks(self, target: Network, init: Init) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The masks in the target's shapes, and whole ones for the journal; weights that are made new are not masked."""
        made: dict[str, Tensor] = {}
        hidden: dict[str, Tensor] = {}
        for key, mask in self.masks.items():
            shape = self.origin.skeleton.get_parameter(key).shape
            known = self.journal.masks.get(key) if init == "journal" else None
            dense = torch.ones(shape, dtype=torch.bool, device=mask.device) if known is None else known
            made[key], full = convert(mask, self.places(key), target.places(key), dense, shape)
            if full is not None:
                hidden[key] = full
        return made, hidden

    def as_original(self) -> nn.Module:
        """The user's own class, resized; an error where a literal in its source would have had to change."""
        return as_original(self)


@collected_later()
@remembered()
def trace(
    model: nn.Module, example_inputs: Any, kwargs: Mapping[str, Any] | None = None, *, check: bool = False, train: bool = True
) -> Network:
    """Trace a model on example inputs (a tuple; a single tensor is fine) and find its coupled channels. The model is left alone; the
    network shares its parameters. With `check`, model and traced module run on the inputs, and on twice as many, and must agree. With
    `train=False`, train mode is left out: nothing is protected for its sake, and a network that differs in it refuses to train."""
    args = as_arguments(example_inputs)
    network = analysed(trace_module(model, args, kwargs, train=train), example_inputs_of(args, kwargs), type(model))
    if check:
        require_faithful(model, network.module, args, dict(kwargs or {}))
    return network


@collected_later()
def analysed(traced: Traced, inputs: tuple[Any, dict[str, Any]], original: type[nn.Module]) -> Network:
    """The network of a traced module: all its units live."""
    reading = read(traced.tapes)
    protect_what_input_sizes_split(reading, traced.module)
    structure = group(reading, solve(reading.algebra))
    held = {id(t) for t in (*traced.module.parameters(), *traced.module.buffers())}
    skeleton = copy_with(
        traced.module, lambda tensor: to_meta_but_flags(tensor) if id(tensor) in held else tensor, keep=traced_graphs(traced.module)
    )
    structure = feasible(skeleton, structure, inputs)
    origin = Origin(skeleton, structure, inputs, traced.notes, traced.islands, original, traced.train)
    return Network(traced.module, origin, {name: g.units for name, g in structure.groups.items()})


def retraced(module: nn.Module, origin: Origin) -> Traced:
    """A traced module whose graphs were edited, recorded in the modes in which it was before."""
    for each in module.modules():
        if isinstance(each, TracedModule):
            each.recompile()
    runs = [(each.tape.mode, each.tape.answers) for each in origin.structure.reading.tapes]
    if isinstance(module, TracedModule) and module.train_error:
        runs = [(mode, answers) for mode, answers in runs if mode != "train"]
    tapes = tuple(record(module, *origin.inputs, mode, answers) for mode, answers in runs)
    return Traced(module, tapes, origin.notes, origin.islands, origin.train)


def _fitting(masks: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """The masks of parameters that are still there in the same shape."""
    shapes = {key: parameter.shape for key, parameter in network.module.named_parameters(remove_duplicate=False)}
    return {key: mask for key, mask in masks.items() if shapes.get(key) == mask.shape}


def example_inputs_of(args: Any, kwargs: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """The inputs, detached and copied: later proofs run on them."""
    made: tuple[Any, dict[str, Any]] = tree_map_only(Tensor, lambda t: t.detach().clone(), (args, dict(kwargs or {})))
    return made
