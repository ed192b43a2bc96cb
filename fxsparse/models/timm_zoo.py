"""timm's families, one small network each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fxsparse.models.timm_families import FAMILIES
from fxsparse.models.torchvision_shim import import_timm


@dataclass(frozen=True)
class FamilyModel:
    """The smallest network of a family, and the options that make it small."""

    family: str
    name: str
    parameters: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        return f"timm:{self.name}"


def timm_family_models() -> tuple[FamilyModel, ...]:
    """One small network per family, in alphabetical order; those that the installed timm does not have are left out."""
    timm = import_timm()
    rows = (FamilyModel(family, *row) for family, row in FAMILIES.items())
    return tuple(row for row in rows if timm.is_model(row.name))
