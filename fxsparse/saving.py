"""A network as two files: structure.json says which units live, weights.safetensors holds the numbers. Nothing is ever executed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fxsparse.errors import CheckpointError, PassError, PlanError, TraceError
from fxsparse.network import Network, trace
from fxsparse.passes.pipeline import Pipeline
from fxsparse.surgery.build import as_new_parameter, build
from fxsparse.surgery.journal import Journal, take
from fxsparse.surgery.plan import checked, predict
from fxsparse.tracing.copies import is_flag, shared_copy

FORMAT = "fxsparse/1"
DTYPE_NAMES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64"
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES.split()}


def fingerprint(network: Network) -> str:
    """Of the network as it was first traced: tensors with their shapes, groups with their sizes."""
    structure = network.origin.structure
    shapes = {key: list(t.shape) for key, t in sorted(network.origin.skeleton.state_dict().items())}
    groups = {name: [len(g.units), g.prunable] for name, g in structure.groups.items()}
    return hashlib.sha256(json.dumps([shapes, groups], sort_keys=True).encode()).hexdigest()


def save(network: Network, folder: str | os.PathLike[str], *, journal: bool = False) -> None:
    """Write a network to a folder. With `journal`, removed values are written as well, so that a loaded network can regrow."""
    if not isinstance(network, Network):
        raise CheckpointError(f"save writes a Network, as fxsparse.trace makes it, and got a {type(network).__name__}")
    path = Path(folder)
    state = network.module.state_dict()
    other = next((key for key, each in state.items() if not isinstance(each, Tensor)), None)
    if other is not None:
        raise CheckpointError(
            f"{other!r} in the state dict is a {type(state[other]).__name__}, and a folder holds tensors alone; leave it out of the state "
            "dict, or save that of network.module with torch.save"
        )
    empty = next((key for key, tensor in state.items() if tensor.is_meta), None)
    if empty is not None:
        raise CheckpointError(f"{empty!r} is on the meta device and has no values that could be saved; trace a model with values")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} cannot be made, as a file is in its place; give a folder") from error
    reading = network.origin.structure.reading
    weights = {k: t.detach().contiguous() for k, t in state.items() if k not in reading.aliases}
    living = {name: list(units) for name, units in network.living.items() if len(units) != len(network.origin.structure.classes[name])}
    text = json.dumps(
        {
            "format": FORMAT,
            "model": network.origin.original.__qualname__,
            "fingerprint": fingerprint(network),
            "inputs": _encode(network.origin.inputs),
            "train": network.origin.train,
            "living": living,
            "edits": list(network.edits),
            "masks": sorted(network.masks),
            "provenance": list(network.provenance),
            "journal": journal,
        },
        indent=1,
    )
    files: dict[str, Any] = {"weights.safetensors": lambda to: save_file(weights, to)}
    if network.masks:
        masks = {key: mask.contiguous() for key, mask in network.masks.items()}
        files["masks.safetensors"] = lambda to: save_file(masks, to)
    if journal:
        remembered = {k: t.contiguous() for k, t in network.journal.tensors.items()}
        files["journal.safetensors"] = lambda to: save_file(remembered, to)
    files["structure.json"] = lambda to: Path(to).write_text(text)
    try:
        _write_all(path, files)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}; what was in it is as it was") from error


def _write_all(path: Path, files: Mapping[str, Any]) -> None:
    """All files next to their places first, then all renames: an interrupted save leaves the old files."""
    with tempfile.TemporaryDirectory(dir=path, prefix=".saving-") as temporary:
        for name, write in files.items():
            write(os.path.join(temporary, name))
            os.chmod(os.path.join(temporary, name), 0o644)
        for name in files:
            os.replace(os.path.join(temporary, name), path / name)


def load(folder: str | os.PathLike[str], model: nn.Module) -> Network:
    """A saved network in a fresh instance of the original model; the model's own weights do not matter."""
    if isinstance(folder, nn.Module):
        raise CheckpointError("load takes the folder first, and then the model: load('folder', model)")
    path = Path(folder)
    said = _read_json(path / "structure.json")
    args, kwargs = _decode(said["inputs"], "inputs")
    weights = _read_weights(path / "weights.safetensors")
    dense = _edited(_traced(model, tuple(args), kwargs, said["train"], weights, path), said["edits"], path)
    if fingerprint(dense) != said["fingerprint"]:
        raise CheckpointError(
            f"{path} was saved from another model ({said['model']!r}); this {type(model).__name__} has other tensors or groups: make it "
            "with the options that the saved one had, and load before it has run, which may leave tensors in it"
        )
    try:
        structure = dense.origin.structure
        living = {**dense.living, **checked(structure, said["living"], dense.living)}
        prediction = predict(structure, living)
    except PlanError as error:
        raise CheckpointError(f"{path / 'structure.json'} is damaged: {error}") from error
    result = replace(dense, living=living)
    tensors = _tensors(dense, result, weights, path)
    module = build(dense.origin.skeleton, structure, prediction, tensors, dense.origin.inputs)
    module.train(model.training)
    for name, fresh in dense.module.named_modules():
        module.get_submodule(name).training = fresh.training
    remembered = _read_weights(path / "journal.safetensors") if said["journal"] else {}
    _check_journal(dense, remembered, path)
    masks = _masks(path, said["masks"], module)
    provenance = tuple(said["provenance"])
    return replace(dense, module=module, living=living, journal=Journal(remembered), masks=masks, provenance=provenance)


