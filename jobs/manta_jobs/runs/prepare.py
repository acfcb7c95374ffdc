"""The steps before training: check everything, make the run's folder and tokenize the texts; or reopen an interrupted run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manta.config.file import DATA_FILES, load_config, write_config
from manta.config.starting_point import NAMES_BELOW_ROWS_PER_LABEL, allowing_for_noise
from manta.console import working
from manta.data import Split, TextDataset, load_dataset
from manta.data.label_words import label_words
from manta.errors import InputError
from manta.label_check.decisions import DECISIONS_FILE
from manta.model.encoder import load_tokenizer
from manta.storage.folders import RunFolder, Storage
from manta.storage.object_store import fetch, mirror_of, shown, store, url_of
from manta_jobs.cluster.connection import coming_cluster
from manta_jobs.preflight.run import examine, has_few_rows, keep_preflight, load_inputs, show_concerns
from manta_jobs.runs.given_rows import with_rows_kept
from manta_jobs.training.batches import TokenizedData
from manta_jobs.training.checkpoints import CHECKPOINTS, TRIALS_FOLDER, saved_steps
from manta_jobs.training.few_rows.contrastive import CONTRASTIVE_FOLDER
from manta_jobs.training.few_rows.linear import LABEL_NAMES, LINEAR_FOLDER

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from manta.config import ExperimentConfig


OF_WORKERS = (CHECKPOINTS, TRIALS_FOLDER, LINEAR_FOLDER, CONTRASTIVE_FOLDER, "ray")
"""Names in a run's folder that its workers and Ray write. The driver fetches only what it needs of them."""


@dataclass(frozen=True)
class PreparedRun:
    """A run whose data and model are checked and whose splits are tokenized on disk."""

    config: ExperimentConfig
    storage: Storage
    folder: RunFolder
    dataset: TextDataset
    data: TokenizedData


def prepare(config: ExperimentConfig, *, verb: str, console: Console, address: str | None = None) -> PreparedRun:
    """Check everything that can be checked, then create the run folder and tokenize the splits into it.

    Raises:
        InputError: something is wrong, or cannot work on the cluster of the run; nothing has been written.
        RunError: no cluster responds at the address.
    """
    asked = config.train.method
    if verb == "tune":
        config = for_search(config)
    with working(console, f"Reading {config.data.train}"):
        inputs = load_inputs(config)
    config = inputs.config
    show_dataset(inputs.dataset, console)
    if inputs.chosen:
        console.print(inputs.chosen)
    with working(console, "Checking memory, cluster and disk, and fitting the baseline"):
        cluster = coming_cluster(address, train=config.train, storage=inputs.storage.root)
        found = examine(inputs, cluster=cluster, searches=verb == "tune")
    found.refuse()
    show_concerns(found, console)
    config = allowing_for_noise(config, 0.0 if found.baseline is None else found.baseline.sure_noise)
    folder = inputs.storage.new_run(config.name, verb=verb)
    config = with_decisions_kept(with_rows_kept(config, folder.path), folder.path)
    write_config(config, folder.config_path)
    facts = {"verb": verb, "data_hash": inputs.dataset.content_hash, "chosen": inputs.chosen}
    folder.write_facts(facts | ({"few_rows": asked == "auto" and has_few_rows(inputs)} if verb == "tune" else {}))
    keep_preflight(found, folder)
    with working(console, "Tokenizing the texts"):
        data = tokenized(inputs.dataset, folder, config=config, tokenizer=inputs.tokenizer)
        store(folder.path)
    return PreparedRun(config, inputs.storage, folder, inputs.dataset, data)


