"""A model card as HTML: headings, tables, lists and code, and nothing that could run or be fetched."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", flags=re.DOTALL)
REFUSED = ["image", "link", "autolink", "html_inline", "html_block", "reference"]
"""What Markdown could fetch, open or run; it is shown as the text that it is."""
LEVELS_DOWN = 2
"""The page has a heading of its own, and the tab has."""


def card_html(markdown: str) -> str:
    """The card without the metadata in front; every other piece of HTML in it is escaped."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(REFUSED)
    tokens = reader.parse(FRONT_MATTER.sub("", markdown))
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(6, int(token.tag[1:]) + LEVELS_DOWN)}"
    body = str(reader.renderer.render(tokens, reader.options, {}))
    return f'<div class="manta-card" tabindex="0" role="region" aria-label="Model card">{body}</div>'
