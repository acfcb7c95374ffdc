"""The rule for what was not told: points where a good value is known, its limits, and what it leaves alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from manta.config import ExperimentConfig
from manta.config.starting_point import (
    EPOCHS,
    LEARNING_RATES,
    allowing_for_noise,
    auto_epochs,
    auto_learning_rate,
    choice_sentence,
    methods_tried,
    resolved,
)


def experiment(**values: Any) -> ExperimentConfig:
    config = ExperimentConfig.model_validate({"name": "desk", "data": {"train": "rows.csv"}})
    return config.with_values({name.replace("__", "."): value for name, value in values.items()})


def of_minilm(config: ExperimentConfig, *, num_rows: int = 1462, num_labels: int = 8) -> ExperimentConfig:
    return resolved(config, num_rows=num_rows, num_labels=num_labels, hidden_size=384, num_layers=6)


@pytest.mark.parametrize(
    ("num_labels", "num_steps", "good"),
    [
        pytest.param(8, 159, (2e-4, 4e-4), id="support"),
        pytest.param(2, 54, (1.4e-4, 1.5e-4), id="SST-2, 32 rows a class"),
        pytest.param(4, 40, (1e-4, 2e-4), id="news, 8 rows a class"),
        pytest.param(77, 400, (4e-4, 4e-4), id="BANKING77, 8 rows a class"),
        pytest.param(77, 1490, (2e-4, 2e-4), id="BANKING77"),
        pytest.param(2, 650, (5e-5, 1.2e-4), id="SST-2"),
    ],
)
def test_rates_measured_as_good_on_minilm_are_met(num_labels: int, num_steps: int, good: tuple[float, float]) -> None:
    rate = auto_learning_rate(num_steps=num_steps, num_classes=num_labels, hidden_size=384)
    assert good[0] / 1.6 <= rate <= good[1] * 1.6


@pytest.mark.parametrize(
    ("num_rows", "num_labels", "usual"),
    [
        pytest.param(3_668, 2, (2e-5, 1e-4), id="MRPC"),
        pytest.param(67_349, 2, (1e-5, 5e-5), id="SST-2"),
        pytest.param(392_702, 3, (1e-5, 2e-5), id="MNLI"),
    ],
)
def test_bert_base_gets_its_usual_rates(num_rows: int, num_labels: int, usual: tuple[float, float]) -> None:
    config = resolved(experiment(), num_rows=num_rows, num_labels=num_labels, hidden_size=768)
    assert usual[0] <= config.train.peak_learning_rate <= usual[1]


@pytest.mark.parametrize(
    ("given", "num_rows", "of_sentences", "of_others"),
    [
        ("auto", 511, "auto", "auto"),
        ("auto", 512, "auto", "full"),
        ("auto", 1199, "auto", "full"),
        ("auto", 1200, "full", "full"),
        ("linear", 1600, "linear", "linear"),
        ("contrastive", 10**6, "contrastive", "contrastive"),
        ("full", 8, "full", "full"),
    ],
)
def test_the_rows_of_a_label_and_the_encoder_decide_which_methods_are_tried(
    given: str, num_rows: int, of_sentences: str, of_others: str
) -> None:
    config = experiment(train__method=given)
    found = [
        resolved(config, num_rows=num_rows, num_labels=8, hidden_size=384, is_sentence_encoder=trained).train.method
        for trained in (True, False)
    ]
    assert found == [of_sentences, of_others]
    assert (methods_tried("auto"), methods_tried("full")) == (("linear", "contrastive"), ("full",))


def test_small_data_is_trained_for_more_epochs() -> None:
    epochs = [auto_epochs(num_rows, num_labels=4, batch_size=32) for num_rows in (32, 128, 512, 1_000, 4_000, 400_000)]
    assert epochs == [30, 20, 5, 3, 3, 3]
    assert {min(epochs), max(epochs)} == set(EPOCHS)


def test_more_labels_are_trained_for_more_epochs() -> None:
    assert [auto_epochs(6_000, num_labels=count, batch_size=32) for count in (2, 8, 41, 77, 150)] == [3, 3, 5, 6, 6]
    assert auto_epochs(400_000, num_labels=150, batch_size=32) == 3


@pytest.mark.parametrize(
    ("steps_per_epoch", "epochs", "rate"),
    [(1, 30, 1.7e-4), (10, 6, 1.4e-4), (40, 3, 1.2e-4), (200, 3, 8.0e-5), (1000, 3, 5.3e-5)],
)
def test_two_classes_at_few_and_many_steps(steps_per_epoch: int, epochs: int, rate: float) -> None:
    chosen = of_minilm(experiment(), num_rows=32 * steps_per_epoch, num_labels=2).train
    assert (chosen.num_epochs, chosen.learning_rate) == (epochs, rate)


@pytest.mark.parametrize(("num_steps", "rate"), [(10, 4.2e-4), (40, 3.1e-4), (200, 2.1e-4), (1000, 1.4e-4)])
def test_the_rate_of_eight_classes_falls_slowly_with_the_steps(num_steps: int, rate: float) -> None:
    assert auto_learning_rate(num_steps=num_steps, num_classes=8, hidden_size=384) == rate


def test_the_rate_falls_with_width_and_steps_and_climbs_with_classes() -> None:
    def rate(**changed: int) -> float:
        return auto_learning_rate(**{"num_steps": 1000, "num_classes": 4, "hidden_size": 768} | changed)

    assert rate(hidden_size=1024) < rate() < rate(hidden_size=384)
    assert rate(num_steps=4000) < rate() < rate(num_steps=250)
    assert rate(num_classes=2) < rate() < rate(num_classes=100)
    assert rate(num_classes=1) == rate(num_classes=2)
    assert rate(num_steps=10**6) == rate(num_steps=81_000)


def test_the_rate_stays_within_its_limits_and_has_two_digits() -> None:
    assert auto_learning_rate(num_steps=10, num_classes=50, hidden_size=64) == LEARNING_RATES[1]
    assert auto_learning_rate(num_steps=10**6, num_classes=2, hidden_size=4096) == LEARNING_RATES[0]
    assert auto_learning_rate(num_steps=777, num_classes=5, hidden_size=512) == float("9.3e-5")


@pytest.mark.parametrize("settings", [{"model__lora__rank": 8}, {"model__freeze_layers": 6}])
def test_what_learns_beside_a_frozen_encoder_learns_ten_times_as_fast(settings: dict[str, Any]) -> None:
    full, frozen = (of_minilm(experiment(**values), num_rows=100_000, num_labels=2).train for values in ({}, settings))
    assert frozen.peak_learning_rate == pytest.approx(10 * full.peak_learning_rate, rel=0.05)
    partly = of_minilm(experiment(model__freeze_layers=3), num_rows=100_000, num_labels=2).train
    assert partly.peak_learning_rate == full.peak_learning_rate


def test_lora_on_roberta_base_gets_the_rates_of_its_authors() -> None:
    config = resolved(experiment(model__lora__rank=8), num_rows=3_668, num_labels=2, hidden_size=768)
    assert 4e-4 / 1.6 <= config.train.peak_learning_rate <= 5e-4 * 1.6


def test_nothing_is_left_to_choose() -> None:
    config = of_minilm(experiment())
    assert (config.train.learning_rate, config.train.num_epochs) == (2.3e-4, 3)
    assert config.tune.searched["train.learning_rate"].loguniform == (5.8e-5, 6.9e-4)
    assert config.tune.searched["model.dropout"].uniform == (0.0, 0.4)
    assert of_minilm(config, num_rows=10) == config


def test_what_was_told_stays() -> None:
    space = {"train.weight_decay": {"uniform": [0.0, 0.1]}}
    told = experiment(train__method="full", train__learning_rate=3e-5, train__num_epochs=2, tune__space=space)
    assert of_minilm(told) == told
    assert of_minilm(experiment(train__num_epochs=3)).train.num_epochs == 3
    assert of_minilm(experiment(train__num_epochs=3)).train.peak_learning_rate == 2.3e-4


def test_the_default_space_holds_the_configs_own_values() -> None:
    searched = of_minilm(experiment(train__learning_rate=1e-6, model__dropout=0.5)).tune.searched
    assert searched["train.learning_rate"].loguniform == (1e-6, 6.9e-4)
    assert searched["model.dropout"].uniform == (0.0, 0.5)
    searched = of_minilm(experiment(train__learning_rate=0.1)).tune.searched
    assert searched["train.learning_rate"].loguniform == (5.8e-5, 0.1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "Learning rate 2.3e-04 and 3 epochs, by the rule for 8 classes, 138 steps and width 384"),
        ({"train__num_epochs": 3}, "Learning rate 2.3e-04, by the rule for 8 classes, 138 steps and width 384"),
        ({"train__learning_rate": 1e-4}, "3 epochs, by the rule for 8 classes, 138 steps and width 384"),
        ({"train__learning_rate": 1e-4, "train__num_epochs": 3}, ""),
    ],
)
def test_a_sentence_says_what_was_chosen_and_why(settings: dict[str, Any], sentence: str) -> None:
    config = experiment(**settings)
    assert math.ceil(1462 / config.train.batch_size) == 46
    said = choice_sentence(config, of_minilm(config), num_rows=1462, classes="8 classes", hidden_size=384)
    assert said == sentence


def test_the_share_of_wrong_labels_is_taken_where_the_loss_can_allow_for_it() -> None:
    full = experiment(train__method="full")
    assert allowing_for_noise(full, 0.1).train.label_noise == 0.1
    assert allowing_for_noise(experiment(train__method="full", train__label_noise=0.2), 0.1).train.label_noise == 0.2
    assert allowing_for_noise(experiment(train__method="full", train__focal_gamma=2.0), 0.1).train.label_noise == 0
    assert allowing_for_noise(experiment(train__method="full", train__label_smoothing=0.1), 0.1).train.label_noise == 0
    for config in (experiment(), experiment(train__method="linear")):
        assert allowing_for_noise(config, 0.1) == config
