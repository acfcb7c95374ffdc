"""Common parts of all plots: colors for light and dark pages, panels, legends, and sentences in place of plots."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from manta_jobs.reporting.curves import BLUE, GREEN, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, GRID, RED = "#ffffff", "#1f2429", "#dde1e6", "#c1272d"


DARK = {  # each color's replacement on a dark page
    PAPER: "#14181d",
    INK: "#e3e6ea",
    GRID: "#333a42",
    RED: "#ff7b72",
    BLUE: "#4aa3ea",
    GREEN: "#2fc394",
    GREY: "#9aa4ae",
}


NARROW_BELOW_IN = 6.0


def is_narrow(figure: Any) -> bool:
    """Tell whether a figure is for a phone."""
    return width_pt(figure) < 72 * NARROW_BELOW_IN


def width_pt(figure: Any) -> float:
    """Return a figure's width in points, the unit of font sizes."""
    return float(72 * figure.get_figwidth())


def plain(text: str) -> str:
    """Return text that matplotlib shows as it is: a dollar sign starts no formula."""
    return text.replace("$", r"\$")


def say(figure: Figure, sentence: str) -> None:
    """Write a sentence in place of a plot."""
    lines = textwrap.fill(sentence, 34 if is_narrow(figure) else 62)
    figure.text(0.5, 0.5, plain(lines), ha="center", va="center", fontsize=13, color=INK, linespacing=1.5)


def halo() -> list[Any]:
    """Return an outline in the color of the page, which keeps letters readable on top of lines."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground=PAPER)]


def finish_panel(panel: Axes) -> None:
    """Set grid, frame and text color of a panel."""
    panel.set_facecolor(PAPER)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GREY)
    panel.tick_params(color=GREY, labelcolor=INK)
    for axis in (panel.xaxis, panel.yaxis):
        axis.label.set_color(INK)


def set_epoch_ticks(panel: Axes, last: int) -> None:
    """Show whole epochs only on the axis."""
    from matplotlib.ticker import MaxNLocator

    margin = 0.04 * (last - 1) or 0.5
    panel.set_xlim(1 - margin, last + margin)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    panel.set_xlabel("epoch")


def add_legend(figure: Figure, entries: list[tuple[str, dict[str, Any]]]) -> None:
    """Add a legend of marks and lines below the plot."""
    from matplotlib.lines import Line2D

    if not entries:
        return
    handles = [
        Line2D([], [], label=words, **{key: value for key, value in style.items() if key != "zorder"}) for words, style in entries
    ]
    columns = 2 if is_narrow(figure) else min(len(handles), 6)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        columnspacing=1.4,
        handletextpad=0.5,
    )
