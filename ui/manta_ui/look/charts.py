"""Charts as SVG in the page. They follow its light and dark colors, are sharp at any size, and name each point.

Series differ by marker and dash as well as by color. The colors are Okabe and Ito's (https://jfly.uni-koeln.de/color/). The scale
of values is viridis, which people can read regardless of their color vision.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WIDTH, HEIGHT = 460.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 46.0
NUM_STYLES = 7
NUM_TICKS = 5
BACKGROUND = "others"
"""Name of all series in the background, in the legend."""
MARKER = 4.5
CORNERS: dict[int, list[tuple[float, float]]] = {
    1: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    2: [(0, -1.25), (1.15, 0.9), (-1.15, 0.9)],
    3: [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
}
"""Corners of a square, a triangle and a diamond, in multiples of MARKER."""
VIRIDIS = (
    (72, 40, 120),
    (62, 74, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (110, 206, 88),
    (181, 222, 43),
)
"""Eight colors of the scale from low to high, without the ends, which would fade into dark and light pages."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0
    """Index of the color, marker and dash. Series with the same meaning have the same style in all charts."""
    has_marks: bool = True
    """True if each point is marked and named; False for series in the background."""


@dataclass(frozen=True)
class Dot:
    """One point of a scatter chart."""

    across: float
    up: float
    value: float | None
    """The value that gives its color; None is drawn as an empty ring."""
    title: str
    """Description in words."""
    is_best: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis of a chart."""

    label: str
    low: float
    high: float
    is_log: bool = False
    whole: bool = False
    """True if only whole numbers are ticks."""

    @classmethod
    def around(
        cls, label: str, values: Iterable[float], *, is_log: bool = False, whole: bool = False, margin: float = 0.06
    ) -> Axis:
        """Return an axis that holds all values, with some room at both ends."""
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
        low, high = (min(finite), max(finite)) if finite else (0.1, 1.0)
        if is_log:
            room = (high / low) ** margin if high > low else 2.0
            return cls(label, low / room, high * room, is_log=True)
        room = margin * (high - low) if high > low else max(abs(high) * 0.1, 0.5 if whole else 0.05)
        return cls(label, low - room, high + room, whole=whole)

    def share(self, value: float) -> float:
        """Return the position of a value on the axis, 0 to 1."""
        low, high, number = (math.log(each) if self.is_log else each for each in (self.low, self.high, value))
        return min(1.0, max(0.0, (number - low) / (high - low)))

    def ticks(self) -> list[float]:
        """Return round numbers between the ends of the axis."""
        if self.is_log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < 200 else (1,)
            found = [step * 10.0**decade for decade in decades for step in steps]
            return [value for value in found if self.low <= value <= self.high]
        span = (self.high - self.low) / NUM_TICKS
        power = 10.0 ** math.floor(math.log10(span))
        step = next((factor * power for factor in (1, 2, 5) if factor * power >= span), 10 * power)
        step = max(1.0, round(step)) if self.whole else step
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    across: Axis,
    up: Axis,
    diagonal: bool = False,
    mark: float | None = None,
    lights_up: bool = False,
) -> str:
    """Draw lines in one chart, with a legend. `diagonal` adds a line where both axes are equal; `mark` adds a vertical line.

    If `lights_up`, a line under the pointer stands out, with the lines and the table cells of the same name elsewhere in the tab.
    """
    place = _placer(across, up)
    parts = [_frame(across, up)]
    if diagonal:
        parts.append(_line([place(across.low, across.low), place(across.high, across.high)], "manta-guide"))
    if mark is not None:
        parts.append(_line([place(mark, up.low), place(mark, up.high)], "manta-guide"))
    for item in reversed(series):  # the first one lies over the others
        points = [(x, y) for x, y in item.points if math.isfinite(y)]
        kind = f"manta-s{item.style % NUM_STYLES}"
        drawn = [_line([place(x, y) for x, y in points], kind)] if len(points) > 1 else []
        for x, y in points if item.has_marks else []:
            words = f"{item.name}: {across.label} {number(x)}, {up.label} {number(y)}"
            drawn.append(_marker(*place(x, y), style=item.style, title=words))
        if lights_up:
            reach = _line([place(x, y) for x, y in points], "manta-reach")
            name = html.escape(item.name, quote=True)
            drawn = [f'<g class="manta-series" data-series="{name}"><title>{name}</title>{reach}', *drawn, "</g>"]
        parts += drawn
    words = f"{title}: {up.label} by {across.label} of {len(series)} lines"
    if len(series) <= NUM_STYLES:
        words = f"{title}: {up.label} by {across.label} of {', '.join(item.name for item in series)}"
    return _figure(title, "".join(parts), words=words, legend=_legend(series))


def scatter_chart(title: str, dots: Sequence[Dot], *, across: Axis, up: Axis, value_label: str) -> str:
    """Draw points colored by a value, with the color scale. The best point has a ring."""
    place = _placer(across, up)
    values = [dot.value for dot in dots if dot.value is not None and math.isfinite(dot.value)]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    parts = [_frame(across, up)]
    for dot in sorted(dots, key=lambda dot: dot.is_best):
        x, y = place(dot.across, dot.up)
        fill = "none" if dot.value is None else _colour((dot.value - low) / (high - low) if high > low else 1.0)
        ring = f'<circle class="manta-best" cx="{x:.1f}" cy="{y:.1f}" r="11"/>' if dot.is_best else ""
        circle = f'<circle class="manta-point" cx="{x:.1f}" cy="{y:.1f}" r="7" fill="{fill}"/>'
        parts.append(f"<g>{ring}{circle}<title>{html.escape(dot.title)}</title></g>")
    words = f"{title}: {len(dots)} points by {across.label} and {up.label}, coloured by {value_label}"
    return _figure(title, "".join(parts), words=words, legend=_scale(low, high, value_label, has_values=bool(values)))


def number(value: float) -> str:
    """Format a number in few characters, such as 0.0003 or 12."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e") if abs(value) < 1e-3 else f"{value:.4g}"


