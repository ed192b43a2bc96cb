from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxsparse.errors import CheckpointError, Error
from fxsparse.models import build, build_alone, list_models, quantized_models
from fxsparse.models.specs import Spec

needs_zoo = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torchvision", "timm")), reason="torchvision or timm is not installed"
)

FACTORIES = """
from torch import nn, zeros

def plain(width=4):
    return nn.Linear(3, width)

def with_inputs():
    return nn.Linear(3, 4), (zeros(5, 3),)

def with_attribute():
    model = nn.Linear(3, 4)
    model.example_inputs = zeros(6, 3)
    return model

class Scaled(nn.Module):
    def forward(self, x, *, factor):
        return x * factor

def with_keywords():
    return Scaled(), (zeros(5, 3) + 1,), {"factor": 2}

def with_keyword_pairs():
    return Scaled(), (zeros(5, 3),), [("factor", 2)]

def with_list():
    return nn.Linear(3, 4), [zeros(5, 3)]

def nothing():
    return "a model"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A current folder with a module of factories, whose name no other test uses."""
    monkeypatch.chdir(tmp_path)
    name = f"factories_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    return name


@needs_zoo
@pytest.mark.parametrize("spec", ["torchvision:mobilenet_v3_small", "timm:test_vit", "fxsparse:resnet20"])
def test_builds_a_model_that_takes_its_inputs(spec: str) -> None:
    loaded = build(spec)
    assert loaded.spec == spec
    assert not loaded.model.training
    with torch.no_grad():
        assert loaded.model(*loaded.inputs).shape[0] == 2


def test_options_reach_the_constructor() -> None:
    assert build("fxsparse:resnet20", num_classes=7).model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_unknown_options_are_named() -> None:
    with pytest.raises(Error, match=r"fxsparse:resnet20 could not be built with widht=3: .*widht"):
        build("fxsparse:resnet20", widht=3)


def test_the_seed_alone_decides_on_random_weights() -> None:
    state = torch.get_rng_state()
    first, again, other = (build("fxsparse:resnet20", seed=seed).model.get_parameter("linear.weight") for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@needs_zoo
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn", "googlenet"])
def test_nothing_is_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    assert build(f"torchvision:{name}").inputs


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    trained = build("fxsparse:resnet20", seed=3).model
    torch.save({"state_dict": {"module." + key: value for key, value in trained.state_dict().items()}}, tmp_path / "w.pt")
    loaded = build("fxsparse:resnet20", tmp_path / "w.pt")
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in loaded.model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"does not fit CifarResNet: it lacks layer1\.3"):
        build("fxsparse:resnet32", tmp_path / "w.pt")


def test_factories(here: str) -> None:
    assert build(f"{here}:with_inputs").inputs[0].shape == (5, 3)
    assert build(f"{here}:with_attribute").inputs[0].shape == (6, 3)
    loaded = build(f"{here}:with_keywords")
    assert (loaded.model(*loaded.inputs, **loaded.kwargs) == 2).all()
    loaded = build(f"{here}:plain", shape=(2, 3), width=9)
    assert not loaded.kwargs
    assert loaded.model(*loaded.inputs).shape == (2, 9)
    assert str(Path.cwd()) not in sys.path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plain", r"nothing says what .*:plain takes; return \(model, inputs\)"),
        ("with_list", "gave inputs of type list; give a tensor, or a tuple"),
        ("with_keyword_pairs", "gave keyword arguments of type list; give a dict by name"),
        ("nothing", r"returned a str; return a torch\.nn\.Module"),
        ("plian", r"has no factory 'plian'.*did you mean .*:plain.\?"),
    ],
)
def test_factories_that_do_not_do(here: str, name: str, message: str) -> None:
    with pytest.raises(Error, match=message):
        build(f"{here}:{name}")


def test_modules_that_are_not_there(here: str) -> None:
    with pytest.raises(Error, match=r"nowhere:net: nowhere cannot be imported from .*No module named 'nowhere'"):
        build("nowhere:net")


@needs_zoo
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", r"'resnet50' \(did you mean 'torchvision:resnet50'\?\) does not name a model; write"),
        ("torchvision:", "'torchvision:' does not name a model"),
        ("torchvision:resnet51", r"torchvision has no model 'resnet51'.*did you mean .*torchvision:resnet50"),
        ("timm:vit_tiny_patch16_225", r"timm has no model 'vit_tiny_patch16_225'.*did you mean .*timm:vit_tiny_patch16_224"),
        ("fxsparse:resnet21", r"fxsparse has no model 'resnet21'.*did you mean .*fxsparse:resnet20"),
        ("torchvision:quantized_resnet18", "packed int8 .*; take torchvision:resnet18 and quantize the result"),
    ],
)
def test_names_that_name_nothing(spec: str, message: str) -> None:
    with pytest.raises(Error, match=message):
        build(spec)


@needs_zoo
def test_lists() -> None:
    torchvision = list_models("torchvision")
    assert "torchvision:resnet50" in torchvision
    assert not [spec for spec in torchvision if "quantized" in spec]
    assert "quantized_mobilenet_v2" in quantized_models()
    assert "timm:vit_tiny_patch16_224" in list_models("timm")
    with pytest.raises(Error, match="there is no list of the models of 'hub'; the lists are torchvision, timm, fxsparse"):
        list_models("hub")


@needs_zoo
def test_a_tag_of_weights_is_part_of_a_timm_name() -> None:
    assert str(Spec.parse("timm:resnet50.a1_in1k")) == "timm:resnet50.a1_in1k"


def test_options_stand_behind_a_name() -> None:
    assert Spec.parse("fxsparse:resnet20{num_classes = 7}").options == {"num_classes": 7}
    assert build('fxsparse:resnet20{num_classes=7, shortcut="B"}').model.get_parameter("linear.weight").shape == (7, 64)
    assert build_alone("fxsparse:resnet20{num_classes=7}", num_classes=5).get_parameter("linear.weight").shape == (5, 64)
    for spec, message in (
        ("fxsparse:resnet20{num_classes}", "are no table"),
        ("fxsparse:resnet20{num_classes=7", "are no table"),
        ("fxsparse:resnet20{weights='DEFAULT'}", "cannot hold 'weights', as nothing is downloaded"),
        ("fxsparse:resnet20{num_classes=-1}", "could not be built with num_classes=-1"),
    ):
        with pytest.raises(Error, match=message):
            build(spec)


def test_alone_a_model_needs_no_inputs(here: str) -> None:
    assert isinstance(build_alone(f"{here}:plain"), nn.Module)
