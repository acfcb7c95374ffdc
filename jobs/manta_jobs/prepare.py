"""Before training: everything checked, the run's folder made, its texts tokenised. Or an interrupted run opened again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manta.config import ExperimentConfig
from manta.config_file import load_config, write_config
from manta.data import TextDataset, load_dataset
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.loss import resolve_class_weights
from manta.model import load_model_config, load_tokenizer
from manta.starting_point import choice_sentence, resolved
from manta.storage import RunFolder, Storage
from manta.tracking import check_tracking_server

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenizedData:
    """What training needs of the data: small enough to travel to every worker."""

    folder: Path
    """Holds `train.arrow` and `validation.arrow`, see `manta.data.encode`."""
    labels: LabelSpace
    pad_id: int


@dataclass(frozen=True)
class PreparedRun:
    """A run whose data and model were checked and whose splits are tokenised on disk."""

    config: ExperimentConfig
    storage: Storage
    folder: RunFolder
    dataset: TextDataset
    data: TokenizedData


def prepare(config: ExperimentConfig, *, verb: str, console: Console) -> PreparedRun:
    """Check everything that can be checked, then create the run folder and tokenise the splits into it.

    Raises:
        InputError: something is wrong; nothing has been written.
    """
    storage = Storage.resolve(config.storage)
    dataset = load_dataset(config.data, task=config.model.task)
    encoder = load_model_config(config.model, dataset.labels)
    tokenizer = load_tokenizer(config.model)
    resolve_class_weights(config.train, dataset.labels, dataset.train.targets)
    show_dataset(dataset, console)
    config = without_auto(config, dataset=dataset, encoder=encoder, console=console)
    check_tracking_server()
    folder = storage.new_run(config.name, verb=verb)
    write_config(config, folder.config_path)
    folder.write_facts({"verb": verb, "data_hash": dataset.content_hash})
    return PreparedRun(config, storage, folder, dataset, tokenized(dataset, folder, config=config, tokenizer=tokenizer))


def without_auto(
    config: ExperimentConfig, *, dataset: TextDataset, encoder: PretrainedConfig, console: Console
) -> ExperimentConfig:
    """The config with learning rate, epochs and searched ranges that suit the data and the encoder, and a line that says so."""
    labels, num_rows = dataset.labels, len(dataset.train)
    hidden_size = int(getattr(encoder, "hidden_size", None) or encoder.dim)  # DistilBERT's name is dim
    is_multilabel = labels.task == "multilabel"
    chosen = resolved(
        config,
        num_rows=num_rows,
        num_labels=2 if is_multilabel else len(labels.names),  # each label applies or does not
        hidden_size=hidden_size,
        num_layers=getattr(encoder, "num_hidden_layers", None),
    )
    classes = f"{len(labels.names)} {'labels that apply or not' if is_multilabel else 'classes'}"
    sentence = choice_sentence(config, chosen, num_rows=num_rows, classes=classes, hidden_size=hidden_size)
    if sentence:
        console.print(sentence)
    return chosen


def reopen(name: str, *, verb: str, console: Console) -> PreparedRun:
    """Open a run that was interrupted, as `prepare` left it.

    Raises:
        InputError: there is no such run, it is of another kind or finished, or its data is not what it was.
    """
    folder = Storage.resolve(None).find_run(name)
    config = load_config(folder.config_path)
    facts = folder.read_facts()
    if facts["verb"] != verb:
        raise InputError(f"{folder.name} was started by manta {facts['verb']}; only a run of manta {verb} can be resumed here.")
    if folder.report_path.exists():
        raise InputError(f"{folder.name} is finished: its model is in {folder.artifact} and its report in {folder.report_path}.")
    storage = Storage(folder.path.parent.parent)
    dataset = load_dataset(config.data, task=config.model.task)
    if dataset.content_hash != facts["data_hash"]:
        raise InputError(f"{config.data.train}: the rows are not those that {folder.name} began with; start a new run.")
    show_dataset(dataset, console)
    data = tokenized(dataset, folder, config=config, tokenizer=load_tokenizer(config.model))
    return PreparedRun(config, storage, folder, dataset, data)


def tokenized(
    dataset: TextDataset, folder: RunFolder, *, config: ExperimentConfig, tokenizer: PreTrainedTokenizerBase
) -> TokenizedData:
    """The splits that training reads, tokenised on disk; what is there already is kept."""
    from manta.data.encode import write_encoded

    for name in ("train", "validation"):
        path = folder.data / f"{name}.arrow"
        if not path.exists():
            write_encoded(dataset.split(name), path, tokenizer=tokenizer, max_length=config.model.max_length)
    return TokenizedData(folder.data, dataset.labels, int(tokenizer.pad_token_id or 0))


def show_dataset(dataset: TextDataset, console: Console) -> None:
    """Say how many rows and labels there are, and what is odd about them."""
    sizes = ", ".join(f"{len(dataset.split(name)):,} {name}" for name in ("train", "validation", "test"))
    console.print(f"Data: {sizes} rows, {len(dataset.labels.names)} labels ({dataset.labels.task})")
    for warning in dataset.warnings:
        console.print(f"[yellow]Warning:[/] {warning}")
