"""Networks pruned by hand: in two widths, with what is cut at the removed units, one for each way in which units hang together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsparse.surgery.reference import InDouble, Reference, randomised_state, run_in_double, run_reference

Cut = Mapping[str, Mapping[int, Sequence[int]]]
BN = ("running_mean", "running_var")
GONE = [1, 4]  # the units that go


class Calls(nn.Module):
    """Parts, and a forward over them: networks of one line."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(part))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


@dataclass(frozen=True)
class Pruned:
    """A network in two widths. `made` taints the removed units, `used` is what a surgeon must cut as well."""

    build: Callable[[int], nn.Module]
    wide: int
    narrow: int
    made: Cut
    used: Cut
    inputs: tuple[int, ...] = (2, 3, 9, 9)
    integers: bool = False

    def example(self) -> Tensor:
        return torch.randint(5, self.inputs) if self.integers else torch.randn(self.inputs, dtype=torch.float64)

    def error(self, used: Cut | None = None) -> tuple[float, Reference]:
        """How far the hand-pruned network is from the reference, relative to its largest output."""
        x = self.example()
        wide = self.build(self.wide)
        state = randomised_state(wide, 3)
        reference = run_reference(wide, (x,), {}, state, self.made)
        small = {
            key: without(value, self.made.get(key, {}), (self.used if used is None else used).get(key, {})) for key, value in state.items()
        }
        outputs = run_in_double(self.build(self.narrow).double().eval(), small, (x,), {}, InDouble())[0]
        pairs = list(zip(reference.outputs, outputs, strict=True))
        return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs), reference


def without(tensor: Tensor, *cuts: Mapping[int, Sequence[int]]) -> Tensor:
    for cut in cuts:
        for axis, gone in cut.items():
            tensor = tensor.index_select(axis, torch.tensor([i for i in range(tensor.shape[axis]) if i not in gone]))
    return tensor


def rows(layer: str, gone: list[int], *more: str) -> dict[str, dict[int, list[int]]]:
    return {f"{layer}.{name}": {0: gone} for name in ("weight", "bias", *more)}


def rows_of(gone: list[int], *layers: str) -> dict[str, dict[int, list[int]]]:
    return {key: cut for layer in layers for key, cut in rows(layer, gone).items()}


def chain(width: int, *between: nn.Module, norm: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), norm or nn.Identity(), *between, nn.Conv2d(width, 4, 3, padding=1))


def attention(heads: int, size: int) -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (heads, size)).transpose(1, 2) for p in (m.q, m.k, m.v))
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.5)
        weights = ((q * 0.5) @ k.mT).masked_fill(~mask, -torch.inf).softmax(-1)
        joined: Tensor = m.out((out + weights @ v).transpose(1, 2).flatten(2))
        return joined

    inner = heads * size
    return Calls(forward, q=nn.Linear(6, inner), k=nn.Linear(6, inner), v=nn.Linear(6, inner), out=nn.Linear(inner, 5))


def residual(width: int) -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.stem(x).relu_()
        x += m.b(m.a(x).relu())
        return m.head(x.mean((2, 3)))

    a, b = nn.Conv2d(width, 5, 1), nn.Conv2d(5, width, 3, padding=1)
    return Calls(forward, stem=nn.Conv2d(3, width, 3, padding=1), a=a, b=b, head=nn.Linear(width, 4))


def joined(width: int) -> nn.Module:
    return Calls(
        lambda m, x: m.head(torch.cat([m.a(x), m.b(x)], 1)), a=nn.Conv2d(3, width, 1), b=nn.Conv2d(3, 4, 1), head=nn.Conv2d(width + 4, 4, 1)
    )


def gates(width: int) -> nn.Module:
    return Calls(lambda m, x: m.up(F.glu(m.down(x))), down=nn.Linear(5, 2 * width), up=nn.Linear(width, 3))


def padded(width: int) -> nn.Module:
    """Zeros beside a missing channel must not become halves behind the sigmoid."""
    return Calls(lambda m, x: m.up(F.pad(m.down(x), (1, 2, 0, 1)).sigmoid()), down=nn.Conv2d(3, width, 3), up=nn.Conv2d(width, 4, 3))


def unfolded(width: int) -> nn.Module:
    return Calls(lambda m, x: m.up(F.unfold(m.down(x), 3, padding=1).sigmoid().mT), down=nn.Conv2d(3, width, 3), up=nn.Linear(9 * width, 4))


def last_step(width: int, kind: type[nn.LSTM] | type[nn.GRU]) -> nn.Module:
    return Calls(lambda m, x: m.head(m.cells(x)[0][:, -1]), cells=kind(4, width, batch_first=True), head=nn.Linear(width, 3))


def cells(gates: int, width: int, gone: list[int]) -> tuple[Cut, Cut]:
    lines = [g * width + unit for g in range(gates) for unit in gone]
    made = {f"cells.{name}_l0": {0: lines} for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    return made, {"cells.weight_hh_l0": {1: gone}, "head.weight": {1: gone}}


def words(width: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(5, width), nn.LayerNorm(width), nn.Linear(width, 3))


def bag(width: int) -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(5, width, mode="mean"), nn.Linear(width, 3))