def _traced(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], train: bool, saved: Mapping[str, Tensor], path: Path
) -> Network:
    """The dense network; another model, or one of another dtype, may not run on the saved example inputs."""
    try:
        return trace(_with_flags(model, saved), args, kwargs, train=train)
    except TraceError as error:
        own = model.state_dict()
        for key in sorted(own.keys() & saved.keys()):
            if own[key].dtype != saved[key].dtype:
                raise CheckpointError(
                    f"{path} was saved in {saved[key].dtype}, and this {type(model).__name__} is {own[key].dtype} (see {key!r}); "
                    f"load into model.to({saved[key].dtype})"
                ) from error
        raise CheckpointError(
            f"this {type(model).__name__} does not run on the example inputs of {path}, which may be of another model: {error}"
        ) from error


def _with_flags(model: nn.Module, saved: Mapping[str, Tensor]) -> nn.Module:
    """The model with the saved whole numbers and truth values, by which its code may have gone another way; the user's is left alone."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return model  # which tracing refuses
    named = dict(model.named_buffers(remove_duplicate=False))
    flags = {key: saved[key] for key, tensor in named.items() if key in saved and is_flag(tensor) and saved[key].shape == tensor.shape}
    if all(torch.equal(named[key].cpu(), flag) for key, flag in flags.items()):
        return model
    copy = shared_copy(model)
    for key, flag in flags.items():
        prefix, _, name = key.rpartition(".")
        copy.get_submodule(prefix)._buffers[name] = flag.to(named[key].device, named[key].dtype)
    return copy


def _edited(network: Network, edits: list[str], path: Path) -> Network:
    """The network after the passes that changed what the user's model is made of."""
    for text in edits:
        try:
            network = Pipeline.parse(text)(network).network
        except (PassError, PlanError) as error:
            raise CheckpointError(f"{path / 'structure.json'}: the pass {text!r} does not work on this model: {error}") from error
    if network.edits != tuple(edits):
        raise CheckpointError(f"{path / 'structure.json'}: its edits do not repeat on this model; it was saved from another one")
    return network


