"""Advice after a run: one list of at most three settings to try, the most promising first, each named once.

The values come from the rule of `auto` (`manta.config.starting_point`) and stay within its bounds, so that one sentence never
contradicts another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from manta.config.starting_point import EPOCHS, LEARNING_RATES, Usual

if TYPE_CHECKING:
    from manta.config import ExperimentConfig

Verdict = Literal["fits", "overfits", "underfits", "unfinished", "diverged"]

MOST_SENTENCES = 3
TOO_HIGH = 3.0
"""Factor on the learning rate of `auto`. From this factor on, a model that learned nothing has more likely lost its pretraining
than moved too little. The default search goes up to the same factor."""
TOO_LOW = 0.5
"""Share of the learning rate of `auto` below which a new head learns too little. Fine-tuning on BANKING77 (77 classes) loses to
TF-IDF by 20 points at 5e-5 and 3 epochs, where `auto` takes 2.6e-4. It wins by 3 points at 2e-4 and 5 epochs, where `auto` takes
2e-4."""
MAX_DROPOUT = 0.5


@dataclass(frozen=True)
class Situation:
    """The facts that advice depends on."""

    config: ExperimentConfig
    verdict: Verdict
    usual: Usual
    best_epoch: int
    """The epoch whose model was kept, from 1."""
    num_train_rows: int
    loses: bool
    """True if the baseline is as good or better on the test rows."""

    @property
    def rate(self) -> float:
        """The run's learning rate."""
        return self.config.train.peak_learning_rate

    @property
    def epochs(self) -> int:
        """The run's number of epochs."""
        return self.config.train.planned_epochs


def advice(now: Situation) -> tuple[str, ...]:
    """Return sentences that name a setting and a value to try; empty if there is nothing to improve."""
    by_verdict = {
        "diverged": _against_divergence,
        "underfits": _against_underfitting,
        "unfinished": _against_an_early_end,
        "overfits": _against_overfitting,
        "fits": _against_a_loss,
    }
    return tuple(by_verdict[now.verdict](now)[:MOST_SENTENCES])


def _against_divergence(now: Situation) -> list[str]:
    found = [_rate(now, min(now.rate / 3, now.usual.learning_rate), "the loss is no longer a number.")]
    warmup = now.config.train.warmup_fraction
    if warmup < 0.2:
        found.append(f"train.warmup_fraction: 0.2 instead of {warmup:g}; the first steps break a model most easily.")
    return found


def _against_underfitting(now: Situation) -> list[str]:
    """Advise smaller steps if they were too large for the encoder, else larger ones, and more of them."""
    if now.rate >= TOO_HIGH * now.usual.learning_rate:
        return [
            _rate(now, now.usual.learning_rate, "steps this large can wipe out the pretraining."),
            "Check some rows: a model cannot learn labels that do not go with their texts.",
        ]
    found = [_rate(now, _higher_rate(now), "the model has hardly moved.")] if _higher_rate(now) > now.rate else []
    found += _more_epochs(now, 2 * now.epochs, "the model needs more steps.")
    dropout = now.config.model.dropout
    if dropout > 0.2:
        found.append(f"model.dropout: 0.1 instead of {dropout:g}; much of each text is hidden from the model.")
    return found


def _against_an_early_end(now: Situation) -> list[str]:
    too_low = now.rate < TOO_LOW * now.usual.learning_rate
    found = [_rate(now, now.usual.learning_rate, "the model learns slowly.")] if too_low else []
    return found + _more_epochs(now, now.epochs + max(1, now.epochs // 2), "validation loss was still falling.")


def _against_overfitting(now: Situation) -> list[str]:
    """Advise what keeps a model from memorizing its rows, the cheapest first. More rows always stand last."""
    found: list[str] = []
    if now.best_epoch < now.epochs:
        found.append(f"train.num_epochs: {now.best_epoch} instead of {now.epochs}; later epochs did not help.")
    if now.rate >= now.usual.learning_rate:
        found.append(_rate(now, now.rate / 2, "smaller steps stay closer to the pretrained encoder."))
    dropout = now.config.model.dropout
    if dropout < MAX_DROPOUT:
        more = min(round(dropout + 0.1, 2), MAX_DROPOUT)
        found.append(f"model.dropout: {more:g} instead of {dropout:g}; it hides parts of the text from the model in turn.")
    return [*found[: MOST_SENTENCES - 1], f"Label more rows: this run had {now.num_train_rows:,} to train on."]


def _against_a_loss(now: Situation) -> list[str]:
    """Advise what may beat the baseline. A model that fits and beats it needs no advice."""
    if not now.loses:
        return []
    usual = now.usual.learning_rate
    found = [_rate(now, usual, "the new head needs larger steps.")] if now.rate < TOO_LOW * usual else []
    if now.epochs < now.usual.num_epochs:
        found += _more_epochs(now, now.usual.num_epochs, "the new head needs more steps.")
    return found or ["manta tune: search other settings.", "model.pretrained: another encoder may suit these texts better."]


def _rate(now: Situation, value: float, why: str) -> str:
    return f"train.learning_rate: {value:.2g} instead of {now.rate:.2g}; {why}"


def _higher_rate(now: Situation) -> float:
    """Return the rate of `auto` if the run's is lower, else three times the run's, within the bounds of the rule."""
    usual = now.usual.learning_rate
    return usual if now.rate < usual else min(3 * now.rate, TOO_HIGH * usual, LEARNING_RATES[1])


def _more_epochs(now: Situation, wanted: int, why: str) -> list[str]:
    epochs = min(max(wanted, now.usual.num_epochs), EPOCHS[1])
    return [f"train.num_epochs: {epochs} instead of {now.epochs}; {why}"] if epochs > now.epochs else []
