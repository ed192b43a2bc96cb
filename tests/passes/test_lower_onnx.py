"""The pass `lower-onnx`: what it writes of pruned, masked and weight-shared networks, and that these go on unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import fxsparse
from fxsparse import PassError
from fxsparse.engines.onnx_parity import difference
from fxsparse.engines.onnxruntime import OnnxRuntime
from fxsparse.errors import LoweringError
from fxsparse.passes import Pipeline
from fxsparse.passes.lower_onnx import LowerOnnx
from fxsparse.passes.share_weights import ShareWeights
from tests.networks.randomise import randomise
from tests.passes.test_share_weights import Net


def made() -> fxsparse.Network:
    return fxsparse.trace(randomise(Net(depth=4)), torch.randn(2, 3, 6, 6))


def weights(path: Path) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def test_the_network_goes_on_unchanged_and_the_note_says_what_was_written(tmp_path: Path) -> None:
    network = made()
    result = LowerOnnx(path=str(tmp_path / "new" / "model.onnx"))(network)
    assert result.network is network and not result.modified
    assert f"{tmp_path / 'new' / 'model.onnx'} written: " in result.notes[0] and "outputs equal to" in result.notes[0]


def test_pruned_shared_and_masked_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    text = f"share-weights,prune{{macs=0.7}},mask{{sparsity=0.5}},lower-onnx{{path={path}}}"
    pipeline = Pipeline.parse(text)
    assert str(Pipeline.parse(str(pipeline))) == str(pipeline)
    small = pipeline(made()).network
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        assert difference(OnnxRuntime().open(path).run(x)[0], small.module.eval()(x)) < 1e-4
    found = weights(path)
    masked = sum(int((~mask).sum()) for mask in {id(m): m for m in small.masks.values()}.values())
    assert masked > 0
    assert sum(int((value == 0).sum()) for value in found.values() if value.ndim > 1) >= masked


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_shared_weights_are_one_initialiser_in_every_precision(tmp_path: Path, precision: str) -> None:
    options = f"precision={precision}"
    Pipeline.parse(f"lower-onnx{{path={tmp_path}/own.onnx,{options}}}")(made())
    network = ShareWeights()(made()).network
    Pipeline.parse(f"lower-onnx{{path={tmp_path}/shared.onnx,{options}}}")(network)
    own, shared = ([v for v in weights(tmp_path / f"{name}.onnx").values() if v.ndim == 4] for name in ("own", "shared"))
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(tmp_path / "shared.onnx").graph.node)
    assert convolutions == len(own) > len(shared)


def test_a_free_batch_and_an_opset(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    LowerOnnx(path=str(path), dynamic_batch=True, opset=20)(made())
    assert next(each.version for each in onnx.load(path).opset_import if not each.domain) == 20
    assert OnnxRuntime().open(path).run(torch.randn(5, 3, 6, 6))[0].shape == (5, 3)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(PassError, match=r"lower-onnx needs a path, as in lower-onnx\{path=model\.onnx\}"):
        LowerOnnx()(made())
    with pytest.raises(PassError, match="fp8"):
        Pipeline.parse("lower-onnx{path=x.onnx,precision=fp8}")
    with pytest.raises(LoweringError, match="is a folder"):
        LowerOnnx(path=str(tmp_path))(fxsparse.trace(nn.Linear(3, 2), torch.randn(1, 3)))
