"""`fit_head`: the weights that a new head begins with, a logistic regression on the pretrained encoder's features.

The first gradients of a head that is drawn at random are those of random answers. They change the encoder and spoil some of what it
learned in pretraining. So the head is fitted first, and then head and encoder are fine-tuned together (Kumar et al., 2022,
https://arxiv.org/abs/2202.10054, "linear probing then fine-tuning").
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from manta.model.finished import head_of
from manta.model.loss import resolve_class_weights
from manta.model.regression import CERTAIN, Regression, fit_regression
from manta_jobs.training.batches import Rows, evaluation_batches
from manta_jobs.training.engine.build import resolve_precision
from manta_jobs.training.validation import EVALUATION_BATCH_SIZE, gathered_in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta.config import TrainConfig
    from manta.data.encode import EncodedSplit
    from manta.labels import Floats, LabelSpace, Targets
    from manta_jobs.training.engine.build import Precision

MOST_ROWS = 4096
"""Training rows that the head is fitted to, drawn at random, beside those that rare labels need."""
LEAST_ROWS_OF_A_LABEL = 8
"""Rows of each label among them, if it has as many."""
LEAST_ROWS_OF_A_FEATURE = 3
"""Training rows for each dimension of the features, below which the head stays as drawn. A regression on fewer rows fits nearly all
of them exactly, which leaves hardly any gradient for the encoder to learn from."""
STRENGTH = 3.0
"""scikit-learn's C for features whose variance is 1, summed over their dimensions. For others, it is divided by that."""
TINY = 1e-9
MOST_ITERATIONS = 100
LEAST_SPREAD = 0.1
"""Least standard deviation over the rows of the logits of some label. A head of zeros would not let the encoder learn."""
MOST_BIAS = 5.0
"""Largest logit of a label that all of these rows have; one that none has gets the negative. The training can still correct it."""


def layer_to_fit(model: Any, *, num_rows: int) -> torch.nn.Linear | None:
    """Return the head's linear layer if it can be fitted; None for another kind of head, or if rows are few.

    `num_rows` are the training rows of the run, so that all of its folds decide alike.
    """
    layer = head_of(model.get_base_model() if hasattr(model, "peft_config") else model)
    if not isinstance(layer, torch.nn.Linear) or layer.bias is None:
        return None
    return layer if num_rows >= LEAST_ROWS_OF_A_FEATURE * layer.in_features else None


def fit_head(
    model: Any, layer: torch.nn.Linear, split: EncodedSplit, *, labels: LabelSpace, config: TrainConfig, pad_id: int
) -> None:
    """Replace the weights of the head's layer by a regression on a sample of the training rows.

    Worker 0 fits it to the features that all workers have computed, and sends it to the others. All workers must call it together.
    `model` is on its device. The head stays as drawn if its inputs tell nothing: they are not finite, or nearly the same for all
    texts.
    """
    rows = sampled_rows(split.targets, seed=config.seed, is_multilabel=labels.task == "multilabel")
    features = _features(model, layer, split, rows, pad_id=pad_id, precision=resolve_precision(config))
    if features is None or not np.isfinite(features).all():
        return
    found = [_fitted(features, split.targets, rows, labels=labels, config=config) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    (regression,) = found
    if regression is not None:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(regression.weights))
            layer.bias.copy_(torch.from_numpy(regression.bias))


def _fitted(features: Floats, targets: Targets, rows: Rows, *, labels: LabelSpace, config: TrainConfig) -> Regression | None:
    """Return the regression of the sampled rows; None if its logits hardly differ between rows.

    The targets are those of all training rows, for `train.class_weights`.
    """
    center, variance = features.mean(axis=0), float(features.var(axis=0).sum())
    found = fit_regression(
        features - center,
        targets[rows],
        labels=labels,
        strength=STRENGTH / max(variance, TINY),
        class_weights=resolve_class_weights(config, labels, targets),
        max_iterations=MOST_ITERATIONS,
    )
    if found.logits(features).std(axis=0).max() < LEAST_SPREAD:
        return None
    bias = np.where(np.abs(found.bias) >= CERTAIN, np.sign(found.bias) * MOST_BIAS, found.bias)
    return Regression(found.weights, bias - found.weights @ center)


def sampled_rows(targets: Targets, *, seed: int, is_multilabel: bool) -> Rows:
    """Return the numbers of the rows that the head is fitted to, in ascending order.

    `targets` are classes `(rows,)` or, for a multilabel task, 0 and 1 `(rows, labels)`.
    """
    order = np.random.default_rng(seed).permutation(len(targets))
    if len(order) <= MOST_ROWS:
        return np.sort(order)
    if is_multilabel:
        rare = [order[targets[order, label] > 0][:LEAST_ROWS_OF_A_LABEL] for label in range(targets.shape[1])]
    else:
        by_label = order[np.argsort(targets[order], kind="stable")]
        starts = np.unique(targets[by_label], return_index=True)[1]
        rare = [rows[:LEAST_ROWS_OF_A_LABEL] for rows in np.split(by_label, starts[1:])]
    return np.unique(np.concatenate([order[:MOST_ROWS], *rare]))


def _features(
    model: Any, layer: torch.nn.Linear, split: EncodedSplit, rows: Rows, *, pad_id: int, precision: Precision
) -> Floats | None:
    """Return the head's input for each of the rows, `(rows, features)`; None if it is not one vector for each text.

    The batches, and so the features, are the same for any number of workers.
    """
    device, dtype = layer.weight.device, torch.float16 if precision == "fp16" else torch.bfloat16
    batches = evaluation_batches(
        split.lengths[rows], batch_size=EVALUATION_BATCH_SIZE, rank=dist.get_rank(), world_size=dist.get_world_size()
    )
    mine: list[tuple[Rows, Floats]] = []
    with _inputs_of(layer) as inputs, _evaluating(model), torch.inference_mode():
        for places, counts in batches:
            padded = split.padded(rows[places], pad_id=pad_id)
            with torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32"):
                model(**{name: torch.from_numpy(array).to(device) for name, array in padded.items()})
            vectors = inputs.pop()
            if vectors.ndim != 2:
                return None
            if counts:
                mine.append((places, vectors.float().cpu().numpy()))
    return gathered_in_order(mine, num_rows=len(rows))


@contextmanager
def _inputs_of(layer: torch.nn.Linear) -> Iterator[list[torch.Tensor]]:
    """Collect the inputs of a layer while the body runs."""
    inputs: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        yield inputs
    finally:
        hook.remove()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Turn dropout off while the body runs."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
