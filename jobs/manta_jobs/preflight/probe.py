"""A short timed probe: some real steps of the real model on real rows, by one worker with the resources of the run's workers.

It runs as a Ray task with a worker's CPUs or GPU, on any node that Ray gives it. It does not measure the exchange of gradients
between several workers, which depends on the network.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from manta.cluster.gpus import hide_unassigned_gpus
from manta.errors import InputError, MantaError
from manta.model.adapt import adapt, compute_only_cls, parameter_groups
from manta_jobs.cluster.losses import advice, reason
from manta_jobs.training.batches import TrainingBatches
from manta_jobs.training.recovery import first_line

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from manta.config import ExperimentConfig
    from manta.labels import LabelSpace, Targets
    from manta_jobs.cluster.connection import WorkerResources
    from manta_jobs.preflight.tokens import TokenSample

TRAIN_S = 4.0
EVALUATION_S = 1.0
MAX_BATCHES = 16
WAIT_S = 60.0
"""Seconds that the probe waits for a worker's place on the cluster, and then again for its result."""


class ProbeError(Exception):
    """Error of a probe that gave no figures; the message gives the reason."""


@dataclass(frozen=True)
class Batch:
    """Rows of similar length, padded; arrays `(rows, tokens)`."""

    inputs: dict[str, npt.NDArray[np.int64]]
    targets: Targets


@dataclass(frozen=True)
class ProbeSetup:
    """Input of the probe's task."""

    config: ExperimentConfig
    labels: LabelSpace
    batches: tuple[Batch, ...]
    num_threads: int
    submitted_at: float
    """Seconds since the Unix epoch."""


@dataclass(frozen=True)
class ProbeResult:
    """Pace of one worker, and the device that it found."""

    startup_s: float
    """Time from the request for the worker to its first step."""
    train_s_per_row: float
    """Time of a forward and backward pass."""
    update_s: float
    """Time of one optimizer step."""
    evaluation_s_per_row: float
    num_rows: int
    """Rows that the measurement trained on."""
    device: str
    device_bytes: int | None
    """Memory of the GPU; None on a CPU."""


def run_probe(config: ExperimentConfig, labels: LabelSpace, sample: TokenSample, *, resources: WorkerResources) -> ProbeResult:
    """Time a few steps, on the connected cluster or without one in this process. This takes about ten seconds.

    Raises:
        InputError: the model cannot be built.
        ProbeError: no worker was free in time, or a step failed.
    """
    import ray

    setup = ProbeSetup(config, labels, probe_batches(config, sample), resources.num_cpus, time.time())
    if not ray.is_initialized():
        try:
            return measure(setup)
        except Exception as error:  # noqa: BLE001  # as from a worker: what the step itself raises is a result of the probe
            raise _faulty(error) from None
    task = ray.remote(measure).options(
        num_cpus=resources.num_cpus,
        num_gpus=1 if resources.use_gpu else 0,
        max_retries=0,
    )
    result = task.remote(setup)
    try:
        pace: ProbeResult = ray.get(result, timeout=2 * WAIT_S)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(result, force=True)
        raise ProbeError(f"no worker could be timed within {2 * WAIT_S:.0f} s; the cluster may be busy") from None
    except ray.exceptions.RayTaskError as error:
        raise _faulty(error.cause) from None
    except ray.exceptions.RayError as error:
        raise ProbeError(f"the worker that should be timed was lost{reason(error)}{advice(error)}") from None
    return pace


def _faulty(cause: Exception) -> InputError | ProbeError:
    """Return the error of a probe that raised an exception."""
    if isinstance(cause, MantaError):
        return InputError(str(cause))
    return ProbeError(f"a training step failed: {type(cause).__name__}: {first_line(str(cause))}")


