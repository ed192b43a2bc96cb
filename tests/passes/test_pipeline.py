"""The machinery of passes: what a pass promises is checked, pipelines are passes, and everything leaves its trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import fxsparse
from fxsparse.errors import CheckpointError, PassError
from fxsparse.network import Network
from fxsparse.passes import Context, Pass, PassResult, Pipeline, PrintBetween, Timing, VerifyEach, registry
from fxsparse.surgery.graphs import graphs


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(torch.relu(self.norm(self.first(x))))
        return out


def network() -> Network:
    return fxsparse.trace(Small().eval(), torch.randn(2, 3, 9, 9))


@dataclass(frozen=True)
class DropFirst(Pass):
    """Remove the first units of a group."""

    name: ClassVar[str] = "drop-first"
    group: str = "first"
    count: int = 1

    def run(self, network: Network, context: Context) -> PassResult:
        units = network.group(self.group).units
        return PassResult(network.shrink({self.group: units[self.count :]}), True, (f"{self.count} units of {self.group} went",))


@dataclass(frozen=True)
class Swish(Pass):
    """Replace ReLU by Hardswish."""

    name: ClassVar[str] = "swish"

    def run(self, network: Network, context: Context) -> PassResult:
        def edit(module: nn.Module) -> None:
            for place in graphs(module):
                for node in [n for n in place.graph.nodes if n.target is torch.relu]:
                    node.target = nn.functional.hardswish

        return PassResult(network.edited(edit, str(self)), True)


@dataclass(frozen=True)
class Liar(Pass):
    """Does not do what it says."""

    name: ClassVar[str] = "liar"
    how: str = "writes"

    def run(self, network: Network, context: Context) -> PassResult:
        if self.how == "writes":
            with torch.no_grad():
                network.module.get_parameter("first.weight").mul_(2)
        return PassResult(network, self.how == "claims")


class _Point(EntryPoint):
    def load(self) -> type[Pass]:
        return {"drop-first": DropFirst, "swish": Swish, "liar": Liar, "misnamed": Liar}[self.name]


@pytest.fixture(autouse=True)
def brought_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [_Point(name, "others:x", "fxsparse.passes") for name in ("drop-first", "swish", "liar", "misnamed")]
    monkeypatch.setattr(registry, "entry_points", lambda group, name=None: [p for p in points if name in (None, p.name)])


def test_a_pipeline_is_a_pass_and_a_text() -> None:
    text = "drop-first{count=2},swish,drop-first"
    pipeline = Pipeline.parse(text)
    assert pipeline.passes == (DropFirst(count=2), Swish(), DropFirst())
    assert str(pipeline) == text
    assert str(Pipeline((pipeline, Swish()))) == text + ",swish"
    result = pipeline(network())
    assert result.modified
    assert result.notes == ("drop-first: 2 units of first went", "drop-first: 1 units of first went")
    assert result.network.group("first").units == (3, 4, 5, 6, 7)
    assert [line.split(" (")[0] for line in result.network.provenance] == ["drop-first{count=2}", "swish", "drop-first"]
    assert result.network.edits == ("swish",)


def test_an_edit_keeps_what_was_pruned_and_remembers_what_went() -> None:
    dense = network()
    small = dense.shrink({"first": [1, 4, 5]})
    swished = Swish()(small).network
    assert swished.group("first").units == (1, 4, 5)
    x = torch.randn(2, 3, 9, 9)
    module = small.module
    expected = module.second(nn.functional.hardswish(module.norm(module.first(x))))  # type: ignore[operator]
    torch.testing.assert_close(swished(x), expected)
    back = swished.regrow()
    assert torch.equal(back.module.get_parameter("first.weight"), dense.module.get_parameter("first.weight"))
    fxsparse.verify(back, swished)


def test_edits_and_widths_are_saved_together(tmp_path: Path) -> None:
    made = Pipeline.parse("drop-first{count=3},swish")(network()).network
    fxsparse.save(made, tmp_path)
    again = fxsparse.load(tmp_path, Small())
    x = torch.randn(1, 3, 9, 9)
    assert torch.equal(again.module.eval()(x), made(x))
    assert (again.edits, again.provenance, again.living) == (made.edits, made.provenance, made.living)
    with pytest.raises(CheckpointError, match=r"its edits do not repeat|another model|does not work"):
        fxsparse.load(tmp_path, nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_masks_follow_the_widths_and_are_saved(tmp_path: Path) -> None:
    dense = network()
    mask = torch.rand(5, 8, 3, 3) > 0.5
    masked = replace(dense, masks={"second.weight": mask})
    small = masked.shrink({"first": [0, 2, 7]})
    assert torch.equal(small.masks["second.weight"], mask[:, [0, 2, 7]])
    assert torch.equal(small.regrow().masks["second.weight"], mask)
    assert small.regrow({"first": [1]}, init="zero").masks["second.weight"][:, 1].all()
    fxsparse.save(small, tmp_path)
    assert torch.equal(fxsparse.load(tmp_path, Small()).masks["second.weight"], small.masks["second.weight"])
    assert torch.equal(Swish()(small).network.masks["second.weight"], small.masks["second.weight"])


@pytest.mark.parametrize(
    ("how", "said"), [("writes", "leaves its input alone, and changed it"), ("claims", "changed something, and returned its input")]
)
def test_a_pass_that_does_not_keep_its_word_is_caught(how: str, said: str) -> None:
    with pytest.raises(PassError, match=said):
        Liar(how=how)(network())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drop-frist", "there is no pass 'drop-frist' (did you mean 'drop-first'"),
        ("drop-first{cuont=1}", "drop-first has no option 'cuont' (did you mean 'count'"),
        ("swish{x=1}", "swish has no option 'x'; it has none"),
        ("misnamed", "is no Pass with the name 'misnamed'"),
        ("drop-first{count=one}", "count is a whole number, not 'one'"),
    ],
)
def test_wrong_names_get_the_nearest_ones(text: str, said: str) -> None:
    with pytest.raises(PassError) as caught:
        Pipeline.parse(text)
    assert said in str(caught.value)


def test_a_pass_wants_a_network() -> None:
    with pytest.raises(PassError, match="works on a Network, not on a Small"):
        Swish()(Small())  # type: ignore[arg-type]


def test_watchers_print_time_and_prove() -> None:
    lines: list[str] = []
    timing, prove = Timing(), VerifyEach()
    Pipeline.parse("drop-first,swish")(network(), watchers=(PrintBetween(lines.append), timing, prove))
    assert lines[0].startswith("drop-first: ") and lines[1] == "  1 units of first went"
    assert [name for name, _ in timing.seconds] == ["drop-first", "swish"]
    assert [name for name, _ in prove.proofs] == ["drop-first", "swish"], "after an edit, against the edited network with all its units"
    lines.clear()
    Pipeline.parse("swish,drop-first")(network(), watchers=(Timing(write=lines.append), VerifyEach(write=lines.append)))
    assert [line.partition(": ")[0] for line in lines] == ["swish", "swish", "drop-first", "drop-first"]
    assert lines[1] == "swish: no width has changed, nothing to prove" and lines[3].startswith("drop-first: equal to ")
