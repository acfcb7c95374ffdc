"""The single checks of `manta preflight`: each takes the facts it needs and says whether a run can work."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from manta.config.starting_point import allowing_for_noise, methods_tried
from manta.console import bytes_phrase, duration
from manta.errors import InputError, without_passwords
from manta.model.encoder import head_sentence
from manta.registry.tracking import check_tracking_server, tracking_server
from manta.storage.object_store import check
from manta_jobs.cluster.connection import WorkerResources, fit_workers, free_host_memory, num_workers_at_once
from manta_jobs.preflight.estimate import (
    MemoryEstimate,
    ModelSize,
    TimeEstimate,
    checkpoint_bytes,
    model_disk_bytes,
    num_runs,
    run_disk_bytes,
    usable_bytes,
)
from manta_jobs.preflight.tokens import TokenSample, histogram
from manta_jobs.preflight.trial import try_encoder
from manta_jobs.training.engine.memory import FLOAT32
from manta_jobs.tuning.samplers import grid_points

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from manta.config import DataConfig, ExperimentConfig
    from manta.data import TextDataset
    from manta.evaluation.baseline import Baseline
    from manta.evaluation.label_noise import LabelNoise
    from manta.labels import LabelSpace
    from manta.storage.folders import Storage
    from manta_jobs.cluster.autoscaling import Node
    from manta_jobs.cluster.connection import Cluster
    from manta_jobs.preflight.probe import ProbeResult

Status = Literal["OK", "warning", "cannot work"]

FEW_ROWS = 10
"""A label with fewer training rows gives a warning, because learning it depends on luck."""
FEW_VALIDATION_ROWS = 50
"""Fewer validation rows give a warning: one row is then more than two points of accuracy, and trials are compared by chance."""
LARGE_IMBALANCE = 10.0
FEW_GPU_ROWS = 16
"""Fewer rows of a step on each GPU give a warning: kernels of so few tokens leave most of a GPU idle."""
TRIAL_BYTES = 200_000_000
"""Memory of the encoder's trial beside weights and gradients."""
LARGE_SHARE_CUT = 0.05
"""A larger share of texts that are cut gives a warning. The rest of a text may still be enough to tell its label."""


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    status: Status
    words: str


def check_data(dataset: TextDataset) -> Check:
    """Report the number of rows, and anything unusual about them."""
    words = [f"{dataset.sizes}.", *dataset.warnings]
    if len(dataset.validation) < FEW_VALIDATION_ROWS and dataset.folds is None:
        words.append(
            f"{len(dataset.validation)} validation rows compare trials and calibrate by chance: one is "
            f"{100 / len(dataset.validation):.1f} points of accuracy; leave data.validation and data.validation_fraction out to "
            "have few rows cross-validated, or give more."
        )
    return Check("data", "OK" if len(words) == 1 else "warning", " ".join(words))


def check_labels(dataset: TextDataset, config: ExperimentConfig) -> Check:
    """Check that no label is too rare to be learned, or so frequent that the others hardly count."""
    counts = dataset.class_counts("train")
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    ratio = counts[most] / max(1, counts[least])
    extremes = f"{most} has the most training rows ({counts[most]:,}), {least} the fewest ({counts[least]:,})"
    if counts[most] == counts[least]:
        extremes = f"every class has {counts[most]:,} training rows"
    words = [f"{len(counts)} labels ({dataset.labels.task}): {extremes}."]
    few = [name for name, count in counts.items() if count < FEW_ROWS]
    if few:
        words.append(f"{len(few)} {'label has' if len(few) == 1 else 'labels have'} fewer than {FEW_ROWS} rows; add some.")
    if ratio >= LARGE_IMBALANCE and config.train.class_weights is None and config.train.metric == "accuracy":
        words.append(
            f"1 to {ratio:.0f} is so uneven that accuracy hides the rare labels; set train.metric: f1_macro, "
            "and perhaps train.class_weights: balanced."
        )
    return Check("labels", "OK" if len(words) == 1 else "warning", " ".join(words))


