"""The drawing of each plot of a search onto an empty figure. The parts that plots share are in `axes.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manta_jobs.reporting.canvas import (
    GRID,
    INK,
    PAPER,
    RED,
    add_legend,
    finish_panel,
    halo,
    is_narrow,
    plain,
    say,
    set_epoch_ticks,
    width_pt,
)
from manta_jobs.reporting.curves import BLUE, GREEN, GREY
from manta_jobs.tuning.report.axes import MARGIN, add_colour_bar, colour_scale, set_field_ticks, spread
from manta_jobs.tuning.report.results import SearchedField, SearchResults, finite_epochs, short_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from manta_jobs.tuning.journal import Confirmation, Trial
    from manta_jobs.tuning.report.importance import Importance

CHARACTER_PT = 5.2
"""Approximate width of a letter of 9 points."""
LOG_LOSS_FROM_RATIO = 20
"""Losses that differ by more than this factor are drawn on a log axis."""


def draw_scatter(figure: Figure, *, results: SearchResults, across: SearchedField | None, up: SearchedField | None) -> None:
    """Draw the trials by two searched fields, or by one field and the metric."""
    trials = [trial for trial in results.trials if trial.status == "failed" or results.score(trial) is not None]
    if across is None or not trials:
        say(figure, "No field was searched." if across is None else "No trial finished an epoch.")
        return
    panel = figure.subplots()
    height = up or results.metric_axis
    places = spread([(across.place(trial.values[across.name]), _height(trial, results, up)) for trial in trials])
    colours = colour_scale(results)
    for trial, (x, y) in zip(trials, places, strict=True):
        draw_mark(panel, x, y, trial=trial, results=results, colours=colours)
    set_field_ticks(panel, across=across, up=height)
    panel.set(xlim=(-MARGIN, 1 + MARGIN), ylim=(-MARGIN, 1 + MARGIN))
    finish_panel(panel)
    if results.ranked:
        add_colour_bar(figure, panel, colours, results)
    legend_of_marks(figure, trials, results)


def _height(trial: Trial, results: SearchResults, field: SearchedField | None) -> float:
    if field is not None:
        return field.place(trial.values[field.name])
    score = results.score(trial)
    return 0.0 if score is None else results.metric_axis.place(score)


def draw_mark(panel: Axes, x: float, y: float, *, trial: Trial, results: SearchResults, colours: ScalarMappable) -> None:
    """Draw one trial: filled if it ran to its end, hollow if it did not, a red cross if it failed.

    The winner and the trial with the config's own values are ringed.
    """
    if trial.status == "failed":
        panel.plot(x, y, marker="x", markersize=9, markeredgewidth=2.2, color=RED, zorder=3)
    else:
        score: Any = results.score(trial)
        colour = colours.to_rgba(score)
        shape = "o" if trial.status in ("done", "stopped early") else "s"
        if trial.status == "done":
            panel.plot(
                x, y, marker=shape, markersize=9.5, markerfacecolor=colour, markeredgecolor=INK, markeredgewidth=0.9, zorder=4
            )
        else:
            panel.plot(x, y, marker=shape, markersize=9, markerfacecolor=PAPER, markeredgecolor=INK, markeredgewidth=4, zorder=4)
            panel.plot(
                x, y, marker=shape, markersize=9, markerfacecolor=PAPER, markeredgecolor=colour, markeredgewidth=2.6, zorder=4
            )
    if trial is results.winner:
        panel.plot(x, y, marker="o", markersize=19, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.8, zorder=5)
    if trial is results.own:
        panel.plot(x, y, marker="D", markersize=17, markerfacecolor="none", markeredgecolor=BLUE, markeredgewidth=1.6, zorder=5)


def legend_of_marks(figure: Figure, trials: list[Trial], results: SearchResults) -> None:
    """Add a legend of the marks that occur."""
    statuses = {trial.status for trial in trials}
    filled: dict[str, Any] = {
        "marker": "o",
        "markersize": 8,
        "markerfacecolor": GREY,
        "markeredgecolor": INK,
        "markeredgewidth": 0.9,
    }
    hollow: dict[str, Any] = {"markersize": 8, "markerfacecolor": "none", "markeredgecolor": GREY, "markeredgewidth": 2.2}
    marks: list[tuple[bool, str, dict[str, Any]]] = [
        ("done" in statuses, "done", filled),
        ("stopped early" in statuses, "stopped early", hollow | {"marker": "o"}),
        (bool(statuses & {"out of time", "running", "not run"}), "cut short", hollow | {"marker": "s"}),
        ("failed" in statuses, "failed", {"marker": "x", "markersize": 8, "markeredgecolor": RED, "markeredgewidth": 2.2}),
        (results.winner in trials, "winner", hollow | {"marker": "o", "markersize": 12, "markeredgecolor": INK}),
        (results.own in trials, "the config's own values", hollow | {"marker": "D", "markersize": 9, "markeredgecolor": BLUE}),
    ]
    add_legend(figure, [(words, style | {"linestyle": "none"}) for occurs, words, style in marks if occurs])


def draw_learning_curves(figure: Figure, *, results: SearchResults) -> None:
    """Draw the metric of each trial by epoch, on a log axis if losses lie far apart."""
    curves = [(trial, *finite_epochs(trial, results.metric)) for trial in results.trials]
    curves = [curve for curve in curves if curve[1]]
    if not curves:
        say(figure, "No trial finished an epoch.")
        return
    panel = figure.subplots()
    kinds: dict[str, dict[str, Any]] = {}
    for trial, epochs, values in curves:
        words, style = curve_style(trial, results)
        kinds[words] = style
        panel.plot(epochs, values, **style, markevery=[0] if len(epochs) == 1 else [], marker="o", markersize=4)
        end = curve_end(trial)
        if end is not None:
            kinds[end[0]] = end[1] | {"linestyle": "none"}
            panel.plot(epochs[-1], values[-1], **end[1], zorder=6)
    every = [value for _, _, values in curves for value in values]
    if results.metric == "loss" and 0 < LOG_LOSS_FROM_RATIO * min(every) < max(every):
        panel.set_yscale("log")
    set_epoch_ticks(panel, max(epochs[-1] for _, epochs, _ in curves))
    panel.set_ylabel(plain(results.metric_label))
    finish_panel(panel)
    order = ("winner", "the config's own values", "other trials", "stopped early", "cut short", "failed")
    add_legend(figure, [(words, kinds[words]) for words in order if words in kinds])


def curve_style(trial: Trial, results: SearchResults) -> tuple[str, dict[str, Any]]:
    """Return the kind of a trial's line in words, and the line's style."""
    if trial is results.winner:
        return "winner", {"color": BLUE, "linewidth": 3.4, "zorder": 5}
    if trial is results.own:
        return "the config's own values", {"color": GREEN, "linewidth": 2.2, "linestyle": (0, (4, 1.5)), "zorder": 4}
    return "other trials", {"color": GREY, "linewidth": 1.2, "alpha": 0.75, "zorder": 3}


def curve_end(trial: Trial) -> tuple[str, dict[str, Any]] | None:
    """Return the mark at the end of a line that ends early, in words and as a style; None for a trial that is done."""
    if trial.status == "failed":
        return "failed", {"marker": "x", "markersize": 8, "markeredgewidth": 2.2, "color": RED}
    if trial.status == "done":
        return None
    words, marker = ("stopped early", "o") if trial.status == "stopped early" else ("cut short", "s")
    return words, {"marker": marker, "markersize": 7, "markerfacecolor": PAPER, "markeredgecolor": GREY, "markeredgewidth": 1.8}


def draw_parallel(figure: Figure, *, results: SearchResults) -> None:
    """Draw a vertical axis for each searched field and for the metric (up is better), and a line for each trial."""
    failed = [trial for trial in results.trials if trial.status == "failed"]
    scored = [trial for trial in results.ranked if trial.status != "failed"]
    if not results.fields or not (failed or scored):
        say(figure, "No trial finished an epoch." if results.fields else "No field was searched.")
        return
    panel = figure.subplots()
    panel.set_xlim(0, len(results.fields))
    panel.set_ylim(-MARGIN, 1 + MARGIN)
    colours = colour_scale(results)
    for trial in [*failed, *reversed(scored)]:
        draw_line(panel, trial, results=results, colours=colours)
    for index, field in enumerate([*results.fields, results.metric_axis]):
        draw_axis(panel, index, field, results=results)
    names = [plain(field.label) for field in [*results.fields, results.metric_axis]]
    room = width_pt(figure) / len(names)
    tilted = max(map(len, names)) * 5.5 > room
    tilt: dict[str, Any] = {"rotation": 28, "ha": "left", "rotation_mode": "anchor"} if tilted else {}
    panel.xaxis.tick_top()
    panel.set_xticks(range(len(names)), labels=names, **tilt)
    panel.tick_params(length=0, pad=6, labelcolor=INK)
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    statuses = {trial.status for trial in failed}
    marks = [("winner", {"color": INK, "linewidth": 4})] if results.winner in scored else []
    add_legend(figure, marks + ([("failed", {"color": RED, "linestyle": "--", "marker": "x"})] if statuses else []))


def draw_line(panel: Axes, trial: Trial, *, results: SearchResults, colours: ScalarMappable) -> None:
    """Draw one trial across all axes. A failed one ends before the metric's axis."""
    places = [field.place(trial.values[field.name]) for field in results.fields]
    if trial.status == "failed":
        panel.plot(places, color=RED, linewidth=1.3, linestyle="--", marker="x", markevery=[-1], markersize=8, clip_on=False)
        return
    score: Any = results.score(trial)
    places.append(_up_is_better(results.metric_axis.place(score), results))
    is_winner = trial is results.winner
    if is_winner:
        panel.plot(places, color=INK, linewidth=5.4, solid_joinstyle="round", zorder=3, clip_on=False)
    width = 3.2 if is_winner else 1.8 if trial.status == "done" else 1.2
    panel.plot(places, color=colours.to_rgba(score), linewidth=width, zorder=3 if is_winner else 2, clip_on=False)


