"""Diagnosis of a finished run: overfitting, the comparison with TF-IDF, and the gain from several workers.

`assess_fit` judges whether a run memorized its training rows. What to try next is in `advice.py`.

It compares losses, not accuracies, because a model becomes confident on its training rows long before its accuracy shows it. Losses
are in nats. They are judged against the loss of guessing by the classes' shares (their entropy): 0.69 for two equal classes, 2.3
for ten. So the thresholds mean the same for any number of classes. `losing_paragraph` explains why fine-tuning may have lost to
TF-IDF. It uses the same rule as `auto`, see `manta.config.starting_point`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manta.config.starting_point import Usual
from manta.evaluation.baseline import Baseline
from manta_jobs.packaging.advice import TOO_HIGH, TOO_LOW, Situation, Verdict, advice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manta.config import ExperimentConfig
    from manta.inference.artifact import Manifest
    from manta.labels import Task
    from manta.storage.folders import Storage

LEAST_RISE = 0.05
"""Least rise of validation loss that counts, as a share of its lowest value. On a few hundred rows the loss fluctuates by some
percent."""
LEAST_RISE_OF_GUESSING = 0.01
"""A rise must also exceed this share of the loss of guessing to count, so that 0.002 after 0.001 is no fault."""
LARGE_GAP = 0.1
"""Least gap that counts, as a share of the loss of guessing. The real gap is larger than the measured one: dropout raises the
training loss a bit, and the training loss is the mean over an epoch in which the model improved."""
LARGE_RATIO = 1.25
"""Least ratio of validation loss to training loss for a gap that counts. Far from convergence the two differ by chance."""
HARDLY_LEARNED = 0.9
"""A training loss above this share of the loss of guessing counts as no better than guessing."""
STILL_FALLING = 0.1
"""Least fall of validation loss in the last epoch, as a share, that shows that learning has not ended. The learning rate is then
close to zero."""


@dataclass(frozen=True)
class Fit:
    """Verdict on the losses of a run's last epoch, and settings to try next."""

    verdict: Verdict
    train_loss: float
    """Mean over the last epoch, with dropout on: the cross-entropy in nats, unless `focal_gamma` or `label_noise` is set."""
    validation_loss: float
    """Validation loss at the end of the last epoch."""
    gap: float
    """Validation loss minus training loss."""
    best_epoch: int
    """The epoch whose model was kept, from 1."""
    num_epochs: int
    guess_loss: float
    """The loss of a model that knows the classes' shares and nothing of the text."""
    usual: Usual
    """The values that `auto` takes for this data and encoder."""
    advice: tuple[str, ...]
    """Sentences that name settings and values to try, the most promising first."""

    def sentence(self) -> str:
        """Return the verdict and the gap in one line."""
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
    """Return the loss in nats of a model that knows only how common each label is, from each label's number of rows.

    With one label per row, it is the entropy of the labels' shares. With several, it is the mean over labels of the entropy of yes
    and no.
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
    usual: Usual,
    num_train_rows: int,
    loses: bool,
) -> Fit:
    """Judge a run by the losses of its epochs (at least one) and the config that it ran with.

    `loses` tells that the baseline is as good or better on the test rows.
    """
    train, validation = ([float(epoch[key]) for epoch in history] for key in ("train_loss", "loss"))
    is_cross_entropy = not (config.train.focal_gamma or config.train.noise_share)
    verdict = judge(train, validation, guess_loss=guess_loss, is_cross_entropy=is_cross_entropy)
    return Fit(
        verdict=verdict,
        train_loss=train[-1],
        validation_loss=validation[-1],
        gap=validation[-1] - train[-1],
        best_epoch=best_epoch,
        num_epochs=len(history),
        guess_loss=guess_loss,
        usual=usual,
        advice=advice(Situation(config, verdict, usual, best_epoch, num_train_rows, loses)),
    )


def judge(train: list[float], validation: list[float], *, guess_loss: float, is_cross_entropy: bool = True) -> Verdict:
    """Return the verdict on the losses of each epoch.

    The validation loss is the cross-entropy. If the training loss is another one, it is compared neither with the validation loss
    nor with the loss of guessing.
    """
    if not (math.isfinite(train[-1]) and math.isfinite(validation[-1])):
        return "diverged"
    if validation_rose(train, validation, guess_loss=guess_loss):
        return "overfits"
    if (train if is_cross_entropy else validation)[-1] > HARDLY_LEARNED * guess_loss:
        return "underfits"
    gap = validation[-1] - train[-1]
    gap_counts = is_cross_entropy and gap > LARGE_GAP * guess_loss and validation[-1] > LARGE_RATIO * train[-1]
    if len(validation) > 1 and validation[-1] < (1 - STILL_FALLING) * min(validation[:-1]):
        # While validation loss falls this fast, a gap does not count as overfitting.
        return "unfinished" if validation[-1] > LARGE_GAP * guess_loss else "fits"
    return "overfits" if gap_counts else "fits"


def validation_rose(train: list[float], validation: list[float], *, guess_loss: float) -> bool:
    """Tell whether validation loss ends clearly above its lowest epoch while training loss kept falling."""
    finite = [index for index, value in enumerate(validation) if math.isfinite(value)]
    lowest = min(finite, key=lambda index: validation[index])
    rise = validation[-1] - validation[lowest]
    counts = rise > max(LEAST_RISE * validation[lowest], LEAST_RISE_OF_GUESSING * guess_loss)
    return counts and train[-1] < train[lowest]


SHORT = {"accuracy": "accuracy", "loss": "loss", "f1_micro": "micro F1", "f1_macro": "macro F1", "f1_weighted": "weighted F1"}


@dataclass(frozen=True)
class BaselineComparison:
    """The model and the baseline on the test rows, by the metric that chose the model."""

    metric: str
    model: float
    baseline: float

    @property
    def is_beaten(self) -> bool:
        """True if the model is better than the baseline."""
        return self.model < self.baseline if self.metric == "loss" else self.model > self.baseline

    @property
    def is_perfect(self) -> bool:
        """True if both get every test row right."""
        return self.metric != "loss" and self.model == self.baseline == 1.0


def baseline_comparison(preflight: dict[str, Any], metrics: dict[str, float], *, metric: str) -> BaselineComparison | None:
    """Compare a model's test metrics with those of the baseline in `preflight.json`; None for a run of an earlier version."""
    document = preflight.get("baseline")
    return BaselineComparison(metric, metrics[metric], Baseline.from_dict(document).test[metric]) if document else None


