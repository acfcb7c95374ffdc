"""Small pieces of HTML. Text from people, files or models is escaped here with `html.escape`."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta_ui.clients.api import Explanation, Text

BREAKS = re.compile(r"([_/.@\\-](?=[^\W\d]))")
LONGEST_SHOWN = 120
"""Characters of a text on a button. A click puts the whole text into the box."""


def capitalized(message: str) -> str:
    """Return an error's message as a sentence for the page. Messages of the command line start with a small letter."""
    return message if message.startswith(("http://", "https://")) else message[:1].upper() + message[1:]


def note_html(message: str, *, is_error: bool = False) -> str:
    """Return a line of text for the page, escaped. A screen reader reads it aloud when it changes."""
    kind = "manta-note manta-error" if is_error else "manta-note"
    return f'<div class="{kind}" role="status">{html.escape(message)}</div>'


def empty_html(title: str, hint: str = "") -> str:
    """Return a placeholder for a place that has nothing to show yet."""
    below = f"<p>{html.escape(hint)}</p>" if hint else ""
    return f'<div class="manta-empty"><p class="manta-empty-title">{html.escape(title)}</p>{below}</div>'


def breakable(name: str) -> str:
    """Return a name as HTML that a narrow column may break after a sign such as `_` or `/`, but not inside a word."""
    return BREAKS.sub(r"\1<wbr/>", html.escape(name))


def named(labels: str | Sequence[str]) -> str:
    """Return a label, or several, in words."""
    return labels if isinstance(labels, str) else ", ".join(labels) or "no label"


def bars_html(scores: dict[str, float], *, applied: Sequence[str], most: int) -> str:
    """Return a bar for each label, the most probable first. Labels that apply stand out by more than color."""
    rows = [_bar_html(label, score, applies=label in applied) for label, score in list(scores.items())[:most]]
    left = len(scores) - len(rows)
    more = f'<p class="manta-quiet">and {left} less probable labels</p>' if left > 0 else ""
    return f'<ul class="manta-bars" aria-label="Probability of each label">{"".join(rows)}</ul>{more}'


def _bar_html(label: str, score: float, *, applies: bool) -> str:
    kind = "manta-bar manta-applies" if applies else "manta-bar"
    return (
        f'<li class="{kind}"><span class="manta-bar-name">{breakable(label)}</span>'
        f'<span class="manta-bar-score">{percent(score)}</span>'
        f'<span class="manta-track" aria-hidden="true"><span style="width:{100 * score:.1f}%"></span></span></li>'
    )


def text_buttons_html(texts: Sequence[Text], *, captions: Sequence[str] | None = None) -> str:
    """Return a button for each text or pair, which puts it into the boxes. `captions` are shown at the ends of the buttons."""
    captions = captions or [""] * len(texts)
    return f'<ul class="manta-texts">{"".join(_text_button_html(*row) for row in zip(texts, captions, strict=True))}</ul>'


def _text_button_html(texts: Text, caption: str) -> str:
    shown = " — ".join(texts)
    shown = shown if len(shown) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + "…"
    held = html.escape(json.dumps(list(texts)), quote=True)
    tail = f'<span class="manta-caption">{html.escape(caption)}</span>' if caption else ""
    return f'<li><button type="button" data-texts="{held}"><span>{html.escape(shown)}</span>{tail}</button></li>'


def explanation_html(texts: Text, explanation: Explanation) -> str:
    """Return the texts with each word shaded as it speaks for the label (blue, underlined) or against it (orange, dotted)."""
    largest = max((abs(word.attribution) for word in explanation.words), default=0.0)
    parts: list[str] = []
    for part, text in enumerate(texts):
        pieces: list[str] = []
        at = 0
        for word in (word for word in explanation.words if word.part == part):
            pieces.append(html.escape(text[at : word.start]))
            pieces.append(_word_html(text[word.start : word.end], word.attribution, largest=largest))
            at = word.end
        pieces.append(html.escape(text[at:]))
        parts.append(f'<p class="manta-words">{"".join(pieces)}</p>')
    doubt = "" if explanation.complete else '<p class="manta-quiet">The shares are rough: they do not quite add up.</p>'
    label = html.escape(explanation.label)
    legend = (
        f'<p class="manta-quiet"><span class="manta-for" style="--share:.7">for</span> and '
        f'<span class="manta-against" style="--share:.7">against</span> {label}; the stronger, the more a word counts.</p>'
    )
    return f'<section class="manta-why" aria-label="Why {label}"><h2>Why {label}?</h2>{"".join(parts)}{legend}{doubt}</section>'


def _word_html(word: str, attribution: float, *, largest: float) -> str:
    share = abs(attribution) / largest if largest else 0.0
    if share < 0.05:
        return html.escape(word)
    kind, said = ("manta-for", "for") if attribution > 0 else ("manta-against", "against")
    return f'<span class="{kind}" style="--share:{share:.2f}" title="{attribution:+.2f} {said}">{html.escape(word)}</span>'


def percent(share: float) -> str:
    """Format a share as a percentage. Only exactly 0 and 1 are shown as 0% and 100%."""
    if 0.995 <= share < 1:
        return ">99%"
    if 0 < share < 0.005:
        return "<1%"
    return f"{share:.0%}"


def moment(at_ms: int | None) -> str:
    """Format a time in UTC."""
    return "" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def progress_html(done: int, total: int, *, left_s: float | None) -> str:
    """Return a progress bar, and in words the rows done and the time left."""
    left = "" if left_s is None else f", {_duration(left_s)} left"
    words = f"{done:,} of {total:,} rows{left}"
    return (
        f'<div class="manta-progress"><progress max="{total}" value="{done}" aria-label="Rows classified"></progress>'
        f"<p>{words}</p></div>"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
