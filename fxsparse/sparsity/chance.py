"""Random numbers that depend on what they are for, and on nothing that was drawn before: nothing of them needs to be saved or sent."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """A seed for the thing that the parts name, the same on every machine."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest())


def generator(*parts: int | str) -> torch.Generator:
    """A generator on the CPU for the thing that the parts name."""
    return torch.Generator().manual_seed(seed_of(*parts))
