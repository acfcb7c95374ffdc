"""`write_report`: write an assessment as a folder with a self-contained page, plots as PNG, and figures as JSON.

The page is built and styled like the report of a search. It runs no script and loads nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from manta.errors import InputError
from manta.storage.folders import written_folder
from manta_jobs.reporting.evaluation.drawings import SMALL_LABELS
from manta_jobs.reporting.evaluation.plots import evaluation_plots
from manta_jobs.reporting.evaluation.sections import (
    behaviour_rows,
    behaviour_sentence,
    cards_of,
    facts_of,
    headline_of,
    metric_rows,
    mistake_rows,
    slice_rows,
    worst_sentence,
)
from manta_jobs.reporting.page import BASE_STYLE, Picture, page_template, picture_of, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta_jobs.reporting.evaluation.assessment import Assessment

PAGE = Path(__file__).parent / "page"
PAGE_FILE = "report.html"
FIGURES_FILE = "report.json"


def check_target(folder: Path) -> None:
    """Refuse a folder that is not empty or cannot be made. Nothing is made yet.

    Raises:
        InputError: the folder is not empty, is a file, or may not be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"--out {folder}: the folder is not empty; give a new or empty one.")
    nearest = next(parent for parent in folder.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"{folder}: cannot be written, because of {nearest}; give another folder with --out.")


def write_report(assessment: Assessment, folder: Path) -> Path:
    """Write the folder completely or not at all, and return the page's path.

    Raises:
        RunError: it cannot be written.
    """
    folder = folder.absolute()
    with written_folder(folder) as partial:
        pictures = [picture_of(plot, partial) for plot in evaluation_plots(assessment)]
        (partial / PAGE_FILE).write_text(page_of(assessment, pictures), encoding="utf-8")
        figures = json.dumps(assessment.to_dict(), indent=2, ensure_ascii=False)
        (partial / FIGURES_FILE).write_text(figures + "\n", encoding="utf-8")
    return folder / PAGE_FILE


def page_of(assessment: Assessment, pictures: list[Picture]) -> str:
    """Return the whole page as HTML."""
    css = "".join(path.read_text(encoding="utf-8") for path in (BASE_STYLE, PAGE / "page.css"))
    return page_template(PAGE).render(
        assessment=assessment,
        subject=assessment.subject,
        sections=list(_sections(assessment)),
        headline=headline_of(assessment),
        cards=cards_of(assessment),
        metrics=metric_rows(assessment),
        worst=worst_sentence(assessment),
        slices=slice_rows(assessment),
        mistakes=mistake_rows(assessment),
        behaviour=behaviour_rows(assessment),
        behaviour_sentence=behaviour_sentence(assessment),
        thresholds=assessment.labels.thresholds,
        has_many_labels=len(assessment.labels.names) > SMALL_LABELS,
        facts=facts_of(assessment),
        plots=pictures,
        css=css,
        css_hash=sha256_of(css),
    )


def _sections(assessment: Assessment) -> Iterator[tuple[str, str]]:
    yield "result", "Result"
    yield "slices", "Slices"
    yield "mistakes", "Surest mistakes"
    if assessment.behaviour is not None:
        yield "behaviour", "Behaviour tests"
    yield "plots", "Plots"
    yield "labels", "By label"
    yield "facts", "About this report"
