"""HTML of the results for a file of rows: the distribution of labels, and a table of the rows that pass the filters."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta_ui.look.markup import breakable, named, percent
from manta_ui.look.tables import Cell, table_html

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from manta_ui.classify.row_answers import RowAnswer
    from manta_ui.clients.api import Said, Text

ALL_LABELS = "All labels"
ROWS_A_PAGE = 50
LONGEST_CELL = 300
MOST_BARS = 12
"""Labels whose number of rows is shown at once; a click shows the others."""


@dataclass(frozen=True)
class Filter:
    """The conditions under which a row is shown."""

    label: str = ALL_LABELS
    uncertain_only: bool = False
    least: float = 0.0
    most: float = 1.0
    """Scores from `least` to `most`. A row without an answer has no score; it is shown if the score is not restricted."""

    def lets(self, answer: RowAnswer) -> bool:
        """Tell whether a row is shown."""
        if self.label != ALL_LABELS and self.label not in answer.labels:
            return False
        if self.uncertain_only and not answer.uncertain:
            return False
        if answer.score is None:
            return self.least <= 0 and self.most >= 1
        return self.least <= answer.score <= self.most


def distribution_html(answers: Sequence[RowAnswer]) -> str:
    """Return a bar for each label with its number of rows. The hatched part of a bar is uncertain."""
    counts = Counter(label for answer in answers for label in (answer.labels or ("no label",)) if answer.problem is None)
    unsure = Counter(
        label for answer in answers for label in (answer.labels or ("no label",)) if answer.problem is None and answer.uncertain
    )
    most = max(counts.values(), default=1)
    bars = [_bar_html(label, count, unsure[label], total=len(answers), most=most) for label, count in counts.most_common()]
    shown, rest = "".join(bars[:MOST_BARS]), "".join(bars[MOST_BARS:])
    more = (
        f'<details><summary>{len(bars) - MOST_BARS} more labels</summary><ul class="manta-bars">{rest}</ul></details>'
        if rest
        else ""
    )
    return (
        '<section class="manta-answer manta-found"><h2>Labels</h2>'
        '<p class="manta-quiet">Rows by label; the hatched part is not sure.</p>'
        f'<ul class="manta-bars">{shown}</ul>{more}</section>'
    )


def _bar_html(label: str, count: int, unsure: int, *, total: int, most: int) -> str:
    sure, doubtful = 100 * (count - unsure) / most, 100 * unsure / most
    words = f"{count:,} ({percent(count / total)}), {unsure:,} not sure"
    return (
        f'<li class="manta-bar"><span class="manta-bar-name">{breakable(label)}</span>'
        f'<span class="manta-bar-score">{words}</span><span class="manta-track manta-tall" aria-hidden="true">'
        f'<span class="manta-sure" style="width:{sure:.2f}%"></span><span class="manta-doubt" style="width:{doubtful:.2f}%"></span>'
        "</span></li>"
    )


def table_page_html(
    texts: Sequence[Text], answers: Sequence[RowAnswer], chosen: Filter, *, page: int, said: Mapping[int, Said] | None = None
) -> str:
    """Return one page of the rows that pass the filter. Pages count from 1; a number beyond the last page gives the last page.

    `said` are people's judgments by row; None if the service keeps none.
    """
    found = [index for index, answer in enumerate(answers) if chosen.lets(answer)]
    if not found:
        return '<p class="manta-quiet">No row passes these filters.</p>'
    pages = -(-len(found) // ROWS_A_PAGE)
    page = min(max(page, 1), pages)
    start = (page - 1) * ROWS_A_PAGE
    rows = [_row(index, texts[index], answers[index], said=said) for index in found[start : start + ROWS_A_PAGE]]
    caption = f"Rows {start + 1:,} to {start + len(rows):,} of {len(found):,}, page {page:,} of {pages:,}"
    headings = ["Row", "Text", "Label", "Score", "Sure", *([] if said is None else ["Right label"])]
    return table_html("batch", headings, rows, caption=caption)


def _row(index: int, text: Text, answer: RowAnswer, *, said: Mapping[int, Said] | None) -> list[Cell]:
    shown = " — ".join(text)
    cut = shown if len(shown) <= LONGEST_CELL else shown[:LONGEST_CELL] + "…"
    score = Cell("", sorts_as=-1.0) if answer.score is None else Cell(f"{answer.score:.3f}", sorts_as=answer.score)
    label = Cell(answer.problem, kind="manta-wide manta-bad") if answer.problem else Cell(answer.said, kind="manta-named")
    unsure = "no, unlike all training texts" if answer.is_out_of_scope else "not sure"
    sure = "" if answer.problem else unsure if answer.uncertain else "yes"
    row = [Cell(f"{index + 1:,}", sorts_as=float(index)), Cell(cut, kind="manta-wide"), label, score, Cell(sure)]
    if said is None:
        return row
    judged = named(said[index]) if index in said else ""
    return [*row, Cell(judged, kind="manta-wide", review=None if answer.problem else index)]
