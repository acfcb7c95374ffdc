"""`write_search_report`: what a search found, as one HTML file that needs nothing else, and its pictures as PNG.

The page's layout, style and script are in `page/`; the words and figures come from here and from `sections.py`.
Jinja escapes all that is filled in, and the page forbids itself to load or run anything that is not its own.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from manta.config import ExperimentConfig
from manta.config_file import config_text
from manta.storage import write_atomically
from manta_jobs.tuning.confirm import why_it_stays
from manta_jobs.tuning.journal import Confirmation, Trial
from manta_jobs.tuning.report.importance import importance
from manta_jobs.tuning.report.plots import Plot, darkened, search_plots, svg_of, write_png
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


@dataclass(frozen=True)
class Picture:
    """One plot as the page has it: four drawings as data URIs, for phones and for dark pages."""

    name: str
    title: str
    caption: str
    alt: str
    scrolls: bool
    wide: str
    wide_dark: str
    narrow: str
    narrow_dark: str


def write_search_report(
    config: ExperimentConfig,
    *,
    trials: list[Trial],
    confirmations: list[Confirmation],
    best: ExperimentConfig | None,
    test_metrics: dict[str, float],
    folder: Path,
    baseline_metrics: dict[str, float] | None = None,
) -> Path:
    """Write `report.html` and `plots/*.png` into a folder, and give the page's path.

    `config` is what the search started from, with its space; `best` is that of the winner, None where no trial finished an
    epoch. `test_metrics` and `baseline_metrics` (TF-IDF with logistic regression) are of
    the test rows.
    """
    winner_values = None if best is None else {name: value_of(best, name) for name in config.tune.searched}
    results = SearchResults(config, trials, confirmations, winner_values)
    plots = search_plots(results, importance(results))
    pictures = folder / PLOTS_FOLDER
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = [picture_of(plot, pictures) for plot in plots]
    path = folder / REPORT_FILE
    page = page_of(results, drawn, best=best, test_metrics=test_metrics, baseline_metrics=baseline_metrics)
    write_atomically(path, page)
    return path


def page_of(
    results: SearchResults,
    pictures: list[Picture],
    *,
    best: ExperimentConfig | None,
    test_metrics: dict[str, float],
    baseline_metrics: dict[str, float] | None,
) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    saved = savings(results.trials, results.config)
    css, js = ((PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html").render(
        config=results.config,
        results=results,
        sections=SECTIONS,
        headline=headline_of(results),
        cards=cards_of(results, saved, test_metrics=test_metrics, baseline_metrics=baseline_metrics),
        comparison=comparison_of(results, test_metrics=test_metrics, baseline_metrics=baseline_metrics),
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
        plots=pictures,
        settings=settings_of(results.config),
        commands=commands_of(results),
        css=css,
        js=js,
        css_hash=sha256_of(css),
        js_hash=sha256_of(js),
    )


def picture_of(plot: Plot, folder: Path) -> Picture:
    """A plot, written as PNG and drawn for all four kinds of page."""
    figure = plot.figure()
    write_png(figure, folder / f"{plot.name}.png")
    wide = svg_of(figure)
    narrow = wide if plot.scrolls else svg_of(plot.figure(narrow=True))
    drawings = [data_uri(svg) for svg in (wide, darkened(wide), narrow, darkened(narrow))]
    return Picture(plot.name, plot.title, plot.caption, plot.alt, plot.scrolls, *drawings)


def data_uri(svg: str) -> str:
    """A drawing as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def sha256_of(text: str) -> str:
    """The hash by which the page allows its own style and script, and no other."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
