"""Functions that draw each plot of an evaluation onto an empty figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from manta.inference.reliability import claims
from manta.intervals import wilson_interval
from manta_jobs.reporting.canvas import GRID, INK, add_legend, finish_panel, is_narrow, plain, say
from manta_jobs.reporting.curves import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from manta_jobs.reporting.evaluation.assessment import Assessment

COUNTED_LABELS = 12
"""Most labels for a confusion matrix of normal size. With more, cell borders are thinner and numbers smaller."""
SMALL_LABELS = 30
CELL_INK = "#101418"
"""Color of numbers on cells. It is not one that a dark page replaces, as cells keep theirs."""
DEEPEST = 0.62
"""Part of blue or orange in a cell with all rows of its label, with which numbers stay readable; the page's matrix has the same."""
NUM_CONFIDENCE_BINS = 20


def draw_confusion(figure: Figure, *, assessment: Assessment) -> None:
    """Draw the confusion matrix, labels by answers. Right is blue, wrong orange, deeper for a larger share of a label's rows."""
    counts = assessment.confusion
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    panel, names = figure.subplots(), [plain(name) for name in assessment.labels.names]
    size = len(names)
    is_right, edge = np.eye(size, dtype=bool), 0.3 if size > COUNTED_LABELS else 0.8
    for colour, is_shown in ((BLUE, is_right), (ORANGE, ~is_right)):
        drawn = np.ma.masked_where(~is_shown | (counts == 0), shares)
        panel.pcolormesh(drawn, cmap=_shades(colour), vmin=0, vmax=1, edgecolors=GRID, linewidth=edge)
    letters = 9.0 if size <= COUNTED_LABELS else 7.5 if size <= SMALL_LABELS else 5.6
    for row, column in zip(*np.nonzero(counts), strict=True):
        text = f"{counts[row, column]:,}"
        panel.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=CELL_INK, fontsize=letters)
    ticks = np.arange(size) + 0.5
    panel.set_xticks(ticks, names, rotation=0 if _fits(figure, names) else 90, fontsize=max(letters, 6.5))
    panel.set_yticks(ticks, names, fontsize=max(letters, 6.5))
    panel.set(xlabel="answer of the model", ylabel="label in the data", aspect="equal" if size > 2 else "auto")
    panel.invert_yaxis()
    finish_panel(panel)
    panel.grid(visible=False)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def draw_label_errors(figure: Figure, *, assessment: Assessment) -> None:
    """Draw, for each label of a multilabel task, the rows where it was found, missed and wrongly given."""
    panel = figure.subplots()
    counts, left = assessment.confusion, np.zeros(len(assessment.labels.names))
    entries = []
    for kind, (words, colour) in enumerate((("found", BLUE), ("missed", GREY), ("wrongly given", ORANGE))):
        panel.barh(np.arange(len(left)), counts[:, kind], left=left, color=colour, height=0.75)
        left += counts[:, kind]
        entries.append((words, {"marker": "s", "linestyle": "none", "color": colour, "markersize": 8}))
    _label_rows(panel, list(assessment.labels.names))
    panel.set_xlabel("rows")
    finish_panel(panel)
    panel.grid(visible=False, axis="y")
    add_legend(figure, entries)


def draw_per_class(figure: Figure, *, assessment: Assessment) -> None:
    """Draw F1, precision and recall of each label, the worst on top."""
    panel = figure.subplots()
    ordered = sorted(assessment.per_class.items(), key=lambda item: item[1]["f1"])
    places = np.arange(len(ordered))
    panel.barh(places, [row["f1"] for _, row in ordered], color=BLUE, height=0.7, alpha=0.55)
    size = 6 if len(ordered) <= SMALL_LABELS else 4
    precision: dict[str, Any] = {"linestyle": "none", "marker": "|", "color": INK, "markeredgewidth": 2, "markersize": 2 * size}
    recall: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": ORANGE, "markersize": size}
    panel.plot([row["precision"] for _, row in ordered], places, **precision)
    panel.plot([row["recall"] for _, row in ordered], places, **recall)
    _label_rows(panel, [name for name, _ in ordered], [int(row["rows"]) for _, row in ordered])
    panel.set(xlim=(0, 1.02), xlabel="F1, precision and recall (rows in brackets)")
    finish_panel(panel)
    panel.grid(visible=False, axis="y")
    add_legend(
        figure,
        [
            ("F1", {"marker": "s", "linestyle": "none", "color": BLUE, "alpha": 0.55, "markersize": 8}),
            ("precision", precision),
            ("recall", recall),
        ],
    )


def draw_reliability(figure: Figure, *, assessment: Assessment) -> None:
    """Draw accuracy by confidence, with the 95% interval of each bin."""
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
    bins = assessment.calibration
    bounds = [wilson_interval(round(item.accuracy * item.num_decisions), item.num_decisions) for item in bins]
    for item, (low, high) in zip(bins, bounds, strict=True):
        panel.plot([item.confidence] * 2, [low, high], color=BLUE, linewidth=1.4, alpha=0.6)
    panel.plot([item.confidence for item in bins], [item.accuracy for item in bins], marker="o", markersize=6, color=BLUE)
    lowest = min([0.5, *(item.confidence for item in bins)])
    panel.set(
        xlim=(max(0.0, lowest - 0.05), 1.02),
        ylim=(0, 1.04),
        xlabel="probability" if assessment.labels.task == "multilabel" else "confidence: probability of the answer",
        ylabel="share that applies" if assessment.labels.task == "multilabel" else "share that is right",
    )
    finish_panel(panel)
    add_legend(
        figure,
        [
            ("measured, with its 95% interval", {"marker": "o", "color": BLUE}),
            ("perfect", {"color": GREY, "linestyle": "--"}),
        ],
    )


