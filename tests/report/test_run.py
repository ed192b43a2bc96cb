"""report.json: what is written is what is read, and what is damaged is said in a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fxsparse
from fxsparse.errors import CheckpointError
from fxsparse.report import Run, read_run, run_of, write_run
from fxsparse.report.describe import densities_of, group_lines, layer_lines
from fxsparse.report.run import finite
from tests.report.examples import networks, pruned


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    run = replace(pruned(), epochs=({"epoch": 1, "loss": 0.5},), proofs=("equal",), environment={"torch": "2"})
    write_run(run, tmp_path / "report.json")
    assert read_run(tmp_path / "report.json") == run


def test_what_a_run_knows_of_its_network() -> None:
    before, after = networks()
    run = run_of("small", after, before)
    assert run.before == {"macs": before.macs, "parameters": before.parameter_count}
    assert run.measures == {"macs": after.macs, "parameters": after.parameter_count}
    widths = {group.name: (group.before, group.after) for group in run.groups}
    assert widths["inner"] == (24, len(after.living["inner"])) and any(group.changed for group in run.groups)
    layers = {layer.name: layer for layer in run.layers}
    assert layers["inner"].kind == "Conv2d" and layers["inner"].before == (24, 16, 3, 3)
    assert layers["inner"].after == tuple(after.module.get_parameter("inner.weight").shape)
    assert sum(layer.parameters_after for layer in run.layers) == after.parameter_count
    assert not any("works along k" in group.reason for group in run.groups)


def test_widths_are_those_since_the_network_that_is_named() -> None:
    before, after = networks()
    assert group_lines(after) == group_lines(after, before)
    grown = after.regrow()
    assert {group.name: (group.before, group.after) for group in group_lines(grown, after)}["inner"] == (len(after.living["inner"]), 24)


def test_layers_that_a_pass_took_away_have_no_shape_left() -> None:
    before, _ = networks()
    folded = fxsparse.Pipeline.parse("fold-batch-norm")(before).network
    lines = {layer.name: layer for layer in layer_lines(folded, before)}
    assert lines["norm"].before == (16,) and lines["norm"].parameters_after < lines["norm"].parameters_before


def test_densities_are_told_of_sparse_networks_alone() -> None:
    before, _ = networks()
    assert densities_of(before.module.state_dict().items()) == ()
    assert densities_of([("a", torch.tensor([[0.0] + [1.0] * 199]))]) == (), "a weight may happen to be zero"
    sparse = fxsparse.Pipeline.parse("mask{sparsity=0.5}")(before).network
    run = run_of("sparse", sparse)
    assert 0 < run.measures["nonzeros"] < run.measures["parameters"]
    assert any(line.nonzeros < line.weights for line in run.densities)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no fxsparse-report/1 file"),
        ({"name": 3}, "name should be a text"),
        ({"measures": {"macs": "many"}}, "measures['macs'] should be a number"),
        ({"measures": {"macs": True}}, "measures['macs'] should be a number"),
        ({"groups": {}}, "groups should be a list"),
        ({"groups": [{"name": "x"}]}, "groups[0] is incomplete"),
        ({"layers": [{"name": "x", "strange": 1}]}, "layers[0] should be a table with"),
        ({"groups": [3]}, "groups[0] should be a table with"),
        ({"strange": 1}, "should be a table with"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "report.json").write_text(json.dumps({**pruned().to_dict(), **change}))
    with pytest.raises(CheckpointError, match=r"report\.json") as caught:
        read_run(tmp_path / "report.json")
    assert message in str(caught.value)


def test_no_number_that_json_lacks() -> None:
    run = replace(Run("x"), measures={"accuracy": float("nan"), "macs": 1.0}, epochs=({"loss": float("inf")},))
    said = run.to_dict()
    assert said["measures"] == {"accuracy": None, "macs": 1.0} and said["epochs"] == [{"loss": None}]
    assert finite((float("-inf"), {1: 2.0})) == [None, {"1": 2.0}]