def draw_axis(panel: Axes, index: int, field: SearchedField, *, results: SearchResults) -> None:
    """Draw one vertical axis with its ticks' texts: to the right for the metric, to the left for the others."""
    is_metric = index == len(results.fields)
    panel.plot([index, index], [0, 1], color=INK, linewidth=1.1, zorder=4, clip_on=False)
    room = width_pt(panel.figure) / (len(results.fields) + 1)
    for place, text in field.ticks():
        y = _up_is_better(place, results) if is_metric else place
        panel.plot([index - 0.012, index + 0.012], [y, y], color=INK, linewidth=1.1, zorder=4, clip_on=False)
        words = short_text(text, most=22 if index == 0 else max(5, int((0.85 * room - 14) / CHARACTER_PT)))
        aside: dict[str, Any] = {"xytext": (7, 0), "ha": "left"} if is_metric else {"xytext": (-6, 0), "ha": "right"}
        style: dict[str, Any] = {
            "textcoords": "offset points",
            "va": "center",
            "color": INK,
            "fontsize": 9,
            "zorder": 6,
            "path_effects": halo(),
        }
        panel.annotate(plain(words), (index, y), **aside, **style)


def _up_is_better(place: float, results: SearchResults) -> float:
    return place if results.higher_is_better else 1 - place