def draw_confidence(figure: Figure, *, assessment: Assessment) -> None:
    """Draw a histogram of confidence, with right and wrong answers apart."""
    confidence, correct = claims(assessment.probabilities, assessment.targets, labels=assessment.labels)
    several = assessment.labels.task == "multilabel"
    lowest = 0.0 if several else 1 / len(assessment.labels.names)
    edges = np.linspace(lowest, 1, NUM_CONFIDENCE_BINS + 1)
    words = ("label applies", "label does not apply") if several else ("right", "wrong")
    panel = figure.subplots()
    panel.hist([confidence[correct], confidence[~correct]], bins=edges.tolist(), stacked=True, color=[BLUE, ORANGE])
    panel.set(xlabel="probability" if several else "confidence", ylabel="rows and labels" if several else "rows")
    panel.set_xlim(lowest, 1)
    if several:
        panel.set_yscale("log")
    finish_panel(panel)
    marks: dict[str, Any] = {"marker": "s", "linestyle": "none", "markersize": 8}
    add_legend(figure, [(word, {"color": colour, **marks}) for word, colour in zip(words, (BLUE, ORANGE), strict=True)])


def draw_roc(figure: Figure, *, assessment: Assessment) -> None:
    """Draw the ROC curve of a binary model's second label."""
    from sklearn.metrics import roc_curve

    if "roc_auc" not in assessment.metrics:
        say(figure, "All rows have the same label, so there is no such curve.")
        return
    false, true, _ = roc_curve(assessment.targets, assessment.probabilities[:, 1])
    name = plain(assessment.labels.names[1])
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
    panel.plot(false, true, color=BLUE, linewidth=2)
    panel.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03), xlabel=f"share of other rows called {name}", ylabel=f"share of {name} found")
    finish_panel(panel)
    area = f"area {assessment.metrics['roc_auc']:.4f}"
    add_legend(figure, [(area, {"color": BLUE}), ("guessing: area 0.5", {"color": GREY, "linestyle": "--"})])


def draw_precision_recall(figure: Figure, *, assessment: Assessment) -> None:
    """Draw precision by recall of a binary model's second label."""
    from sklearn.metrics import precision_recall_curve

    if "pr_auc" not in assessment.metrics:
        say(figure, "All rows have the same label, so there is no such curve.")
        return
    precision, recall, _ = precision_recall_curve(assessment.targets, assessment.probabilities[:, 1])
    name, share = plain(assessment.labels.names[1]), float(np.mean(assessment.targets))
    panel = figure.subplots()
    panel.axhline(share, color=GREY, linestyle="--", linewidth=1.2)
    panel.plot(recall, precision, color=BLUE, linewidth=2, drawstyle="steps-post")
    panel.set(xlim=(-0.01, 1.01), ylim=(0, 1.03), xlabel=f"recall: share of {name} found", ylabel=f"precision of {name}")
    finish_panel(panel)
    area = f"average precision {assessment.metrics['pr_auc']:.4f}"
    add_legend(figure, [(area, {"color": BLUE}), (f"guessing: {share:.2f}", {"color": GREY, "linestyle": "--"})])


def draw_slices(figure: Figure, *, assessment: Assessment) -> None:
    """Draw the accuracy of each slice with its 95% interval, and that of all rows."""
    panel = figure.subplots()
    slices = [part for part in assessment.slices if part.num_rows]
    panel.axvline(assessment.metrics["accuracy"], color=GREY, linestyle="--", linewidth=1.2)
    for place, part in enumerate(slices):
        colour = ORANGE if part == assessment.worst else BLUE
        panel.plot([part.low, part.high], [place, place], color=colour, linewidth=2, alpha=0.6)
        panel.plot(part.accuracy, place, marker="o", markersize=7, color=colour)
    _label_rows(panel, [part.title for part in slices], [part.num_rows for part in slices])
    panel.set_xlabel("accuracy (rows in brackets)")
    panel.set_xlim(max(0.0, min([0.9, *(part.low for part in slices)]) - 0.03), 1.01)
    finish_panel(panel)
    panel.grid(visible=False, axis="y")
    add_legend(
        figure,
        [
            ("slice, with its 95% interval", {"marker": "o", "color": BLUE}),
            ("worst slice", {"marker": "o", "color": ORANGE}),
            ("all rows", {"color": GREY, "linestyle": "--"}),
        ],
    )


def _label_rows(panel: Axes, names: list[str], counts: list[int] | None = None) -> None:
    """Label the bars with names and their row counts, and shorten long names."""
    most = 24 if is_narrow(panel.figure) else 44
    shown = [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]
    if counts is not None:
        shown = [f"{name} ({count:,})" for name, count in zip(shown, counts, strict=True)]
    small = len(names) > SMALL_LABELS or is_narrow(panel.figure)
    panel.set_yticks(np.arange(len(names)), [plain(name) for name in shown], fontsize=7.5 if small else 9)
    panel.set_ylim(-0.6, len(names) - 0.4)
    panel.invert_yaxis()


def _fits(figure: Figure, names: list[str]) -> bool:
    """Tell whether the names fit side by side below the columns."""
    return 6.0 * max(map(len, names)) < 0.75 * 72 * figure.get_figwidth() / len(names)


def _shades(colour: str) -> Any:
    """Return a color map from nearly white (few) to a color (all rows of a label)."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    ends = [[1 - part + part * value for value in to_rgb(colour)] for part in (0.08, DEEPEST)]
    return LinearSegmentedColormap.from_list("shares", ends).with_extremes(bad=(1.0, 1.0, 1.0, 0.0))
