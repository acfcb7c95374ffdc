"""`manta preflight`: all checks that are possible before a run starts, in one table.

`manta train` and `manta tune` make these checks first, too. They leave out the timed probe and print only what needs attention.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from manta.config.starting_point import Usual, choice_sentence, has_few, methods_tried, resolved, unread_settings
from manta.console import people_table, working
from manta.data import TextDataset, load_dataset
from manta.data.dataset import NUM_FOLDS
from manta.errors import InputError
from manta.evaluation.baseline import Baseline, fit_baseline
from manta.model.encoder import load_model_config, load_tokenizer
from manta.model.loss import resolve_class_weights
from manta.model.pooled import is_sentence_encoder
from manta.model.pretrained import check_weights, pretrained_source
from manta.model.weights import check_files
from manta.storage.folders import RunFolder, Storage, write_atomically
from manta_jobs.cluster.connection import coming_cluster, connected_if_needed, num_workers_at_once
from manta_jobs.preflight import checks
from manta_jobs.preflight.checks import Check
from manta_jobs.preflight.deepspeed_settings import check_deepspeed
from manta_jobs.preflight.estimate import MemoryEstimate, TimeEstimate, estimate_memory, estimate_time, model_size
from manta_jobs.preflight.probe import ProbeError, run_probe
from manta_jobs.preflight.tokens import sample_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from manta.config import ExperimentConfig
    from manta.config.sections.train import TrainConfig
    from manta_jobs.cluster.autoscaling import Node
    from manta_jobs.cluster.connection import Cluster, WorkerResources
    from manta_jobs.preflight.estimate import ModelSize
    from manta_jobs.preflight.probe import ProbeResult
    from manta_jobs.preflight.tokens import TokenSample

    Probe = Callable[[TokenSample, WorkerResources], ProbeResult]

PREFLIGHT_FILE = "preflight.json"
COLOURS = {"OK": "green", "warning": "yellow", "cannot work": "red"}


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run, each checked by itself."""

    config: ExperimentConfig
    """The config with a number in place of every `auto`."""
    chosen: str
    """Sentence that gives those numbers and their reasons; empty if nothing was `auto`."""
    storage: Storage
    dataset: TextDataset
    model_config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    unread: tuple[str, ...] = ()
    """Settings that the config changes and that the method of the run does not read."""


