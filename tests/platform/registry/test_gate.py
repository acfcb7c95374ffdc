"""The gate's statistics: against brute force and scikit-learn, and how often it errs on simulated pairs of classifiers."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from manta.config import GateConfig, MetricName
from manta.evaluation.metrics import classification_metrics
from manta.evaluation.significance import mcnemar
from manta.labels import LabelSpace
from manta.registry.gate import BehaviourPair, Costs, Pair, Verdict, judge
from manta.registry.paired import Answers, calibration_error, make_answers, metric, paired_bootstrap, shared_names, value

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("account", "billing", "delivery", "other")
SPACE = LabelSpace(NAMES, "multiclass")
GATE = GateConfig()


def simulated_pair(
    num_rows: int, *, gain: float, seed: int, accuracy: float = 0.9, correlation: float = 0.8
) -> tuple[Answers, Answers]:
    """Answers of two classifiers that find the same rows hard, the second better by `gain` on average.

    Each row has a difficulty that both share, and each model its own luck with it; `correlation` 0.8 has two models of 90%
    disagree on the right answer of about 8% of the rows, as two trainings of one encoder with other seeds do.
    """
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, len(NAMES), num_rows)
    shared = generator.standard_normal(num_rows)
    limits = [NormalDist().inv_cdf(share) for share in (accuracy, accuracy + gain)]
    both = []
    for limit in limits:
        hardness = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * generator.standard_normal(num_rows)
        wrong = (truth + generator.integers(1, len(NAMES), num_rows)) % len(NAMES)
        decided = np.where(hardness < limit, truth, wrong)
        confidence = 1 / (1 + np.exp(-1.5 * (1.5 + np.abs(limit - hardness))))
        probabilities = np.repeat(((1 - confidence) / (len(NAMES) - 1))[:, None], len(NAMES), axis=1)
        probabilities[np.arange(num_rows), decided] = confidence
        both.append(make_answers(probabilities, [NAMES[index] for index in truth], labels=SPACE, names=NAMES))
    return both[0], both[1]


def verdict_of(pair: tuple[Answers, Answers], **arguments: Any) -> Verdict:
    return judge(*pair, gate=arguments.pop("gate", GATE), main_metric=arguments.pop("main_metric", "accuracy"), **arguments)


def failing(verdict: Verdict) -> list[str]:
    return [line.name for line in verdict.failing]


def answers_of(decided: str, truth: str, *, confidence: float = 0.9) -> Answers:
    """Rows by the first letters of labels, each decided with the same confidence."""
    by_letter = {name[0]: index for index, name in enumerate(NAMES)}
    probabilities = np.full((len(truth), len(NAMES)), (1 - confidence) / (len(NAMES) - 1))
    probabilities[np.arange(len(truth)), [by_letter[letter] for letter in decided]] = confidence
    return make_answers(probabilities, [NAMES[by_letter[letter]] for letter in truth], labels=SPACE, names=NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("main_metric", ["accuracy", "f1_macro"])
def test_an_equal_model_is_seldom_accepted(main_metric: MetricName) -> None:
    """Four times 200 simulations; fewer resamples than usual, as the errors of 800 intervals even out."""
    pairs = (simulated_pair(200, gain=0.0, seed=seed) for seed in range(800))
    accepted = [verdict_of(pair, main_metric=main_metric, num_resamples=400).passed for pair in pairs]
    assert np.mean(accepted) <= 0.05


def test_a_better_model_usually_passes_and_a_worse_one_never() -> None:
    better = [verdict_of(simulated_pair(1500, gain=0.03, seed=seed), num_resamples=500).passed for seed in range(20)]
    worse = [verdict_of(simulated_pair(1500, gain=-0.03, seed=seed), num_resamples=500) for seed in range(20)]
    assert sum(better) >= 17
    assert not any(verdict.passed for verdict in worse)
    assert all("accuracy" in failing(verdict) for verdict in worse)


def test_the_same_answers_are_no_improvement_unless_equals_are_allowed() -> None:
    champion, _ = simulated_pair(300, gain=0.0, seed=1)
    verdict = verdict_of((champion, champion))
    assert failing(verdict) == ["accuracy", "McNemar"]
    assert verdict.failing[0].sentence.startswith("no improvement: accuracy +0.00 points")
    assert verdict_of((champion, champion), allow_equal=True).passed


def test_with_equals_allowed_a_sure_loss_is_still_refused() -> None:
    verdict = verdict_of(simulated_pair(2000, gain=-0.04, seed=1), allow_equal=True)
    assert failing(verdict)[:2] == ["accuracy", "McNemar"]
    assert "-1.00 points is the worst allowed" in verdict.failing[0].sentence


def test_a_gain_below_the_wanted_one_is_refused() -> None:
    pair = simulated_pair(3000, gain=0.03, seed=2)
    assert verdict_of(pair).passed
    assert failing(verdict_of(pair, gate=GateConfig(min_gain=0.05))) == ["accuracy"]


def test_less_loss_is_a_gain() -> None:
    truth = "abdo" * 50
    sure, unsure = answers_of(truth, truth, confidence=0.9), answers_of(truth, truth, confidence=0.6)
    assert verdict_of((unsure, sure), main_metric="loss").passed
    verdict = verdict_of((sure, unsure), main_metric="loss")
    assert failing(verdict)[0] == "loss"
    assert verdict.failing[0].sentence.startswith("worse: loss (a gain is less loss) -0.4055")


def test_one_row_of_a_small_class_does_not_veto_but_a_sure_loss_does() -> None:
    loose = GateConfig(max_ece_increase=1.0)
    truth = "a" * 300 + "b" * 3 + "d" * 40
    champion = answers_of("a" * 260 + "b" * 40 + "b" * 3 + "d" * 40, truth)
    small = answers_of("a" * 300 + "aab" + "d" * 40, truth)
    verdict = verdict_of((champion, small), gate=loose)
    assert verdict.passed
    (line,) = [line for line in verdict.lines if line.name.startswith("recall of")]
    assert line.sentence == "billing: recall -66.67 points on 3 rows (2 lost, 0 gained), which may be chance (p = 0.25)."
    large = answers_of("a" * 300 + "b" * 3 + "a" * 8 + "d" * 32, truth)
    verdict = verdict_of((champion, large), gate=loose)
    assert failing(verdict) == ["recall of delivery"]
    assert verdict.failing[0].sentence == "delivery: recall -20.00 points on 40 rows (8 lost, 0 gained)."
    assert verdict_of((champion, large), gate=GateConfig(max_class_drop=0.25, max_ece_increase=1.0)).passed


def test_probabilities_that_got_further_from_the_truth_are_refused() -> None:
    truth = "abdo" * 100
    champion = answers_of("b" * 40 + truth[40:], truth, confidence=0.92)
    candidate = answers_of("b" * 4 + truth[4:], truth, confidence=0.55)
    verdict = verdict_of((champion, candidate))
    assert failing(verdict) == ["calibration error"]
    assert verdict_of((champion, candidate), gate=GateConfig(max_ece_increase=0.5)).passed


def test_behaviour_latency_and_size_have_their_bounds() -> None:
    pair = simulated_pair(3000, gain=0.03, seed=2)
    slow = np.column_stack([np.full(30, 0.010), np.full(30, 0.020)])
    behaviour = [failed_cases("typos", 100, before=10, after=10), failed_cases("negation", 100, before=10, after=20)]
    verdict = verdict_of(pair, behaviour=behaviour, costs=Costs(slow, Pair(1e6, 3e6)))
    assert failing(verdict) == ["behaviour: negation", "latency (ms, p50)", "weights (MB)"]
    assert verdict.failing[1].sentence == "one text takes 2.00 times as long (10.0 ms, now 20.0 ms)."
    wide = GateConfig(max_behaviour_rise=0.1, max_latency_ratio=2.5, max_size_ratio=3.0)
    assert verdict_of(pair, behaviour=behaviour, costs=Costs(slow, Pair(1e6, 3e6)), gate=wide).passed


def failed_cases(test: str, num_cases: int, *, before: int, after: int) -> BehaviourPair:
    """The first `before` cases fail for the champion, the first `after` for the candidate; each case has its own template."""
    cases = np.arange(num_cases)
    return BehaviourPair(test, num_cases, np.column_stack([cases < before, cases < after]).astype(np.int64))


def test_a_few_templates_of_a_behaviour_test_do_not_veto_but_a_significant_rise_does() -> None:
    pair = simulated_pair(3000, gain=0.03, seed=2)
    verdict = verdict_of(pair, behaviour=[failed_cases("typos", 8, before=0, after=4)])
    assert verdict.passed
    (line,) = [line for line in verdict.lines if line.name == "behaviour: typos"]
    assert line.sentence == "typos: 50.0% of its 8 cases fail, +50.00 points, which may be chance (p = 0.062)."
    verdict = verdict_of(pair, behaviour=[failed_cases("typos", 8, before=0, after=5)])
    assert failing(verdict) == ["behaviour: typos"]
    assert verdict.failing[0].sentence == "typos: 62.5% of its 8 cases fail, +62.50 points."
    assert verdict_of(pair, behaviour=[failed_cases("typos", 1000, before=0, after=40)]).passed
    one_of_two = BehaviourPair("posted", 16, np.array([[0, 8], [0, 0]]))
    assert verdict_of(pair, behaviour=[one_of_two]).passed


def test_a_few_slow_texts_on_a_busy_machine_do_not_veto() -> None:
    latency = np.column_stack([np.full(5, 0.010), [0.009, 0.010, 0.030, 0.030, 0.030]])
    verdict = verdict_of(simulated_pair(3000, gain=0.03, seed=2), costs=Costs(latency, Pair(1, 1)))
    assert verdict.passed


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 5), (5, 0), (9, 4), (4, 9), (700, 600), (6000, 6100)])
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("name", ["accuracy", "loss", "f1_macro", "f1_micro", "f1_weighted", "precision_macro", "recall_macro"])
def test_metrics_are_those_of_an_evaluation(task: Any, name: MetricName) -> None:
    generator = np.random.default_rng(4)
    labels = LabelSpace(NAMES, task, thresholds=(0.3, 0.5, 0.5, 0.7) if task == "multilabel" else None)
    logits = generator.standard_normal((60, 4)) * 2
    if task == "multilabel":
        targets: Any = generator.integers(0, 2, (60, 4), dtype=np.int8)
        truth: Any = [tuple(NAMES[index] for index in np.flatnonzero(row)) for row in targets]
    else:
        targets = generator.integers(0, 4, 60)
        truth = [NAMES[index] for index in targets]
    names = shared_names(labels.names)
    answers = make_answers(labels.probabilities(logits), truth, labels=labels, names=names)
    expected = classification_metrics(logits, targets, labels=labels)[name]
    assert value(metric(name), answers) == pytest.approx(expected, abs=1e-6)


def test_the_bootstrap_is_that_of_whole_rows() -> None:
    champion, candidate = simulated_pair(200, gain=0.05, seed=3)
    (differences,) = paired_bootstrap(champion, candidate, [metric("accuracy")])
    change = candidate.right.astype(float) - champion.right.astype(float)
    assert differences.mean() == pytest.approx(change.mean(), abs=0.002)
    assert differences.std() == pytest.approx(change.std() / np.sqrt(200), rel=0.06)
    again = paired_bootstrap(champion, candidate, [metric("accuracy")])[0]
    assert np.array_equal(differences, again)


def test_pieces_of_the_bootstrap_make_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    champion, candidate = simulated_pair(200, gain=0.05, seed=3)
    monkeypatch.setattr("manta.registry.paired.CHUNK_BYTES", 8 * 200 * 7)
    (differences,) = paired_bootstrap(champion, candidate, [metric("f1_macro")], num_resamples=100)
    assert differences.shape == (100,)
    assert len(np.unique(differences)) > 50


def test_a_label_that_a_model_does_not_know_is_wrong_for_it() -> None:
    few = LabelSpace(NAMES[:2], "binary")
    truth = ["account", "billing", "delivery"]
    answers = make_answers(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), truth, labels=few, names=shared_names(few.names, truth))
    assert answers.right.tolist() == [True, True, False]
    assert answers.loss[2] > 20


def test_calibration_error_is_confidence_less_accuracy_bin_by_bin() -> None:
    truth = "abdo" * 5
    answers = answers_of("b" * 10 + truth[10:], truth, confidence=0.9)
    assert value(calibration_error, answers) == pytest.approx(0.9 - answers.right.mean(), abs=1e-6)
