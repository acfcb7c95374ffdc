"""The one task that every system of a training benchmark is given: rows and settings as files, and what they cost to compute.

All systems read the same experiment YAML and the same JSON lines. Its model FLOPs are those of the arithmetic that fine-tuning
needs, whatever a system really executes: real tokens only, no padding, no recomputation.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manta.config import DataConfig, ExperimentConfig, ModelConfig
from manta.config.file import build_config, write_config
from manta.config.starting_point import resolved
from manta.data import Split, TextDataset, load_dataset
from manta.data.dataset import SPLITS
from manta.labels import LabelSpace
from manta.model.encoder import load_model_config, load_tokenizer


@dataclass(frozen=True)
class Workload:
    """A task on disk with its size."""

    case: str
    experiment: Path
    num_rows: int
    """Training rows."""
    num_tokens: int
    """Real tokens of all training rows, special tokens included."""
    flop: float
    """Model FLOPs of one epoch of training."""

    @property
    def tokens_per_example(self) -> float:
        """Real tokens of the mean training row."""
        return self.num_tokens / self.num_rows

    @property
    def gflop_per_example(self) -> float:
        """Model GFLOPs of the mean training row, forward and backward."""
        return self.flop / self.num_rows / 1e9


def write_workload(
    dataset: TextDataset, folder: Path, *, case: str, overrides: list[str], num_rows: int = 0, num_eval_rows: int = 0
) -> Workload:
    """Write `num_rows` training rows, drawn by a fixed seed, and `num_eval_rows` of each other split (0: all) with their settings.

    Raises:
        InputError: an override is no setting of Manta.
    """
    drawn = drawn_rows(dataset, num_rows=num_rows, num_eval_rows=num_eval_rows)
    document = {"name": case, "data": write_splits(drawn, folder), "train": {"method": "full"}}  # what is timed is fine-tuning
    config = build_config(document, source="the workload", overrides=overrides)
    labels = LabelSpace.from_labels([str(target) for target in drawn["train"].targets])
    width = load_model_config(config.model, labels).hidden_size
    config = resolved(config, num_rows=len(drawn["train"]), num_labels=len(labels.names), hidden_size=width)  # the same for all
    experiment = folder / "experiment.yaml"
    write_config(config, experiment)
    lengths = num_tokens_of(drawn["train"].texts, config)
    return Workload(case, experiment, len(lengths), int(lengths.sum()), training_flop(lengths, config.model, labels))


def load_rows(source: str) -> TextDataset:
    """The rows of `sample:NAME`, or of a folder with train, validation or dev, and test files.

    TSV files have no header and hold text and label; CSV files have one that names the text column, then the label's.

    Raises:
        InputError: the rows cannot be read.
    """
    folder = Path(source)
    if (folder / "train.tsv").is_file():
        return load_dataset(DataConfig(train=source, text=0, label=1, header=False))
    if (folder / "train.csv").is_file():
        text, label, *_ = (folder / "train.csv").read_text(encoding="utf-8").partition("\n")[0].strip().split(",")
        return load_dataset(DataConfig(train=source, text=text, label=label))
    return load_dataset(DataConfig(train=source))


def drawn_rows(dataset: TextDataset, *, num_rows: int, num_eval_rows: int) -> dict[str, Split]:
    """The rows to use. Classes of which fewer than two training rows were drawn are left out everywhere, the others renumbered."""
    limits = {"train": num_rows, "validation": num_eval_rows, "test": num_eval_rows}
    drawn: dict[str, Split] = {}
    for name, limit in limits.items():
        split = dataset.split(name)
        order = np.random.default_rng(0).permutation(len(split))
        drawn[name] = split.take(order[: limit or len(split)])
    kept = sorted(target for target, count in Counter(drawn["train"].targets.tolist()).items() if count > 1)
    number = {target: index for index, target in enumerate(kept)}
    result: dict[str, Split] = {}
    for name, split in drawn.items():
        known = split.take(np.flatnonzero(np.isin(split.targets, kept)))
        result[name] = Split(known.texts, np.array([number[target] for target in known.targets.tolist()], dtype=np.int64))
    return result


def write_splits(drawn: dict[str, Split], folder: Path) -> dict[str, str]:
    """Write rows that `drawn_rows` gave as JSON lines, classes by number; the `data` section that reads them."""
    data: dict[str, str] = {}
    for name in SPLITS:
        rows = zip(drawn[name].texts, drawn[name].targets.tolist(), strict=True)
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows), encoding="utf-8")
        data[name] = str(path)
    return data


def num_tokens_of(texts: list[str], config: ExperimentConfig) -> np.ndarray:
    """Tokens of each text as the model reads it, `(texts,)`."""
    ids = load_tokenizer(config.model)(list(texts), truncation=True, max_length=config.model.max_length)["input_ids"]
    return np.array([len(row) for row in ids], dtype=np.int64)


def training_flop(lengths: np.ndarray, model: ModelConfig, labels: LabelSpace) -> float:
    """Model FLOPs of one pass, forward and backward, over rows of so many tokens.

    6 per token and parameter of the encoder (Kaplan et al., 2020, section 2.1, https://arxiv.org/abs/2001.08361), and for
    attention's products 12 x layers x width x row length per token (Chowdhery et al., 2022, appendix B,
    https://arxiv.org/abs/2204.02311). Look-ups in embeddings are no arithmetic and do not count. What reads [CLS] alone
    (pooler and head) counts once a row.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    config = load_model_config(model, labels)
    with torch.device("meta"):
        module = AutoModelForSequenceClassification.from_config(config)
    inner = module.base_model
    embeddings = sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, torch.nn.Embedding))
    pooler = getattr(inner, "pooler", None)
    num_pooler = sum(parameter.numel() for parameter in pooler.parameters()) if pooler is not None else 0
    num_encoder = sum(parameter.numel() for parameter in inner.parameters()) - embeddings - num_pooler
    num_row = sum(parameter.numel() for parameter in module.parameters()) - embeddings - num_encoder
    attention = 12 * config.num_hidden_layers * config.hidden_size * float((lengths**2).sum())
    return float(6 * num_encoder * lengths.sum() + 6 * num_row * len(lengths) + attention)
