"""What fxsparse makes is of use where it is not installed: a process that cannot import it runs the ONNX file and the exported program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file

import fxsparse
from fxsparse.engines import export_onnx
from tests.training.small import network

# A finder in front of all others that knows no fxsparse, then the reader of the files.
ALONE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "fxsparse":
            raise ImportError("fxsparse is not installed here")

sys.meta_path.insert(0, Nothing())
"""
READERS = {
    "onnx": """
import numpy, onnxruntime
from safetensors.numpy import load_file
given = load_file("given.safetensors")
session = onnxruntime.InferenceSession("small.onnx", providers=["CPUExecutionProvider"])
(found,) = session.run(None, {session.get_inputs()[0].name: given["images"]})
assert numpy.allclose(found, given["scores"], atol=1e-5)
""",
    "exported program": """
import torch
from safetensors.torch import load_file
given = load_file("given.safetensors")
program = torch.export.load("small.pt2")
assert torch.allclose(program.module()(given["images"]), given["scores"], atol=1e-5)
""",
}
AFTERWARDS = 'assert "fxsparse" not in sys.modules\nprint("same scores")\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned network as ONNX and as an exported program with a free batch size, images of another batch size, and its scores."""
    folder = tmp_path_factory.mktemp("elsewhere")
    example = torch.randn(2, 3, 6, 6)
    small = fxsparse.passes.Prune(macs=0.5)(fxsparse.trace(network().eval(), example)).network
    export_onnx(small, folder / "small.onnx", dynamic_batch=True)
    free = {"input": {0: torch.export.Dim("batch")}}  # nn.Sequential.forward(self, input)
    torch.export.save(torch.export.export(small.module.eval(), (example,), dynamic_shapes=free), folder / "small.pt2")
    images = torch.randn(5, 3, 6, 6)
    with torch.no_grad():
        save_file({"images": images, "scores": small.module(images)}, folder / "given.safetensors")
    return folder


@pytest.mark.parametrize("kind", READERS)
def test_it_runs_where_fxsparse_is_not(kind: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ALONE + READERS[kind] + AFTERWARDS], cwd=folder, capture_output=True, text=True)
    assert done.stdout == "same scores\n", done.stderr


def test_the_process_could_not_have_imported_it(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ALONE + "import fxsparse.network"], cwd=folder, capture_output=True, text=True)
    assert "fxsparse is not installed here" in done.stderr


def test_the_file_names_layers_and_shapes_for_whoever_looks_at_it(folder: Path) -> None:
    """What Netron shows: inputs and weights by the model's own names, and the shape of every result."""
    graph = onnx.load(folder / "small.onnx").graph
    assert [each.name for each in graph.input] == ["input"]
    assert {"0.weight", "3.weight", "7.weight"} <= {each.name for each in graph.initializer}
    known = {each.name for each in (*graph.value_info, *graph.input, *graph.output)}
    assert {name for node in graph.node for name in node.output} <= known
