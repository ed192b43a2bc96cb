"""Weights from a file into a model: safetensors, or what torch.save wrote, read without running any code from it; and into a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from fxsparse.errors import CheckpointError, nearest
from fxsparse.models.specs import OPTIONS

_NESTS = ("state_dict", "model_state_dict", "model", "net", "weights")  # where training scripts keep the state dict in a checkpoint
_SHOWN = 4  # names listed in an error


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fills `model` from the file, in place. The file must have exactly the model's tensors; otherwise nothing changes."""
    given = _without_prefix(read_weights(path), model)
    own = model.state_dict()
    # Files from before torch 0.4.1, and many converted ones, do not count batches.
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in own]
    if missing or unexpected:
        facts = [f"lacks {_some(missing)}"] if missing else []
        facts += [f"has {_some(unexpected)}, which the model does not know{nearest(unexpected[0], missing)}"] if unexpected else []
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: it {' and '.join(facts)}")
    for key, value in given.items():
        if value.shape != own[key].shape:
            shapes = f"{tuple(value.shape)} in the file, {tuple(own[key].shape)} in the model"
            hint = f"give the model the options that it was trained with, as in {OPTIONS}"
            raise CheckpointError(f"{path} does not fit {type(model).__name__}: {key} is {shapes}; {hint}")
    model.load_state_dict(given, strict=False)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, also where it lies inside a training checkpoint."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        content: Any
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can fail in any way
        said = str(error).splitlines()[0] if str(error) else ""
        if said.startswith("Weights only load failed"):  # torch goes on with how to execute the file
            said = "it is damaged, or holds more than tensors, such as a whole pickled model, which is not executed"
        reason = said if " " in said else f"{type(error).__name__} {said}".strip()  # a KeyError says a number and nothing else
        raise CheckpointError(
            f"{path} cannot be read as weights ({reason}); give a .safetensors file, or a state dict written by torch.save"
        ) from error
    found = _state_dict(content)
    if found is None:
        held = f"the keys {_some([str(key) for key in content])}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise CheckpointError(f"{path} holds {held} and no state dict; looked for tensors by name, there and under {', '.join(_NESTS)}")
    return found


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, whole or not at all; a tied tensor stands there under each of its names."""
    half = path.with_name(path.name + ".tmp")
    try:
        safetensors.torch.save_file({name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}, half)
        os.replace(half, path)
    except (OSError, safetensors.SafetensorError) as error:
        half.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return dict(content)
    nested = (_state_dict(content[name]) for name in _NESTS if name in content)
    return next((found for found in nested if found is not None), None)


def _without_prefix(given: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Wrappers (DataParallel, torch.compile, a trainer's attribute) put `module.`, `_orig_mod.`, `model.` before every name."""
    own = {key.split(".")[0] for key in model.state_dict()}
    while given:
        first = {key.partition(".")[0] for key in given}
        if len(first) > 1 or first <= own or not all("." in key for key in given):
            break
        given = {key.partition(".")[2]: value for key, value in given.items()}
    return given


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
