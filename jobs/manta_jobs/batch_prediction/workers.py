"""The workers of a batch prediction: this process for few rows, else a pool in Ray Data."""

from __future__ import annotations

import logging
import math
import os
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta.errors import MantaError, RunError
from manta.inference.artifact import ModelArtifact
from manta.inference.predictor import Predictor
from manta_jobs.batch_prediction.classify import ChunkCounts, ChunkWorker, Classifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from manta_jobs.batch_prediction.partial import PartialOutput
    from manta_jobs.cluster.autoscaling import Node

WORKER_BYTES = 2**30
"""Memory of a worker besides the weights, which it holds twice while it loads them."""
MEMORY_SHARE = 0.5
MOST_TASKS = 4096
"""Most tasks of a prediction. With more chunks, a task gets several of them, as each task costs the driver some bookkeeping."""


@dataclass(frozen=True)
class Pool:
    """Equal workers with one model each."""

    num_workers: int
    num_cpus: int
    """Cores of each worker, which are also its threads."""
    num_gpus: int


def fit_pool(nodes: Sequence[Node], *, num_chunks: int, weights_bytes: int) -> Pool:
    """Return a pool with one worker on each GPU, or without GPUs, one on each core.

    A worker gets several cores if memory is short or there are fewer chunks than cores.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        return Pool(num_workers=min(gpus, num_chunks), num_cpus=1, num_gpus=1)
    most = max(int(node.get("CPU", 0)) for node in nodes)
    needed = WORKER_BYTES + 2 * weights_bytes
    for num_cpus in range(1, most + 1):
        per_node = [int(node.get("CPU", 0)) // num_cpus for node in nodes]
        fits = all(
            count * needed <= MEMORY_SHARE * node.get("memory", math.inf) for count, node in zip(per_node, nodes, strict=True)
        )
        wider = sum(int(node.get("CPU", 0)) // (num_cpus + 1) for node in nodes)
        if fits and wider < num_chunks:
            return Pool(num_workers=min(sum(per_node), num_chunks), num_cpus=num_cpus, num_gpus=0)
    return Pool(num_workers=1, num_cpus=max(1, most), num_gpus=0)


def parts_made_here(
    partial: PartialOutput, pool: Pool, *, artifact: Path, model_version: str
) -> Iterator[tuple[bytes, ChunkCounts]]:
    """Yield the part and counts of every pending chunk, classified by this process with the threads of one worker.

    Raises:
        InputError, RunError: the input or the model failed; the message says which.
    """
    import torch

    torch.set_num_threads(pool.num_cpus)
    classifier = Classifier(partial.plan.source, Predictor(ModelArtifact.load(artifact)), model_version)
    for number in partial.pending:
        yield classifier.part(partial.plan.chunks[number])


def finished_parts(
    partial: PartialOutput, pool: Pool, *, artifact: Path, model_version: str
) -> Iterator[tuple[bytes, ChunkCounts]]:
    """Yield the part and counts of every pending chunk as it is finished on the connected cluster.

    Raises:
        RunError: the input, the model or a worker failed; the message says which.
    """
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext

    numbers = partial.pending
    items = [partial.plan.chunks[number].model_dump_json() for number in numbers]
    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with DataContext.current(context):
        chunks = ray.data.from_items(items, override_num_blocks=min(len(items), MOST_TASKS))
        parts = chunks.map_batches(
            ChunkWorker,
            fn_constructor_args=(partial.plan.source, artifact, model_version, pool.num_cpus),
            compute=ActorPoolStrategy(min_size=1, max_size=pool.num_workers, initial_size=pool.num_workers),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
        )
        try:
            for batch in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for part in batch.to_pylist():
                    if part["failure"]:
                        raise RunError(part["failure"])
                    yield part["content"], ChunkCounts.model_validate_json(part["counts"])
        except MantaError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise RunError(f"a worker failed ({lines[-1].strip()}).") from error


@contextmanager
def core_remarks_in(path: Path) -> Iterator[None]:
    """Write the output of Ray's C++ core to a file while the body runs. Python's own stderr stays where it is.

    The core writes straight to file descriptor 2. At each start it prints that the arguments of a pool's workers are shared. Its
    log level could silence that, but would also apply to the cluster, and the core prints a line whenever the level is set.
    """
    people = os.dup(2)
    with path.open("a", encoding="utf-8") as log, os.fdopen(people, "w", encoding="utf-8", buffering=1) as stderr:
        os.dup2(log.fileno(), 2)
        try:
            with redirect_stderr(stderr):
                yield
        finally:
            os.dup2(people, 2)
