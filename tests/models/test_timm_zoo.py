from __future__ import annotations

import importlib.util
import re

import pytest
import torch

from fxsparse.models import import_timm, timm_family_models
from fxsparse.models.timm_families import FAMILIES

pytestmark = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


def test_every_family_has_its_network() -> None:
    timm = import_timm()
    families = [family for family in timm.list_modules() if timm.list_models(module=family)]
    assert [row.family for row in timm_family_models()] == sorted(set(families) & set(FAMILIES))
    header = importlib.import_module("fxsparse.models.timm_families").__doc__ or ""
    if timm.__version__ in header:  # an older or newer timm has other families
        assert sorted(families) == sorted(FAMILIES)


@pytest.mark.parametrize("family", ["beit", "convnext", "levit"])
def test_parameters_are_as_many_as_the_table_says(family: str) -> None:
    (row,) = (row for row in timm_family_models() if row.family == family)
    assert re.fullmatch(r"timm:\w+", row.spec)
    with torch.device("meta"):
        model = import_timm().create_model(row.name, **row.options)
    assert sum(parameter.numel() for parameter in model.parameters()) == row.parameters


def test_the_networks_are_small() -> None:
    assert sum(row.parameters > 60_000_000 for row in timm_family_models()) <= 4


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")  # timm's remarks on names that it has replaced
def test_the_table_is_what_the_survey_finds() -> None:
    survey = importlib.import_module("fxsparse.models.timm_survey")
    assert {family: (row.name, row.parameters, dict(row.options)) for family, row in survey.survey().items()} == FAMILIES
