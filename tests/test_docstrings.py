"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import fxsparse

PACKAGE = Path(fxsparse.__file__).parent


def modules_with_examples() -> list[str]:
    files = [path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")]
    return sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = doctest.testmod(importlib.import_module(name), extraglobs={"fxsparse": fxsparse, "torch": torch})
    assert result.attempted
    assert not result.failed, capsys.readouterr().out


def test_there_are_examples() -> None:
    assert "fxsparse.models.dyrelu" in modules_with_examples()
