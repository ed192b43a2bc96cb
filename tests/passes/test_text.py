"""Pipelines as text: reading and writing are inverses, and what is wrong is said with its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxsparse.errors import PassError
from fxsparse.passes import Pass
from fxsparse.passes.options import fit
from fxsparse.passes.text import Said, read_passes, value_text, written

numbers = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
plain = st.none() | st.booleans() | numbers | st.text(max_size=12)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8
)


@given(values)
def test_values_round_trip(value: Any) -> None:
    (said,) = read_passes(f"p{{x={value_text(value)}}}")
    assert said.options["x"] == value
    assert type(said.options["x"]) is type(value)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["prune", "fold-batch-norm", "a.b"]),
            st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), values, max_size=3),
        )
    )
)
def test_lists_of_passes_round_trip(passes: list[tuple[str, dict[str, Any]]]) -> None:
    text = ",".join(name + "{" + ",".join(f"{key}={value_text(value)}" for key, value in said.items()) + "}" for name, said in passes)
    assert read_passes(text) == [Said(name, options) for name, options in passes]


def test_what_people_write() -> None:
    said = read_passes(" prune{ latency=3.2ms , protect=[head*, layer4.*] }, regrow{units={conv1:[1,2]},init=zero} ,fold-batch-norm{}")
    assert said == [
        Said("prune", {"latency": "3.2ms", "protect": ["head*", "layer4.*"]}),
        Said("regrow", {"units": {"conv1": [1, 2]}, "init": "zero"}),
        Said("fold-batch-norm", {}),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prune{macs}", "position 10: = was expected"),
        ("prune{macs=0.5", "a comma or } was expected, not the end"),
        ("prune,", "a pass was expected, not the end"),
        ("prune fold", "a comma was expected, not 'fold'"),
        ("{macs=1}", "the name of a pass was expected"),
        ("prune{a=1,a=2}", "a of prune is given twice"),
        ('prune{a="x}', "a text in quotes that ends was expected"),
        ("prune{a=[1}", "a comma or ] was expected"),
        ("prune{a={b=1}}", ": was expected"),
        ("prune{a=}", "a value was expected"),
    ],
)
def test_wrong_texts(text: str, said: str) -> None:
    with pytest.raises(PassError, match=re.escape(said)):
        read_passes(text)


@dataclass(frozen=True)
class Typed(Pass):
    name: ClassVar[str] = "typed"
    ratio: float | None = None
    align: int | Literal["auto"] = 1
    protect: tuple[str, ...] = ()
    pair: tuple[int, int] = (2, 4)
    units: dict[str, tuple[int, ...]] | None = None


def test_options_become_what_they_are_declared_to_be() -> None:
    made = Typed(ratio=1, align="auto", protect=["a"], pair=[1, 4], units={"a": [1]})  # type: ignore[arg-type, dict-item]
    assert (made.ratio, made.align, made.protect, made.pair, made.units) == (1.0, "auto", ("a",), (1, 4), {"a": (1,)})
    assert type(made.ratio) is float
    assert written(made) == "typed{ratio=1.0,align=auto,protect=[a],pair=[1,4],units={a:[1]}}"
    assert str(Typed()) == "typed"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratio": "half"}, "typed: ratio is a number or none, not 'half'"),
        ({"ratio": True}, "typed: ratio is a number or none, not True"),
        ({"align": 1.5}, "typed: align is a whole number or 'auto', not 1.5"),
        ({"protect": "head"}, "typed: protect is a list of texts, not 'head'"),
        ({"pair": (1, 2, 3)}, "typed: pair is a list of whole numbers"),
        ({"units": {"a": 1}}, "typed: units is a table or none"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PassError) as caught:
        Typed(**options)
    assert said in str(caught.value)


def test_unions_prefer_the_type_that_a_value_has() -> None:
    assert type(fit(1, float | int)) is int
    assert type(fit(1.0, int | float)) is float
