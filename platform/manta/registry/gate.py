"""The gate: conditions under which a candidate replaces the champion, with both measured on the same rows.

`judge` takes the answers and measurements of both models and returns a `Verdict`. Each of its lines has both figures, the bound and
a sentence. Only significant differences count, in both directions: a gain must be significant at the confidence level
`gate.confidence`, and so must a loss that refuses the candidate. This module reads no files, models or registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from manta.config import GateConfig, MetricName
from manta.evaluation.significance import mcnemar
from manta.registry.paired import NUM_RESAMPLES, Answers, Values, calibration_error, metric, paired_bootstrap, value

METRIC_WORDS = {
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "f1_weighted": "weighted F1",
    "precision_macro": "macro precision",
    "recall_macro": "macro recall",
    "loss": "loss",
}
ROW_METRICS = ("accuracy", "f1_micro")
"""Metrics that McNemar's test covers, because each row weighs the same."""


class GateLine(BaseModel):
    """The comparison of one figure."""

    model_config = ConfigDict(frozen=True)

    name: str
    champion: float
    candidate: float
    bound: str
    """The bound for the candidate, in words."""
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The gate's decision and its reasons."""

    lines: tuple[GateLine, ...]
    num_rows: int

    @property
    def passed(self) -> bool:
        """True if the candidate may become the champion."""
        return all(line.passed for line in self.lines)

    @property
    def failing(self) -> tuple[GateLine, ...]:
        """The lines that refuse the candidate."""
        return tuple(line for line in self.lines if not line.passed)


@dataclass(frozen=True)
class Pair:
    """One figure of the champion and of the candidate."""

    champion: float
    candidate: float


@dataclass(frozen=True)
class BehaviourPair:
    """The cases of one behaviour test that fail, for both models."""

    test: str
    num_cases: int
    failed: npt.NDArray[np.int64]
    """Number of failed cases of each template, champion and candidate side by side, `(templates, 2)`. A row of the data counts as
    a template of one case."""


@dataclass(frozen=True)
class Costs:
    """Latency and size of both models."""

    latency_s: npt.NDArray[np.float64]
    """Seconds for single texts, champion and candidate side by side for the same text, `(texts, 2)`."""
    weight_bytes: Pair


def judge(
    champion: Answers,
    candidate: Answers,
    *,
    gate: GateConfig,
    main_metric: MetricName,
    behaviour: Sequence[BehaviourPair] = (),
    costs: Costs | None = None,
    allow_equal: bool = False,
    num_resamples: int = NUM_RESAMPLES,
) -> Verdict:
    """Compare two models on the same rows: `main_metric` must be better, or with `allow_equal` not much worse."""
    other: MetricName = "f1_macro" if main_metric in ROW_METRICS else "accuracy"
    statistics = [metric(main_metric), metric(other), calibration_error]
    main, beside, calibration = paired_bootstrap(champion, candidate, statistics, num_resamples=num_resamples)
    lines = [
        _main_line(champion, candidate, main, gate=gate, name=main_metric, allow_equal=allow_equal),
        _mcnemar_line(champion, candidate, gate=gate, decides=main_metric in ROW_METRICS and not allow_equal),
        _beside_line(champion, candidate, beside, gate=gate, name=other),
        *_class_lines(champion, candidate, gate=gate),
        _calibration_line(champion, candidate, calibration, gate=gate),
        *(_behaviour_line(test, gate=gate) for test in behaviour),
    ]
    if costs is not None:
        lines += [_latency_line(costs.latency_s, gate=gate), _size_line(costs.weight_bytes, gate=gate)]
    return Verdict(tuple(lines), len(champion))


def points(share: float) -> str:
    """Format a difference of shares in points, with its sign."""
    return f"{100 * share:+.2f} points"


def _figures(name: MetricName, champion: Answers, candidate: Answers) -> Pair:
    return Pair(value(metric(name), champion), value(metric(name), candidate))


