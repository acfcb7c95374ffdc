"""Tables that are sorted by a click on a heading; `look/data.js` does the sorting. Everything in a cell is escaped."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta_ui.look.charts import NUM_STYLES, number
from manta_ui.look.markup import breakable

if TYPE_CHECKING:
    from collections.abc import Sequence


WRAPPED = ("manta-wide", "manta-wide manta-bad", "manta-named")
"""Kinds of cells whose text may take several lines."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    sorts_as: float | None = None
    """The value it is sorted by; None means its text."""
    kind: str = ""
    """A class of the style sheet, such as `manta-bad`."""
    hint: str = ""
    """Text of its tooltip."""
    style: int | None = None
    """Style of the chart's line that has the cell's text as its name; the cell then has its color."""
    review: int | None = None
    """The row of a file that a button in the cell opens in the tab Correct."""

    @property
    def is_number(self) -> bool:
        """True if it stands at the right of its column, as its heading does."""
        return self.sorts_as is not None and self.kind != "manta-name"


def figure_cell(value: float | None, *, digits: int | None = None) -> Cell:
    """Return a cell with a number. None gives an empty cell, which sorts below all numbers."""
    if value is None:
        return Cell("", sorts_as=float("-inf"))
    return Cell(number(value) if digits is None else f"{value:.{digits}f}", sorts_as=value)


def table_html(
    name: str, headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str, marked: int | None = None
) -> str:
    """Return a table. The page remembers its sorting by `name`; `marked` is the index of the row that stands out."""
    heads = "".join(
        _head_html(heading, is_number=any(row[column].is_number for row in rows)) for column, heading in enumerate(headings)
    )
    body = "".join(_row_html(row, is_marked=index == marked) for index, row in enumerate(rows))
    return (
        f'<div class="manta-framed"><p class="manta-quiet">{html.escape(caption)}</p>'
        f'<div class="manta-scroll" tabindex="0" role="region" aria-label="{html.escape(caption, quote=True)}">'
        f'<table class="manta-table" data-sort-name="{html.escape(name, quote=True)}">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def facts_html(facts: Sequence[tuple[str, str]]) -> str:
    """Return names and values, one below the other."""
    rows = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{breakable(value)}</dd></div>" for name, value in facts)
    return f'<dl class="manta-facts">{rows}</dl>'


def section_html(title: str, *parts: str) -> str:
    """Return a heading with its content; empty if there is no content."""
    body = "".join(parts)
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def _head_html(heading: str, *, is_number: bool) -> str:
    kind = ' class="manta-number"' if is_number else ""
    return f'<th scope="col"{kind}><button type="button">{html.escape(heading)}</button></th>'


def _row_html(row: Sequence[Cell], *, is_marked: bool) -> str:
    kind = ' class="manta-marked"' if is_marked else ""
    return f"<tr{kind}>{''.join(map(_cell_html, row))}</tr>"


def _cell_html(cell: Cell) -> str:
    attributes = ""
    kinds = [cell.kind] if cell.kind else []
    if cell.sorts_as is not None:
        attributes += f' data-value="{cell.sorts_as!r}"'
    if cell.is_number:
        kinds.append("manta-number")
    if kinds:
        attributes += f' class="{" ".join(kinds)}"'
    if cell.hint:
        attributes += f' title="{html.escape(cell.hint, quote=True)}"'
    # Half of a surrogate pair, which a file of JSON may hold, cannot be sent to a browser.
    text = cell.text.encode(errors="replace").decode()
    if cell.style is None:
        button = (
            "" if cell.review is None else f' <button type="button" class="manta-link" data-review="{cell.review}">Correct</button>'
        )
        return f"<td{attributes}>{breakable(text) if cell.kind in WRAPPED else html.escape(text)}{button}</td>"
    swatch = f'<span class="manta-swatch manta-s{cell.style % NUM_STYLES}" aria-hidden="true"></span>'
    return f'<td{attributes} data-series="{html.escape(text, quote=True)}">{swatch}{html.escape(text)}</td>'