def check_head(config: ExperimentConfig, labels: LabelSpace) -> list[Check]:
    """Say whether the head of an earlier fine-tuning goes on; empty if the checkpoint brings none."""
    words = head_sentence(config.model, labels)
    return [Check("head", "OK", words)] if words else []


def check_method(config: ExperimentConfig, dataset: TextDataset, unread: Sequence[str] = ()) -> Check:
    """Say which methods the run will try, and which settings of the config they do not read."""
    words = {
        ("linear",): "linear: the frozen encoder embeds each text once, and a logistic regression learns from the embeddings.",
        ("contrastive",): "contrastive: the encoder is adapted so that texts of one label have similar embeddings; then as linear.",
        ("full",): "full: the encoder is fine-tuned.",
        ("linear", "contrastive"): "auto: linear first, then contrastive, as training rows per label are few.",
    }
    methods = methods_tried(config.train.method)
    if not dataset.has_held_out and methods != ("linear",):
        lack = f"train.method {config.train.method}: no label has a second training row, so nothing can be validated"
        return Check("method", "cannot work", f"{lack}; add a row, give data.validation, or take linear.")
    if unread:
        no_effect = f"{', '.join(unread)} {'has' if len(unread) == 1 else 'have'} no effect on these methods"
        return Check("method", "warning", f"{words[methods]} {no_effect}; to fine-tune all the same, set train.method: full.")
    return Check("method", "OK", words[methods])


def check_encoder(config: ExperimentConfig, labels: LabelSpace, sample: TokenSample, size: ModelSize) -> Check:
    """Check that the encoder can be trained, by a first step of it on this machine's CPU."""
    weights = size.num_parameters * FLOAT32
    needed, free = weights + size.num_learning * FLOAT32 + TRIAL_BYTES, free_host_memory()
    if needed > free:
        words = f"not tried: it needs about {bytes_phrase(needed)} here, of {bytes_phrase(free)} that are free."
        return Check("encoder", "warning", words)
    try:
        warning = try_encoder(config.model, labels, sample)
    except InputError as error:
        return Check("encoder", "cannot work", str(error))
    words = warning or f"{bytes_phrase(weights)} of weights; a training step reaches them all."
    return Check("encoder", "warning" if warning else "OK", words)


def check_tokens(sample: TokenSample, *, max_length: int, data: DataConfig) -> Check:
    """Report how long texts are, how many are cut or read in windows, and what windows cost."""
    lengths = sample.lengths
    ordered = sorted(lengths.tolist())
    typical, long = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
    share = sample.share_cut(max_length)
    of = "" if len(lengths) == sample.num_rows else f" (of {len(lengths):,} sampled rows)"
    windows = f"{sample.windows_per_text(max_length):.1f}"
    cost = f"{windows} windows a text on average, so an answer takes about {windows} times as long as with cut"
    does = "reads in windows" if data.long_texts == "windows" else "cuts"
    words = (
        f"{histogram(lengths)} tokens, half of the texts at most {typical}; model.max_length {max_length} {does} {share:.1%}{of}."
    )
    if data.long_texts == "windows":
        return Check("tokens", "OK", f"{words} That is {cost}.")
    if share > LARGE_SHARE_CUT:
        words += f" {long} would keep 95% of the texts whole, and take more time and memory."
        if len(data.text_columns) == 1:
            words += f" data.long_texts: windows would read all of each text: {cost}."
        return Check("tokens", "warning", words)
    return Check("tokens", "OK", words)