def _main_line(
    champion: Answers, candidate: Answers, differences: Values, *, gate: GateConfig, name: MetricName, allow_equal: bool
) -> GateLine:
    """Require a significant gain; with `allow_equal`, rule out a loss beyond the margin."""
    figures = _figures(name, champion, candidate)
    sign = -1.0 if name == "loss" else 1.0
    least = -gate.equal_margin if allow_equal else gate.min_gain
    gain = sign * (figures.candidate - figures.champion)
    percentile, high = np.quantile(sign * differences, [1 - gate.confidence, gate.confidence])
    low = min(percentile, 2 * gain - high)  # the lower of two interval bounds; each alone errs slightly too often
    said = (lambda share: f"{share:+.4f}") if name == "loss" else points
    words = METRIC_WORDS[name] + (" (a gain is less loss)" if name == "loss" else "")
    passed = bool(low > least) if not allow_equal else bool(low >= least)
    sure = f"{gate.confidence:.0%} sure of at least {said(low)}"
    if passed:
        sentence = f"{words} {said(gain)}; {sure}."
    elif allow_equal:
        sentence = f"{words} {said(gain)}; {sure}, where {said(least)} is the worst allowed."
    else:
        kind = "worse" if high < 0 else "no improvement" if gain <= 0 else "an improvement that may be chance"
        sentence = f"{kind}: {words} {said(gain)}; {sure}, but it must be more than {said(least)}."
    return GateLine(
        name=METRIC_WORDS[name],
        champion=figures.champion,
        candidate=figures.candidate,
        bound=f"{'≥' if allow_equal else '>'} {said(least)}, not by chance",
        passed=passed,
        sentence=sentence,
    )


def _mcnemar_line(champion: Answers, candidate: Answers, *, gate: GateConfig, decides: bool) -> GateLine:
    """Compare the rows that only one model has right. If another metric decides, only a significant loss of rows refuses."""
    gained = int((candidate.right & ~champion.right).sum())
    lost = int((champion.right & ~candidate.right).sum())
    chance = mcnemar(gained, lost) if decides else mcnemar(lost, gained)
    level = 1 - gate.confidence
    passed = chance <= level if decides else chance > level
    what = f"so much {'better' if decides else 'worse'} by chance alone: p = {chance:.3g}"
    return GateLine(
        name="McNemar",
        champion=lost,
        candidate=gained,
        bound=f"p {'≤' if decides else '>'} {level:.2g}",
        passed=bool(passed),
        sentence=f"{gained} rows only the candidate has right, {lost} only the champion; {what}.",
    )


def _beside_line(champion: Answers, candidate: Answers, differences: Values, *, gate: GateConfig, name: MetricName) -> GateLine:
    """Require that the other of accuracy and macro F1 is not significantly worse."""
    figures = _figures(name, champion, candidate)
    high = float(np.quantile(differences, gate.confidence))
    change = points(figures.candidate - figures.champion)
    passed = high >= 0
    ending = "not significantly worse" if passed else f"significantly worse: {gate.confidence:.0%} sure of at most {points(high)}"
    return GateLine(
        name=METRIC_WORDS[name],
        champion=figures.champion,
        candidate=figures.candidate,
        bound="not significantly worse",
        passed=passed,
        sentence=f"{METRIC_WORDS[name]} {change}; {ending}.",
    )