def with_decisions_kept(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    """Return the config with a copy of its label decisions in the run's folder, as people may decide more while it runs."""
    if config.data.corrections is None:
        return config
    kept = shutil.copyfile(Path(config.data.corrections).expanduser(), folder / DECISIONS_FILE)
    return config.with_values({"data.corrections": str(kept)})


def for_search(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config of a search, which fine-tunes in every trial.

    Raises:
        InputError: the config asks for another method.
    """
    method = config.train.method
    if method not in {"auto", "full"}:
        raise InputError(f"train.method is {method}, which has nothing to search; use manta train, or remove it for a search.")
    return config.with_values({"train.method": "full"})


def reopen(name: str, *, verb: str, console: Console) -> PreparedRun:
    """Reopen an interrupted run as `prepare` left it.

    Raises:
        InputError: there is no such run, another verb started it, it is finished, or its data has changed.
    """
    storage = Storage.resolve(None)
    fetch(mirror_of(name) if "://" in name else storage.runs / name, without=OF_WORKERS)
    folder = storage.find_run(name)
    config = begun_with(load_config(folder.config_path), folder)
    facts = folder.read_facts()
    if facts["verb"] != verb:
        raise InputError(
            f"{folder.name} was started by manta {facts['verb']}; resume it with manta {facts['verb']} --resume {folder.name}."
        )
    if folder.report_path.exists():
        artifact, report = shown(folder.artifact), shown(folder.report_path)
        raise InputError(f"{folder.name} is finished: its model is in {artifact} and its report in {report}.")
    if verb == "tune":
        config = for_search(config)
    storage = Storage(folder.path.parent.parent)
    with working(console, f"Reading {config.data.train}"):
        dataset = load_dataset(config.data, task=config.model.task)
    if dataset.content_hash != facts["data_hash"]:
        raise InputError(f"{config.data.train}: the rows are not those that {folder.name} began with; start a new run.")
    show_dataset(dataset, console)
    data = tokenized(dataset, folder, config=config, tokenizer=load_tokenizer(config.model))
    return PreparedRun(config, storage, folder, dataset, data)


def begun_with(config: ExperimentConfig, folder: RunFolder) -> ExperimentConfig:
    """Return the config that an interrupted run began with, with its data fetched to this node.

    Earlier versions fine-tuned under `auto` even if rows were few. Such a run has checkpoints, and goes on from them.
    """
    if config.train.method == "auto" and saved_steps(folder.path / CHECKPOINTS):
        config = config.with_values({"train.method": "full"})
    return with_data_here(config)


def keep(folder: RunFolder) -> None:
    """Put the files that the driver has written into the object store, if the storage is one, at the end of a run.

    Raises:
        RunError: the object store cannot be reached.
    """
    store(folder.path, without=OF_WORKERS)


def with_data_here(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with its data fetched to this node, if a submitted job has put the data into an object store."""
    named = {f"data.{key}": Path(getattr(config.data, key) or "") for key in DATA_FILES}
    brought = {name: str(fetch(path)) for name, path in named.items() if url_of(path)}
    return config.with_values(brought) if brought else config


def tokenized(
    dataset: TextDataset, folder: RunFolder, *, config: ExperimentConfig, tokenizer: PreTrainedTokenizerBase
) -> TokenizedData:
    """Tokenize the splits that training reads onto disk, and return them. Files that exist are kept."""
    from manta.data.encode import write_encoded, write_seen_tokens

    pad_id = int(tokenizer.pad_token_id or 0)
    for name in ("train", "validation") if dataset.folds is None else ("train",):
        path = folder.data / f"{name}.arrow"
        if not path.exists():
            split, max_length = dataset.split(name), config.model.max_length
            write_encoded(split, path, tokenizer=tokenizer, max_length=max_length, long_texts=config.data.long_texts)
            if name == "train":
                write_seen_tokens(folder.data, pad_id=pad_id)
    names = names_as_rows(dataset, config)
    if names is not None and not (folder.data / f"{LABEL_NAMES}.arrow").exists():
        write_encoded(names, folder.data / f"{LABEL_NAMES}.arrow", tokenizer=tokenizer, max_length=config.model.max_length)
    return TokenizedData(folder.data, dataset.labels, pad_id, dataset.folds)


def names_as_rows(dataset: TextDataset, config: ExperimentConfig) -> Split | None:
    """Return the words of each label's name as its row; None where rows are many, or names are no words.

    Labels of text pairs, and those of which a row has several, do not read like a text.
    """
    labels, num_rows = dataset.labels, len(dataset.train)
    has_few = num_rows < NAMES_BELOW_ROWS_PER_LABEL * len(labels.names)
    if not has_few or labels.task == "multilabel" or len(config.data.text_columns) == 2 or config.train.method == "full":
        return None
    words = label_words(labels.names)
    return None if words is None else Split(words, np.arange(len(words)))


def show_dataset(dataset: TextDataset, console: Console) -> None:
    """Print the number of rows and labels, and the warnings about them."""
    console.print(f"Data: {dataset.sizes}, {len(dataset.labels.names)} labels ({dataset.labels.task})")
    for warning in dataset.warnings:
        console.print(f"[yellow]Warning:[/] {warning}")
