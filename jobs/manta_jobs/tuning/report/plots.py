"""The five plots of a search. `search_plots` returns each with its caption; they become PNG, and SVG for light and dark pages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from manta_jobs.reporting.page import Plot
from manta_jobs.tuning.report.drawings import draw_confirmation, draw_importance, draw_learning_curves, draw_parallel, draw_scatter

if TYPE_CHECKING:
    from manta_jobs.tuning.report.importance import Importance
    from manta_jobs.tuning.report.results import SearchedField, SearchResults

PREFERRED = ("train.learning_rate", "model.dropout")
"""The fields that the scatter plot shows if they were searched."""
CONFIRMATION_CAPTION = (
    "Each dot is a run with another seed, the diamond their mean and the bar one standard deviation to each side: "
    "trials whose bars overlap may differ by luck."
)
MOST_AXES_ON_PHONES = 4


def search_plots(results: SearchResults, importance: Importance) -> list[Plot]:
    """Return the plots in the order of the report."""
    across, up = scatter_fields(results, importance)
    names = " and ".join(field.label for field in (across, up) if field is not None) or "no searched field"
    better = "higher" if results.higher_is_better else "lower"
    metric = results.metric_label
    return [
        Plot(
            "scatter",
            f"{names[0].upper()}{names[1:]}",
            f"Each mark is a trial and its colour the best {metric} ({better} is better): look for where the bright ones lie.",
            f"Scatter plot of {names}, coloured by {metric}.",
            partial(draw_scatter, results=results, across=across, up=up),
        ),
        Plot(
            "learning_curves",
            "Learning curves",
            f"Each line is a trial's {metric} after each epoch; one that ends in a mark was stopped, cut short or failed there.",
            f"Line plot of {metric} by epoch for each trial.",
            partial(draw_learning_curves, results=results),
        ),
        Plot(
            "parallel_coordinates",
            "All settings together",
            f"Follow a trial's line from axis to axis to its {metric} (up is better): where good lines meet, a setting matters.",
            f"Parallel coordinates of {', '.join(field.label for field in results.fields) or 'no field'} and {metric}.",
            partial(draw_parallel, results=results),
            scrolls=len(results.fields) > MOST_AXES_ON_PHONES,
        ),
        Plot(
            "importance",
            "What mattered",
            importance_caption(results, importance),
            "Bar chart of how important each searched setting is." if importance.shares else str(importance.reason),
            partial(draw_importance, results=results, importance=importance),
            height_in=max(1.9, 1.3 + 0.55 * len(importance.shares)),
        ),
        Plot(
            "confirmation",
            "Trained again with other seeds",
            CONFIRMATION_CAPTION if results.confirmations else "",
            f"Dot plot of {metric} of each confirmed trial and seed, with mean and standard deviation."
            if results.confirmations
            else "No trial was trained again with other seeds.",
            partial(draw_confirmation, results=results),
            height_in=max(1.9, 1.4 + 1.0 * len(results.confirmations)),
        ),
    ]


def importance_caption(results: SearchResults, importance: Importance) -> str:
    """Return a caption that explains the bars. It is empty without bars, because the plot itself then says why."""
    if not importance.shares:
        return ""
    return (
        f"From {importance.num_trials} trials, each by the epoch that it keeps: how much worse a trial's {results.metric_label} is "
        "predicted from the other trials when a setting is not known; a bar whose error line reaches zero may be chance."
    )


def scatter_fields(results: SearchResults, importance: Importance) -> tuple[SearchedField | None, SearchedField | None]:
    """Return the two fields of the scatter plot; None in the place of a missing one.

    Learning rate and dropout come first, then numbers before words, and the more important ones before others.
    """

    def order(field: SearchedField) -> tuple[int, bool, float]:
        preferred = PREFERRED.index(field.name) if field.name in PREFERRED else len(PREFERRED)
        return preferred, field.scale == "category", -importance.shares.get(field.name, 0.0)

    first, second, *_ = [*sorted(results.fields, key=order), None, None]
    return first, second