def draw_importance(figure: Figure, *, results: SearchResults, importance: Importance) -> None:
    """Draw a bar for each searched field, the most important on top, or a sentence that says why there are none."""
    from matplotlib.ticker import PercentFormatter

    if not importance.shares:
        say(figure, str(importance.reason))
        return
    panel = figure.subplots()
    labels = {field.name: field.label for field in results.fields}
    shares = sorted(importance.shares.items(), key=lambda pair: pair[1])
    lengths = [share for _, share in shares]
    errors = [importance.errors.get(name, 0.0) for name, _ in shares]
    below, above = ([min(pair) for pair in zip(errors, room, strict=True)] for room in (lengths, [1 - share for share in lengths]))
    panel.barh(range(len(shares)), lengths, height=0.55, color=BLUE)
    lines: dict[str, Any] = {"ecolor": INK, "elinewidth": 1.4, "capsize": 4, "fmt": "none"}
    panel.errorbar(lengths, range(len(shares)), xerr=[below, above], **lines)
    for row, (length, error) in enumerate(zip(lengths, above, strict=True)):
        words: dict[str, Any] = {"textcoords": "offset points", "xytext": (8, 0), "va": "center", "color": INK}
        panel.annotate(f"{length:.0%}", (length + error, row), **words)
    panel.set_yticks(range(len(shares)), labels=[plain(labels[name]) for name, _ in shares])
    panel.set_ylim(-0.6, len(shares) - 0.4)
    panel.set_xlim(0, 1.12 * max(sum(pair) for pair in zip(lengths, above, strict=True)))
    panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panel.set_xlabel(f"share of importance, from {importance.num_trials} trials")
    finish_panel(panel)
    panel.grid(visible=False, axis="y")


