"""Saved folders: round trips, and whatever can be wrong with one."""

from __future__ import annotations

import json
import random
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

import fxsparse
from tests import cases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = fxsparse.trace(cases.Residual(), torch.randn(2, 3, 8, 8))
    fxsparse.save(network.shrink({"stem": [0, 2, 5]}), tmp_path / "out")
    return tmp_path / "out"


def test_two_plain_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["structure.json", "weights.safetensors"]
    assert json.loads((folder / "structure.json").read_text())["living"] == {"stem": [0, 2, 5]}


def test_a_loaded_network_regrows_fresh_but_not_from_a_journal_that_was_not_saved(folder: Path) -> None:
    again = fxsparse.load(folder, cases.Residual())
    with pytest.raises(fxsparse.PlanError, match="journal=True"):
        again.regrow()
    assert again.regrow(init="fresh").group("stem").units == tuple(range(8))


def test_another_model_is_refused(folder: Path) -> None:
    class Other(cases.Residual):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 5)

    with pytest.raises(fxsparse.CheckpointError, match="another model"):
        fxsparse.load(folder, Other())
    with pytest.raises(fxsparse.CheckpointError, match=r"Linear does not run on the example inputs of .*, which may be of another model"):
        fxsparse.load(folder, nn.Linear(7, 3))


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(fxsparse.CheckpointError, match=r"weights\.safetensors is not there"):
        fxsparse.load(folder, cases.Residual())
    with pytest.raises(fxsparse.CheckpointError, match=r"structure\.json is not there"):
        fxsparse.load(folder / "nowhere", cases.Residual())


@pytest.mark.parametrize("name", ["structure.json", "weights.safetensors"])
def test_damage_is_a_checkpoint_error_and_nothing_else(folder: Path, name: str) -> None:
    """Bytes flipped, cut off, inserted: an error of ours, or (where the damage hit a number) a network that still runs."""
    whole = (folder / name).read_bytes()
    chance = random.Random(0)
    refused = 0
    for trial in range(60):
        damaged = bytearray(whole)
        kind = trial % 3
        if kind == 0:
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(min(len(damaged), 600))] = chance.randrange(256)
        elif kind == 1:
            del damaged[chance.randrange(len(damaged)) :]
        else:
            position = chance.randrange(min(len(damaged), 600))
            damaged[position:position] = chance.randbytes(5)
        (folder / name).write_bytes(bytes(damaged))
        try:
            fxsparse.load(folder, cases.Residual())(torch.randn(2, 3, 8, 8))
        except fxsparse.Error:
            refused += 1
    assert refused > 30


HOSTILE = [
    '{"format": "fxsparse/1"}',
    "[]",
    "null",
    "[" * 100_000,
    '{"format": "fxsparse/2"}',
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_structure(folder: Path, text: str) -> None:
    (folder / "structure.json").write_text(text)
    with pytest.raises(fxsparse.CheckpointError, match=r"structure\.json"):
        fxsparse.load(folder, cases.Residual())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("living", {"stem": [0, 99]}, "no living unit 99"),
        ("living", {"stem": [1e300]}, "whole numbers"),
        ("living", {"nothing": [0]}, "no group 'nothing'"),
        ("inputs", {"tuple": [{"__import__": "os"}]}, "inputs"),
        ("inputs", {"tuple": [{"tensor": [-1], "dtype": "float32"}]}, "inputs"),
        ("fingerprint", "0" * 64, "another model"),
        ("provenance", [1], "provenance"),
        ("journal", "yes", "journal"),
    ],
)
def test_fields_are_checked(folder: Path, field: str, value: object, message: str) -> None:
    said = json.loads((folder / "structure.json").read_text())
    (folder / "structure.json").write_text(json.dumps({**said, field: value}))
    with pytest.raises(fxsparse.CheckpointError, match=message):
        fxsparse.load(folder, cases.Residual())


def test_half_precision_and_models_of_another_dtype(tmp_path: Path) -> None:
    network = fxsparse.trace(cases.Residual().half(), torch.randn(2, 3, 8, 8).half())
    fxsparse.save(network.shrink({"stem": [0, 2, 5]}), tmp_path)
    again = fxsparse.load(tmp_path, cases.Residual().half())
    assert {parameter.dtype for parameter in again.module.parameters()} == {torch.float16}
    with pytest.raises(fxsparse.CheckpointError, match=r"saved in torch.float16, and this Residual is torch.float32 \(see 'a\.bias'\)"):
        fxsparse.load(tmp_path, cases.Residual())


def test_parts_that_were_set_to_eval_mode_stay_so(folder: Path) -> None:
    model = cases.Residual()
    model.a.eval()
    again = fxsparse.load(folder, model)
    assert again.module.training and not again.module.get_submodule("a").training


def test_a_network_without_values_is_not_saved(tmp_path: Path) -> None:
    network = fxsparse.trace(cases.Residual().to("meta"), torch.randn(2, 3, 8, 8))
    with pytest.raises(fxsparse.CheckpointError, match=r"'stem\.weight' is on the meta device"):
        fxsparse.save(network.shrink({"stem": [0, 2, 5]}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Extra(nn.Linear):
    """Its state dict has more than tensors in it."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def test_what_is_no_tensor_is_not_saved(tmp_path: Path) -> None:
    network = fxsparse.trace(nn.Sequential(Extra(3, 8), nn.Linear(8, 2)).eval(), torch.randn(2, 3), check=True)
    small = network.shrink({"0": [1, 5]})
    assert small.kept["0.weight"][0] == [1, 5]
    assert "0._extra_state" not in dict(small.kept)
    with pytest.raises(fxsparse.CheckpointError, match=r"'0._extra_state' in the state dict is a dict"):
        fxsparse.save(small, tmp_path)


def test_numbers_that_are_none_stay(tmp_path: Path) -> None:
    model = cases.Residual()
    with torch.no_grad():
        model.stem.weight[2] = float("nan")
        model.a.weight[1] = float("inf")
    network = fxsparse.trace(model, torch.randn(2, 3, 8, 8))
    small = network.shrink({"stem": [0, 2, 5]})
    fxsparse.save(small, tmp_path, journal=True)
    for back in (small.regrow(), fxsparse.load(tmp_path, cases.Residual()).regrow()):
        for key, tensor in back.module.state_dict().items():
            assert torch.equal(tensor.nan_to_num(9.0), model.state_dict()[key].nan_to_num(9.0))


def test_a_save_that_finds_no_room_leaves_the_old_files(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    network = fxsparse.trace(cases.Residual().eval(), torch.randn(2, 3, 8, 8))
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, room[1]))  # no file may be longer
    try:
        with pytest.raises(fxsparse.CheckpointError, match=r"cannot be written: .* what was in it is as it was"):
            fxsparse.save(network, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_interrupted_save_leaves_the_old_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fxsparse.saving.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        fxsparse.save(fxsparse.trace(cases.Residual(), torch.randn(2, 3, 8, 8)), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
