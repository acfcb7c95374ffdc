"""Diagnosis of a finished run: overfitting, the comparison with TF-IDF, and the gain from several workers.

`assess_fit` judges whether a run memorized its training rows, and suggests settings to try next.

It compares losses, not accuracies, because a model becomes confident on its training rows long before its accuracy shows it. Losses
are in nats. They are judged against the loss of guessing by the classes' shares (their entropy): 0.69 for two equal classes, 2.3
for ten. So the thresholds mean the same for any number of classes. `losing_paragraph` explains why fine-tuning may have lost to
TF-IDF. It uses the same rule as `auto`, see `manta.config.starting_point`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from manta.config import ModelConfig
from manta.config.starting_point import auto_epochs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manta.config import ExperimentConfig
    from manta.evaluation.baseline import Baseline
    from manta.inference.artifact import Manifest
    from manta.labels import Task
    from manta.storage.folders import Storage

Verdict = Literal["fits", "overfits", "underfits", "unfinished", "diverged"]

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
TOO_HIGH = 3.0
"""Factor on the learning rate of `auto`. From this factor on, a model that learned nothing has more likely lost its pretraining
than moved too little. The default search goes up to the same factor."""
MAX_DROPOUT = 0.5


@dataclass(frozen=True)
class Fit:
    """Verdict on the losses of a run's last epoch, and settings to try next."""

    verdict: Verdict
    train_loss: float
    """Mean over the last epoch, with dropout on, in nats like all losses here."""
    validation_loss: float
    """Validation loss at the end of the last epoch."""
    gap: float
    """Validation loss minus training loss."""
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
    """Return the verdict on the losses of each epoch."""
    if not (math.isfinite(train[-1]) and math.isfinite(validation[-1])):
        return "diverged"
    if validation_rose(train, validation, guess_loss=guess_loss):
        return "overfits"
    if train[-1] > HARDLY_LEARNED * guess_loss:
        return "underfits"
    gap_counts = validation[-1] - train[-1] > LARGE_GAP * guess_loss and validation[-1] > LARGE_RATIO * train[-1]
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


def against_overfitting(config: ExperimentConfig, *, best_epoch: int, num_train_rows: int) -> list[str]:
    """Return advice that keeps a model from memorizing its rows, the cheapest first."""
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
    """Return advice for a model that has hardly learned."""
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
    """Return the advice to train for more epochs."""
    epochs = config.train.planned_epochs
    more = epochs + max(1, epochs // 2)
    return [f"train.num_epochs: {more} instead of {epochs}; validation loss was still falling."]


def against_divergence(config: ExperimentConfig, *, usual_rate: float) -> list[str]:
    """Return the advice to take smaller steps, with a longer warm-up."""
    rate, warmup = config.train.peak_learning_rate, config.train.warmup_fraction
    advice = [f"train.learning_rate: {min(rate / 3, usual_rate):.2g} instead of {rate:.2g}; the loss is no number any more."]
    if warmup < 0.2:
        advice.append(f"train.warmup_fraction: 0.2 instead of {warmup:g}; the first steps are the ones that break a model.")
    return advice


TOO_LOW = 0.5
"""Share of the learning rate of `auto` below which a new head learns too little. Fine-tuning on BANKING77 (77 classes) loses to
TF-IDF by 20 points at 5e-5 and 3 epochs, where `auto` takes 2.6e-4. It wins by 3 points at 2e-4 and 5 epochs, where `auto` takes
2e-4."""


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


def compare_with_baseline(metrics: dict[str, float], baseline: Baseline, *, metric: str) -> BaselineComparison:
    """Compare a model's test metrics with the baseline's."""
    return BaselineComparison(metric, metrics[metric], baseline.test[metric])


def losing_paragraph(
    compared: BaselineComparison, config: ExperimentConfig, fit: Fit, *, num_classes: int, num_steps: int
) -> str | None:
    """Return a paragraph that says that fine-tuning does not beat the baseline, why, and what to try; None if it does."""
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
