from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fxsparse.errors import CheckpointError
from fxsparse.models import load_weights, read_weights
from fxsparse.models.weights import write_weights


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


@pytest.fixture
def trained() -> dict[str, Tensor]:
    return {key: torch.randn_like(value) if value.is_floating_point() else value + 7 for key, value in network().state_dict().items()}


def same(model: nn.Module, expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"checkpoint": 1, "state_dict": {"module." + key: value for key, value in state.items()}},
        lambda state: {"_orig_mod.module." + key: value for key, value in state.items()},
    ],
    ids=["plain", "checkpoint", "model", "data-parallel", "compiled"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
def test_reads_what_training_scripts_write(
    wrap: Callable[[dict[str, Tensor]], dict[str, Any]], zipped: bool, trained: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(trained), tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    model = network()
    load_weights(model, tmp_path / "weights.pt")
    assert same(model, trained)


def test_reads_safetensors(trained: dict[str, Tensor], tmp_path: Path) -> None:
    safetensors.torch.save_file(trained, tmp_path / "weights.safetensors")
    model = network()
    load_weights(model, tmp_path / "weights.safetensors")
    assert same(model, trained)


def test_counts_of_batches_may_be_missing(trained: dict[str, Tensor], tmp_path: Path) -> None:
    del trained["1.num_batches_tracked"]
    torch.save(trained, tmp_path / "weights.pt")
    model = network()
    load_weights(model, tmp_path / "weights.pt")
    assert same(model, trained | {"1.num_batches_tracked": torch.tensor(0)})


def test_a_wrapping_model_keeps_its_names(trained: dict[str, Tensor], tmp_path: Path) -> None:
    """All its keys begin alike, and so do those of the file: nothing to strip."""
    model = nn.ModuleDict({"module": network()})
    torch.save({"module." + key: value for key, value in trained.items()}, tmp_path / "weights.pt")
    load_weights(model, tmp_path / "weights.pt")
    assert same(model["module"], trained)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("3.bias"), r"weights.pt does not fit Sequential: it lacks 3\.bias$"),
        (lambda s: s.update(extra=torch.zeros(1)), r"it has extra, which the model does not know$"),
        (lambda s: s.update({"3.biass": s.pop("3.bias")}), r"it lacks 3\.bias and has 3\.biass, .* know \(did you mean .3\.bias.\?\)$"),
        (
            lambda s: s.update({"3.weight": torch.zeros(5, 4)}),
            r"3\.weight is \(5, 4\) in the file, \(2, 4\) in the model; give the model the options",
        ),
    ],
    ids=["missing", "unexpected", "misspelt", "shape"],
)
def test_what_does_not_fit_changes_nothing(
    change: Callable[[dict[str, Tensor]], object], message: str, trained: dict[str, Tensor], tmp_path: Path
) -> None:
    change(trained)
    torch.save(trained, tmp_path / "weights.pt")
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, tmp_path / "weights.pt")
    assert same(model, before)


def test_many_names_are_cut_short(trained: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({f"encoder{number}.weight": torch.zeros(1) for number in range(6)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"encoder0\.weight, .*encoder3\.weight and 2 more"):
        load_weights(network(), tmp_path / "weights.pt")


class Hostile:
    """Saved, it asks the reader to make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_no_code_runs_from_a_file(tmp_path: Path) -> None:
    torch.save({"weight": Hostile(tmp_path / "made")}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"cannot be read as weights \(.*\); give a \.safetensors file, or a state dict"):
        read_weights(tmp_path / "weights.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_damaged_files_are_refused(name: str, trained: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(trained, path)
    else:
        torch.save(trained, path)
    whole = path.read_bytes()
    for length in (0, 1, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cannot be read as weights"):
            read_weights(path)


def test_what_holds_no_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="holds the keys epoch and no state dict"):
        read_weights(tmp_path / "weights.pt")
    torch.save([1, 2], tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="holds a list and no state dict"):
        read_weights(tmp_path / "weights.pt")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        read_weights(tmp_path / "nothing.pt")


def test_written_whole_or_not_at_all(trained: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path / "weights.safetensors", {**trained, "tied": trained["3.bias"], "turned": trained["3.weight"].t()})
    found = read_weights(tmp_path / "weights.safetensors")
    assert torch.equal(found["tied"], trained["3.bias"]) and torch.equal(found["turned"], trained["3.weight"].t())

    def full(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"begun")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match=r"weights.safetensors cannot be written: I/O error: No space left"):
        write_weights(tmp_path / "weights.safetensors", trained)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]
    assert read_weights(tmp_path / "weights.safetensors").keys() == found.keys()
