"""The method `linear`: every row is embedded once by the frozen encoder, then a logistic regression learns from the embeddings.

The strength of its penalty is chosen by the loss on rows that a fit has not seen: the validation rows, or, for few rows, those of
each fold by a fit on the other folds. The loss is that of calibrated probabilities, as a strong penalty makes a regression modest.
Then it is fitted to all training rows. The embeddings are on disk before the regression begins, so an interrupted run does not
compute them again.

With few rows, the words of each label's name count as a training row, if names alone answer more of the rows right than chance.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch

from manta.cluster.gpus import hide_unassigned_gpus
from manta.data.encode import AllWindows, EncodedSplit
from manta.evaluation.metrics import row_losses
from manta.inference.batches import token_batches
from manta.inference.calibration import fit_temperature
from manta.model.loss import resolve_class_weights
from manta.model.pooled import load_encoder
from manta.model.regression import Regression, fit_regression
from manta.storage.object_store import fetch, here, store
from manta.windows import pooled
from manta_jobs.training.engine.build import resolve_precision
from manta_jobs.training.progress import UPDATE_EVERY_S, Board, RunProgress
from manta_jobs.training.validation import read_logits, write_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from manta.config import ExperimentConfig
    from manta.labels import Floats, Targets
    from manta.model.pooled import PooledEncoder
    from manta_jobs.training.batches import TokenizedData

    Fit = Callable[[Floats, Targets], Regression]
    Embed = Callable[["LinearSetup", dict[str, EncodedSplit], "Tally"], dict[str, Floats]]

LINEAR_FOLDER = "linear"
"""Folder of a run that holds the embeddings and the fitted regression."""
MODEL_FILE = "linear.npz"
LABEL_NAMES = "label-names"
"""The split of the labels' names, in the order of the labels. It is there if rows are few and the names are words."""
STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse strengths of the L2 penalty (scikit-learn's C) for embeddings of length 1, the strongest penalty first. They are tried
until the loss rises. For longer embeddings they are divided by the mean square of the length, so that scale does not matter."""
USUAL_STRENGTH = 10.0
"""The strength where there is no row to choose it by."""
PASS_TOKENS = {"cpu": 512, "cuda": 2048}
"""Tokens of a forward pass, padding included."""


@dataclass(frozen=True)
class LinearModel:
    """A regression on embeddings, and its logits of rows that it was not fitted to."""

    regression: Regression
    strength: float
    logits: Floats
    """Logits `(rows, outputs)` of the validation rows; of a cross-validated run, of the training rows, each by a fit without it. No
    rows if nothing can be held out."""
    embed_s: float = 0.0
    """Seconds of the embedding; of the method contrastive, also of the adaptation."""
    fit_s: float = 0.0
    num_names: int = 0
    """Number of label names among the rows that it was fitted to."""

    @property
    def seconds(self) -> float:
        """Seconds of the embedding and of all fits."""
        return self.embed_s + self.fit_s


@dataclass(frozen=True)
class LinearSetup:
    """Settings and paths of the method for the process that computes it."""

    config: ExperimentConfig
    data: TokenizedData
    folder: Path
    """Folder of its files, readable by the driver."""
    num_threads: int
    board: Board


def train_linear(setup: LinearSetup) -> LinearModel:
    """Embed the rows and fit the regression in this process; what is on disk already is not computed again."""
    return regression_on(setup, frozen_embeddings)


def frozen_embeddings(setup: LinearSetup, splits: dict[str, EncodedSplit], tally: Tally) -> dict[str, Floats]:
    """Return embeddings of each split by the pretrained encoder."""
    tally.start(sum(map(len, splits.values())))
    return embedded(setup, splits, tally, encoder=partial(load_encoder, setup.config.model))


def regression_on(setup: LinearSetup, embed: Embed) -> LinearModel:
    """Return the regression on the embeddings that `embed` gives for each split; what is on disk already is not computed again."""
    found = read_linear(setup.folder)
    if found is not None:
        return found
    hide_unassigned_gpus(use_gpu=setup.config.train.use_gpu)
    torch.set_num_threads(setup.num_threads)
    data_folder = fetch(setup.data.folder)
    files = {name: data_folder / f"{name}.arrow" for name in ("train", "validation", LABEL_NAMES)}
    splits = {name: EncodedSplit(path) for name, path in files.items() if path.exists()}
    started = time.monotonic()
    tally = Tally(setup.board, setup.folder.name)
    embeddings = embed(setup, splits, tally)
    tally.tell("fitting the regression")
    embed_s = time.monotonic() - started
    found = fitted(embeddings, {name: split.targets for name, split in splits.items()}, setup.config, setup.data)
    model = replace(found, embed_s=embed_s, fit_s=time.monotonic() - started - embed_s)
    write_linear(setup.folder, model)
    return model


class Tally:
    """The rows that were computed so far, told to the board."""

    def __init__(self, board: Board, name: str) -> None:
        self._board, self._name, self._done = board, name, 0
        self._told = time.monotonic()

    def start(self, num_rows: int) -> None:
        """Begin at 0 of `num_rows` rows."""
        self._board.started(self._name, RunProgress(num_rows, phase="loading the encoder", unit="rows"), after_step=0)

    def add(self, num_rows: int, phase: str) -> None:
        """Count rows, and tell the board if it is time."""
        self._done += num_rows
        if time.monotonic() - self._told > UPDATE_EVERY_S:
            self.tell(phase)

    def tell(self, phase: str) -> None:
        """Tell the board what is being done."""
        self._told = time.monotonic()
        self._board.update(self._name, done_steps=self._done, phase=phase)


def embedded(
    setup: LinearSetup, splits: dict[str, EncodedSplit], tally: Tally, *, encoder: Callable[[], PooledEncoder]
) -> dict[str, Floats]:
    """Return embeddings `(rows, hidden)` of each split. Each is written to disk before the next one begins.

    `encoder` gives the encoder, if one is needed.
    """
    embedder: Embedder | None = None
    found: dict[str, Floats] = {}
    for name, split in splits.items():
        path = setup.folder / f"{name}.npy"
        vectors = read_logits(path)
        if vectors is None or len(vectors) != len(split):
            embedder = embedder or Embedder(setup.config, encoder(), pad_id=setup.data.pad_id, tally=tally)
            vectors = embedder.of(split)
            write_logits(here(path), vectors)
        else:
            tally.add(len(split), "embedding")
        found[name] = vectors
    return found


class Embedder:
    """An encoder on this process's device."""

    def __init__(self, config: ExperimentConfig, encoder: PooledEncoder, *, pad_id: int, tally: Tally) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoder: Any = encoder.eval().to(self._device)
        self._precision = resolve_precision(config.train)
        self._pad_id, self._tally = pad_id, tally

    def of(self, split: EncodedSplit) -> Floats:
        """Return embeddings `(rows, hidden)` in float32.

        That of a text in windows is the mean of the windows' embeddings. A linear head gives it the mean of their logits.
        """
        result: Any = None
        windows = AllWindows(split)
        is_first = np.diff(windows.rows, prepend=-1) > 0  # each row counts once
        dtype = torch.float16 if self._precision == "fp16" else torch.bfloat16
        for rows in token_batches(windows.lengths, max_tokens=PASS_TOKENS[self._device.type]):
            inputs = {
                name: torch.from_numpy(ids).to(self._device) for name, ids in windows.padded(rows, pad_id=self._pad_id).items()
            }
            with torch.inference_mode(), torch.autocast(self._device.type, dtype=dtype, enabled=self._precision != "fp32"):
                vectors = self._encoder(**inputs).float().cpu().numpy()
            if result is None:
                result = np.empty((len(windows.rows), vectors.shape[1]), dtype=np.float32)
            result[rows] = vectors
            self._tally.add(int(is_first[rows].sum()), "embedding")
        return pooled(np.asarray(result), windows.rows)


@dataclass(frozen=True)
class Attempt:
    """One strength, with the calibrated logits of rows that a fit with it has not seen."""

    temperature: float
    logits: Floats
    """Shape `(rows, outputs)`, divided by the temperature."""
    losses: npt.NDArray[np.float64]
    """The loss of each of these rows in nats."""


def fitted(
    embeddings: dict[str, Floats], targets: dict[str, Targets], config: ExperimentConfig, data: TokenizedData
) -> LinearModel:
    """Return the regression of all training rows, with logits of rows that it has not seen. The caller adds the seconds.

    If no row can be held out, the strength is the usual one, and there are no such logits.
    """
    if LABEL_NAMES in embeddings and not names_answer(embeddings[LABEL_NAMES], embeddings["train"], targets["train"]):
        embeddings = {name: rows for name, rows in embeddings.items() if LABEL_NAMES not in name}
    rows, labels = embeddings["train"], data.labels
    weights = resolve_class_weights(config.train, labels, targets["train"])
    scale = float((rows**2).sum(axis=1).mean())
    num_names = len(embeddings.get(LABEL_NAMES, ()))
    fits: list[Fit] = [
        partial(fit_regression, labels=labels, strength=strength / scale, class_weights=weights) for strength in STRENGTHS
    ]
    if data.folds is not None and not data.folds.any():
        usual = fits[STRENGTHS.index(USUAL_STRENGTH)](*with_names(rows, targets["train"], embeddings.get(LABEL_NAMES)))
        return LinearModel(usual, USUAL_STRENGTH, np.empty((0, labels.num_logits)), num_names=num_names)
    truth = targets["train" if data.folds is not None else "validation"]
    attempts: list[Attempt] = []
    for fit in fits:
        logits = unseen_logits(embeddings, targets["train"], data, fit)
        temperature = fit_temperature(logits, truth, labels=labels)
        losses = row_losses(labels.probabilities(logits / temperature), truth)
        attempts.append(Attempt(temperature, logits / temperature, losses))
        if len(attempts) > 1 and losses.mean() > attempts[-2].losses.mean():
            break
    index = chosen([attempt.losses for attempt in attempts])
    best = attempts[index]
    regression = fits[index](*with_names(rows, targets["train"], embeddings.get(LABEL_NAMES))).scaled(1 / best.temperature)
    return LinearModel(regression, STRENGTHS[index], best.logits, num_names=num_names)


def names_answer(names: Floats, rows: Floats, targets: Targets) -> bool:
    """Tell whether names alone answer more training rows right than chance gives.

    `names` are embeddings `(labels, hidden)`. The answer for a row is the label whose name is the nearest by cosine.
    """
    nearest = (rows @ (names / np.linalg.norm(names, axis=1, keepdims=True)).T).argmax(axis=1)
    return bool((nearest == targets).mean() > 1 / len(names))


def with_names(rows: Floats, targets: Targets, names: Floats | None) -> tuple[Floats, Targets]:
    """Return embeddings and targets of the rows, followed by those of the labels' names if there are any."""
    if names is None:
        return rows, targets
    return np.concatenate([rows, names]), np.concatenate([targets, np.arange(len(names))])


def chosen(losses: Sequence[npt.NDArray[np.float64]]) -> int:
    """Return which strength to take, from the losses `(rows,)` of each: the first within a standard error of the lowest.

    This is the rule of Breiman et al. (1984, Classification and Regression Trees). The standard error is that of the difference
    on the same rows. With few rows the lowest loss is often a matter of chance.
    """
    lowest = min(losses, key=lambda found: float(found.mean()))

    def is_within(found: npt.NDArray[np.float64]) -> bool:
        difference = found - lowest
        return float(difference.mean()) <= float(difference.std()) / math.sqrt(len(difference))

    return next(index for index, found in enumerate(losses) if is_within(found))


def fold_name(fold: int) -> str:
    """Return the name of the training rows' embeddings by an encoder that has not seen the rows of this fold, counted from 0."""
    return f"fold-{fold + 1}"


def names_of(split: str) -> str:
    """Return the name of the label names' embeddings by the encoder that the training rows' embeddings `split` are by."""
    return LABEL_NAMES if split == "train" else f"{split}-{LABEL_NAMES}"


def unseen_logits(embeddings: dict[str, Floats], targets: Targets, data: TokenizedData, fit: Fit) -> Floats:
    """Return logits `(rows, outputs)` of the validation rows, or of all training rows, each by a fit to the other folds.

    If the encoder has learned from the training rows, `embeddings` has those of each fold by name (`fold_name`).
    """
    if data.folds is None:
        return fit(*with_names(embeddings["train"], targets, embeddings.get(LABEL_NAMES))).logits(embeddings["validation"])
    logits: Floats = np.empty((len(targets), data.labels.num_logits))
    for fold in np.unique(data.folds):
        is_out, name = data.folds == fold, fold_name(fold) if fold_name(fold) in embeddings else "train"
        rows = embeddings[name]
        logits[is_out] = fit(*with_names(rows[~is_out], targets[~is_out], embeddings.get(names_of(name)))).logits(rows[is_out])
    return logits


NUMBERS = ("strength", "embed_s", "fit_s", "num_names")


def write_linear(folder: Path, model: LinearModel) -> None:
    """Write the model to a file, completely or not at all, and to the object store if the folder mirrors one."""
    folder = here(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {name: getattr(model, name) for name in NUMBERS}
    arrays = {"weights": model.regression.weights, "bias": model.regression.bias, "logits": model.logits}
    unfinished = folder / f".{MODEL_FILE}.partial"
    with unfinished.open("wb") as file:
        np.savez(file, **arrays, **numbers)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / MODEL_FILE)
    store(folder / MODEL_FILE)


def read_linear(folder: Path) -> LinearModel | None:
    """Return the model that `write_linear` wrote; None if there is none or it is damaged."""
    try:
        with np.load(fetch(folder / MODEL_FILE), allow_pickle=False) as found:
            numbers = {name: found[name].item() for name in NUMBERS}
            return LinearModel(Regression(found["weights"], found["bias"]), logits=found["logits"], **numbers)
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
