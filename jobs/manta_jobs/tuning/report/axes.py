"""The parts that a search's plots share: color scale, color bar, ticks, and the spread of equal points."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from manta_jobs.reporting.canvas import INK, is_narrow, plain, width_pt
from manta_jobs.reporting.curves import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from manta_jobs.tuning.report.results import SearchedField, SearchResults

COLOUR_MAP, COLOUR_RANGE = "viridis", (0.28, 0.9)
"""Color map, and the part of it that is used. Its ends would fade into dark and light pages."""
CLIP_FROM = 2.0
"""The worst trials share the end of the color scale if the worst score lies further behind the best three quarters than this many
times their range."""
MARGIN = 0.06
SPREAD = 0.02
"""Distance at which trials with the same values are drawn apart, as a share of an axis."""


def set_field_ticks(panel: Axes, *, across: SearchedField, up: SearchedField) -> None:
    """Set the ticks and names of two fields. Long words on the horizontal axis are tilted."""
    for axis, field in ((panel.xaxis, across), (panel.yaxis, up)):
        ticks = field.ticks()
        axis.set_ticks([place for place, _ in ticks], labels=[plain(text) for _, text in ticks])
        axis.set_label_text(plain(field.label))
    room = 0.6 * width_pt(panel.figure)
    if sum(len(text) + 2 for _, text in across.ticks()) * 5.5 > room:
        panel.tick_params(axis="x", labelrotation=30)
        for label in panel.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def colour_scale(results: SearchResults) -> ScalarMappable:
    """Return a color for each score, bright for good ones. A few very bad trials do not make all others look the same."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    full = colormaps[COLOUR_MAP]
    start, end = COLOUR_RANGE if results.higher_is_better else COLOUR_RANGE[::-1]
    shades = [full(start + (end - start) * step / 255) for step in range(256)]
    low, high = colour_bounds(results)
    return ScalarMappable(Normalize(low, high, clip=True), LinearSegmentedColormap.from_list("scores", shades))


def colour_bounds(results: SearchResults) -> tuple[float, float]:
    """Return the scores at the ends of the color scale."""
    scores = [score for trial in results.ranked if (score := results.score(trial)) is not None] or [0.0, 1.0]
    scores.sort(reverse=results.higher_is_better)
    best, quarter, worst = scores[0], scores[(3 * (len(scores) - 1)) // 4], scores[-1]
    if abs(worst - quarter) > CLIP_FROM * abs(quarter - best) > 0:
        worst = quarter + (quarter - best) / 2
    low, high = sorted((best, worst))
    return (low, high) if high > low else (low - 0.005, high + 0.005)


def add_colour_bar(figure: Figure, panel: Axes, colours: ScalarMappable, results: SearchResults) -> None:
    """Add a bar that explains the colors. A pointed end shows that there are scores beyond it."""
    from matplotlib.ticker import MaxNLocator

    low, high = colour_bounds(results)
    scores = [score for trial in results.ranked if (score := results.score(trial)) is not None]
    beyond = {(True, False): "min", (False, True): "max"}.get((min(scores) < low, max(scores) > high), "neither")
    place: dict[str, Any] = {"location": "top", "aspect": 32} if is_narrow(figure) else {"location": "right", "aspect": 26}
    bar = figure.colorbar(colours, ax=panel, extend=beyond, pad=0.03, **place)
    bar.set_label(plain(results.metric_label), color=INK)
    bar.ax.tick_params(color=GREY, labelcolor=INK)
    bar.outline.set_edgecolor(GREY)
    bar.locator = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10])


def spread(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Move trials with the same values apart, onto a small circle."""
    groups: dict[tuple[float, float], list[int]] = defaultdict(list)
    for index, (x, y) in enumerate(places):
        groups[round(x, 3), round(y, 3)].append(index)
    moved = list(places)
    for members in (group for group in groups.values() if len(group) > 1):
        for turn, index in enumerate(members):
            angle, (x, y) = 2 * math.pi * turn / len(members), places[index]
            moved[index] = (x + SPREAD * math.cos(angle), y + SPREAD * math.sin(angle))
    return moved
