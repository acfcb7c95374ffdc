"""The advice when fine-tuning loses against TF-IDF, by the settings that lost."""

from __future__ import annotations

import math
from typing import Any

import pytest

from manta.config import ExperimentConfig
from manta.config.starting_point import Usual, auto_epochs, auto_learning_rate
from manta.evaluation.baseline import Baseline
from manta_jobs.packaging.advice import Verdict
from manta_jobs.packaging.diagnosis import BaselineComparison, Fit, baseline_comparison, losing_paragraph

BASELINE = Baseline(validation={}, test={"accuracy": 0.894, "loss": 0.5}, num_rows={}, is_sample=False, seconds=1.0)


def fit(verdict: Verdict, *, num_epochs: int, usual: Usual) -> Fit:
    return Fit(
        verdict=verdict,
        train_loss=1.0,
        validation_loss=1.0,
        gap=0.0,
        best_epoch=1,
        num_epochs=num_epochs,
        guess_loss=1.0,
        usual=usual,
        advice=(),
    )


def said(accuracy: float = 0.698, *, classes: int = 77, steps: int = 939, verdict: Verdict = "fits", **train: Any) -> str | None:
    config = ExperimentConfig.model_validate({"name": "x", "data": {"train": "x.csv"}, "train": {"num_epochs": 3} | train})
    compared = BaselineComparison("accuracy", accuracy, 0.894)
    num_rows = math.ceil(steps / config.train.planned_epochs) * config.train.batch_size
    usual = Usual(
        auto_learning_rate(num_steps=steps, num_classes=classes, hidden_size=384),
        auto_epochs(num_rows, num_labels=classes, batch_size=config.train.batch_size),
    )
    found = fit(verdict, num_epochs=config.train.planned_epochs, usual=usual)
    return losing_paragraph(compared, config, found, num_classes=classes, num_steps=steps)


def test_a_model_that_wins_needs_no_words() -> None:
    assert said(0.928, learning_rate=2e-4) is None
    assert said(0.894, learning_rate=2e-4) is not None  # as good is not better


def test_lower_is_better_for_a_loss() -> None:
    before = {"baseline": BASELINE.to_dict()}
    loss = baseline_comparison(before, {"loss": 0.4}, metric="loss")
    accuracy = baseline_comparison(before, {"accuracy": 0.894}, metric="accuracy")
    assert (loss is not None and loss.is_beaten, accuracy is not None and accuracy.is_beaten) == (True, False)
    assert baseline_comparison({}, {"loss": 0.4}, metric="loss") is None


def test_banking77_at_5e_5_is_told_that_the_learning_rate_is_too_low() -> None:
    words = said(learning_rate=5e-5, num_epochs=3)
    assert words == (
        "Fine-tuning does not beat TF-IDF with logistic regression here: test accuracy 0.6980 against 0.8940. "
        "The learning rate of 5e-05 is too low for 77 classes in 939 steps: the new head hardly moved."
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": 8e-4, "num_epochs": 1, "steps": 90}, "90 steps are few for 77 classes"),
        ({"learning_rate": 1e-5, "steps": 200}, "The learning rate of 1e-05 is too low for 77 classes in 200 steps"),
        (
            {"learning_rate": 1e-3, "verdict": "underfits"},
            "so high that it can wipe out the pretraining.",
        ),
        ({"learning_rate": 4e-4, "num_epochs": 4, "verdict": "overfits"}, "learned its training rows by heart"),
        (
            {"learning_rate": 4e-4, "num_epochs": 5, "steps": 1175},
            "1,175 steps at a learning rate of 0.0004 are usual for 77 classes",
        ),
        ({"learning_rate": 7e-5, "num_epochs": 5, "classes": 2, "steps": 1085}, "are usual for 2 classes"),
    ],
)
def test_the_reason_follows_from_the_settings(settings: dict[str, Any], words: str) -> None:
    assert words in (said(**settings) or "")
