"""Whether a run learned its training rows by heart, and which settings to try next: `assess_fit`.

Losses are compared, not accuracies, because a model grows sure of its training rows long before its accuracy tells. They are
in nats and judged against the loss of guessing by the classes' shares (their entropy): 0.69 for two equal classes, 2.3 for
ten. So the thresholds mean the same whatever the number of classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from manta.config import ModelConfig
from manta.labels import Task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manta.config import ExperimentConfig

Verdict = Literal["fits", "overfits", "underfits", "unfinished", "diverged"]

LEAST_RISE = 0.05
"""Validation loss must rise by this share of its lowest value to count: on a few hundred rows it wavers by some percent."""
LEAST_RISE_OF_GUESSING = 0.01
"""… and by this share of the loss of guessing, so that 0.002 after 0.001 is no fault."""
LARGE_GAP = 0.1
"""A gap counts from this share of the loss of guessing. Dropout makes the training loss a bit too high, and it is the mean
over an epoch in which the model improved, so that a real gap is larger than the one measured."""
LARGE_RATIO = 1.25
"""… and from a validation loss this many times the training loss, for far from convergence the two differ by chance."""
HARDLY_LEARNED = 0.9
"""A training loss above this share of the loss of guessing is no better than the classes' shares alone."""
STILL_FALLING = 0.1
"""A validation loss that fell by this share in the last epoch, when the learning rate is close to zero, has not ended."""
TOO_HIGH = 3.0
"""From so many times the rate that `auto` would have taken, a model that learned nothing has more likely lost its pretraining
than moved too little; so far above it the default search goes, too."""
MAX_DROPOUT = 0.5


@dataclass(frozen=True)
class Fit:
    """How the losses of a run's last epoch stand to each other, and what to try next."""

    verdict: Verdict
    train_loss: float
    """Mean over the last epoch, with dropout on, in nats like all losses here."""
    validation_loss: float
    """At the end of the last epoch."""
    gap: float
    """Validation loss less training loss."""
    best_epoch: int
    """The epoch whose model was kept, from 1."""
    num_epochs: int
    guess_loss: float
    """The loss of a model that knows the classes' shares and nothing of the text."""
    usual_rate: float
    """The learning rate that `auto` takes for this data, encoder and number of epochs."""
    advice: tuple[str, ...]
    """Sentences that name settings and values."""

    def sentence(self) -> str:
        """The verdict and the gap in one line."""
        words = {
            "fits": "no sign of overfitting",
            "overfits": "overfits",
            "underfits": "underfits: training hardly beats guessing",
            "unfinished": "still learning when training ended",
            "diverged": "diverged",
        }
        kept = f", the model kept is that of epoch {self.best_epoch}" if self.best_epoch < self.num_epochs else ""
        return (
            f"{words[self.verdict]}: training loss {self.train_loss:.3f}, validation loss {self.validation_loss:.3f}, "
            f"gap {self.gap:+.3f}{kept}"
        )


def guessing_loss(counts: Iterable[int], *, num_rows: int, task: Task) -> float:
    """The loss in nats of who knows nothing but how common each label is, from each label's number of rows.

    One label a row: the entropy of the labels' shares. Several: the mean over labels of the entropy of yes and no.
    """
    shares = [count / num_rows for count in counts]
    if task != "multilabel":
        return sum(_surprise(share) for share in shares)
    return sum(_surprise(share) + _surprise(1 - share) for share in shares) / len(shares)


def _surprise(share: float) -> float:
    return -share * math.log(share) if share > 0 else 0.0


def assess_fit(
    history: list[dict[str, Any]],
    config: ExperimentConfig,
    *,
    best_epoch: int,
    guess_loss: float,
    usual_rate: float,
    num_train_rows: int,
) -> Fit:
    """Judge a run by the losses of its epochs (at least one) and the config that it ran with."""
    train, validation = ([float(epoch[key]) for epoch in history] for key in ("train_loss", "loss"))
    verdict = judge(train, validation, guess_loss=guess_loss)
    advice: list[str] = []
    if verdict == "overfits":
        advice = against_overfitting(config, best_epoch=best_epoch, num_train_rows=num_train_rows)
    elif verdict == "underfits":
        advice = against_underfitting(config, usual_rate=usual_rate)
    elif verdict == "unfinished":
        advice = against_an_early_end(config)
    elif verdict == "diverged":
        advice = against_divergence(config, usual_rate=usual_rate)
    return Fit(
        verdict=verdict,
        train_loss=train[-1],
        validation_loss=validation[-1],
        gap=validation[-1] - train[-1],
        best_epoch=best_epoch,
        num_epochs=len(history),
        guess_loss=guess_loss,
        usual_rate=usual_rate,
        advice=tuple(advice),
    )