def draw_confirmation(figure: Figure, *, results: SearchResults) -> None:
    """Draw a row for each confirmed trial: its seeds, their mean and their standard deviation."""
    confirmed = [each for each in results.confirmations if each.scores]
    if not confirmed:
        asked = results.config.tune.confirm is not None
        said = "No trial was trained again with other seeds" if asked else "No trial was to be trained again with other seeds"
        say(figure, f"{said}, so one seed alone speaks for each.")
        return
    panel = figure.subplots()
    for row, confirmation in enumerate(confirmed):
        draw_seeds(panel, -row, confirmation, results=results)
    panel.set_ylim(-len(confirmed) + 0.6, 0.8)
    panel.set_yticks([])
    panel.margins(x=0.08)
    panel.set_xlabel(plain(results.metric_label))
    finish_panel(panel)
    panel.spines["left"].set_visible(False)
    dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 8}
    add_legend(
        figure,
        [
            ("another seed", dot | {"color": BLUE}),
            ("mean ± standard deviation", {"color": INK, "marker": "D", "markersize": 7}),
            ("in the search", dot | {"markerfacecolor": PAPER, "markeredgecolor": GREY, "markeredgewidth": 1.8}),
        ],
    )


def draw_seeds(panel: Axes, row: int, confirmation: Confirmation, *, results: SearchResults) -> None:
    """Draw one confirmed trial's row, with its name, values and mean above it."""
    trial, scores = confirmation.trial, confirmation.scores
    panel.axhline(row, color=GRID, linewidth=1, zorder=0)
    heights = [row + 0.1 * (index - (len(scores) - 1) / 2) / max(1, len(scores) - 1) for index in range(len(scores))]
    searched = results.score(trial)
    if searched is not None:
        hollow: dict[str, Any] = {"markerfacecolor": PAPER, "markeredgecolor": GREY, "markeredgewidth": 1.8, "zorder": 2}
        panel.plot(searched, row, marker="o", markersize=8, **hollow)
    error: dict[str, Any] = {"capsize": 5, "elinewidth": 1.8, "markersize": 8, "fmt": "D"}
    panel.errorbar(confirmation.mean, row, xerr=confirmation.std or None, color=INK, zorder=3, **error)
    panel.plot(scores, heights, linestyle="none", marker="o", markersize=7, color=BLUE, markeredgecolor=PAPER, zorder=4)
    values = ", ".join(f"{field.label} {short_text(trial.values[field.name])}" for field in results.fields)
    result = f"{confirmation.mean:.4f} ± {confirmation.std:.4f}" if len(scores) > 1 else f"{confirmation.mean:.4f}"
    above: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "path_effects": halo(),
        "zorder": 6,
        "color": INK,
    }
    above["in_layout"] = False  # long words must not make the panel narrower
    name = f"{trial.name}, winner" if trial is results.winner else trial.name
    room = 50 if is_narrow(panel.figure) else 92
    values = values if len(values) <= room else f"{values[: room - 1]}…"
    panel.annotate(plain(name), (0, row), xytext=(0, 28), ha="left", weight="bold", **above)
    panel.annotate(result, (1, row), xytext=(0, 28), ha="right", weight="bold", **above)
    panel.annotate(plain(values), (0, row), xytext=(0, 15), ha="left", **above | {"color": GREY})