def check_memory(estimate: MemoryEstimate, *, available: int | None) -> Check:
    """Check that a worker's share of the model and its rows fit; `available` is what one worker may take, if that is known."""
    parts = (
        ("weights", estimate.parameters),
        ("gradients", estimate.gradients),
        ("optimizer", estimate.optimizer),
        ("buffers of the exchange", estimate.buffers),
        (f"activations of {estimate.micro_batch_size} rows", estimate.activations),
        ("libraries", estimate.process),
    )
    listed = ", ".join(f"{name} {bytes_phrase(count)}" for name, count in parts if count)
    words = f"about {bytes_phrase(estimate.needed)} a worker ({listed})"
    if estimate.stage_reason:
        words += f" at ZeRO {estimate.zero_stage} (auto: {estimate.stage_reason})"
    if available is None:
        return Check("memory", "OK", f"{words}; a GPU's memory is looked at by `manta preflight`, and by each worker.")
    words += f", of {bytes_phrase(available)} on its {estimate.device}."
    row = estimate.activations // estimate.micro_batch_size
    if estimate.held + row > available:
        can_split_more = not estimate.stage_reason and estimate.zero_stage < 3
        more = "train.zero_stage or train.num_workers" if can_split_more else "train.num_workers"
        return Check(
            "memory",
            "cannot work",
            f"{words} Not even one row at a time fits; raise {more} on more nodes, lower "
            "model.max_length, set model.lora, or choose a smaller model.pretrained.",
        )
    if estimate.needed > usable_bytes(available):
        return Check(
            "memory",
            "warning",
            f"{words} That is close; lower train.micro_batch_size or model.max_length, or set train.gradient_checkpointing: true.",
        )
    return Check("memory", "OK", words)


def check_workers(config: ExperimentConfig, cluster: Cluster) -> tuple[Check, WorkerResources | None]:
    """Check that the cluster has room for a run's workers, or can grow to it; return also the resources of each worker."""
    train, free = config.train, cluster.free
    try:
        resources = fit_workers(train, cluster)
    except InputError as error:
        return Check("workers", "cannot work", str(error)), None
    workers = "1 worker" if train.max_workers == 1 else f"{train.max_workers} workers"
    each = f"{resources.num_cpus} CPU{' and 1 GPU' if resources.use_gpu else ''}"
    has = have_phrase(cluster.living, use_gpu=resources.use_gpu)
    words = f"{workers} with {each} each; the cluster has {has}{growth_phrase(config, cluster, resources)}."
    fitting = num_workers_at_once(resources, cluster.nodes)
    if fitting < train.max_workers:
        words += f" Only {fitting} fit, and training goes on with as many."
    if cluster.growth is not None and num_workers_at_once(resources, cluster.living) < train.min_workers:
        if train.use_gpu == "auto" and not resources.use_gpu and not cluster.growth.is_known:
            return Check("workers", "warning", f"{words} Set train.use_gpu: true if some of them would have a GPU."), resources
        return Check("workers", "OK", f"{words} The run will wait for them."), resources
    busy = [
        kind for kind, need in resources.bundle().items() if free is not None and free.get(kind, 0.0) < need * train.min_workers
    ]
    if busy:
        return Check("workers", "warning", f"{words} Others hold too many of them now: the run will wait for {busy[0]}."), resources
    return Check("workers", "OK", words), resources


def check_batch(config: ExperimentConfig, resources: WorkerResources) -> list[Check]:
    """Report how many rows of a batch each of several workers gets, and if they are too few for a GPU; empty for one worker."""
    batch_size, workers = config.train.batch_size, config.train.max_workers
    if workers == 1:
        return []
    words = f"train.batch_size {batch_size} is for all {workers} workers: each gets {batch_size / workers:.3g} rows a step."
    if not resources.use_gpu or batch_size >= workers * FEW_GPU_ROWS:
        return [Check("batch", "OK", words)]
    more = f"train.batch_size: {workers * FEW_GPU_ROWS} gives each {FEW_GPU_ROWS}, and train.learning_rate: auto follows it."
    why = "A GPU takes about as long for twice as many rows, and gradients are exchanged after each step."
    return [Check("batch", "warning", f"{words} {why} {more}")]


def have_phrase(nodes: Sequence[Node], *, use_gpu: bool) -> str:
    """Return a phrase about the total resources of some nodes, such as `8 CPU and 2 GPU on 2 nodes`."""
    gpus = f" and {total(nodes, 'GPU'):g} GPU" if use_gpu else ""
    return f"{total(nodes, 'CPU'):g} CPU{gpus} on {len(nodes)} node{'' if len(nodes) == 1 else 's'}"


