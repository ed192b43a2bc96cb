"""The recipes for other people's training scripts: built in the same way, with the very lines that the pages show."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fxsparse
from fxsparse.models import build
from tests.documentation import ROOT, blocks

PACKAGES = {"torchvision": "torchvision", "timm": "timm"}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "torchvision": ("resnet18", {}),
    "timm": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}),
}


def script(library: str) -> Any:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'fxsparse[zoo]'")
    return importlib.import_module(f"tests.recipes.{library}_train")


def arguments(library: str, **given: Any) -> SimpleNamespace:
    model, options = MODELS[library]
    usual = {"model": model, "model_kwargs": options, "small": None, "sparse": False, "amp": False, "model_ema": False, "resume": ""}
    return SimpleNamespace(**{**usual, "clip_grad_norm": None, "layer_decay": None, "epochs": 3, "until": 3, **given})


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(library: str) -> fxsparse.Network:
    """A pruned network in small/, as `fxsparse prune` leaves it."""
    name, options = MODELS[library]
    loaded = build(f"{library}:{name}", shape=(1, 3, 32, 32), num_classes=4, **options)
    small = fxsparse.passes.Prune(macs=0.5)(fxsparse.trace(loaded.model, loaded.inputs)).network
    fxsparse.save(small, "small/")
    return small


def zeros_hold(module: nn.Module, sparsifier: Any) -> bool:
    parameters = dict(module.named_parameters())
    return all(not parameters[name].detach()[~mask].any() for name, mask in sparsifier.masks.items())


@pytest.mark.parametrize("library", PACKAGES)
def test_the_page_shows_lines_of_the_script(library: str) -> None:
    script(library)
    source = (ROOT / "tests" / "recipes" / f"{library}_train.py").read_text(encoding="utf-8")
    lines = {line.strip().rstrip(",") for line in source.splitlines()} | {"import fxsparse"}
    lines |= {line.replace(" if sparsifier is not None else None,", ",").rstrip(",") for line in lines}
    shown = [block for block in blocks(ROOT / "docs" / "how-to" / f"{library}-script.md") if block.language == "diff"]
    added = [line[1:].strip().rstrip(",") for block in shown for line in block.text.splitlines() if line.startswith("+")]
    assert len(added) >= 6
    short = {line.replace(" if sparsifier is not None else None", "") for line in lines}
    assert not [line for line in added if line not in lines | short]


@pytest.mark.parametrize("library", PACKAGES)
@pytest.mark.parametrize("amp", [False, True])
def test_a_pruned_network_is_fine_tuned(library: str, amp: bool) -> None:
    main = script(library).main
    small = saved(library)
    before = [p.detach().clone() for p in small.module.parameters()]
    model, average, _ = main(arguments(library, small="small/", amp=amp, model_ema=True, clip_grad_norm=1.0, layer_decay=0.7))
    after = list(model.parameters())
    assert [p.shape for p in after] == [p.shape for p in before]
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert [p.shape for p in average.module.parameters()] == [p.shape for p in before]
    assert all(torch.isfinite(p).all() for p in after)


@pytest.mark.parametrize("library", PACKAGES)
def test_a_sparse_run_and_its_average_keep_their_zeros(library: str) -> None:
    model, average, sparsifier = script(library).main(arguments(library, sparse=True, model_ema=True, clip_grad_norm=1.0, amp=True))
    assert sparsifier.steps_done == 9
    assert sparsifier.density == pytest.approx(0.1, abs=1e-3)
    assert zeros_hold(model, sparsifier)
    assert zeros_hold(average.module, sparsifier)


@pytest.mark.parametrize("library", PACKAGES)
def test_a_sparse_run_goes_on(library: str) -> None:
    main = script(library).main
    torch.manual_seed(1)
    whole, _, first = main(arguments(library, sparse=True))
    torch.manual_seed(1)
    main(arguments(library, sparse=True, until=2))
    checkpoint = {"torchvision": "checkpoint.pth", "timm": "./last.pth.tar"}[library]
    torch.manual_seed(2)
    rest, _, second = main(arguments(library, sparse=True, resume=checkpoint))
    assert second.steps_done == 9
    assert all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))
