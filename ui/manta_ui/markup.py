"""Small pieces of HTML. Whatever comes from people, files or models goes through `html.escape` here."""

from __future__ import annotations

import html


def note_html(message: str, *, is_error: bool = False) -> str:
    """A line of text for the page, escaped; a screen reader says it when it changes."""
    kind = "manta-note manta-error" if is_error else "manta-note"
    return f'<div class="{kind}" role="status">{html.escape(message)}</div>'
