"""HTML of a search in the tab Tuning: its trials, two settings against each other, and learning curves."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from manta_ui.look.charts import NUM_STYLES, Axis, Dot, Series, line_chart, number, scatter_chart
from manta_ui.look.markup import moment
from manta_ui.look.tables import Cell, figure_cell, table_html

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manta_ui.tuning.searches import Mean, RecordedSearch, ShownTrial

PREFERRED = ("train.learning_rate", "model.dropout")
"""The settings that the scatter shows first, if they were searched."""
BACKGROUND = 5
"""Style of the trials that are not among the best."""
ON_LOG_AXES = {"train.learning_rate", "train.weight_decay"}
"""Settings whose ratios matter rather than their differences."""
KINDS = {"failed": "manta-bad", "done": "manta-good", "stopped early": "manta-faint", "not run": "manta-faint"}


def search_line(search: RecordedSearch) -> str:
    """Return the progress of a search in one sentence."""
    ended = sum(trial.state != "training" for trial in search.trials)
    began = f"began {moment(search.run.started_ms)} UTC"
    so_far = "" if search.run.is_over else " so far"
    leader = "" if search.best is None else f"; best{so_far}: {search.best.name} with {_result(search.best, search)}"
    how = {
        "RUNNING": f"running: {ended} of {len(search.trials)} trials that began have ended",
        "FINISHED": f"done: {len(search.trials)} trials",
        "FAILED": f"failed: {search.run.tags.get('manta.error', 'see the log of its job')}",
    }.get(search.run.status, f"stopped after {len(search.trials)} trials")
    return f"{search.run.name} ({began}) is {how}{leader}."


def trials_html(search: RecordedSearch) -> str:
    """Return a table of all trials, best first, then those without a result. A click on a heading sorts it."""
    ordered = [*search.ranked, *(trial for trial in search.trials if trial.score is None)]
    settings, styles = search.settings, styles_of(search)
    rows = [
        [
            Cell(trial.name, style=styles.get(trial.name, BACKGROUND)),
            _state_cell(trial),
            figure_cell(trial.score, digits=4),
            *([_mean_cell(search.means.get(trial.name))] if search.means else []),
            *(_value_cell(trial, name) for name in settings),
            figure_cell(len(trial.history)),
        ]
        for trial in ordered
    ]
    means = ["mean of other seeds"] if search.means else []
    headings = ["trial", "state", f"validation {search.metric}", *means, *map(short_name, settings), "epochs"]
    caption = f"{len(rows)} runs by their own result; the marked trial is the best. -seed- is a trial again with another seed."
    marked = None if search.best is None else ordered.index(search.best)
    return table_html("trials", headings, rows, caption=caption, marked=marked)


def charts_html(search: RecordedSearch) -> str:
    """Return the curves of all trials and the scatter, side by side if there is room."""
    metric = f"validation {search.metric}"
    parts = [curves_of(search, metric, lambda trial: trial.history)]
    if not search.lower_is_better:
        parts.append(curves_of(search, "validation loss", lambda trial: trial.losses))
    parts.append(scatter_of(search))
    return f'<div class="manta-grid-of-charts">{"".join(parts)}</div>' if any(parts) else ""


def scatter_of(search: RecordedSearch) -> str:
    """Draw two searched settings against each other, colored by the metric. A single setting is drawn against the metric."""
    drawn = [trial for trial in search.trials if trial.is_drawn]
    numeric = [name for name in search.settings if drawn and all(trial.number(name) is not None for trial in drawn)]
    numeric.sort(key=lambda name: PREFERRED.index(name) if name in PREFERRED else len(PREFERRED))
    if not numeric:
        return ""
    label = f"validation {search.metric}"
    across_name, up_name = numeric[0], numeric[1] if len(numeric) > 1 else None
    shown = [trial for trial in drawn if up_name is not None or trial.score is not None]
    if not shown:
        return ""
    dots = [
        Dot(
            across=trial.number(across_name) or 0.0,
            up=(trial.number(up_name) if up_name else trial.score) or 0.0,
            value=trial.score,
            title=_title(trial, search),
            is_best=trial is search.best,
        )
        for trial in shown
    ]
    title = f"{short_name(across_name).capitalize()} against {short_name(up_name) if up_name else label}; the best has a ring"
    return scatter_chart(
        title,
        dots,
        across=_axis(across_name, [dot.across for dot in dots]),
        up=_axis(up_name, [dot.up for dot in dots]) if up_name else Axis.around(label, [dot.up for dot in dots]),
        value_label=label,
    )


def curves_of(search: RecordedSearch, label: str, values_of: Callable[[ShownTrial], Sequence[float]]) -> str:
    """Draw a figure after each epoch, with a line for each trial. The best trials have colors, and any stands out if pointed at."""
    styles = styles_of(search)
    drawn = [trial for trial in search.ranked if any(map(math.isfinite, values_of(trial)))]
    series = [
        Series(trial.name, _curve(values_of(trial)), style=styles.get(trial.name, BACKGROUND), has_marks=trial.name in styles)
        for trial in drawn
    ]
    if not series:
        return ""
    return line_chart(
        f"{label.capitalize()} by epoch, all trials",
        series,
        across=Axis.around("epoch", [x for item in series for x, _ in item.points], whole=True),
        up=Axis.around(label, [y for item in series for _, y in item.points]),
        lights_up=True,
    )


def styles_of(search: RecordedSearch) -> dict[str, int]:
    """Return the style of each of the best trials, by name, the same in all charts and in the table."""
    styles = [style for style in range(NUM_STYLES) if style != BACKGROUND]
    return {trial.name: style for style, trial in zip(styles, search.ranked, strict=False)}


def config_html(search: RecordedSearch) -> str:
    """Return the winner's config as YAML, or a sentence that says when it will be available."""
    if search.best_config:
        return f'<pre class="manta-log" tabindex="0" aria-label="Best config">{html.escape(search.best_config)}</pre>'
    waits = "It appears when the search is over." if not search.run.is_over else "This search ended without a best trial."
    return f'<p class="manta-quiet">{waits}</p>'