def losing_paragraph(
    compared: BaselineComparison, config: ExperimentConfig, fit: Fit, *, num_classes: int, num_steps: int
) -> str | None:
    """Return a paragraph that says that fine-tuning does not beat the baseline, and why; None if it does."""
    lost = _lost(compared, "Fine-tuning")
    if lost is None or compared.is_perfect:
        return lost
    return f"{lost} {_why(config, fit, num_classes=num_classes, num_steps=num_steps)}"


def lost_by_linear(compared: BaselineComparison) -> str | None:
    """Return a paragraph that says that a linear model does not beat the baseline; None if it does."""
    lost = _lost(compared, "The linear model")
    if lost is None or compared.is_perfect:
        return lost
    return f"{lost} With more rows, train.method full may; another model.pretrained may suit these texts better."


def _lost(compared: BaselineComparison, who: str) -> str | None:
    if compared.is_beaten:
        return None
    if compared.is_perfect:
        return f"{who} and TF-IDF with logistic regression both get every test row right: single words tell the labels already."
    words = SHORT.get(compared.metric, compared.metric)
    return (
        f"{who} does not beat TF-IDF with logistic regression here: test {words} {compared.model:.4f} against "
        f"{compared.baseline:.4f}."
    )


def _why(config: ExperimentConfig, fit: Fit, *, num_classes: int, num_steps: int) -> str:
    rate, usual = config.train.peak_learning_rate, fit.usual
    if fit.verdict in ("diverged", "underfits") and rate >= TOO_HIGH * usual.learning_rate:
        return f"A learning rate of {rate:.2g} is so high that it can wipe out the pretraining."
    if fit.verdict == "overfits":
        return "It has learned its training rows by heart."
    if rate < TOO_LOW * usual.learning_rate:
        work = f"{num_classes} classes in {num_steps:,} steps"
        return f"The learning rate of {rate:.2g} is too low for {work}: the new head hardly moved."
    if config.train.planned_epochs < usual.num_epochs:
        return f"{num_steps:,} steps are few for {num_classes} classes: the new head had no time to learn them."
    return (
        f"{num_steps:,} steps at a learning rate of {rate:.2g} are usual for {num_classes} classes, so either single words "
        "tell the labels already, or other settings suit this encoder better."
    )


SAME_WORK = (("model",), ("train", "batch_size"), ("train", "gradient_checkpointing"))


def compared_with_one_worker(distribution: dict[str, Any], manifest: Manifest, *, storage: Storage) -> dict[str, Any]:
    """Return the same facts with `scaling`: the speedup over the last one-worker run of the same work.

    The same work is the same rows, model, batch and precision on the same kind of device. `scaling` is None without such a run.
    """
    mine = total_examples_per_s(distribution)
    one = _last_of_one_worker(distribution, manifest, storage=storage) if distribution.get("world_size", 1) > 1 else None
    if one is None:
        return distribution | {"examples_per_s": mine, "scaling": None}
    name, alone = one
    scaling = {"one_worker_run": name, "one_worker_examples_per_s": alone, "speedup": round(mine / alone, 3)}
    return distribution | {"examples_per_s": mine, "scaling": scaling}


def total_examples_per_s(distribution: dict[str, Any]) -> float:
    """Return the examples/s of all workers together."""
    return round(sum(float(worker["examples_per_s"]) for worker in distribution.get("workers", [])), 2)


def _last_of_one_worker(distribution: dict[str, Any], manifest: Manifest, *, storage: Storage) -> tuple[str, float] | None:
    reports = sorted(storage.runs.glob("*/report.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in reports:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            facts = report["distribution"]
            same = (
                facts["world_size"] == 1
                and report["data_hash"] == manifest.data_hash
                and facts["precision"] == distribution["precision"]
                and facts["workers"][0]["device"] == distribution["workers"][0]["device"]
                and all(_setting(report["config"], *keys) == _setting(manifest.config, *keys) for keys in SAME_WORK)
            )
        except (OSError, ValueError, KeyError, TypeError, IndexError):  # written by an older version, or cut short
            continue
        if same:
            return str(report["run"]), total_examples_per_s(facts)
    return None


def _setting(config: dict[str, Any], *keys: str) -> Any:
    value: Any = config
    for key in keys:
        value = value[key]
    return value
