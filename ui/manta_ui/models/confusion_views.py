"""HTML of a version's confusions: the matrix, labels with most confusion first, and the most frequent confusions in words."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from manta_ui.look.markup import breakable, percent
from manta_ui.look.tables import Cell, table_html

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Counts = Sequence[Sequence[int]]

MANY_LABELS = 5
"""Above this number of columns, the confusion matrix has vertical column names."""
MOST_PAIRS = 8
"""Confusions that are listed in words, for models with more than MANY_LABELS labels."""
KINDS = ("found", "missed", "wrongly given")
"""Counts of a multilabel task's rows, in the order of `confusion_counts`."""


def confusion_html(report: Mapping[str, Any]) -> str:
    """Return the confusion matrix: rows are labels, columns are answers. Color is the share of a row: blue right, orange wrong."""
    labels, counts = report.get("labels"), report.get("confusion")
    if not isinstance(labels, list) or not isinstance(counts, list) or len(labels) != len(counts):
        return ""
    names = [str(label) for label in labels]
    if report.get("task") == "multilabel":
        rows = "".join(_several_row(name, row) for name, row in zip(names, counts, strict=True))
        return _figure(KINDS, rows, words="Rows of each label that were found, missed and wrongly given")
    order = by_confusion(counts)
    rows = "".join(_row(names, counts[index], order, index=index) for index in order)
    words = "Rows of each label by the answer they got; the labels with most wrong answers come first"
    return _figure([names[index] for index in order], rows, words=words) + _pairs_html(names, counts)


def by_confusion(counts: Counts) -> list[int]:
    """Return the indices of the labels, those with most wrong answers from or to them first."""
    wrong = [sum(row) + sum(other[index] for other in counts) - 2 * row[index] for index, row in enumerate(counts)]
    return sorted(range(len(counts)), key=lambda index: -wrong[index])


def _figure(columns: Sequence[str], rows: str, *, words: str) -> str:
    heads = "".join(f'<th scope="col" title="{_attribute(name)}"><span>{breakable(name)}</span></th>' for name in columns)
    many = " manta-many" if len(columns) > MANY_LABELS else ""
    return (
        '<figure class="manta-chart"><figcaption>Confusions on the test rows</figcaption>'
        f'<p class="manta-quiet">{words}. <span class="manta-key manta-key-right">right</span> '
        '<span class="manta-key manta-key-wrong">wrong</span></p>'
        '<div class="manta-scroll manta-matrix" tabindex="0" role="region" aria-label="Confusion matrix">'
        f'<table class="manta-confusion{many}"><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div></figure>'
    )


def _row(names: Sequence[str], row: Sequence[int], order: Sequence[int], *, index: int) -> str:
    total = sum(row)
    cells = "".join(
        _cell(row[column], total, is_right=column == index, hint=f"{names[index]} → {names[column]}") for column in order
    )
    return f"<tr>{_row_head(names[index])}{cells}</tr>"


def _several_row(name: str, row: Sequence[int]) -> str:
    total = sum(row[:2])
    cells = "".join(
        _cell(count, total, is_right=kind == KINDS[0], hint=f"{name}: {kind}") for kind, count in zip(KINDS, row, strict=False)
    )
    return f"<tr>{_row_head(name)}{cells}</tr>"


def _row_head(name: str) -> str:
    return f'<th scope="row" title="{_attribute(name)}">{breakable(name)}</th>'


def _cell(count: int, total: int, *, is_right: bool, hint: str) -> str:
    """Return a cell. An empty one is blank, so that the others are seen."""
    if not count:
        return '<td class="manta-none"></td>'
    said = f"{hint}: {count:,} of {total:,} rows"
    kind = "" if is_right else ' class="manta-wrong"'
    return f'<td{kind} style="--share:{min(1.0, count / max(total, 1)):.2f}" title="{_attribute(said)}">{count:,}</td>'


def _pairs_html(names: Sequence[str], counts: Counts) -> str:
    """Return the most frequent confusions as a table; empty for few labels, where the matrix is as short."""
    if len(names) <= MANY_LABELS:
        return ""
    found = [
        (count, sum(row), names[index], names[column])
        for index, row in enumerate(counts)
        for column, count in enumerate(row)
        if count and column != index
    ]
    rows = [
        [
            Cell(label, kind="manta-wide"),
            Cell(answer, kind="manta-wide"),
            Cell(f"{count:,}", sorts_as=count),
            Cell(percent(count / total), sorts_as=count / total),
        ]
        for count, total, label, answer in sorted(found, key=lambda item: -item[0])[:MOST_PAIRS]
    ]
    headings = ["label", "answered as", "rows", "of the label"]
    return table_html("confusions", headings, rows, caption="Most frequent confusions") if rows else ""


def _attribute(text: str) -> str:
    return html.escape(text, quote=True)