def short_name(setting: str) -> str:
    """Return the last part of a dotted name, in words."""
    return setting.rsplit(".", 1)[-1].replace("_", " ")


def _title(trial: ShownTrial, search: RecordedSearch) -> str:
    values = ", ".join(f"{short_name(name)} {_shown(trial, name)}" for name in search.settings if name in trial.values)
    score = "no result yet" if trial.score is None else f"validation {search.metric} {trial.score:.4f}"
    return f"{trial.name}: {values}; {score}; {trial.state}"


def _result(trial: ShownTrial, search: RecordedSearch) -> str:
    """Return the result that decides about a trial: its mean over other seeds, if it was confirmed."""
    mean = search.means.get(trial.name)
    if mean is None:
        return f"validation {search.metric} {number(trial.score or 0.0)}"
    return f"validation {search.metric} {number(mean.value)} ± {mean.std:.2g}, the mean of other seeds ({mean.num_seeds})"


def _mean_cell(mean: Mean | None) -> Cell:
    return Cell("", sorts_as=-math.inf) if mean is None else Cell(f"{mean.value:.4f} ± {mean.std:.4f}", sorts_as=mean.value)


def _state_cell(trial: ShownTrial) -> Cell:
    if trial.reason:
        return Cell(f"{trial.state}: {trial.reason}", kind="manta-wide manta-bad")
    return Cell(trial.state, kind=KINDS.get(trial.state, ""))


def _curve(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(epoch, value) for epoch, value in enumerate(values, start=1) if math.isfinite(value)]


def _axis(name: str, values: list[float]) -> Axis:
    return Axis.around(short_name(name), values, is_log=name in ON_LOG_AXES and min(values) > 0)


def _value_cell(trial: ShownTrial, name: str) -> Cell:
    value = trial.number(name)
    return Cell(trial.values.get(name, "")) if value is None else figure_cell(value)


def _shown(trial: ShownTrial, name: str) -> str:
    value = trial.number(name)
    return trial.values[name] if value is None else number(value)