def _masks(path: Path, keys: list[str], module: nn.Module) -> dict[str, Tensor]:
    masks = _read_weights(path / "masks.safetensors") if keys else {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if sorted(masks) != sorted(keys):
        raise CheckpointError(f"{path / 'masks.safetensors'} does not fit its structure.json; both must come from one save")
    for key, mask in masks.items():
        if key not in parameters or parameters[key].shape != mask.shape or mask.dtype != torch.bool:
            raise CheckpointError(f"{path / 'masks.safetensors'}: {key!r} of shape {tuple(mask.shape)} does not belong to this model")
    return {key: mask.to(parameters[key].device) for key, mask in masks.items()}


def _tensors(dense: Network, target: Network, weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    reading = dense.origin.structure.reading
    saved = {key for key in dense.module.state_dict() if key not in reading.aliases}
    missing, strange = sorted(saved - set(weights)), sorted(set(weights) - saved)
    if missing or strange:
        what = f"{missing[0]!r} is missing" if missing else f"{strange[0]!r} does not belong there"
        raise CheckpointError(f"{path / 'weights.safetensors'} does not fit its structure.json: {what}")
    made: dict[str, Tensor] = {}
    for key, tensor in dense.tensors().items():
        first = reading.aliases.get(key, key)
        if first not in made:
            value = weights[first].to(tensor.device).clone() if first in weights else take(tensor.detach(), target.places(first))
            wanted = target.prediction.shape(reading.tensors[first])
            if tuple(value.shape) != wanted:
                raise CheckpointError(
                    f"{path / 'weights.safetensors'}: {first!r} has shape {tuple(value.shape)}, and structure.json says {wanted}"
                )
            made[first] = as_new_parameter(tensor, value)
        made[key] = made[first]
    return made


def _check_journal(dense: Network, remembered: dict[str, Tensor], path: Path) -> None:
    shapes = {key: t.shape for key, t in dense.tensors().items()}
    for key, tensor in remembered.items():
        if shapes.get(key) != tensor.shape:
            raise CheckpointError(f"{path / 'journal.safetensors'}: {key!r} of shape {tuple(tensor.shape)} does not belong to this model")


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there; a saved network has structure.json and weights.safetensors") from None
    except (SafetensorError, OSError, ValueError, KeyError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} is not there; a saved network is a folder with structure.json and weights.safetensors") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no {FORMAT} file; it was written by something else or by another version")
    types = {"model": str, "fingerprint": str, "living": dict, "journal": bool, "inputs": dict, "train": bool}
    types |= {"edits": list, "masks": list, "provenance": list}
    said = {"edits": [], "masks": [], "train": True, **said}
    for name, kind in types.items():
        if not isinstance(said.get(name), kind):
            raise CheckpointError(f"{path} is damaged: {name!r} should be a {kind.__name__}")
    if not all(isinstance(u, list) and all(type(n) is int for n in u) for u in said["living"].values()):
        raise CheckpointError(f"{path} is damaged: 'living' should hold lists of whole numbers")
    for name in ("edits", "masks", "provenance"):
        if not all(isinstance(p, str) for p in said[name]):
            raise CheckpointError(f"{path} is damaged: {name!r} should hold texts")
    return said


LARGEST_INPUT = 1 << 32


def _encode(value: Any) -> Any:
    """Example inputs as JSON: tensors by shape and dtype, whole-number tensors with their values."""
    if isinstance(value, Tensor):
        said: dict[str, Any] = {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        if not value.dtype.is_floating_point and not value.is_complex() and not value.is_meta:
            said["values"] = value.tolist()
        return said
    if isinstance(value, dict):
        return {"dict": [[k, _encode(v)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list" if isinstance(value, list) else "tuple": [_encode(v) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"plain": value}
    raise CheckpointError(
        f"an example input of type {type(value).__name__} cannot be written to structure.json; trace with tensors and plain values"
    )


def _decode(said: Any, where: str) -> Any:
    if isinstance(said, dict) and "tensor" in said and said.get("dtype") in DTYPES:
        shape = said["tensor"]
        if isinstance(shape, list) and all(type(n) is int and 0 <= n <= LARGEST_INPUT for n in shape):
            dtype = DTYPES[said["dtype"]]
            if "values" not in said:
                return torch.empty(shape, dtype=dtype, device="meta")
            try:
                return torch.tensor(said["values"], dtype=dtype).reshape(shape)
            except (TypeError, ValueError, RuntimeError, OverflowError) as error:
                raise CheckpointError(f"structure.json is damaged: {where} holds no {said['dtype']} numbers: {error}") from error
    if isinstance(said, dict) and len(said) == 1:
        kind, body = next(iter(said.items()))
        if kind == "plain" and (body is None or isinstance(body, (bool, int, float, str))):
            return body
        if kind in ("list", "tuple") and isinstance(body, list):
            items = [_decode(v, f"{where}[{i}]") for i, v in enumerate(body)]
            return items if kind == "list" else tuple(items)
        if (
            kind == "dict"
            and isinstance(body, list)
            and all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], (str, int)) for p in body)
        ):
            return {k: _decode(v, f"{where}[{k!r}]") for k, v in body}
    raise CheckpointError(f"structure.json is damaged: {where} is no example input")
