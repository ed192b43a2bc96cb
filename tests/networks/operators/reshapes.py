"""View, reshape, permute and transpose chains over the channels."""

from __future__ import annotations

from tests.networks.body import Body, text
from tests.networks.family import Family
from tests.networks.fitting import divisible, enlarge, take, take_map
from tests.networks.layers import DIMENSIONS

reshapes = Family("reshapes")


@reshapes.operator(weight=3)
def channel_shuffle(body: Body) -> None:
    groups = body.genes.pick(2, 3, 4)
    x = divisible(body, take_map(body), groups)
    if body.genes.pick(False, False, False, True):
        body.like(x, f"{body.attribute('shuffle', f'nn.ChannelShuffle({groups})')}({x})")
        return
    b, c, *places = body.sizes(x)
    inner = f"{c} // {groups}" if body.genes.flag() else str(x.c // groups)
    rest = ", ".join(places)
    style = body.genes.pick("view", "reshape", "flatten", "permute")
    if style == "permute":
        order = ", ".join(map(str, (0, 2, 1, *range(3, 3 + len(places)))))
        body.like(x, f"{x}.reshape({b}, {groups}, {inner}, {rest}).permute({order}).reshape({b}, {c}, {rest})")
    elif style == "flatten":
        body.like(x, f"{x}.unflatten(1, ({groups}, {x.c // groups})).transpose(1, 2).flatten(1, 2)")
    else:
        first = f"{x}.contiguous().view" if style == "view" else f"{x}.reshape"
        body.like(x, f"{first}({b}, {groups}, {inner}, {rest}).transpose(1, 2).contiguous().view({b}, -1, {rest})")


@reshapes.operator(weight=2)
def pixel_shuffle(body: Body) -> None:
    x = divisible(body, take(body, "image"), 4, least=body.genes.pick(1, 2))
    h, w = x.spatial
    expression = body.either(x, f"F.pixel_shuffle({x}, 2)", "shuffle", "nn.PixelShuffle(2)")
    body.let(expression, "image", (x.c // 4, 2 * h, 2 * w), x.degree)


@reshapes.operator(weight=2)
def pixel_unshuffle(body: Body) -> None:
    x = take(body, "image", least=2)
    h, w = (s // 2 for s in x.spatial)
    even = f"{x}[:, :, :{2 * h}, :{2 * w}]"
    c = x.c
    b, n, m = f"{x}.shape[0]", 2 * h, 2 * w
    corners = [f"{x}[..., {i}:{n}:2, {j}:{m}:2]" for j in (0, 1) for i in (0, 1)]
    expression = body.genes.pick(
        f"F.pixel_unshuffle({even}, 2)",
        f"{even}.reshape({b}, {c}, {h}, 2, {w}, 2).permute(0, 3, 5, 1, 2, 4).reshape({b}, {4 * c}, {h}, {w})",
        f"torch.cat([{text(corners)}], 1)",
    )
    body.let(expression, "image", (4 * c, h, w), x.degree)


@reshapes.operator(weight=2)
def regroup(body: Body) -> None:
    """The channels are seen as a table, something happens to it, and they become channels again."""
    groups = body.genes.pick(2, 3, 4)
    x = divisible(body, take(body, "vector", "sequence", "image", "grid"), groups)
    inner = x.c // groups
    shape = f"({groups}, {inner})"
    table = body.fresh("table")
    body.do(f"{table} = {x}.unflatten({x.axis}, {shape})")
    a, b = x.axis, x.axis + 1
    ones = ", 1" * (0 if x.last else len(x.shape) - 1)
    match body.genes.pick("tanh", "scale", "bias", "transpose", "amax", "softmax", "flip"):
        case "scale":
            inside = f"{table} * {body.parameter(groups, 1, hint='scale')}{ones and f'.view({groups}, 1{ones})'}"
        case "bias":
            inside = f"{table} + {body.parameter(inner, hint='bias')}{ones and f'.view({inner}{ones})'}"
        case "transpose":
            inside = f"{table}.transpose({a}, {b})"
        case "amax":
            inside = f"{table} / (1 + {table}.abs().amax({b}, keepdim=True))"
        case "softmax":
            inside = f"{table}.softmax({a})"
        case "flip":
            inside = f"{table}.flip({a})"
        case _:
            inside = f"torch.tanh({table})"
    body.like(x, body.genes.pick(f"({inside}).flatten({a}, {b})", f"({inside}).reshape({x}.shape)"))


@reshapes.operator(weight=2)
def reduce_groups(body: Body) -> None:
    """Sums or maxima over one side of the table: maxout."""
    groups = body.genes.pick(2, 3)
    x = divisible(body, take(body, "vector", "sequence", "image", "line"), groups)
    inner = x.c // groups
    shape, axis = body.genes.pick((f"({groups}, {inner})", x.axis), (f"({inner}, {groups})", x.axis + 1))
    body.like(x, f"{x}.unflatten({x.axis}, {shape}).{body.genes.pick('amax', 'mean', 'sum')}({axis})", channels=inner)


@reshapes.operator(weight=2)
def repeat(body: Body) -> None:
    """Every channel several times, one after another or in blocks."""
    x = take(body)
    times = [1] * (len(x.shape) + 1)
    times[x.axis] = 2
    wide = ["-1"] * (x.axis + 1) + ["2"] + ["-1"] * (len(x.shape) - x.axis)
    expression = body.genes.pick(
        f"{x}.repeat_interleave(2, dim={x.axis})",
        f"{x}.repeat({text(times)})",
        f"torch.repeat_interleave({x}, 2, {x.axis})",
        f"torch.tile({x}, {tuple(times)})",
        f"{x}.unsqueeze({x.axis + 1}).expand({text(wide)}).flatten({x.axis}, {x.axis + 1})",
    )
    body.like(x, expression, channels=2 * x.c)


@reshapes.operator(weight=2)
def unfold(body: Body) -> None:
    """Patches as columns, then a Linear: a convolution by hand."""
    x = take(body, "image", least=2)
    h, w = x.spatial
    kernel, stride, padding = body.genes.pick((2, 2, 0), (3, 1, 1), (2, 1, 0))
    n = ((h + 2 * padding - kernel) // stride + 1) * ((w + 2 * padding - kernel) // stride + 1)
    size = x.c * kernel * kernel
    channels = body.width()
    layer = body.attribute("patch", f"nn.Linear({size}, {channels})")
    options = f"{kernel}, stride={stride}, padding={padding}"
    columns = body.either(x, f"F.unfold({x}, {options})", "unfold", f"nn.Unfold({options})")
    body.let(f"{layer}({columns}.transpose(1, 2))", "sequence", (n, channels), x.degree)


@reshapes.operator(weight=1)
def fold(body: Body) -> None:
    """Columns become an image again."""
    x = divisible(body, take(body, "image"), 4)
    h, w = x.spatial
    expression = f"F.fold({x}.flatten(2), ({2 * h}, {2 * w}), 2, stride=2)"
    body.let(expression, "image", (x.c // 4, 2 * h, 2 * w), x.degree)


@reshapes.operator(weight=2)
def patches(body: Body) -> None:
    """A patch embedding: non-overlapping patches flattened, or a strided convolution."""
    x = take(body, "image", least=2)
    h, w = (s // 2 for s in x.spatial)
    channels = body.width()
    cut = f"{x}[:, :, :{2 * h}, :{2 * w}]"
    if body.genes.flag():
        layer = body.attribute("patch", f"nn.Conv2d({x.c}, {channels}, 2, stride=2)")
        body.let(f"{layer}({x}).flatten(2).transpose(1, 2)", "sequence", (h * w, channels), x.degree)
        return
    layer = body.attribute("patch", f"nn.Linear({4 * x.c}, {channels})")
    order = body.genes.pick("0, 2, 4, 1, 3, 5", "0, 2, 4, 3, 5, 1")  # channels outside or inside
    flat = f"{cut}.reshape({x}.shape[0], {x.c}, {h}, 2, {w}, 2).permute({order}).reshape({x}.shape[0], {h * w}, {4 * x.c})"
    body.let(f"{layer}({flat})", "sequence", (h * w, channels), x.degree)


@reshapes.operator(weight=2)
def patch_merge(body: Body) -> None:
    """Swin's merging: four neighbours side by side, then a Linear without bias."""
    x = take(body, "grid", least=2)
    h, w = (s // 2 for s in x.spatial)
    y = body.fresh("near")
    body.do(f"{y} = {x}[:, :{2 * h}, :{2 * w}]")
    channels = body.width()
    layer = body.attribute("reduction", f"nn.Linear({4 * x.c}, {channels}, bias=False)")
    norm = body.attribute("norm", f"nn.LayerNorm({4 * x.c})")
    parts = f"[{y}[:, 0::2, 0::2], {y}[:, 1::2, 0::2], {y}[:, 0::2, 1::2], {y}[:, 1::2, 1::2]]"
    body.let(f"{layer}({norm}(torch.cat({parts}, -1)))", "grid", (h, w, channels))


@reshapes.operator(weight=1)
def windows(body: Body) -> None:
    """Windows as a batch, a Linear inside, and back."""
    x = enlarge(body, take(body, "grid"), 2)
    h, w = (s // 2 for s in x.spatial)
    c = x.c
    cut = body.fresh("windows")
    b = body.sizes(x)[0]
    body.do(f"{cut} = {x}[:, :{2 * h}, :{2 * w}].reshape({b}, {h}, 2, {w}, 2, {c}).transpose(2, 3).reshape(-1, 4, {c})")
    body.do(f"{cut} = {cut} + {body.attribute('fc', f'nn.Linear({c}, {c})')}({cut})")
    body.let(
        f"{cut}.view({b}, {h}, {w}, 2, 2, {c}).permute(0, 1, 3, 2, 4, 5).reshape({b}, {2 * h}, {2 * w}, -1)",
        "grid",
        (2 * h, 2 * w, c),
        x.degree,
    )


@reshapes.operator(weight=2)
def round_trip(body: Body) -> None:
    """There and back again."""
    x = take(body, "image", "sequence", "line")
    if x.kind == "image":
        h, w = x.spatial
        expression = body.genes.pick(
            f"{x}.flatten(2).transpose(1, 2).reshape({x}.shape[0], {h}, {w}, {x.c}).permute(0, 3, 1, 2)",
            f"{x}.reshape({x}.shape[0], -1).reshape({x}.shape)",
            f"{x}.transpose(2, 3).flip(2).mT",
            f"{x}.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)",
            f"{x}.unsqueeze(1).squeeze(1)",
        )
    else:
        a, c = x.shape
        expression = body.genes.pick(
            f"{x}.transpose(0, 1).contiguous().transpose(0, 1)",
            f"{x}.reshape(-1, {c}).reshape(-1, {a}, {c})",
            f"{x}.flatten().view(-1, {a}, {c})",
        )
    body.like(x, expression)


@reshapes.operator(weight=2)
def grouped_by_batch(body: Body) -> None:
    """Groups of channels join the batch, and one layer serves them all."""
    groups = body.genes.pick(2, 3)
    x = divisible(body, take_map(body), groups)
    inner = x.c // groups
    layer = body.attribute("conv", f"nn.Conv{DIMENSIONS[x.kind]}d({inner}, {inner}, 3, padding=1)")
    rest = ", ".join(map(str, x.spatial))
    body.like(x, f"{layer}({x}.reshape(-1, {inner}, {rest})).reshape(-1, {x.c}, {rest})")