def bilinear(width: int) -> nn.Module:
    return Calls(lambda m, x: m.pair(m.a(x), m.b(x)), a=nn.Linear(5, width), b=nn.Linear(5, 3), pair=nn.Bilinear(width, 3, 4))


def dense(width: int, *between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), *between, nn.Linear(width, 3))


def in_place(width: int) -> nn.Module:
    """The in-place forms of contractions write into a tensor that others see."""

    def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        h = m.down(x).relu()
        flat, square = torch.ones(2, 3, dtype=x.dtype), torch.ones(1, 2, 2, dtype=x.dtype)
        seen = flat[:1]
        flat.addmm_(h, m.up, beta=0.5, alpha=0.1)
        square.baddbmm_(h[None], h.mT[None], alpha=0.2)
        return seen + flat, square + torch.addmv(flat[0, :2], h, m.up[:, 0], alpha=2.0) + torch.addbmm(flat[:, :2], h[None], h.mT[None])

    return Calls(forward, down=nn.Linear(5, width), up=torch.zeros(width, 3))


FLAT = {"up.weight": {1: GONE}}
LAST = {"2.weight": {1: GONE}}
CASES = {
    "conv bn relu conv": Pruned(
        lambda w: chain(w, nn.ReLU(), norm=nn.BatchNorm2d(w)), 6, 4, rows("0", GONE), rows("1", GONE, *BN) | {"3.weight": {1: GONE}}
    ),
    "sigmoid": Pruned(lambda w: chain(w, nn.Sigmoid()), 6, 4, rows("0", GONE), {"3.weight": {1: GONE}}),
    "softmax over units": Pruned(lambda w: dense(w, nn.Softmax(-1)), 6, 4, rows("0", GONE), LAST, (4, 5)),
    "residual": Pruned(residual, 6, 4, rows_of(GONE, "stem", "b"), {"a.weight": {1: GONE}, "head.weight": {1: GONE}}),
    "cat": Pruned(joined, 6, 4, rows("a", GONE), {"head.weight": {1: GONE}}),
    "layer norm": Pruned(lambda w: dense(w, nn.LayerNorm(w)), 6, 4, rows("0", GONE), rows("1", GONE) | LAST, (4, 5)),
    "rms norm": Pruned(lambda w: dense(w, nn.RMSNorm(w)), 6, 4, rows("0", GONE), {"1.weight": {0: GONE}} | LAST, (4, 5)),
    "group norm": Pruned(
        lambda w: chain(w, nn.GELU(), norm=nn.GroupNorm(w // 2, w)), 6, 4, rows("0", [2, 3]), rows("1", [2, 3]) | {"3.weight": {1: [2, 3]}}
    ),
    "heads": Pruned(lambda h: attention(h, 4), 3, 2, rows_of([4, 5, 6, 7], *"qkv"), {"out.weight": {1: [4, 5, 6, 7]}}, (2, 5, 6)),
    "head size": Pruned(lambda s: attention(3, s), 4, 3, rows_of([1, 5, 9], *"qkv"), {"out.weight": {1: [1, 5, 9]}}, (2, 5, 6)),
    "grouped convolution": Pruned(
        lambda w: nn.Sequential(nn.Conv2d(3, w, 1), nn.Conv2d(w, w, 3, groups=w // 2, padding=2), nn.Sigmoid(), nn.Conv2d(w, 4, 1)),
        8,
        6,
        rows("0", [2, 3]),
        rows("1", [2, 3]) | {"3.weight": {1: [2, 3]}},
    ),
    "transposed convolution": Pruned(
        lambda w: nn.Sequential(nn.ConvTranspose2d(3, w, 2, stride=3), nn.Sigmoid(), nn.Conv2d(w, 4, 3)),
        6,
        4,
        {"0.weight": {1: GONE}},
        {"0.bias": {0: GONE}, "2.weight": {1: GONE}},
    ),
    "glu": Pruned(gates, 6, 4, rows("down", [1, 4, 7, 10]), FLAT, (4, 5)),
    "glu, one half tainted": Pruned(
        gates, 6, 4, {"down.weight": {0: GONE}}, {"down.weight": {0: [5, 8]}, "down.bias": {0: [1, 4, 7, 10]}} | FLAT, (4, 5)
    ),
    "pad": Pruned(padded, 6, 4, rows("down", GONE), FLAT),
    "unfold": Pruned(unfolded, 6, 4, rows("down", GONE), {"up.weight": {1: [*range(9, 18), *range(36, 45)]}}),
    "lstm": Pruned(lambda w: last_step(w, nn.LSTM), 6, 4, *cells(4, 6, GONE), (2, 5, 4)),
    "gru": Pruned(lambda w: last_step(w, nn.GRU), 6, 4, *cells(3, 6, GONE), (2, 5, 4)),
    "embedding": Pruned(words, 6, 4, {"0.weight": {1: GONE}}, rows("1", GONE) | LAST, (2, 7), True),
    "embedding bag": Pruned(bag, 6, 4, {"0.weight": {1: GONE}}, {"1.weight": {1: GONE}}, (2, 7), True),
    "bilinear": Pruned(bilinear, 6, 4, rows("a", GONE), {"pair.weight": {1: GONE}}, (4, 5)),
    "in place": Pruned(in_place, 6, 4, rows("down", GONE), {"up": {0: GONE}}, (2, 5)),
}
