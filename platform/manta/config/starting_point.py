"""The values of `auto`: one rule for the learning rate, the epochs and the searched ranges.

The rule was fitted to runs of MiniLM-L6 (384 wide) and to the rates usual for BERT. docs/decisions/0006-where-auto-starts.md has
the measurements and the purpose of each factor.

    wanted steps  = 30 + 12 x labels, at most 1,000
    epochs        = wanted steps / steps of an epoch, rounded up, 3 to 30, and at least 5 below 150 rows a label
    steps         = epochs x rows / batch size, each epoch's rounded up
    learning rate = 7e-5 x 384 / width x (1 + log2(classes)) / 2 x (1000 / steps)^(1/4)

The last factor stays between 1/3 and 3. The learning rate stays between 5e-6 and 1e-3 and is rounded to two digits. It is ten times
as high for adapters (`model.lora`) and for a head on a fully frozen encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta.config import ExperimentConfig, Range

if TYPE_CHECKING:
    from typing import Literal

    from manta.config import Method

BASE_LEARNING_RATE = 7e-5
"""For an encoder of `BASE_WIDTH`, two classes and `BASE_STEPS` steps."""
BASE_WIDTH = 384
BASE_STEPS = 1000
MOST_FOR_STEPS = 3.0
"""The largest factor by which the number of steps changes the rate."""
FROZEN_FACTOR = 10.0
"""Factor for weights that start at zero next to a frozen encoder. RoBERTa-base learns GLUE with LoRA at 4e-4 to 5e-4 (Hu et al.,
2021, https://arxiv.org/abs/2106.09685), RoBERTa as a whole at 1e-5 to 3e-5 (Liu et al., 2019, https://arxiv.org/abs/1907.11692)."""
LEARNING_RATES = (5e-6, 1e-3)
STEPS_OF_ANY_RUN, STEPS_PER_LABEL, MOST_STEPS = 30, 12, 1000
"""Terms of the wanted steps. Small data is trained for more epochs: after few steps a fine-tuned encoder has not converged and
varies with the seed (Mosbach et al., 2021, https://arxiv.org/abs/2006.04884). Each label has a row of the new head to learn."""
EPOCHS = (3, 30)
FEW_ROWS_PER_LABEL, LEAST_EPOCHS_WITH_FEW = 150, 5
FULL_FROM_ROWS_PER_LABEL, FULL_FROM_WITH_OTHER_ENCODERS = 150, 64
"""Training rows per label, on average, from which the method `auto` is full: with a sentence encoder, and with others, which were
not measured; see docs/decisions/0022-the-ladder-of-methods.md."""
NAMES_BELOW_ROWS_PER_LABEL = 64
"""Training rows per label, on average, below which the words of label names are training rows of these methods, too."""
OF_FULL = (
    *("model.dropout", "model.freeze_embeddings", "model.freeze_layers", "model.lora"),
    *("train.learning_rate", "train.layer_decay", "train.num_epochs", "train.early_stopping", "train.batch_size"),
    *("train.weight_decay", "train.label_smoothing", "train.focal_gamma", "train.label_noise"),
)
"""Settings that the method full reads, and linear and contrastive do not."""
SEARCHED_BELOW, SEARCHED_ABOVE = 4.0, 3.0
"""The factors by which the default search goes below and above the rule's learning rate."""
SEARCHED_DROPOUT = (0.0, 0.4)


@dataclass(frozen=True)
class Usual:
    """The values that `auto` takes for a run's data and encoder, each with the run's own value of the other."""

    learning_rate: float
    num_epochs: int


def resolved(
    config: ExperimentConfig,
    *,
    num_rows: int,
    num_labels: int,
    hidden_size: int,
    num_layers: int | None = None,
    is_multilabel: bool = False,
    is_sentence_encoder: bool = True,
) -> ExperimentConfig:
    """Return the config with a number for each `auto` of learning rate and epochs, and with a search space.

    With many rows per label, the method is full in place of auto; with few, it stays auto (`methods_tried`).

    `num_rows` are the training rows; `hidden_size`, `num_layers` and `is_sentence_encoder` are about the encoder. In a multilabel
    task, each label has two classes: it applies or not. Values that the config sets itself stay.
    """
    steps_per_epoch = math.ceil(num_rows / config.train.batch_size)
    epochs = (
        auto_epochs(num_rows, num_labels=num_labels, batch_size=config.train.batch_size)
        if config.train.num_epochs == "auto"
        else config.train.num_epochs
    )
    rate = auto_learning_rate(
        num_steps=epochs * steps_per_epoch,
        num_classes=2 if is_multilabel else num_labels,
        hidden_size=hidden_size,
        is_frozen=config.model.lora is not None or config.model.freeze_layers == num_layers,
    )
    own_rate = rate if config.train.learning_rate == "auto" else config.train.learning_rate
    values: dict[str, object] = {"train.num_epochs": epochs, "train.learning_rate": own_rate}
    if config.train.method == "auto" and not has_few(num_rows, num_labels=num_labels, is_sentence_encoder=is_sentence_encoder):
        values["train.method"] = "full"
    if config.tune.space is None:
        space = default_space(rate, own_rate=own_rate, own_dropout=config.model.dropout)
        values["tune.space"] = {name: ranges.model_dump(exclude_none=True) for name, ranges in space.items()}
    return config.with_values(values)


def allowing_for_noise(config: ExperimentConfig, rate: float) -> ExperimentConfig:
    """Return the config with a number for `train.label_noise: auto`: the share of wrong labels `rate`.

    It is 0 with another loss than the cross-entropy. A config that only tries linear and contrastive stays as it is.
    """
    train = config.train
    if train.label_noise != "auto" or "full" not in methods_tried(train.method):
        return config
    return config.with_values({"train.label_noise": 0.0 if train.focal_gamma or train.label_smoothing else rate})


def has_few(num_rows: int, *, num_labels: int, is_sentence_encoder: bool) -> bool:
    """Tell whether training rows are so few that `auto` takes other methods than full."""
    full_from = FULL_FROM_ROWS_PER_LABEL if is_sentence_encoder else FULL_FROM_WITH_OTHER_ENCODERS
    return num_rows < full_from * num_labels


def methods_tried(method: Method | Literal["auto"]) -> tuple[Method, ...]:
    """Return the methods that a run tries, in their order, by the method of its resolved config."""
    return ("linear", "contrastive") if method == "auto" else (method,)


def unread_settings(config: ExperimentConfig, tried: tuple[Method, ...]) -> list[str]:
    """Return the settings that the config changes and that none of the methods reads."""
    if "full" in tried:
        return []
    usual = {"model": type(config.model)(), "train": type(config.train)()}
    changed = []
    for name in OF_FULL:
        section, setting = name.split(".")
        if getattr(getattr(config, section), setting) != getattr(usual[section], setting):
            changed.append(name)
    return changed


def auto_epochs(num_rows: int, *, num_labels: int, batch_size: int) -> int:
    """Return the number of epochs by the rule at the top of this file."""
    wanted = min(STEPS_OF_ANY_RUN + STEPS_PER_LABEL * num_labels, MOST_STEPS)
    has_few = num_rows < FEW_ROWS_PER_LABEL * num_labels
    least = LEAST_EPOCHS_WITH_FEW if has_few else EPOCHS[0]
    return int(_within(math.ceil(wanted / math.ceil(num_rows / batch_size)), least, EPOCHS[1]))


def auto_learning_rate(*, num_steps: int, num_classes: int, hidden_size: int, is_frozen: bool = False) -> float:
    """Return the peak learning rate of a run of `num_steps` optimizer steps, by the rule at the top of this file."""
    for_width = BASE_WIDTH / hidden_size
    for_classes = (1 + math.log2(max(2, num_classes))) / 2
    for_steps = _within((BASE_STEPS / num_steps) ** 0.25, 1 / MOST_FOR_STEPS, MOST_FOR_STEPS)
    rate = BASE_LEARNING_RATE * for_width * for_classes * for_steps * (FROZEN_FACTOR if is_frozen else 1.0)
    return _two_digits(_within(rate, *LEARNING_RATES))


def default_space(rate: float, *, own_rate: float, own_dropout: float) -> dict[str, Range]:
    """Return ranges of learning rate and dropout around the rule's `rate`.

    They are wide enough to include the config's own values, which the first trial uses.
    """
    return {
        "train.learning_rate": Range(
            loguniform=(min(_two_digits(rate / SEARCHED_BELOW), own_rate), max(_two_digits(rate * SEARCHED_ABOVE), own_rate))
        ),
        "model.dropout": Range(uniform=(SEARCHED_DROPOUT[0], max(SEARCHED_DROPOUT[1], own_dropout))),
    }


def choice_sentence(config: ExperimentConfig, chosen: ExperimentConfig, *, num_rows: int, classes: str, hidden_size: int) -> str:
    """Return a sentence on the values that `resolved` chose for `auto` and their inputs; empty if it chose none.

    `classes` is a phrase such as `8 classes`.
    """
    if config.train.method == "linear":
        return ""
    epochs = chosen.train.planned_epochs
    parts: list[str] = []
    if config.train.learning_rate == "auto":
        parts.append(f"learning rate {chosen.train.peak_learning_rate:.1e}")
    if config.train.num_epochs == "auto":
        parts.append(f"{epochs} epochs")
    if not parts:
        return ""
    what = " and ".join(parts)
    steps = epochs * math.ceil(num_rows / chosen.train.batch_size)
    return f"{what[0].upper()}{what[1:]}, by the rule for {classes}, {steps:,} steps and width {hidden_size}"


def _within(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")
