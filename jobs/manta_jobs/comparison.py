"""Whether fine-tuning was worth it: the model beside TF-IDF with logistic regression, and why it may have lost.

A new head starts at weights of about 0.02, and a step of AdamW moves a weight by at most the learning rate. So learning rate
times steps says how far the head can have come, and the more classes it must tell apart, the further it has to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta_jobs.overfitting import TOO_HIGH_LEARNING_RATE

if TYPE_CHECKING:
    from manta.baseline import Baseline
    from manta.config import ExperimentConfig
    from manta_jobs.overfitting import Fit

WAY_FOR_TWO_CLASSES = 0.015
"""How far the head has to come, as the sum of all steps' learning rates, for two classes; it grows with their square root.

A rule of thumb between what sufficed and what did not with MiniLM-L6: SST-2 (2 classes) beats TF-IDF with 0.016, BANKING77
(77 classes) loses by 20 points with 0.023 and wins by 3 with 0.16.
"""
HIGHEST_LEARNING_RATE = 5e-4
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
    rate, epochs = config.train.peak_learning_rate, config.train.planned_epochs
    if fit.verdict in ("diverged", "underfits") and rate >= TOO_HIGH_LEARNING_RATE:
        return f"A learning rate of {rate:.2g} is so high that it can wipe out the pretraining; try train.learning_rate: 5e-05."
    needed = way_needed(num_classes) / max(1e-12, way_covered(1.0, num_steps=num_steps))
    if rate >= needed:
        if fit.verdict == "overfits":
            return "It has learned its training rows by heart, as the fit says below; more labelled rows help most."
        return (
            f"{num_steps:,} steps at a learning rate of {rate:.2g} are enough for {num_classes} classes, so either single words "
            "tell the labels already, or other settings suit this encoder better; try manta tune, or another model.pretrained."
        )
    tried = min(HIGHEST_LEARNING_RATE, _rounded_up(needed))
    if rate < tried / 1.5:
        return (
            f"The learning rate of {rate:.2g} is too low for {num_classes} classes in {num_steps:,} steps: the new head hardly "
            f"moved; try train.learning_rate: {tried:.1g} and train.num_epochs: {max(epochs + 1, 5)}."
        )
    more = math.ceil(epochs * needed / rate)
    return (
        f"{num_steps:,} steps are too few for {num_classes} classes at a learning rate of {rate:.2g}: the new head had no time to "
        f"learn them; try train.num_epochs: {max(more, epochs + 1)}, or a smaller train.batch_size."
    )


def way_covered(learning_rate: float, *, num_steps: int) -> float:
    """The sum of all steps' learning rates, which warm-up and decay halve: the most that a weight can move."""
    return learning_rate * num_steps / 2


def way_needed(num_classes: int) -> float:
    """What the head needs for so many classes."""
    return WAY_FOR_TWO_CLASSES * math.sqrt(num_classes / 2)


def _rounded_up(value: float) -> float:
    """To one digit: 0.00018 becomes 0.0002."""
    scale = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(round(value / scale, 6)) * scale:.1g}")
