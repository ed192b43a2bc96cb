"""The page of all passes says what the passes say of themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fxsparse.passes import Pipeline, pass_class
from fxsparse.passes.reference import section
from fxsparse.passes.registry import OURS

PAGE = Path(__file__).parents[2] / "docs" / "passes.md"
CHECKED = tuple(sorted(OURS))


@pytest.mark.parametrize("name", CHECKED)
def test_the_page_is_up_to_date(name: str) -> None:
    assert section(pass_class(name)) in PAGE.read_text(), "run: python -m fxsparse.passes.reference > docs/passes.md"


def test_examples_can_be_read() -> None:
    examples = re.findall(r"^Example: `(.*)`$", PAGE.read_text(), re.MULTILINE)
    assert len(examples) >= len(CHECKED)
    for example in examples:
        assert str(Pipeline.parse(example)) == str(Pipeline.parse(str(Pipeline.parse(example))))


def test_every_section_is_a_pass() -> None:
    for name in re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE):
        assert pass_class(name).name == name
