"""torch's own samples as an oracle: each operator of torch's test database, alone in a network, with half of each group removed.

    python -m tests.operators --results benchmarks/results/operators.json      # some minutes on one thread

Operands are raw parameters, and the results are contracted with others, so that every axis that the rules let go may go. The proof, in
float64, runs the operator's own kernel. `refused` are one-sentence errors: nothing is wrong, and nothing was pruned.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_leaves, tree_map

import fxsparse

HELD, NOTHING, UNUSABLE, REFUSED, FAILED = "held", "nothing may go", "unusable", "refused", "failed"
SECONDS = 20  # for one sample


class Alone(nn.Module):
    """An operator on parameters, and a full contraction of what it gives."""

    def __init__(self, operator: Any, sample: Any) -> None:
        super().__init__()
        self.operator, self.operands = operator, nn.ParameterDict()
        self.given = tree_map(self._kept, (sample.input, sample.args, sample.kwargs))
        with torch.no_grad():
            shapes = [leaf.shape for leaf in self._results(torch.ones(1))]
        self.readers = nn.ParameterList([torch.randn(shape) for shape in shapes])

    def _kept(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        name = f"operand{len(self.operands) + len(list(self.buffers()))}"
        if value.is_floating_point() and value.dim() and value.numel():
            self.operands[name] = nn.Parameter(value.detach().clone().contiguous())
        else:
            self.register_buffer(name, value.detach().clone())
        return _Name(name)

    def _results(self, x: Tensor) -> list[Tensor]:
        def operand(value: Any) -> Any:
            if not isinstance(value, _Name):
                return value
            return self.operands[value.key] * x if value.key in self.operands else self.get_buffer(value.key).clone()

        given, args, kwargs = tree_map(operand, self.given)
        leaves = [leaf for leaf in tree_leaves(self.operator(given, *args, **kwargs)) if isinstance(leaf, Tensor)]
        return [leaf for leaf in leaves if leaf.dtype == torch.float32 and leaf.dim() and leaf.numel()]

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(1)
        for result, reader in zip(self._results(x), self.readers, strict=True):
            axes = list(range(result.dim()))
            total = total + torch.einsum(result, axes, reader, axes, [])
        return total * x


class _Name:
    """Stands for a tensor of the module."""

    def __init__(self, key: str) -> None:
        self.key = key


def checked(operator: Any, sample: Any) -> tuple[str, str]:
    """What became of one sample, and why."""
    torch.manual_seed(0)
    try:
        model = Alone(operator, sample).eval()
        model(torch.ones(1))
    except Exception as error:  # torch's own: not for parameters, or not on this machine
        return UNUSABLE, f"{type(error).__name__}: {error}"
    if not len(model.readers) or any(not tensor.numel() for tensor in model.state_dict().values()):
        return UNUSABLE, "no result of real numbers, or an empty operand, which cannot be marked"
    try:
        network = fxsparse.trace(model, torch.ones(1))
        chance = random.Random(0)
        keep = {
            group.name: sorted(chance.sample(group.units, (len(group.units) + 1) // 2))
            for group in network.groups
            if group.prunable and len(group.units) > 1
        }
        if not keep:
            return NOTHING, "; ".join(sorted({group.reason for group in network.groups})[:3])
        fxsparse.verify(network, network.shrink(keep))
    except fxsparse.VerificationError as error:
        own = "the original network" in str(error) or "could not be run" in str(error)  # on random numbers, out of the operator's domain
        return UNUSABLE if own else FAILED, str(error)
    except fxsparse.Error as error:
        return REFUSED, str(error)
    except Exception as error:  # a traceback in a user's face
        return FAILED, f"{type(error).__name__}: {error}"
    return HELD, ""


def samples_of(entry: Any, most: int) -> Iterator[Any]:
    samples = list(entry.sample_inputs("cpu", torch.float32, requires_grad=False))
    random.Random(0).shuffle(samples)
    yield from samples[:most]


def _late(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"not done in {SECONDS} s")


def run(only: str | None, most: int) -> dict[str, Any]:
    """Counts of samples, and for each operator with a failure or a refusal the first of them."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _late)
    counts: Counter[str] = Counter()
    told: dict[str, dict[str, str]] = {FAILED: {}, REFUSED: {}}
    seen: set[str] = set()
    for entry in op_db:
        if (only and entry.name != only) or not entry.supports_dtype(torch.float32, "cpu"):
            continue
        try:
            samples = list(samples_of(entry, most))
        except Exception:  # a sample that wants another machine
            continue
        for sample in samples:
            signal.alarm(SECONDS)
            try:
                kind, why = checked(entry.op, sample)
            finally:
                signal.alarm(0)
            counts[kind] += 1
            seen.add(entry.name)
            if kind in told:
                name = f"{entry.name} {entry.variant_test_name}".strip()
                told[kind].setdefault(name, why[:300])
    return {"torch": torch.__version__, "operators": len(seen), "samples": counts.total(), "counts": dict(sorted(counts.items())), **told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="the name of one operator")
    parser.add_argument("--most", type=int, default=8, help="samples of each operator (default: 8)")
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = run(arguments.only, arguments.most)
    if arguments.results:
        arguments.results.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