def _placer(across: Axis, up: Axis) -> Callable[[float, float], tuple[float, float]]:
    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + across.share(x) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up.share(y) * (HEIGHT - TOP - BOTTOM)

    return place


def _frame(across: Axis, up: Axis) -> str:
    """Draw the grid, the ticks and the names of the axes."""
    place = _placer(across, up)
    floor = HEIGHT - BOTTOM
    parts = []
    for tick in across.ticks():
        x, _ = place(tick, up.low)
        parts.append(f'<line class="manta-grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor}"/>')
        parts.append(f'<text class="manta-tick" x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{number(tick)}</text>')
    for tick in up.ticks():
        _, y = place(across.low, tick)
        parts.append(f'<line class="manta-grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="manta-tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="manta-axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(across.label)}</text>')
    turned = f"translate(14 {(TOP + floor) / 2}) rotate(-90)"
    parts.append(f'<text class="manta-axis" transform="{turned}" text-anchor="middle">{html.escape(up.label)}</text>')
    return "".join(parts)


def _line(points: Sequence[tuple[float, float]], kind: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="manta-line {kind}" points="{path}"/>'


def _marker(x: float, y: float, *, style: int, title: str = "") -> str:
    """Draw a disc, square, triangle or diamond, by the style."""
    size, kind = MARKER, f"manta-mark manta-s{style % NUM_STYLES}"
    corners = CORNERS.get(style % 4)
    said = f"<title>{html.escape(title)}</title>" if title else ""
    if corners is None:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">{said}</circle>'
    points = " ".join(f"{x + size * across:.1f},{y + size * up:.1f}" for across, up in corners)
    return f'<polygon class="{kind}" points="{points}">{said}</polygon>'


def _legend(series: Sequence[Series]) -> str:
    """Draw a legend with each name once. Series in the background share a name."""
    items = []
    named = {item.name if item.has_marks else BACKGROUND: item for item in series}
    for name, item in named.items():
        line = _line([(0, 8), (26, 8)], f"manta-s{item.style % NUM_STYLES}")
        mark = _marker(13, 8, style=item.style) if item.has_marks else ""
        sign = f'<svg class="manta-sign" viewBox="0 0 26 16" aria-hidden="true">{line}{mark}</svg>'
        items.append(f"<li>{sign}{html.escape(name)}</li>")
    return f'<ul class="manta-legend">{"".join(items)}</ul>'


def _scale(low: float, high: float, label: str, *, has_values: bool) -> str:
    if not has_values:
        return '<p class="manta-quiet">An empty ring has no result yet.</p>'
    stops = ", ".join(f"rgb{colour}" for colour in VIRIDIS)
    return (
        f'<p class="manta-scale">{html.escape(label)} <span>{number(low)}</span>'
        f'<span class="manta-ramp" style="background: linear-gradient(to right, {stops})" aria-hidden="true"></span>'
        f"<span>{number(high)}</span></p>"
    )


def _figure(title: str, body: str, *, words: str, legend: str) -> str:
    return (
        f'<figure class="manta-chart"><figcaption>{html.escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{html.escape(words, quote=True)}">{body}</svg>'
        f"{legend}</figure>"
    )


def _colour(share: float) -> str:
    """Return the color at a position on the scale, 0 to 1."""
    place = min(1.0, max(0.0, share)) * (len(VIRIDIS) - 1)
    index = min(int(place), len(VIRIDIS) - 2)
    mixed = (round(a + (b - a) * (place - index)) for a, b in zip(VIRIDIS[index], VIRIDIS[index + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
