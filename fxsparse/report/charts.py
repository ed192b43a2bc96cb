"""Charts as inline SVG: lines over steps, and points with two measures. Colours are classes, which the page's style sheet fills."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 560.0, 260.0
WHOLE = ("epoch", "step")  # between two of which there is nothing
LEFT, RIGHT, TOP, BOTTOM = 68.0, 14.0, 12.0, 40.0


@dataclass(frozen=True)
class Line:
    """A named line; `series` picks its colour. `stepped` holds each value until the next."""

    name: str
    points: Sequence[tuple[float, float]]
    series: int = 0
    stepped: bool = False


@dataclass(frozen=True)
class Point:
    """A named point; hollow ones are what others came from."""

    name: str
    x: float
    y: float
    series: int = 0
    hollow: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars over steps, up and down from zero."""

    name: str
    points: Sequence[tuple[float, float]]
    series: int = 0


@dataclass(frozen=True)
class Band:
    """A shaded stage."""

    name: str
    first: float
    last: float


@dataclass(frozen=True)
class _Frame:
    """From values to pixels."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.low_x) / (self.high_x - self.low_x) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.low_y) / (self.high_y - self.low_y) * (HEIGHT - TOP - BOTTOM)


def line_chart(
    lines: Sequence[Line], *, x: str, y: str, title: str, percent: bool = False, bands: Sequence[Band] = (), bars: Sequence[Bars] = ()
) -> Markup:
    """Lines, bars and shaded stages over steps or epochs; empty where nothing is finite."""
    everything: list[Line | Bars] = [*lines, *bars]
    good = [(a, b) for each in everything for a, b in each.points if _good(a, b)]
    xs, ys = [a for a, _ in good], [b for _, b in good]
    if not xs:
        return Markup("")
    xs += [edge for band in bands for edge in (band.first, band.last)]
    frame = _frame(xs, [*ys, 0.0] if bars else ys)
    parts = [_band(band, frame) for band in bands]
    parts += [_axes(frame, x, y, percent)]
    widest = (WIDTH - LEFT - RIGHT) / max(12, 2 * max((len(each.points) for each in bars), default=1))
    parts += [_bars(each, frame, widest) for each in bars]
    parts += [_line(line, frame) for line in lines]
    legend = [(each.name, each.series) for each in everything]
    return _figure(title, parts, legend)


def scatter(points: Sequence[Point], *, x: str, y: str, title: str, percent: bool = False) -> Markup:
    """Points with their names; empty where there are none."""
    good = [point for point in points if _good(point.x, point.y)]
    if not good:
        return Markup("")
    frame = _frame([0.0, *(p.x for p in good)], [p.y for p in good], pad=0.12)
    places: list[tuple[float, float]] = []  # of labels that are there already
    parts = [_axes(frame, x, y, percent), *(_point(point, frame, places) for point in good)]
    return _figure(title, parts, [(point.name, point.series) for point in good])


def short(value: float, percent: bool = False) -> str:
    """A number as a reader likes it: 25.6M, 3.41, 97.2%."""
    if percent:
        return f"{100 * value:.4g}%"
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.3g}{suffix}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two values.

    >>> ticks(0.0, 10.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    raw = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next((factor * scale for factor in (1, 2, 2.5, 5) if factor * scale >= raw * 0.999), 10 * scale)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _good(x: object, y: object) -> bool:
    return all(isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in (x, y))


def _frame(xs: Sequence[float], ys: Sequence[float], pad: float = 0.06) -> _Frame:
    spans = []
    for values, room in ((xs, pad if pad > 0.1 else 0.0), (ys, pad)):
        low, high = min(values), max(values)
        extent = (high - low) or abs(high) * 0.1 or 1.0
        spans.append((low - (0.0 if low == 0 else room * extent), high + room * extent))
    (a, b), (c, d) = spans
    return _Frame(a, b if b > a else a + 1.0, c, d if d > c else c + 1.0)


def _axes(frame: _Frame, x: str, y: str, percent: bool) -> Markup:
    parts = []
    for value in ticks(frame.low_y, frame.high_y):
        at = frame.y(value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH - RIGHT, at, at))
        parts.append(
            Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 6, at + 4, short(value, percent))
        )
    whole = x in WHOLE
    for value in ticks(frame.low_x, frame.high_x):
        if whole and value != round(value):
            continue
        text = Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
        parts.append(text.format(frame.x(value), HEIGHT - BOTTOM + 16, short(value)))
    ends = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, HEIGHT - BOTTOM
    parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(*ends))
    parts.append(
        Markup('<text class="name" x="{}" y="{}" text-anchor="middle">{}</text>').format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x)
    )
    turned = Markup('<text class="name upright" transform="translate(13 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>')
    parts.append(turned.format((TOP + HEIGHT - BOTTOM) / 2, y))
    return Markup("").join(parts)


def _line(line: Line, frame: _Frame) -> Markup:
    points = [(frame.x(a), frame.y(b)) for a, b in line.points if _good(a, b)]
    if line.stepped:
        points = [points[0], *(each for (_, before), (x, y) in pairwise(points) for each in ((x, before), (x, y)))]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    drawn = Markup('<polyline class="line s{}" points="{}"/>').format(line.series % 6, path)
    dot = Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>')
    return drawn + Markup("").join(dot.format(line.series % 6, x, y) for x, y in (points if len(points) <= 40 and not line.stepped else []))


def _bars(bars: Bars, frame: _Frame, width: float) -> Markup:
    zero = frame.y(0.0)
    made = []
    for a, b in bars.points:
        if _good(a, b) and b:
            top, bottom = sorted((zero, frame.y(b)))
            text = Markup('<rect class="bars s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
            made.append(text.format(bars.series % 6, frame.x(a) - width / 2, top, width, bottom - top))
    return Markup("").join(made)


def _band(band: Band, frame: _Frame) -> Markup:
    left, right = frame.x(band.first), frame.x(band.last)
    text = Markup('<rect class="band {}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>')
    kind = band.name if band.name in ("estimate", "explore") else "other"
    return text.format(kind, left, TOP, max(0.0, right - left), HEIGHT - TOP - BOTTOM, band.name)


def _point(point: Point, frame: _Frame, places: list[tuple[float, float]]) -> Markup:
    x, y = frame.x(point.x), frame.y(point.y)
    shape = Markup('<circle class="{} s{}" cx="{:.1f}" cy="{:.1f}" r="6"><title>{}</title></circle>')
    circle = shape.format("hollow" if point.hollow else "point", point.series % 6, x, y, point.name)
    end = x > WIDTH * 0.62
    name = point.name if len(point.name) <= 24 else "…" + point.name[-23:]
    while any(abs(x - a) < 110 and abs(y - b) < 14 for a, b in places):
        y += 15
    places.append((x, y))
    label = Markup('<text class="label" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return circle + label.format(x - 10 if end else x + 10, y + 4, "end" if end else "start", name)


def _figure(title: str, parts: Sequence[Markup], legend: Sequence[tuple[str, int]]) -> Markup:
    keys = Markup("").join(Markup('<span><i class="key s{}"></i>{}</span>').format(series % 6, name) for name, series in legend)
    head = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)
    drawing = head + Markup("").join(parts) + Markup("</svg>")
    caption = Markup("<figcaption>{}</figcaption>").format(escape(title))
    return Markup('<figure class="chart">') + caption + drawing + Markup('<div class="legend">') + keys + Markup("</div></figure>")