def probe_batches(config: ExperimentConfig, sample: TokenSample) -> tuple[Batch, ...]:
    """Return some of the batches that one worker would get, made of the sampled rows."""
    train = config.train
    lengths = np.minimum(sample.lengths, config.model.max_length)
    # A worker's share has the same lengths as the whole batch, so batches of the share's size are enough.
    rows = max(1, train.batch_size // train.max_workers)
    if train.micro_batch_size != "auto":
        rows = min(rows, train.micro_batch_size)
    batches = TrainingBatches(lengths, rows, train.seed).epoch(0)[:MAX_BATCHES]
    return tuple(
        Batch(sample.padded(batch, max_length=config.model.max_length), sample.targets[batch]) for batch in batches if len(batch)
    )


def measure(setup: ProbeSetup) -> ProbeResult:
    """Run the probe's task: build the model as a worker does, then time it."""
    import torch

    from manta_jobs.training.engine.cpu_speedups import install_quick_dropout

    hide_unassigned_gpus()
    kept = install_quick_dropout()  # noqa: F841  # kept until the probe ends
    torch.set_num_threads(setup.num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _model(setup).to(device).train()
    groups = parameter_groups(model.model, learning_rate=1e-6, layer_decay=1.0, weight_decay=0.0)
    optimizer = torch.optim.AdamW(groups, fused=True)
    batches = [_on_device(batch, device) for batch in setup.batches]
    startup_s = time.time() - setup.submitted_at
    watch = _Watch(device)
    _train(model, optimizer, batches[:1], watch, seconds=0.0, setup=setup)  # the first step is slower than any other
    train_s, update_s, rows = _train(model, optimizer, batches, watch, seconds=TRAIN_S, setup=setup)
    return ProbeResult(
        startup_s=startup_s,
        train_s_per_row=train_s,
        update_s=update_s,
        evaluation_s_per_row=_evaluate(model, batches, watch),
        num_rows=rows,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        device_bytes=int(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else None,
    )


class _Watch:
    """Clock that waits until the device has done all its work."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def now(self) -> float:
        import torch

        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


def _model(setup: ProbeSetup) -> Any:
    from manta.model.encoder import build_model
    from manta.model.loss import ClassificationLoss, TrainedClassifier

    train = setup.config.train
    model = adapt(build_model(setup.config.model, setup.labels), setup.config.model)
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    compute_only_cls(model)
    return TrainedClassifier(model, ClassificationLoss.of(train, setup.labels, class_weights=None))


def _on_device(batch: Batch, device: torch.device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    import torch

    inputs = {name: torch.from_numpy(array).to(device) for name, array in batch.inputs.items()}
    return inputs, torch.from_numpy(batch.targets).to(device)


def _train(
    model: Any, optimizer: torch.optim.Optimizer, batches: list[Any], watch: _Watch, *, seconds: float, setup: ProbeSetup
) -> tuple[float, float, int]:
    """Train for `seconds`, but at least one step; return the seconds per row, the seconds per update, and the rows."""
    import torch

    from manta_jobs.training.engine.build import resolve_precision

    precision = resolve_precision(setup.config.train)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    started = watch.now()
    pass_s, update_s, rows, passes = 0.0, 0.0, 0, 0
    while passes == 0 or watch.now() - started < seconds:
        inputs, targets = batches[passes % len(batches)]
        begin = watch.now()
        with torch.autocast(targets.device.type, dtype=dtype, enabled=precision != "fp32"):
            loss = model(labels=targets, **inputs)["loss"]
        loss.backward()
        done = watch.now()
        optimizer.step()
        optimizer.zero_grad()
        pass_s, update_s = pass_s + done - begin, update_s + watch.now() - done
        rows, passes = rows + len(targets), passes + 1
    return pass_s / rows, update_s / passes, rows


def _evaluate(model: Any, batches: list[Any], watch: _Watch) -> float:
    """Return the seconds per row of a forward pass."""
    import torch

    model.eval()
    started = watch.now()
    rows = passes = 0
    with torch.inference_mode():
        while passes == 0 or watch.now() - started < EVALUATION_S:
            inputs, targets = batches[passes % len(batches)]
            model(**inputs)
            rows, passes = rows + len(targets), passes + 1
    return (watch.now() - started) / rows
