"""Verdicts on constructed losses, and advice that a person can type."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from manta.config import ExperimentConfig
from manta.config.starting_point import EPOCHS, LEARNING_RATES, Usual
from manta_jobs.cli.show_run import show_fit
from manta_jobs.packaging.advice import MOST_SENTENCES, Verdict
from manta_jobs.packaging.diagnosis import Fit, assess_fit, guessing_loss, judge

TEN_CLASSES = math.log(10)
NAN = math.nan


def experiment(**values: Any) -> ExperimentConfig:
    config = ExperimentConfig.model_validate({"name": "desk", "data": {"train": "rows.csv"}})
    return config.with_values({name.replace("__", "."): value for name, value in values.items()})


USUAL = Usual(1e-4, 8)


def assessed(
    train: list[float],
    validation: list[float],
    *,
    best_epoch: int = 1,
    usual: Usual = USUAL,
    loses: bool = False,
    **values: Any,
) -> Fit:
    history = [
        {"epoch": number, "train_loss": left, "loss": right}
        for number, (left, right) in enumerate(zip(train, validation, strict=True), start=1)
    ]
    config = experiment(**{"train__num_epochs": len(train), "train__learning_rate": 1e-4} | values)
    return assess_fit(history, config, best_epoch=best_epoch, guess_loss=TEN_CLASSES, usual=usual, num_train_rows=400, loses=loses)


@pytest.mark.parametrize(
    ("train", "validation", "verdict"),
    [
        pytest.param([2.0, 0.9, 0.5, 0.4], [1.2, 0.7, 0.55, 0.52], "fits", id="both fall together"),
        pytest.param([1.5, 0.5, 0.1, 0.02], [0.9, 0.6, 0.7, 0.9], "overfits", id="validation turns and rises"),
        pytest.param([1.5, 0.5, 0.1, 0.02], [0.9, 0.62, 0.61, 0.6], "overfits", id="a wide gap that stays"),
        pytest.param([2.3, 2.29, 2.28], [2.3, 2.3, 2.29], "underfits", id="as good as guessing"),
        pytest.param([2.0, 1.6, 1.3], [1.8, 1.5, 1.2], "unfinished", id="still falling at the end"),
        pytest.param([1.5, 0.5, NAN], [0.9, 0.6, NAN], "diverged", id="no number at the end"),
        pytest.param([1.5, NAN], [0.9, 0.8], "diverged", id="training loss no number"),
        pytest.param([1.5, 0.8], [0.9, math.inf], "diverged", id="infinite"),
        pytest.param([1.5, 0.8, 0.6, 0.5], [0.8, 0.62, 0.60, 0.615], "fits", id="noise of a few percent"),
        pytest.param([1.5, 0.8, 0.6, 0.5], [0.8, 0.58, 0.7, 0.56], "fits", id="a bump that goes again"),
        pytest.param([0.5, 0.01, 0.001], [0.1, 0.001, 0.003], "fits", id="three times nearly nothing"),
        pytest.param([1.5, 0.8, 0.9], [0.8, 0.6, 0.8], "fits", id="both rise: not by heart"),
        pytest.param([1.5, 0.8, 0.5], [NAN, 0.6, 0.58], "fits", id="no number in between"),
        pytest.param([1.4], [0.9], "fits", id="one epoch"),
        pytest.param([2.25], [2.2], "underfits", id="one epoch, nothing learned"),
        pytest.param([0.3], [0.9], "overfits", id="one epoch with a wide gap"),
    ],
)
def test_losses_are_judged(train: list[float], validation: list[float], verdict: Verdict) -> None:
    assert judge(train, validation, guess_loss=TEN_CLASSES) == verdict


@pytest.mark.parametrize("setting", [{"train__label_noise": 0.1}, {"train__focal_gamma": 2.0}])
def test_another_loss_than_that_of_validation_is_not_compared_with_it(setting: dict[str, float]) -> None:
    small, validation = [0.3, 0.1, 0.05], [0.9, 0.62, 0.61]
    assert assessed(small, validation).verdict == "overfits"
    assert assessed(small, validation, **setting).verdict == "fits"
    assert assessed(small, [2.3, 2.3, 2.29], **setting).verdict == "underfits"
    assert assessed([0.3, 0.1, 0.05], [0.6, 0.7, 0.9], **setting).verdict == "overfits"  # validation loss rises


def test_the_loss_of_guessing_is_the_entropy_of_the_classes() -> None:
    assert guessing_loss([5, 5], num_rows=10, task="binary") == pytest.approx(math.log(2))
    assert guessing_loss([90, 10], num_rows=100, task="binary") == pytest.approx(0.3251, abs=1e-4)
    assert guessing_loss([7, 7, 0], num_rows=14, task="multiclass") == pytest.approx(math.log(2))
    # Several labels a row: yes or no for each, here one that half of the rows have and one that all of them have.
    assert guessing_loss([5, 10], num_rows=10, task="multilabel") == pytest.approx(math.log(2) / 2)


def test_overfitting_names_each_setting_that_holds_back() -> None:
    fit = assessed([1.5, 0.5, 0.1, 0.02], [0.9, 0.6, 0.7, 0.9], best_epoch=2, train__learning_rate=2e-4, model__dropout=0.1)
    advice = " ".join(fit.advice)
    for words in (
        "train.num_epochs: 2 instead of 4",
        "train.learning_rate: 0.0001 instead of 0.0002",
        "this run had 400 to train on",
    ):
        assert words in advice
    assert fit.gap == pytest.approx(0.88)
    assert "gap +0.880" in fit.sentence()
    assert "the model kept is that of epoch 2" in fit.sentence()


@pytest.mark.parametrize(("dropout", "advised"), [(0.45, "model.dropout: 0.5 "), (0.5, None), (0.7, None)])
def test_dropout_is_never_advised_above_a_half(dropout: float, advised: str | None) -> None:
    advice = " ".join(assessed([0.1, 0.02], [0.6, 0.9], best_epoch=2, model__dropout=dropout).advice)
    assert (advised in advice) if advised else ("model.dropout" not in advice)


def test_the_best_epoch_being_the_last_leaves_their_number_alone() -> None:
    fit = assessed([1.5, 0.5, 0.1, 0.02], [0.9, 0.6, 0.7, 0.9], best_epoch=4)
    assert not any(sentence.startswith("train.num_epochs") for sentence in fit.advice)
    assert "kept" not in fit.sentence()


def test_a_model_that_hardly_moved_should_learn_faster_or_longer() -> None:
    first, second, *_ = assessed([2.3, 2.28], [2.3, 2.28], train__learning_rate=1e-5).advice
    assert first.startswith("train.learning_rate: 0.0001 instead of 1e-05")
    assert second.startswith("train.num_epochs: 8 instead of 2")


def test_a_model_that_large_steps_have_broken_should_learn_slower() -> None:
    first, *_ = assessed([2.3, 2.3], [2.3, 2.3], train__learning_rate=2e-3).advice
    assert first.startswith("train.learning_rate: 0.0001 instead of 0.002")


def test_every_advised_value_can_be_set() -> None:
    for train, validation in ([[0.1, 0.02], [0.6, 0.9]], [[2.3, 2.3]] * 2, [[2.0, 1.3], [1.8, 1.2]], [[1.0, NAN]] * 2):
        for sentence in assessed(train, validation).advice:
            name, _, rest = sentence.partition(": ")
            if "." in name and rest:
                experiment().with_values({name: float(rest.split()[0])})


def test_a_good_fit_needs_no_advice() -> None:
    assert assessed([2.0, 0.9, 0.5, 0.4], [1.2, 0.7, 0.55, 0.52]).advice == ()


LOSSES = {
    "fits": ([2.0, 0.9, 0.5, 0.4], [1.2, 0.7, 0.55, 0.52]),
    "overfits": ([1.5, 0.5, 0.1, 0.02], [0.9, 0.6, 0.7, 0.9]),
    "underfits": ([2.3, 2.29, 2.28], [2.3, 2.3, 2.29]),
    "unfinished": ([2.0, 1.6, 1.3], [1.8, 1.5, 1.2]),
    "diverged": ([1.5, 0.5, NAN], [0.9, 0.6, NAN]),
}


@pytest.mark.parametrize("verdict", LOSSES)
@pytest.mark.parametrize("rate", [1e-6, 1e-4, 9e-4, 5e-3])
@pytest.mark.parametrize("epochs", [1, 10, 30])
@pytest.mark.parametrize("loses", [False, True])
def test_advice_is_short_names_a_setting_once_and_keeps_to_the_rule(
    verdict: Verdict, rate: float, epochs: int, loses: bool
) -> None:
    train, validation = LOSSES[verdict]
    usual = Usual(6e-4, 10)
    values = {"train__learning_rate": rate, "train__num_epochs": epochs}
    fit = assessed(train, validation, usual=usual, loses=loses, best_epoch=min(2, epochs), **values)
    names = [sentence.partition(":")[0] for sentence in fit.advice]
    assert fit.verdict == verdict
    assert len(names) == len(set(names)) <= MOST_SENTENCES
    assert bool(names) or verdict in ("fits", "unfinished")
    advised = {
        name: float(sentence.split()[1]) for name, sentence in zip(names, fit.advice, strict=True) if name.startswith("train.")
    }
    if "train.learning_rate" in advised:
        assert advised["train.learning_rate"] != rate
        assert advised["train.learning_rate"] <= max(LEARNING_RATES[1], rate / 2)
    if "train.num_epochs" in advised:
        assert advised["train.num_epochs"] != epochs
        assert advised["train.num_epochs"] <= EPOCHS[1]


def test_a_model_that_loses_by_too_few_steps_is_told_the_rules_epochs() -> None:
    (only,) = assessed(*LOSSES["fits"], loses=True, train__num_epochs=4).advice
    assert only == "train.num_epochs: 8 instead of 4; the new head needs more steps."
    first, _ = assessed(*LOSSES["fits"], loses=True, usual=Usual(1e-4, 3)).advice
    assert first.startswith("manta tune")


def test_the_closing_output_names_gap_and_advice() -> None:
    text = io.StringIO()
    show_fit(assessed([0.1, 0.02], [0.6, 0.9]), Console(file=text, width=200))
    first, *rest = text.getvalue().splitlines()
    assert first.startswith("Fit: overfits: training loss 0.020, validation loss 0.900, gap +0.880")
    assert rest[0] == "To try next:"
    assert all(line.startswith("  • ") for line in rest[1:])
