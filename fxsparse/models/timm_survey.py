"""One small network for each of timm's families (the files of `timm.models`), found by counting parameters.

    $ python -m fxsparse.models.timm_survey

instantiates all of timm's networks on the meta device (a few minutes, no memory) and writes `timm_families.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fxsparse.models.timm_zoo import FamilyModel
from fxsparse.models.torchvision_shim import import_timm

_LARGE = 60_000_000  # parameters; a family whose smallest network is larger is made of fewer blocks, where it has such an option
_FEWER_BLOCKS = {"depth": 2}


def survey() -> dict[str, FamilyModel]:
    """The table, computed anew."""
    timm = import_timm()
    smallest: dict[str, FamilyModel] = {}
    for family in timm.list_modules():
        models = [FamilyModel(family, name, _parameters(name)) for name in timm.list_models(module=family)]
        if models:
            smallest[family] = min(models, key=lambda model: (model.parameters, model.name))
    return {family: _fewer_blocks(model) for family, model in sorted(smallest.items())}


def _fewer_blocks(model: FamilyModel) -> FamilyModel:
    if model.parameters <= _LARGE:
        return model
    try:
        return FamilyModel(model.family, model.name, _parameters(model.name, **_FEWER_BLOCKS), _FEWER_BLOCKS)
    except TypeError:  # it has no such option
        return model


def _parameters(name: str, **options: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in import_timm().create_model(name, pretrained=False, **options).parameters())


def _table(models: Mapping[str, FamilyModel]) -> str:
    version = import_timm().__version__
    rows = (f'    "{family}": ("{model.name}", {model.parameters:_}, {dict(model.options)}),' for family, model in models.items())
    return "\n".join(
        [
            f'"""The smallest network of each family of timm {version}: name, parameters, options. Written by timm_survey.py."""',
            "",
            "from __future__ import annotations",
            "",
            "from typing import Any",
            "",
            "FAMILIES: dict[str, tuple[str, int, dict[str, Any]]] = {",
            *rows,
            "}",
            "",
        ]
    ).replace("'", '"')


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm's remarks on names that it has replaced
        Path(__file__).with_name("timm_families.py").write_text(_table(survey()), encoding="utf-8")