def growth_phrase(config: ExperimentConfig, cluster: Cluster, resources: WorkerResources) -> str:
    """Return a phrase about a cluster's growth, to follow the one about its resources; empty if it does not grow."""
    if cluster.growth is None:
        return ""
    if cluster.growth.is_known:
        return f" and can grow to {have_phrase(cluster.nodes, use_gpu=resources.use_gpu)}"
    more = ""
    if config.train.cpus_per_worker == "auto" and not resources.use_gpu:
        more = "; train.cpus_per_worker lets a worker have more than that"
    return f", and an autoscaler that starts nodes but does not tell which{more}"


def check_search(config: ExperimentConfig, nodes: Sequence[Node], resources: WorkerResources) -> tuple[Check, int]:
    """Report how many trials run at the same time, and return that number."""
    trials, confirmations = num_runs(config)
    at_once = max(1, num_workers_at_once(resources, nodes) // config.train.max_workers)
    at_once = min(at_once, trials)
    words = f"{trials} trials, {at_once} at the same time"
    words += f", and up to {confirmations} runs that confirm the best." if confirmations else "."
    if at_once == 1 and trials > 1 and config.train.cpus_per_worker == "auto" and resources.num_cpus > 1:
        words += " More run at once with train.cpus_per_worker: 1."
    if config.tune.search == "grid" and (combinations := len(grid_points(config.tune.searched))) + 1 > trials:
        words += (
            f" The grid has {combinations} combinations, and tune.budget.num_trials leaves room for {trials - 1} beside the config "
            f"as it stands; raise it to {combinations + 1} to try them all."
        )
        return Check("search", "warning", words), at_once
    return Check("search", "OK", words), at_once


def check_searched_method(num_rows: int, num_labels: int) -> Check:
    """Say that a search of few rows tries the other methods, too, unless the config asks for fine-tuning."""
    words = (
        f"With {num_rows // num_labels:,} training rows for each label, the methods linear and contrastive are likely to answer "
        "better than fine-tuning. Under train.method: auto, the search tries them first and keeps one of them unless its winner "
        "leads."
    )
    return Check("searched method", "OK", words)


def check_disk(
    config: ExperimentConfig, storage: Storage, size: ModelSize, *, at_once: int | None, free_bytes: int | None = None
) -> Check:
    """Check that checkpoints fit on the disk. `at_once` is the number of parallel trials of a search; None for a single run.

    `free_bytes` replaces the free space of the disk.
    """
    folder = existing_folder(storage.root)
    setting = "storage or MANTA_STORAGE" if storage.url is None else "MANTA_CACHE"
    if not os.access(folder, os.W_OK):
        return Check("disk", "cannot work", f"{folder} cannot be written; set {setting}.")
    free = shutil.disk_usage(folder).free if free_bytes is None else free_bytes
    runs = 1 if at_once is None else sum(num_runs(config))
    least = run_disk_bytes(size) * (at_once or 1) + model_disk_bytes(size)
    most = run_disk_bytes(size) * runs + model_disk_bytes(size)
    words = (
        f"{bytes_phrase(free)} free at {storage.root}; {'a run takes' if runs == 1 else f'{runs} runs take'} at most "
        f"{bytes_phrase(most)} (checkpoints of {bytes_phrase(checkpoint_bytes(size))})."
    )
    if free < least:
        return Check("disk", "cannot work", f"{words} Free some, or set {setting} to a larger disk.")
    if free < most:
        return Check("disk", "warning", f"{words} The search may fill the disk; free some or lower tune.budget.num_trials.")
    return Check("disk", "OK", words)


def check_shared(storage: Storage, *, strangers: Sequence[str], num_nodes: int) -> Check:
    """Check that all nodes see the checkpoints that one node writes; `strangers` are the nodes that do not see the folder."""
    if strangers:
        return Check(
            "storage",
            "cannot work",
            f"{storage.root} is not the same folder on all {num_nodes} nodes: {', '.join(strangers)} "
            f"{'does' if len(strangers) == 1 else 'do'} not see it; set storage or MANTA_STORAGE to one that all share.",
        )
    return Check("storage", "OK", f"all {num_nodes} nodes see {storage.root}.")


def check_object_store(url: str, *, strangers: Sequence[str], num_nodes: int) -> Check:
    """Check that this machine and all nodes can write to the object store; `strangers` are the nodes that cannot."""
    try:
        check(url)
    except InputError as error:
        return Check("storage", "cannot work", str(error))
    if strangers:
        return Check(
            "storage",
            "cannot work",
            f"{url} can be written from here, but not from {', '.join(strangers)}; give all {num_nodes} nodes the same credentials "
            "and variables.",
        )
    return Check("storage", "OK", f"{url} can be written{f' from all {num_nodes} nodes' if num_nodes > 1 else ''}.")


def check_registry(storage: Storage) -> Check:
    """Check that the model can be registered: the tracking server answers, or the local database can be written."""
    try:
        check_tracking_server()
        if server := tracking_server():
            return Check("registry", "OK", f"MLflow at {without_passwords(server)}.")
        folder = existing_folder(storage.registry)
    except InputError as error:
        return Check("registry", "cannot work", str(error))
    if not os.access(folder, os.W_OK):
        return Check("registry", "cannot work", f"{folder} cannot be written, so no version can be registered; set storage.")
    return Check("registry", "OK", f"MLflow's database in {storage.registry}.")


def check_time(estimate: TimeEstimate, probe: ProbeResult, config: ExperimentConfig) -> Check:
    """Report how long it will take, and what it will cost."""

    def with_cost(seconds: float, cost: float | None) -> str:
        return duration(seconds) + (f", which costs {cost:.2f}" if cost is not None else "")

    words = f"a run takes about {with_cost(estimate.run_s, estimate.run_cost)}"
    if estimate.search_s is not None:
        ends = ", less what stopping trials early saves" if config.tune.scheduler != "none" else ""
        words += f"; the search at most about {with_cost(estimate.search_s, estimate.search_cost)}{ends}"
    if methods_tried(config.train.method) == ("linear",):
        pace = f"embeds {1 / probe.evaluation_s_per_row:.0f} rows a second"
    else:
        exchange = ", and the exchange of gradients comes on top" if config.train.max_workers > 1 else ""
        pace = f"trains on {1 / probe.train_s_per_row:.0f} rows a second{exchange}"
    return Check("time", "OK", f"{words} (a worker on {probe.device} {pace}).")


def check_baseline(baseline: Baseline) -> Check:
    """Report the baseline that fine-tuning must beat."""
    drawn = f", on {baseline.num_rows['train']:,} of the training rows" if baseline.is_sample else ""
    if not baseline.validation:
        return Check("baseline", "OK", "TF-IDF with logistic regression is fitted; there are no rows to validate it on.")
    words = f"TF-IDF with logistic regression reaches {baseline.validation['accuracy']:.4f} validation accuracy"
    return Check(
        "baseline", "OK", f"{words} and {baseline.validation['f1_macro']:.4f} macro F1 in {baseline.seconds:.1f} s{drawn}."
    )


def check_label_noise(config: ExperimentConfig, noise: LabelNoise | None) -> list[Check]:
    """Warn of wrong labels if the estimate is certain enough, and tell if the training allows for them."""
    if noise is None or not noise.is_sure:
        return []
    shares = f"about {noise.rate:.0%} of the training labels are wrong, and at least {noise.least:.0%}"
    share = allowing_for_noise(config, noise.rate).train.noise_share
    done = f"the training allows for it (train.label_noise: {share:g})" if share else "the training takes them as they are"
    return [Check("label noise", "warning", f"{shares}; {done}. manta data check lists the rows.")]


def total(nodes: Sequence[Node], kind: str) -> float:
    """Return the total of one resource over all nodes."""
    return sum(node.get(kind, 0.0) for node in nodes)


def existing_folder(path: Path) -> Path:
    """Return the folder itself, or its nearest existing parent."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
