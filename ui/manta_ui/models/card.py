"""HTML of a model card: headings, tables, lists and code, but nothing that could run or be fetched."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", flags=re.DOTALL)
REFUSED = ["image", "link", "autolink", "html_inline", "html_block", "reference"]
"""Markdown that could fetch, open or run something. It is shown as plain text."""
LEVELS_DOWN = 2
"""Levels by which headings are lowered: the page and the tab have headings above them."""


def card_html(markdown: str) -> str:
    """Return the card as HTML, without the metadata at its start. Any HTML in it is escaped."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(REFUSED)
    tokens = reader.parse(FRONT_MATTER.sub("", markdown))
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(6, int(token.tag[1:]) + LEVELS_DOWN)}"
    body = str(reader.renderer.render(tokens, reader.options, {}))
    return f'<div class="manta-card" tabindex="0" role="region" aria-label="Model card">{body}</div>'
