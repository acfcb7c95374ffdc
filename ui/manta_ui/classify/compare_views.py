"""HTML of the comparison of two versions: their answers to one text and to the rows of a file, and their metrics."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from manta_ui.classify.answer_views import answer_html
from manta_ui.classify.batch_views import LONGEST_CELL, ROWS_A_PAGE
from manta_ui.look.markup import percent
from manta_ui.look.tables import Cell, figure_cell, table_html

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta_ui.classify.row_answers import RowAnswer
    from manta_ui.clients.api import Answer, ModelInfo, Text

METRICS = {"accuracy": "accuracy", "f1_macro": "macro F1", "f1_micro": "micro F1", "loss": "loss"}
"""Metrics that are always shown, with their names; a click shows the rest."""


def side_by_side_html(left: tuple[Answer, ModelInfo], right: tuple[Answer, ModelInfo]) -> str:
    """Return both answers to one text, and whether they agree."""
    same = set(left[0].labels) == set(right[0].labels)
    words = "Both versions agree." if same else "The versions disagree."
    kind = "manta-agree" if same else "manta-disagree"
    cards = "".join(f"<div><h2>Version {model.version}</h2>{answer_html(answer, model)}</div>" for answer, model in (left, right))
    return f'<p class="{kind}" role="status">{words}</p><div class="manta-pair">{cards}</div>'


def metrics_html(left: ModelInfo, right: ModelInfo) -> str:
    """Return both versions' metrics on their test rows, and the differences."""
    known = left.metrics.keys() | right.metrics.keys()
    main = _metrics_table([name for name in METRICS if name in known], left, right, caption="On each version's own test rows")
    rest = sorted(known - METRICS.keys())
    if not rest:
        return main
    more = _metrics_table(rest, left, right, caption="All other metrics")
    return f"{main}<details><summary>All metrics</summary>{more}</details>"


def _metrics_table(names: Sequence[str], left: ModelInfo, right: ModelInfo, *, caption: str) -> str:
    rows = []
    for name in names:
        one, other = left.metrics.get(name), right.metrics.get(name)
        apart = None if one is None or other is None else other - one
        rows.append([Cell(METRICS.get(name, name)), figure_cell(one, digits=4), figure_cell(other, digits=4), _difference(apart)])
    headings = ["Metric", f"Version {left.version}", f"Version {right.version}", "Difference"]
    return table_html(f"compare {caption}", headings, rows, caption=caption)


def _difference(value: float | None) -> Cell:
    return Cell("", sorts_as=float("-inf")) if value is None else Cell(f"{value:+.4f}", sorts_as=value, kind="manta-number")


def agreement_html(left: Sequence[RowAnswer], right: Sequence[RowAnswer], *, versions: tuple[int, int]) -> str:
    """Return the share of rows on which two versions agree, and how many answers of each are uncertain."""
    both = [pair for pair in zip(left, right, strict=True) if pair[0].problem is None and pair[1].problem is None]
    same = sum(set(one.labels) == set(other.labels) for one, other in both)
    share = percent(same / len(both)) if both else "–"
    figures = [
        (share, "of the rows get the same label"),
        (f"{len(both) - same:,}", "disagreements"),
        *(
            (f"{sum(answer.uncertain for answer in answers):,}", f"not sure in version {version}")
            for version, answers in zip(versions, (left, right), strict=True)
        ),
    ]
    tiles = "".join(f"<li><strong>{figure}</strong><span>{html.escape(words)}</span></li>" for figure, words in figures)
    return f'<ul class="manta-tiles manta-found">{tiles}</ul>'


def compared_page_html(
    texts: Sequence[Text], left: Sequence[RowAnswer], right: Sequence[RowAnswer], *, versions: tuple[int, int], page: int
) -> str:
    """Return one page of the rows: disagreements first, sorted by the lower score of both answers, highest first."""

    def rank(index: int) -> tuple[bool, float]:
        one, other = left[index], right[index]
        return set(one.labels) == set(other.labels), -min(one.score or 0.0, other.score or 0.0)

    order = sorted(range(len(texts)), key=rank)
    pages = max(1, -(-len(order) // ROWS_A_PAGE))
    page = min(max(page, 1), pages)
    start = (page - 1) * ROWS_A_PAGE
    rows = [_row(index, texts[index], left[index], right[index]) for index in order[start : start + ROWS_A_PAGE]]
    caption = f"Rows {start + 1:,} to {start + len(rows):,} of {len(order):,}, disagreements first; page {page:,} of {pages:,}"
    headings = ["Row", "Text", f"Version {versions[0]}", "Score", f"Version {versions[1]}", "Score", "Same"]
    return table_html("compare", headings, rows, caption=caption)


def _row(index: int, text: Text, left: RowAnswer, right: RowAnswer) -> list[Cell]:
    shown = " — ".join(text)
    cut = shown if len(shown) <= LONGEST_CELL else shown[:LONGEST_CELL] + "…"
    same = set(left.labels) == set(right.labels)
    return [
        Cell(f"{index + 1:,}", sorts_as=float(index)),
        Cell(cut, kind="manta-wide"),
        *_cells(left),
        *_cells(right),
        Cell("yes") if same else Cell("no", kind="manta-bad"),
    ]


def _cells(answer: RowAnswer) -> list[Cell]:
    if answer.problem:
        return [Cell(answer.problem, kind="manta-bad"), Cell("", sorts_as=-1.0)]
    return [Cell(answer.said), figure_cell(answer.score, digits=3)]
