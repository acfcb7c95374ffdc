"""Plots for an HTML report, and the parts that all reports share. The layout and style are in `html/`."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from manta_jobs.reporting.canvas import DARK, PAPER

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Template
    from matplotlib.figure import Figure


WIDE, NARROW = (8.0, 4.7), (4.3, 5.0)
"""Sizes in inches. The narrow one is for phones; its letters have the same size."""
PNG_DPI = 160
HTML = Path(__file__).parent / "html"
BASE_STYLE = HTML / "base.css"


def page_template(folder: Path) -> Template:
    """Return `page.html` of a report's folder, which extends `base.html`. Jinja escapes all values."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader([folder, HTML])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html")


@dataclass(frozen=True)
class Picture:
    """One plot on the page: four drawings as data URIs, wide and narrow, for light and dark pages."""

    name: str
    title: str
    caption: str
    alt: str
    scrolls: bool
    wide: str
    wide_dark: str
    narrow: str
    narrow_dark: str


def picture_of(plot: Plot, folder: Path) -> Picture:
    """Write a plot as PNG, and return it drawn for all four kinds of page."""
    figure = plot.figure()
    write_png(figure, folder / f"{plot.name}.png")
    wide = svg_of(figure)
    narrow = wide if plot.scrolls else svg_of(plot.figure(narrow=True))
    drawings = [data_uri(svg) for svg in (wide, darkened(wide), narrow, darkened(narrow))]
    return Picture(plot.name, plot.title, plot.caption, plot.alt, plot.scrolls, *drawings)


def data_uri(svg: str) -> str:
    """Return a drawing as a data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def sha256_of(text: str) -> str:
    """Return the hash by which the page allows only its own style and script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass(frozen=True)
class Card:
    """One figure at the top of a report."""

    title: str
    figure: str
    aside: str


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 trial, 2 trials."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Plot:
    """One plot, not yet drawn."""

    name: str
    """Name of the plot and of its file."""
    title: str
    caption: str
    """One sentence on how to read the plot; empty if the plot is a sentence itself."""
    alt: str
    """Description of the plot for people who cannot see it."""
    draw: Callable[[Figure], None]
    height_in: float | None = None
    """Height that the plot's rows need, if it has rows."""
    width_in: float | None = None
    """Width that the plot's columns need, if there are many."""
    scrolls: bool = False
    """True if the plot is too wide for a phone and scrolls there."""

    def figure(self, *, narrow: bool = False) -> Figure:
        """Draw the plot and lay it out."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        width, height = NARROW if narrow and not self.scrolls else WIDE
        figure = Figure(
            figsize=(self.width_in or width, self.height_in or height),
            layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08),
            facecolor=PAPER,
            dpi=PNG_DPI,  # so that letters are as wide as in the PNG
        )
        FigureCanvasAgg(figure)
        self.draw(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # already laid out: do not repeat it for each format
        return figure


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG for documents and slides."""
    figure.savefig(path, format="png")


def svg_of(figure: Figure) -> str:
    """Return a figure as SVG for a light page."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def darkened(svg: str) -> str:
    """Return the same SVG for a dark page."""
    for light, dark in DARK.items():
        svg = svg.replace(light.lower(), dark)
    return svg
