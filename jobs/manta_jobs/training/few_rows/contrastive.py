"""The method `contrastive`: the encoder is adapted so that texts of one label lie close together; then `linear` goes on with it.

The loss is the supervised contrastive one (`manta.model.contrastive`). The idea is that of SetFit (Tunstall et al., 2022,
https://arxiv.org/abs/2209.11055), at less cost: a batch of n texts is embedded once and gives all its n (n - 1) / 2 pairs, where
SetFit embeds both texts of each pair.

Where rows are cross-validated, each fold adapts an encoder of its own to the rows of the other folds: no held-out row has moved
the embedding that it is judged by. A fold's embeddings are on disk before the next fold starts, and the encoder that was adapted
to all rows before it embeds any of them. An interrupted run adapts nothing twice.
"""

from __future__ import annotations

import math
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from manta.inference.batches import token_batches
from manta.model.adapt import parameter_groups
from manta.model.contrastive import contrastive_loss, likeness
from manta.model.pooled import load_encoder
from manta.storage.object_store import fetch, here, store
from manta_jobs.training.engine.build import resolve_precision, schedule
from manta_jobs.training.engine.cpu_speedups import install_quick_dropout
from manta_jobs.training.few_rows.linear import LABEL_NAMES, PASS_TOKENS, embedded, fold_name, names_of, regression_on

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from manta.config import ModelConfig
    from manta.data.encode import EncodedSplit
    from manta.labels import Floats
    from manta.model.pooled import PooledEncoder
    from manta_jobs.training.batches import Rows
    from manta_jobs.training.few_rows.linear import LinearModel, LinearSetup, Tally

CONTRASTIVE_FOLDER = "contrastive"
"""Folder of a run that holds the adapted encoder, the embeddings and the fitted regression."""
ENCODER_FILE = "encoder.safetensors"
LEARNING_RATE, WIDTH = 5e-5, 384
"""Peak learning rate for an encoder of this width. A wider one learns slower by the ratio, as in `manta.config.starting_point`."""
NUM_STEPS = 25
"""Optimizer steps, or those of one pass over the rows if they are more. With few rows, more steps make embeddings of the training
rows that are alike in all they have, and those of other texts less so."""
BATCH_ROWS, BATCH_TOKENS = 64, 4096
"""Most rows of a batch, and most tokens of one with more than two rows. The activations of a batch are in memory as a whole."""
ROWS_TOGETHER = 4
"""Rows of one label that are put into a batch together, so that each has others to lie close to."""
MAX_GRAD_NORM = 1.0


def train_contrastive(setup: LinearSetup) -> LinearModel:
    """Adapt the encoder and fit the regression to its embeddings; what is on disk already is not computed again."""
    return regression_on(setup, adapted_embeddings)


def adapted_embeddings(setup: LinearSetup, splits: dict[str, EncodedSplit], tally: Tally) -> dict[str, Floats]:
    """Return embeddings of each split by the encoder of all training rows, and of the training rows by the encoder of each fold."""
    train, seed = splits["train"], setup.config.train.seed
    everything = np.arange(len(train))
    folds = [] if setup.data.folds is None else [np.flatnonzero(setup.data.folds != fold) for fold in np.unique(setup.data.folds)]
    planned = [batches_of(train, rows, seed=seed) for rows in (*folds, everything)]
    names = splits.get(LABEL_NAMES)
    num_embedded = len(folds) * (len(train) + len(names or ())) + sum(map(len, splits.values()))
    tally.start(sum(len(batch) for batches in planned for batch in batches) + num_embedded)
    found: dict[str, Floats] = {}
    for fold, batches in enumerate(planned[:-1]):
        name = fold_name(fold)
        words = f"adapting the encoder, fold {fold + 1} of {len(folds)}"
        encoder = partial(adapted, setup, train, batches, tally, words)
        of_fold = {name: train} if names is None else {name: train, names_of(name): names}
        found |= embedded(setup, of_fold, tally, encoder=encoder)
    return found | embedded(setup, splits, tally, encoder=partial(encoder_of_run, setup, train, planned[-1], tally))


def batches_of(train: EncodedSplit, rows: Rows, *, seed: int) -> list[Rows]:
    """Return the batches of an adaptation to the training rows at `rows`, one for each optimizer step, as indices into `train`.

    In each pass over the rows, every row is in one batch, in an order of chance (`grouped`).
    """
    labels = np.unique(train.targets[rows], axis=0, return_inverse=True)[1].ravel()
    found: list[Rows] = []
    for number in range(NUM_STEPS):
        order = grouped(labels, np.random.default_rng([seed, number]))
        found += [rows[batch] for batch in cut(order, train.lengths[rows])]
        if len(found) >= NUM_STEPS:
            break
    return found if number == 0 else found[:NUM_STEPS]


def num_adapted_rows(num_rows: int) -> int:
    """Return how many rows an adaptation to `num_rows` rows reads, counting a row as often as it is read."""
    return max(NUM_STEPS * min(num_rows, BATCH_ROWS), num_rows)


