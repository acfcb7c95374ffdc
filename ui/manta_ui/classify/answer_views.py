"""HTML of an answer: the label and its probability, or the reason for an uncertain answer, and a bar for each label."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from manta_ui.look.markup import bars_html, percent

if TYPE_CHECKING:
    from manta_ui.clients.api import Answer, ModelInfo

MOST_BARS = 6


def answer_html(answer: Answer, model: ModelInfo) -> str:
    """Return an answer of `model`, or of another version of it, as HTML."""
    doubt = f'<p class="manta-reason">{html.escape(uncertain_reason(answer, model))}</p>' if answer.uncertain else ""
    # Each label of a multilabel model has its own threshold: labels above theirs are marked, not those above 0.5.
    bars = bars_html(answer.scores, applied=[] if answer.uncertain else answer.labels, most=MOST_BARS)
    latency_ms = 1000 * answer.latency_s
    meta = f'<p class="manta-quiet" data-latency-ms="{latency_ms:.3f}">version {answer.version} · {latency_ms:.0f} ms</p>'
    sets = f'<p class="manta-reason">{html.escape(set_sentence(answer, model))}</p>' if answer.label_set else ""
    return f'<section class="manta-answer" aria-live="polite">{_verdict_html(answer)}{doubt}{sets}{bars}{meta}</section>'


def _verdict_html(answer: Answer) -> str:
    if answer.uncertain:
        return '<p class="manta-verdict manta-unsure"><span class="manta-label">Not sure</span></p>'
    if not answer.labels:
        return '<p class="manta-verdict"><span class="manta-label">No label applies</span></p>'
    shown = [
        f'<span class="manta-label">{html.escape(label)}</span> <span class="manta-score">{percent(answer.scores[label])}</span>'
        for label in answer.labels
    ]
    return f'<p class="manta-verdict">{"<br>".join(shown)}</p>'


def uncertain_reason(answer: Answer, model: ModelInfo) -> str:
    """Return the reason why an answer is uncertain, and how often that happens."""
    if model.target_precision is None:
        if model.guarantee is not None:
            return "No threshold keeps the model's guarantee, so every answer is uncertain."
        return "No label is more likely than not."
    sure = f"{model.uncertain_below:.0%} sure" + (" of all labels together" if model.is_multilabel else "")
    perhaps = "" if model.is_multilabel or not answer.labels else f"Perhaps {answer.labels[0]}. "
    chosen = (
        f"{perhaps}The model is less than {sure}. That threshold was chosen on the validation rows, so that "
        f"{100 * model.target_precision:.3g}% of the answers above it are right"
    )
    if model.guarantee is not None:
        chosen += f" with a probability of {model.guarantee:.0%}"
    if model.coverage is None:
        return f"{chosen}."
    kept = f", and {percent(model.precision)} of those are right" if model.precision is not None else ""
    return f"{chosen}. On the test rows, {model.coverage:.0%} of the answers are above it{kept}."


def set_sentence(answer: Answer, model: ModelInfo) -> str:
    """Return the labels of an answer's label set, and how often such sets have the right label."""
    often = "" if model.set_coverage is None else f" (right for {100 * model.set_coverage:.3g}% of texts)"
    return f"Label set{often}: {', '.join(answer.label_set)}."


def in_short(answer: Answer) -> str:
    """Return an answer in a few words."""
    if answer.uncertain:
        return "not sure"
    if not answer.labels:
        return "no label"
    return ", ".join(f"{label} {percent(answer.scores[label])}" for label in answer.labels)