def judge(train: list[float], validation: list[float], *, guess_loss: float) -> Verdict:
    """The verdict on the losses of each epoch."""
    if not (math.isfinite(train[-1]) and math.isfinite(validation[-1])):
        return "diverged"
    if validation_rose(train, validation, guess_loss=guess_loss):
        return "overfits"
    if train[-1] > HARDLY_LEARNED * guess_loss:
        return "underfits"
    gap_counts = validation[-1] - train[-1] > LARGE_GAP * guess_loss and validation[-1] > LARGE_RATIO * train[-1]
    if len(validation) > 1 and validation[-1] < (1 - STILL_FALLING) * min(validation[:-1]):
        # A gap beside a validation loss that falls this fast is no reason to hold back yet.
        return "unfinished" if validation[-1] > LARGE_GAP * guess_loss else "fits"
    return "overfits" if gap_counts else "fits"


def validation_rose(train: list[float], validation: list[float], *, guess_loss: float) -> bool:
    """Whether validation loss ends clearly above its lowest epoch while training loss fell on."""
    finite = [index for index, value in enumerate(validation) if math.isfinite(value)]
    lowest = min(finite, key=lambda index: validation[index])
    rise = validation[-1] - validation[lowest]
    counts = rise > max(LEAST_RISE * validation[lowest], LEAST_RISE_OF_GUESSING * guess_loss)
    return counts and train[-1] < train[lowest]


def against_overfitting(config: ExperimentConfig, *, best_epoch: int, num_train_rows: int) -> list[str]:
    """What holds a model back from learning its rows by heart, the cheapest first."""
    advice: list[str] = []
    if best_epoch < config.train.planned_epochs:
        advice.append(f"train.num_epochs: {best_epoch} instead of {config.train.planned_epochs}; later epochs did not help.")
    rate = config.train.peak_learning_rate
    advice.append(
        f"train.learning_rate: {rate / 2:.2g} instead of {rate:.2g}; smaller steps stay closer to the pretrained encoder."
    )
    dropout = config.model.dropout
    if dropout < MAX_DROPOUT:
        more = min(round(dropout + 0.1, 2), MAX_DROPOUT)
        advice.append(f"model.dropout: {more:g} instead of {dropout:g}; it hides parts of the text from the model in turn.")
    if "freeze_layers" in ModelConfig.model_fields:
        frozen = int(getattr(config.model, "freeze_layers"))  # noqa: B009  # not a field of every version
        advice.append(f"model.freeze_layers: {frozen + 2} instead of {frozen}; frozen layers cannot learn rows by heart.")
    advice.append(f"More labelled rows help most; this run had {num_train_rows:,} to train on.")
    return advice


def against_underfitting(config: ExperimentConfig, *, usual_rate: float) -> list[str]:
    """What lets a model learn that has not."""
    rate, epochs = config.train.peak_learning_rate, config.train.planned_epochs
    if rate >= TOO_HIGH * usual_rate:
        return [
            f"train.learning_rate: {usual_rate:.2g} instead of {rate:.2g}; steps this large can wipe out the pretraining.",
            "Look at some rows: labels that do not go with their texts cannot be learned.",
        ]
    advice = [
        f"train.learning_rate: {min(rate * 3, TOO_HIGH * usual_rate):.2g} instead of {rate:.2g}; the model has hardly moved.",
        f"train.num_epochs: {epochs * 2} instead of {epochs}; more steps to learn in.",
    ]
    if config.model.dropout > 0.2:
        advice.append(f"model.dropout: 0.1 instead of {config.model.dropout:g}; much of each text is hidden from the model.")
    return advice


def against_an_early_end(config: ExperimentConfig) -> list[str]:
    """More of the same."""
    epochs = config.train.planned_epochs
    more = epochs + max(1, epochs // 2)
    return [f"train.num_epochs: {more} instead of {epochs}; validation loss was still falling."]


def against_divergence(config: ExperimentConfig, *, usual_rate: float) -> list[str]:
    """Smaller and slower steps."""
    rate, warmup = config.train.peak_learning_rate, config.train.warmup_fraction
    advice = [f"train.learning_rate: {min(rate / 3, usual_rate):.2g} instead of {rate:.2g}; the loss is no number any more."]
    if warmup < 0.2:
        advice.append(f"train.warmup_fraction: 0.2 instead of {warmup:g}; the first steps are the ones that break a model.")
    return advice
