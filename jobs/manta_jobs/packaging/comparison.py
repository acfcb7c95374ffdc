"""Whether fine-tuning was worth it: the model beside TF-IDF with logistic regression, and why it may have lost.

What may have been wrong with the settings is judged by the one rule that `auto` follows, too: `manta.starting_point`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta.starting_point import auto_epochs
from manta_jobs.packaging.overfitting import TOO_HIGH

if TYPE_CHECKING:
    from manta.baseline import Baseline
    from manta.config import ExperimentConfig
    from manta_jobs.packaging.overfitting import Fit

TOO_LOW = 0.5
"""Below this share of the rate that `auto` takes, a new head has no time to come far: BANKING77 (77 classes) loses to TF-IDF by
20 points at 5e-5 and 3 epochs, where `auto` takes 2.6e-4, and wins by 3 at 2e-4 and 5 epochs, where it takes 2e-4."""
SHORT = {"accuracy": "accuracy", "loss": "loss", "f1_micro": "micro F1", "f1_macro": "macro F1", "f1_weighted": "weighted F1"}


@dataclass(frozen=True)
class Comparison:
    """The model and the baseline on the test rows, by the metric that chose the model."""

    metric: str
    model: float
    baseline: float

    @property
    def is_beaten(self) -> bool:
        """Whether the model is better than the baseline."""
        return self.model < self.baseline if self.metric == "loss" else self.model > self.baseline


def compare(metrics: dict[str, float], baseline: Baseline, *, metric: str) -> Comparison:
    """A model's test metrics beside the baseline's."""
    return Comparison(metric, metrics[metric], baseline.test[metric])


def losing_paragraph(compared: Comparison, config: ExperimentConfig, fit: Fit, *, num_classes: int, num_steps: int) -> str | None:
    """Says that fine-tuning does not beat the baseline, why, and what to try; None when it does."""
    if compared.is_beaten:
        return None
    words = SHORT.get(compared.metric, compared.metric)
    if compared.model == compared.baseline == 1.0:
        return (
            "Fine-tuning and TF-IDF with logistic regression both get every test row right: single words tell the labels already."
        )
    lost = (
        f"Fine-tuning does not beat TF-IDF with logistic regression here: test {words} {compared.model:.4f} against "
        f"{compared.baseline:.4f}."
    )
    return f"{lost} {_why(config, fit, num_classes=num_classes, num_steps=num_steps)}"


def _why(config: ExperimentConfig, fit: Fit, *, num_classes: int, num_steps: int) -> str:
    rate, usual, epochs = config.train.peak_learning_rate, fit.usual_rate, config.train.planned_epochs
    batch_size = config.train.batch_size
    num_rows = math.ceil(num_steps / fit.num_epochs) * batch_size
    usual_epochs = auto_epochs(num_rows, num_labels=num_classes, batch_size=batch_size)
    if fit.verdict in ("diverged", "underfits") and rate >= TOO_HIGH * usual:
        return (
            f"A learning rate of {rate:.2g} is so high that it can wipe out the pretraining; try train.learning_rate: {usual:.2g}."
        )
    if rate < TOO_LOW * usual:
        return (
            f"The learning rate of {rate:.2g} is too low for {num_classes} classes in {num_steps:,} steps: the new head hardly "
            f"moved; try train.learning_rate: {usual:.2g}."
        )
    if fit.verdict == "overfits":
        return "It has learned its training rows by heart, as the fit says below; more labelled rows help most."
    if epochs < usual_epochs:
        return (
            f"{num_steps:,} steps are few for {num_classes} classes: the new head had no time to learn them; try "
            f"train.num_epochs: {usual_epochs}, or a smaller train.batch_size."
        )
    return (
        f"{num_steps:,} steps at a learning rate of {rate:.2g} are usual for {num_classes} classes, so either single words "
        "tell the labels already, or other settings suit this encoder better; try manta tune, or another model.pretrained."
    )