def _class_lines(champion: Answers, candidate: Answers, *, gate: GateConfig) -> list[GateLine]:
    """Return one line for each class whose loss of recall is too large and significant; else one for the class that loses most.

    A loss is significant if chance alone would rarely lose as many rows of the class and gain as few (McNemar's test within the
    class). With the usual 95% that takes five rows lost and none gained, so a class of three rows never vetoes.
    """
    losses: list[tuple[float, GateLine]] = []
    for index, name in enumerate(champion.names):
        rows = champion.true[:, index]
        num_rows = int(rows.sum())
        if not num_rows:
            continue
        before, after = champion.decided[rows, index], candidate.decided[rows, index]
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        drop, chance = (lost - gained) / num_rows, mcnemar(lost, gained)
        passed = not (drop > gate.max_class_drop and chance <= 1 - gate.confidence)
        unsure = "" if drop <= gate.max_class_drop or not passed else f", which may be chance (p = {chance:.2g})"
        line = GateLine(
            name=f"recall of {name}",
            champion=float(before.mean()),
            candidate=float(after.mean()),
            bound=f"≥ {points(-gate.max_class_drop)}, or by chance",
            passed=passed,
            sentence=f"{name}: recall {points(-drop)} on {num_rows} rows ({lost} lost, {gained} gained){unsure}.",
        )
        losses.append((drop, line))
    failing = [line for _, line in losses if not line.passed]
    return failing or [max(losses, key=lambda loss: loss[0])[1]]


def _calibration_line(champion: Answers, candidate: Answers, differences: Values, *, gate: GateConfig) -> GateLine:
    figures = Pair(value(calibration_error, champion), value(calibration_error, candidate))
    increase = figures.candidate - figures.champion
    is_significant = bool(np.quantile(differences, 1 - gate.confidence) > 0)
    return GateLine(
        name="calibration error",
        champion=figures.champion,
        candidate=figures.candidate,
        bound=f"≤ {points(gate.max_ece_increase)}, or by chance",
        passed=not (increase > gate.max_ece_increase and is_significant),
        sentence=f"expected calibration error {points(increase)}.",
    )


def _behaviour_line(test: BehaviourPair, *, gate: GateConfig) -> GateLine:
    """Compare a failure rate. A rise is significant by a sign test on the templates, whose cases stand and fall together."""
    before, after = test.failed.sum(axis=0) / max(test.num_cases, 1)
    lost = int((test.failed[:, 1] > test.failed[:, 0]).sum())
    gained = int((test.failed[:, 1] < test.failed[:, 0]).sum())
    rise, chance = float(after - before), mcnemar(lost, gained)
    is_rise = rise > gate.max_behaviour_rise + 1e-9
    passed = not (is_rise and chance <= 1 - gate.confidence)
    unsure = f", which may be chance (p = {chance:.2g})" if is_rise and passed else ""
    return GateLine(
        name=f"behaviour: {test.test}",
        champion=float(before),
        candidate=float(after),
        bound=f"≤ {points(gate.max_behaviour_rise)}, or by chance",
        passed=passed,
        sentence=f"{test.test}: {after:.1%} of its {test.num_cases} cases fail, {points(rise)}{unsure}.",
    )


def _latency_line(latency_s: npt.NDArray[np.float64], *, gate: GateConfig) -> GateLine:
    """Compare the median latency of single texts.

    A busy machine must not veto. So significantly more than half of the texts must also be too slow.
    """
    before, after = np.median(latency_s, axis=0)
    slow = int((latency_s[:, 1] > gate.max_latency_ratio * latency_s[:, 0]).sum())
    is_significant = mcnemar(slow, len(latency_s) - slow) <= 1 - gate.confidence
    ratio = float(after / before)
    return GateLine(
        name="latency (ms, p50)",
        champion=1000 * float(before),
        candidate=1000 * float(after),
        bound=f"≤ {gate.max_latency_ratio:g} times",
        passed=not (ratio > gate.max_latency_ratio and is_significant),
        sentence=f"one text takes {ratio:.2f} times as long ({1000 * before:.1f} ms, now {1000 * after:.1f} ms).",
    )


def _size_line(weight_bytes: Pair, *, gate: GateConfig) -> GateLine:
    ratio = weight_bytes.candidate / weight_bytes.champion
    return GateLine(
        name="weights (MB)",
        champion=weight_bytes.champion / 1e6,
        candidate=weight_bytes.candidate / 1e6,
        bound=f"≤ {gate.max_size_ratio:g} times",
        passed=ratio <= gate.max_size_ratio,
        sentence=f"the weights are {ratio:.2f} times as large.",
    )
