"""The curves of a run in one picture: losses, validation results and learning rate, with the kept epoch marked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

# Okabe and Ito's palette, whose colors can be told apart with any color vision: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#666666"
MAX_POINTS = 2000
MAX_MARKERS = 25
RESULTS = (  # epoch figure, its name, color, line, marker
    ("accuracy", "validation accuracy", BLUE, "-", "o"),
    ("train_accuracy", "training accuracy", SKY, "--", "^"),
    ("f1_macro", "validation macro F1", ORANGE, "-", "s"),
    ("f1_micro", "validation micro F1", GREEN, "-", "D"),
)


def write_curves(
    history: list[dict[str, Any]], steps: list[dict[str, Any]], path: Path, *, title: str, best_epoch: int | None = None
) -> None:
    """Draw the figures of all epochs and logged steps into a PNG. Figures that were not measured are left out.

    `best_epoch` is the epoch whose model was kept, counted from 1.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    losses, results, rates = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.6))
    figure.suptitle(title, fontsize=13)
    thin = thinned(steps)
    draw_losses(losses, history, thin)
    draw_results(results, history)
    draw_learning_rate(rates, history, thin)
    for panel in (losses, results, rates):
        finish_panel(panel, best_epoch)
    rates.set_xlabel("epoch")
    set_epoch_ticks(rates, history, thin)
    figure.savefig(path, format="png")


def draw_losses(panel: Axes, history: list[dict[str, Any]], steps: list[dict[str, Any]]) -> None:
    """Draw the training loss of each step and epoch, and the validation loss of each epoch."""
    across, up = series(steps, "loss")
    if across:
        panel.plot(across, up, color=SKY, alpha=0.55, linewidth=1, label="training loss, each step")
    draw_epochs(panel, history, "train_loss", label="training loss, mean of the epoch", color=BLUE, marker="o")
    draw_epochs(panel, history, "loss", label="validation loss", color=ORANGE, marker="s")
    panel.set_ylabel("loss (nats)")
    highest = max([*up, *series(history, "train_loss")[1], *series(history, "loss")[1]], default=1.0)
    panel.set_ylim(0, 1.06 * highest)


def draw_results(panel: Axes, history: list[dict[str, Any]]) -> None:
    """Draw accuracy and F1 of each epoch. Figures that were not measured are left out."""
    for key, name, color, line, marker in RESULTS:
        draw_epochs(panel, history, key, label=name, color=color, linestyle=line, marker=marker)
    panel.set_ylabel("share")
    low, high = panel.get_ylim()
    panel.set_ylim(max(low - 0.02, 0.0), min(high + 0.02, 1.02))


def draw_learning_rate(panel: Axes, history: list[dict[str, Any]], steps: list[dict[str, Any]]) -> None:
    """Draw the learning rate of each step; without steps, the peak of each epoch."""
    if steps:
        panel.plot(*series(steps, "learning_rate"), color=GREEN, label="learning rate")
    else:
        draw_epochs(panel, history, "learning_rate", label="peak learning rate", color=GREEN, marker="o")
    panel.set_ylabel("learning rate")
    panel.set_ylim(bottom=0)
    panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))


def draw_epochs(panel: Axes, history: list[dict[str, Any]], key: str, **style: Any) -> None:
    """Draw one figure of every epoch that has it."""
    across, up = series(history, key)
    if across:
        panel.plot(across, up, markersize=5 if len(across) <= MAX_MARKERS else 2, linewidth=1.8, **style)


def finish_panel(panel: Axes, best_epoch: int | None) -> None:
    """Mark the kept epoch, and add grid and legend."""
    if best_epoch is not None:
        panel.axvline(best_epoch, color=GREY, linestyle=":", linewidth=1.4, label=f"kept epoch ({best_epoch})")
    panel.grid(color="#dddddd", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=9)


def set_epoch_ticks(panel: Axes, history: list[dict[str, Any]], steps: list[dict[str, Any]]) -> None:
    """Show whole epochs on the axis, from the start of training if there are steps."""
    from matplotlib.ticker import MaxNLocator

    last = max([1.0, *(float(row["epoch"]) for row in [*history, *steps])])
    first = 0.0 if steps else 1.0
    margin = 0.02 * (last - first) or 0.5
    panel.set_xlim(first - (0 if steps else margin), last + margin)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))


def series(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return epochs and values of one figure, where it is a finite number."""
    known = [row for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
    return [float(row["epoch"]) for row in known], [float(row[key]) for row in known]


def thinned(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return at most `MAX_POINTS` of the steps, spread evenly over the run, with the last one."""
    if len(steps) <= MAX_POINTS:
        return steps
    return [steps[round(index * (len(steps) - 1) / (MAX_POINTS - 1))] for index in range(MAX_POINTS)]