@dataclass(frozen=True)
class Preflight:
    """Every check, and the figures that a run's report shows again."""

    checks: tuple[Check, ...]
    memory: MemoryEstimate | None = None
    baseline: Baseline | None = None
    time: TimeEstimate | None = None

    @property
    def faults(self) -> tuple[Check, ...]:
        """The checks that say the run cannot work."""
        return tuple(check for check in self.checks if check.status == "cannot work")

    def refuse(self) -> None:
        """Raise an error if something cannot work.

        Raises:
            InputError: one sentence for each such check.
        """
        if self.faults:
            raise InputError("\n".join(check.words for check in self.faults))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `--json` and of `preflight.json`."""
        return {
            "can_work": not self.faults,
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "memory": self.memory.to_dict() if self.memory else None,
            "baseline": self.baseline.to_dict() if self.baseline else None,
            "time": dataclasses.asdict(self.time) if self.time else None,
        }


def load_inputs(config: ExperimentConfig) -> Inputs:
    """Read data, architecture and tokenizer, and let DeepSpeed check its own settings.

    Raises:
        InputError: one of them is missing or wrong.
    """
    check_deepspeed(config.train)
    dataset = load_dataset(config.data, task=config.model.task)
    folder = Path(pretrained_source(config.model.pretrained))
    if folder.is_dir():
        check_files(folder)
    model_config = load_model_config(config.model, dataset.labels)
    check_weights(config.model)
    tokenizer = load_tokenizer(config.model)
    if config.data.long_texts == "windows" and not tokenizer.is_fast:
        raise InputError(f"data.long_texts: {config.model.pretrained} has no fast tokenizer, which windows need; use cut.")
    resolve_class_weights(config.train, dataset.labels, dataset.train.targets)
    given, (config, chosen) = config, without_auto(config, dataset=dataset, encoder=model_config)
    unread = tuple(unread_settings(given, methods_tried(config.train.method)))
    return Inputs(config, chosen, Storage.resolve(config.storage), dataset, model_config, tokenizer, unread)


def without_auto(config: ExperimentConfig, *, dataset: TextDataset, encoder: PretrainedConfig) -> tuple[ExperimentConfig, str]:
    """Return the config without `auto`, and a sentence about the values chosen.

    Learning rate, epochs and searched ranges are chosen to suit the data and the encoder. Where nothing can be validated, the
    method is linear in place of auto.
    """
    if config.train.method == "auto" and not dataset.has_held_out:
        config = config.with_values({"train.method": "linear"})
    labels, num_rows = dataset.labels, len(dataset.train)
    hidden_size = int(getattr(encoder, "hidden_size", None) or encoder.dim)  # DistilBERT's name is dim
    is_multilabel = labels.task == "multilabel"
    chosen = resolved(
        config,
        num_rows=num_rows,
        num_labels=len(labels.names),
        hidden_size=hidden_size,
        num_layers=getattr(encoder, "num_hidden_layers", None),
        is_multilabel=is_multilabel,
        is_sentence_encoder=is_sentence_encoder(config.model),
    )
    classes = f"{len(labels.names)} {'labels that apply or not' if is_multilabel else 'classes'}"
    return chosen, choice_sentence(config, chosen, num_rows=num_rows, classes=classes, hidden_size=hidden_size)


def has_few_rows(inputs: Inputs) -> bool:
    """Tell whether training rows are so few that `train.method: auto` does not fine-tune."""
    dataset = inputs.dataset
    return dataset.has_held_out and has_few(
        len(dataset.train), num_labels=len(dataset.labels.names), is_sentence_encoder=is_sentence_encoder(inputs.config.model)
    )


def usual_values(config: ExperimentConfig, *, dataset: TextDataset, encoder: PretrainedConfig) -> Usual:
    """Return the learning rate and the epochs that `auto` would choose for this config, each with all else equal."""

    def chosen(name: str) -> TrainConfig:
        return without_auto(config.with_values({name: "auto"}), dataset=dataset, encoder=encoder)[0].train

    return Usual(chosen("train.learning_rate").peak_learning_rate, chosen("train.num_epochs").planned_epochs)


def preflight(config: ExperimentConfig, *, console: Console, address: str | None = None) -> Preflight:
    """Make every check, including the timed probe, and print the table. Nothing is written.

    The search is checked, too, if the config has a `tune` section.

    Raises:
        InputError: the data, model or config is wrong by itself.
        RunError: no cluster answers at the address.
    """
    with working(console, f"Reading {config.data.train}"):
        inputs = load_inputs(config)
    searches = "tune" in config.model_fields_set
    config = inputs.config
    if inputs.chosen:
        console.print(inputs.chosen)

    def probe(sample: TokenSample, resources: WorkerResources) -> ProbeResult:
        with connected_if_needed(address, num_workers=config.train.max_workers):
            return run_probe(config, inputs.dataset.labels, sample, resources=resources)

    with working(console, "Checking memory, cluster and disk, timing some steps and fitting the baseline"):
        cluster = coming_cluster(address, train=config.train, storage=inputs.storage.root)
        result = examine(inputs, cluster=cluster, searches=searches, probe=probe)
    show_preflight(result, console, title=f"Preflight of {config.name}")
    return result


def examine(
    inputs: Inputs,
    *,
    cluster: Cluster,
    searches: bool,
    probe: Probe | None = None,
) -> Preflight:
    """Make all checks of a run, or of a run and its search. If something cannot work, skip the slow checks."""
    config, dataset, nodes = inputs.config, inputs.dataset, cluster.nodes
    size = model_size(inputs.model_config, config.model)
    sample = sample_tokens(dataset.train, inputs.tokenizer)
    found = [
        checks.check_data(dataset),
        checks.check_labels(dataset, config),
        *checks.check_head(config, dataset.labels),
        checks.check_tokens(sample, max_length=config.model.max_length, data=config.data),
    ]
    found.append(checks.check_method(config, dataset, inputs.unread))
    tried = methods_tried(config.train.method)
    if tried != ("linear",):
        found.append(checks.check_encoder(config, dataset.labels, sample, size))
    workers, resources = checks.check_workers(config, cluster)
    found.append(workers)
    if resources is not None and "full" in tried:
        found += checks.check_batch(config, resources)
    at_once: int | None = None
    if searches and resources is not None:
        search, at_once = checks.check_search(config, nodes, resources)
        found.append(search)
        if has_few_rows(inputs):
            found.append(checks.check_searched_method(len(dataset.train), len(dataset.labels.names)))
    if inputs.storage.url is not None:
        found.append(checks.check_object_store(inputs.storage.url, strangers=cluster.strangers, num_nodes=len(cluster.living)))
    elif len(cluster.living) > 1:
        found.append(checks.check_shared(inputs.storage, strangers=cluster.strangers, num_nodes=len(cluster.living)))
    found.append(checks.check_disk(config, inputs.storage, size, at_once=at_once))
    found.append(checks.check_registry(inputs.storage))
    if resources is None:
        return Preflight(tuple(found))
    place = Placement(nodes, resources, min(config.train.max_workers, num_workers_at_once(resources, nodes)), at_once)
    memory: MemoryEstimate | None = None
    if "full" in tried:  # the others hold a batch at a time
        memory, said = checked_memory(inputs, size, sample, place, available=place.available_bytes())
        found.append(said)
    time, pace = None, None
    if probe is not None and not num_workers_at_once(resources, cluster.living):
        found.append(Check("time", "warning", "the time is not known: no node that a worker could be timed on is there yet."))
    elif probe is not None and not has_fault(found):
        timed, pace, time = probed(inputs, sample, place, probe)
        if pace is not None and pace.device_bytes is not None and memory is not None:
            memory, found[-1] = checked_memory(inputs, size, sample, place, available=pace.device_bytes)
        found.append(timed)
    if has_fault(found):
        return Preflight(tuple(found), memory=memory, time=time)
    baseline = fit_baseline(dataset)
    found.append(checks.check_baseline(baseline))
    found += checks.check_label_noise(config, baseline.label_noise)
    return Preflight(tuple(found), memory=memory, baseline=baseline, time=time)


def has_fault(found: Sequence[Check]) -> bool:
    """Tell whether a check says that the run cannot work."""
    return any(check.status == "cannot work" for check in found)


@dataclass(frozen=True)
class Placement:
    """The nodes for the workers of a run, or for those of all trials that run at the same time."""

    nodes: Sequence[Node]
    resources: WorkerResources
    world_size: int
    """Workers of a run: as many as it asks for, or, of a range, as many as fit."""
    at_once: int | None
    """Trials that run at the same time; None for a single run."""

    def available_bytes(self) -> int | None:
        """Return the memory of the machine that one worker may take, on the node with the least per worker.

        None if it is unknown. For GPUs it always is.
        """
        if self.resources.use_gpu:
            return None
        num_workers = self.world_size * (self.at_once or 1)
        shares: list[int] = []
        for node in self.nodes:
            here = min(num_workers, num_workers_at_once(self.resources, [node]))
            if here and "memory" in node:
                # Ray counts the memory reserved for its object store separately; it is used only as needed.
                shares.append(int(node["memory"] + node.get("object_store_memory", 0.0)) // here)
        return min(shares, default=None)


def checked_memory(
    inputs: Inputs, size: ModelSize, sample: TokenSample, place: Placement, *, available: int | None
) -> tuple[MemoryEstimate, Check]:
    """Estimate the memory of one worker at the longest text, and check that it is available."""
    memory = estimate_memory(
        inputs.config.train,
        size,
        num_tokens=sample.longest(inputs.config.model.max_length),
        world_size=place.world_size,
        use_gpu=place.resources.use_gpu,
        available=available,
    )
    return memory, checks.check_memory(memory, available=available)


def probed(
    inputs: Inputs, sample: TokenSample, place: Placement, probe: Probe
) -> tuple[Check, ProbeResult | None, TimeEstimate | None]:
    """Run the timed probe; return its check, its result and the time estimate."""
    try:
        pace = probe(sample, place.resources)
    except ProbeError as error:
        return Check("time", "warning", f"the time is not known: {error}."), None, None
    of_text = pace
    if inputs.config.data.long_texts == "windows":
        windows = sample.windows_per_text(inputs.config.model.max_length)
        of_text = dataclasses.replace(pace, evaluation_s_per_row=pace.evaluation_s_per_row * windows)
    time = estimate_time(
        inputs.config,
        of_text,
        num_train_rows=len(inputs.dataset.train),
        num_validation_rows=len(inputs.dataset.validation),
        num_folds=0 if inputs.dataset.folds is None else NUM_FOLDS,
        tried=methods_tried(inputs.config.train.method),
        world_size=place.world_size,
        runs_at_once=place.at_once,
    )
    return checks.check_time(time, pace, inputs.config), pace, time


def show_preflight(result: Preflight, console: Console, *, title: str) -> None:
    """Print the whole table."""
    table = people_table("check", "status", "words", title=title, header=False)
    for check in result.checks:
        table.add_row(check.name, f"[{COLOURS[check.status]}]{check.status}[/]", escape(check.words))
    console.print(table)


def show_concerns(result: Preflight, console: Console) -> None:
    """Print the warnings, an earlier head and the baseline to beat, in a few lines.

    The run has already printed warnings about the data.
    """
    for check in result.checks:
        if check.status == "warning" and check.name != "data":
            console.print(f"[yellow]Warning:[/] {check.name}: {escape(check.words)}")
        elif check.name == "head":
            console.print(f"Head: {escape(check.words)}")
        elif check.name == "baseline":
            console.print(f"To beat: {escape(check.words)}")


def keep_preflight(result: Preflight, folder: RunFolder) -> None:
    """Write the result into the run's folder. The report reads it there, even after an interruption."""
    write_atomically(folder.path / PREFLIGHT_FILE, json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n")


def kept_preflight(folder: RunFolder) -> dict[str, Any]:
    """Return the document that `keep_preflight` wrote; empty for a run of an earlier version."""
    try:
        document: dict[str, Any] = json.loads((folder.path / PREFLIGHT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document