def grouped(labels: npt.NDArray[np.int64], generator: np.random.Generator) -> Rows:
    """Return all row indices in groups of equal label, the groups and the rows within a label in an order of chance."""
    shuffled = generator.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    place = np.arange(len(labels)) - np.searchsorted(labels[by_label], labels[by_label])  # among the rows of its label
    groups = np.split(by_label, np.flatnonzero(place % ROWS_TOGETHER == 0)[1:])
    return np.concatenate([groups[index] for index in generator.permutation(len(groups))])


def cut(order: Rows, lengths: npt.NDArray[np.integer[Any]]) -> list[Rows]:
    """Cut an order of rows into even batches of at most `BATCH_ROWS` rows. Where texts are long, batches end at `BATCH_TOKENS`."""
    most = math.ceil(len(order) / math.ceil(len(order) / BATCH_ROWS))
    batches: list[list[int]] = [[]]
    for row in order.tolist():
        batch = batches[-1]
        is_full = len(batch) == most or lengths[[*batch, row]].sum() > BATCH_TOKENS
        if is_full and len(batch) > 1:
            batches.append(batch := [])
        batch.append(row)
    return [np.array(batch) for batch in batches]


def encoder_of_run(setup: LinearSetup, train: EncodedSplit, batches: list[Rows], tally: Tally) -> PooledEncoder:
    """Return the encoder adapted to all training rows: from disk, or else adapted now and then written."""
    path = setup.folder / ENCODER_FILE
    if fetch(path).is_file():
        tally.add(sum(map(len, batches)), "loading the adapted encoder")
        return load_adapted(setup.config.model, setup.folder)
    encoder = adapted(setup, train, batches, tally, "adapting the encoder to all rows")
    write_encoder(encoder, path)
    return encoder


def adapted(setup: LinearSetup, train: EncodedSplit, batches: list[Rows], tally: Tally, words: str) -> PooledEncoder:
    """Return the pretrained encoder after an optimizer step on each batch. Its word embeddings stay as they are."""
    adaptation = Adaptation(setup, train, num_steps=len(batches))
    kept = install_quick_dropout()  # noqa: F841  # kept until the adaptation ends
    for rows in batches:
        adaptation.step(rows)
        tally.add(len(rows), words)
    return adaptation.encoder.cpu().requires_grad_(False)


class Adaptation:
    """The encoder that is adapted, with its optimizer."""

    def __init__(self, setup: LinearSetup, train: EncodedSplit, *, num_steps: int) -> None:
        """Load the pretrained encoder onto this process's device."""
        torch.manual_seed(setup.config.train.seed)
        self.encoder = load_encoder(setup.config.model).requires_grad_(True).train()
        self.encoder.encoder.get_input_embeddings().requires_grad_(False)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder.to(self._device)
        self._train, self._pad_id = train, setup.data.pad_id
        self._is_bf16 = resolve_precision(setup.config.train) == "bf16"
        rate = LEARNING_RATE * WIDTH / self.encoder.encoder.config.hidden_size
        groups = parameter_groups(self.encoder.encoder, learning_rate=rate, layer_decay=1.0, weight_decay=0.01)
        self._optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, schedule(setup.config.train, num_steps=num_steps))

    def step(self, rows: Rows) -> float:
        """Take an optimizer step on the training rows at `rows`; return their loss before it."""
        parts = [rows[part] for part in token_batches(self._train.lengths[rows], max_tokens=PASS_TOKENS[self._device.type])]
        vectors = torch.cat([self._vectors(part) for part in parts])
        alike = torch.from_numpy(likeness(self._train.targets[np.concatenate(parts)])).to(self._device)
        loss = contrastive_loss(vectors, alike)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), MAX_GRAD_NORM)
        self._optimizer.step()
        self._schedule.step()
        return loss.item()

    def _vectors(self, rows: Rows) -> torch.Tensor:
        padded = self._train.padded(rows, pad_id=self._pad_id)
        inputs = {name: torch.from_numpy(values).to(self._device) for name, values in padded.items()}
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._is_bf16):
            vectors: torch.Tensor = self.encoder(**inputs)
        return vectors.float()


def write_encoder(encoder: PooledEncoder, path: Path) -> None:
    """Write an adapted encoder's weights, completely or not at all, and to the object store if the folder mirrors one."""
    from safetensors.torch import save_file

    path = here(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f".{path.name}.partial")
    save_file({name: values.contiguous() for name, values in encoder.encoder.state_dict().items()}, partial_file)
    with partial_file.open("rb") as file:
        os.fsync(file.fileno())
    partial_file.replace(path)
    store(path)


def load_adapted(config: ModelConfig, folder: Path) -> PooledEncoder:
    """Load a run's adapted encoder for inference. It lies in the run's folder `CONTRASTIVE_FOLDER`."""
    from safetensors.torch import load_file

    encoder = load_encoder(config)
    encoder.encoder.load_state_dict(load_file(fetch(folder / ENCODER_FILE)))
    return encoder
