"""A shrunk network and everything that it remembers, as tensors and plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from fxsparse.errors import CheckpointError
from fxsparse.network import Network
from fxsparse.surgery.journal import Journal


def saved(network: Network) -> dict[str, Any]:
    """Which units live, the values of what is there, and the journal of what is not."""
    journal = network.journal
    return {
        "living": {name: list(units) for name, units in network.living.items()},
        "values": dict(network.module.state_dict()),
        "journal": {
            "tensors": dict(journal.tensors),
            "followers": {label: dict(tensors) for label, tensors in journal.followers.items()},
            "masks": dict(journal.masks),
            "init": journal.init,
        },
    }


def restored(network: Network, state: Mapping[str, Any]) -> Network:
    """The same network with the saved values, in its own module, and with the saved journal."""
    living = {name: tuple(units) for name, units in state["living"].items()}
    if living != dict(network.living):
        raise CheckpointError("the state is of another network, as other units live in it; trace the model that the run was begun with")
    with torch.no_grad():
        network.module.load_state_dict(state["values"])
    journal = state["journal"]
    tensors = {key: tensor.clone() for key, tensor in journal["tensors"].items()}
    followers = {label: {key: tensor.clone() for key, tensor in kept.items()} for label, kept in journal["followers"].items()}
    masks = {key: mask.clone() for key, mask in journal["masks"].items()}
    return replace(network, journal=Journal(tensors, followers, masks, journal["init"]))
