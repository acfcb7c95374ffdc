"""`write_search_report`: write the results of a search as one self-contained HTML file, and its plots as PNG.

The page's layout, style and script are in `page/`; the words and figures come from here and from `sections.py`. Jinja escapes all
inserted values, and the page's security policy blocks everything that is not its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manta.config.file import config_text
from manta.storage.folders import write_atomically
from manta_jobs.reporting.page import BASE_STYLE, Picture, page_template, picture_of, sha256_of
from manta_jobs.tuning.confirm import why_it_stays
from manta_jobs.tuning.report.importance import importance
from manta_jobs.tuning.report.plots import search_plots
from manta_jobs.tuning.report.results import SearchResults
from manta_jobs.tuning.report.savings import savings
from manta_jobs.tuning.report.sections import (
    cards_of,
    chosen_rows,
    commands_of,
    comparison_of,
    confirmed_rows,
    headline_of,
    metric_rows,
    savings_sentence,
    settings_of,
    time_sentence,
    trial_rows,
    trials_sentence,
)
from manta_jobs.tuning.samplers import value_of

if TYPE_CHECKING:
    from manta.config import ExperimentConfig, Method
    from manta_jobs.tuning.journal import Confirmation, Trial

REPORT_FILE = "report.html"
PLOTS_FOLDER = "plots"
PAGE = Path(__file__).parent / "page"
SECTIONS = (
    ("result", "Result"),
    ("best", "Best config"),
    ("savings", "What stopping saved"),
    ("trials", "Trials"),
    ("plots", "Plots"),
    ("settings", "Settings"),
    ("repeat", "Repeat it"),
)


def write_search_report(
    config: ExperimentConfig,
    *,
    trials: list[Trial],
    confirmations: list[Confirmation],
    best: ExperimentConfig | None,
    test_metrics: dict[str, float],
    folder: Path,
    baseline_metrics: dict[str, float] | None = None,
    method: Method = "full",
    kept: str = "",
) -> Path:
    """Write `report.html` and `plots/*.png` into a folder, and return the page's path.

    `config` is the config that the search started from, with its search space. `best` is the winner's config; None if no trial
    finished an epoch. `test_metrics` and `baseline_metrics` (TF-IDF with logistic regression) are those of the test rows.
    They belong to the registered model: that of a trial or, with few rows, that of another `method`. `kept` tells which one is
    registered, and whether it is the mean of several runs' weights.
    """
    winner_values = None if best is None else {name: value_of(best, name) for name in config.tune.searched}
    results = SearchResults(config, trials, confirmations, winner_values)
    plots = search_plots(results, importance(results))
    pictures = folder / PLOTS_FOLDER
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = [picture_of(plot, pictures) for plot in plots]
    path = folder / REPORT_FILE
    page = page_of(
        results, drawn, best=best, test_metrics=test_metrics, baseline_metrics=baseline_metrics, method=method, kept=kept
    )
    write_atomically(path, page)
    return path


def page_of(
    results: SearchResults,
    pictures: list[Picture],
    *,
    best: ExperimentConfig | None,
    test_metrics: dict[str, float],
    baseline_metrics: dict[str, float] | None,
    method: Method,
    kept: str,
) -> str:
    """Return the whole page."""
    saved = savings(results.trials, results.config)
    css, js = BASE_STYLE.read_text(encoding="utf-8"), (PAGE / "page.js").read_text(encoding="utf-8")
    return page_template(PAGE).render(
        config=results.config,
        results=results,
        sections=SECTIONS,
        headline=headline_of(results) if method == "full" else kept,
        method=method,
        cards=cards_of(results, saved, test_metrics=test_metrics, baseline_metrics=baseline_metrics, method=method),
        comparison=comparison_of(results, test_metrics=test_metrics, baseline_metrics=baseline_metrics, method=method),
        metrics=metric_rows(test_metrics, baseline_metrics),
        baseline=baseline_metrics is not None,
        chosen=chosen_rows(results),
        best_yaml=None if best is None else config_text(best),
        savings=saved,
        savings_sentence=savings_sentence(saved),
        time_sentence=time_sentence(saved),
        trials_sentence=trials_sentence(results),
        rows=trial_rows(results),
        confirmed=confirmed_rows(results),
        why_it_stays=why_it_stays([each for each in results.confirmations if each.scores], results.config),
        kept=kept,
        plots=pictures,
        settings=settings_of(results.config),
        commands=commands_of(results),
        css=css,
        js=js,
        css_hash=sha256_of(css),
        js_hash=sha256_of(js),
    )
