"""The mean of the weights of several runs with the same settings and other seeds ("model soup").

Such runs start from the same pretrained weights. Where they end close to each other, the mean of their weights answers about as
their ensemble does, at the cost of one model (Wortsman et al., 2022, https://arxiv.org/abs/2203.05482). Where they end far apart,
it answers worse than any of them. So both are measured, and the mean is kept only if its loss is no higher than theirs on average.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from manta.cluster.gpus import hide_unassigned_gpus
from manta.data.encode import AllWindows, EncodedSplit
from manta.evaluation.metrics import classification_metrics
from manta.inference.batches import token_batches
from manta.inference.conversion import spread
from manta.model.encoder import build_model
from manta.storage.object_store import fetch, here, store
from manta.windows import pooled
from manta_jobs.cluster.connection import OneNode
from manta_jobs.packaging.weights import plain_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from manta.config import ExperimentConfig
    from manta.labels import Floats
    from manta_jobs.training.batches import TokenizedData

AVERAGE_FILE = "average.safetensors"
"""File in the folder of a search: the mean of the weights, if it is kept."""
MOST_ROWS = 1000
"""Most training rows on which the losses are compared if there are no validation rows. They are taken at even distances."""
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class WeightAverage:
    """The mean of the weights of several runs, compared with these."""

    num_runs: int
    metrics: dict[str, float]
    """Metrics of the mean on the rows below."""
    run_losses: tuple[float, ...]
    """Loss of each run on the same rows."""
    num_rows: int
    on_training_rows: bool
    """True if the data is cross-validated, so that no row is held out from the runs."""

    @property
    def mean_loss(self) -> float:
        """Mean of the losses of the runs."""
        return float(np.mean(self.run_losses))

    @property
    def is_kept(self) -> bool:
        """True if the mean of the weights becomes the model."""
        return self.metrics["loss"] <= self.mean_loss

    def held_out(self, best: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the metrics of the kept model on held-out rows. `best` are those of the best run."""
        return self.metrics if self.is_kept and not self.on_training_rows else best

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `report.json`."""
        return asdict(self) | {"kept": self.is_kept}

    def sentence(self) -> str:
        """Return the comparison in a sentence."""
        rows = f"{self.num_rows:,} {'training' if self.on_training_rows else 'validation'} rows"
        figures = f"loss {self.metrics['loss']:.4f} on {rows}, the runs {self.mean_loss:.4f} on average"
        if self.is_kept:
            return f"The model is the mean of the weights of {self.num_runs} runs with the winning settings: {figures}."
        return f"The mean of the weights of {self.num_runs} runs is not kept: {figures}."


@dataclass(frozen=True)
class AverageSetup:
    """Settings and paths for the process that computes the mean."""

    checkpoints: tuple[Path, ...]
    """The last checkpoint of each run."""
    config: ExperimentConfig
    """Config with the values of the runs."""
    data: TokenizedData
    target: Path
    """File for the mean."""
    num_threads: int


def average_on_cluster(
    checkpoints: tuple[Path, ...], config: ExperimentConfig, data: TokenizedData, *, folder: Path
) -> WeightAverage:
    """Average the weights of at least two checkpoints on one node of the cluster. The mean is written to `folder` if it is kept."""
    node = OneNode(on_cpu=config.train.use_gpu is False)
    return node.run(average_weights, AverageSetup(checkpoints, config, data, folder / AVERAGE_FILE, node.num_threads))


def read_average(folder: Path) -> dict[str, torch.Tensor]:
    """Return the mean of the weights that a search wrote into its folder."""
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = load_file(fetch(folder / AVERAGE_FILE))
    return weights


def average_weights(setup: AverageSetup) -> WeightAverage:
    """Average the weights in this process. The mean, a run and the model that is evaluated are in memory at a time."""
    hide_unassigned_gpus(use_gpu=setup.config.train.use_gpu)
    torch.set_num_threads(setup.num_threads)
    scored = ScoredRows(setup)
    mean: dict[str, torch.Tensor] = {}
    losses = []
    for checkpoint in setup.checkpoints:
        weights = plain_weights(fetch(checkpoint), setup.config, setup.data)
        losses.append(scored.metrics(weights)["loss"])
        add_share(mean, weights, num_shares=len(setup.checkpoints))
    found = WeightAverage(len(losses), scored.metrics(mean), tuple(losses), scored.num_rows, setup.data.folds is not None)
    if found.is_kept:
        write_weights(mean, setup.target)
    return found


def add_share(total: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], *, num_shares: int) -> None:
    """Add one of `num_shares` equal shares to the sum. Tensors of integers, such as positions, are the same in all."""
    for name, values in weights.items():
        if not values.is_floating_point():
            total[name] = values
        elif name in total:
            total[name].add_(values, alpha=1 / num_shares)
        else:
            total[name] = values / num_shares


class ScoredRows:
    """The rows on which weights are compared: the validation rows; if the data is cross-validated, some of the training rows."""

    def __init__(self, setup: AverageSetup) -> None:
        self._setup = setup
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder, is_crossed = fetch(setup.data.folder), setup.data.folds is not None
        path = folder / ("train.arrow" if is_crossed else "validation.arrow")
        some = np.array(spread(len(EncodedSplit(path)), count=MOST_ROWS)) if is_crossed else None
        self._split = EncodedSplit(path, some)
        self._windows = AllWindows(self._split)
        self.num_rows = len(self._split)

    def metrics(self, weights: dict[str, torch.Tensor]) -> dict[str, float]:
        """Return the metrics of a model with these weights, in the form of `plain_weights`."""
        setup = self._setup
        model: Any = build_model(setup.config.model, setup.data.labels)
        model.load_state_dict(weights)
        logits = self._logits(model.to(self._device).eval())
        return classification_metrics(logits, self._split.targets, labels=setup.data.labels)

    def _logits(self, model: Any) -> Floats:
        found = []
        batches = token_batches(self._windows.lengths, max_tokens=BATCH_TOKENS)
        for batch in batches:
            tokens = self._windows.padded(batch, pad_id=self._setup.data.pad_id)
            inputs = {name: torch.from_numpy(ids).to(self._device) for name, ids in tokens.items()}
            with torch.inference_mode():
                found.append(model(**inputs).logits.float().cpu().numpy())
        logits = np.concatenate(found)
        ordered: Floats = np.empty_like(logits)
        ordered[np.concatenate(batches)] = logits
        return pooled(ordered, self._windows.rows)


def write_weights(weights: dict[str, torch.Tensor], target: Path) -> None:
    """Write tensors as safetensors, completely or not at all, and to the object store if the folder mirrors one."""
    from safetensors.torch import save_file

    target = here(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    save_file({name: values.contiguous() for name, values in weights.items()}, partial)
    partial.replace(target)
    store(target)
