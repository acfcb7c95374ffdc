"""Time of a training step on a larger cluster, calculated from the parts that `scale.py` measures.

Data-parallel training at ZeRO 2. Each step, a worker computes its rows forward and backward, the gradients are summed while the
backward pass goes on, each worker updates its part of the parameters, and all workers get the updated parts. Gradients and
parameters travel in float32, as Manta sends them. Both exchanges move (N - 1) / N of their bytes through every worker
(Rajbhandari et al., 2020, section 7, https://arxiv.org/abs/1910.02054); beyond one node, the node's network carries them once for
all of its GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

GPUS_PER_NODE = 8
BACKWARD_SHARE = 2 / 3
"""Of a step's arithmetic: two products backward for each one forward."""
FLOAT32 = 4


@dataclass(frozen=True)
class Encoder:
    """The encoder that is fine-tuned."""

    name: str
    num_parameters: float
    num_embeddings: float
    """Of them, those that are looked up and not multiplied."""
    num_layers: int
    width: int

    def flop(self, num_tokens: int) -> float:
        """Forward and backward of one row of so many tokens; see `workload.training_flop` for the counting."""
        matrices = 6 * (self.num_parameters - self.num_embeddings) * num_tokens
        return matrices + 12 * self.num_layers * self.width * num_tokens**2


BERT_BASE = Encoder("BERT-base", 109.5e6, 23.8e6, 12, 768)
BERT_LARGE = Encoder("BERT-large", 335.1e6, 31.8e6, 24, 1024)


@dataclass(frozen=True)
class Hardware:
    """Assumptions about the cluster; speeds in bytes and operations a second."""

    flop_per_s: float
    """Peak of one GPU in bfloat16."""
    utilisation: float
    """The share of it that training reaches."""
    memory_bytes_per_s: float
    """Of one GPU: the optimizer reads and writes its state."""
    inside_bytes_per_s: float
    """Between the GPUs of a node."""
    network_bytes_per_s: float
    """Between nodes, each way."""
    latency_s: float = 20e-6
    """Of each of an exchange's rounds between nodes."""


@dataclass(frozen=True)
class Measured:
    """Measurements on workers of this machine."""

    gradient_bytes_per_parameter: float
    checkpoint_bytes_per_parameter: float
    data_s_per_row: float
    """Reading and padding."""
    plan_s_per_row: float
    """Ordering all rows of an epoch, which every worker does."""
    startup_s: float
    """From the command to the first steps."""
    trial_overhead_s: float


@dataclass(frozen=True)
class Step:
    """Seconds of one step's parts on each worker."""

    compute: float
    gradients: float
    """Of their exchange, what the backward pass does not hide."""
    parameters: float
    optimizer: float
    data: float
    checkpoint: float
    """Gathering the optimizer's state for a checkpoint, shared out over the steps between two."""

    @property
    def total(self) -> float:
        """The whole step."""
        return sum(vars(self).values())

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        names = {"gradients": "network (gradients)", "parameters": "network (parameters)", "compute": "GPUs"}
        part = max(vars(self), key=lambda name: float(vars(self)[name]))
        return names.get(part, part)


def step(
    encoder: Encoder,
    hardware: Hardware,
    measured: Measured,
    *,
    num_gpus: int,
    rows_per_gpu: float,
    num_tokens: int,
    checkpoint_every_s: float = 600.0,
) -> Step:
    """A step in which every GPU computes so many rows of so many tokens."""
    compute = rows_per_gpu * encoder.flop(num_tokens) / (hardware.flop_per_s * hardware.utilisation)
    gradients = exchange_s(encoder.num_parameters * measured.gradient_bytes_per_parameter, hardware, num_gpus=num_gpus)
    parameters = exchange_s(encoder.num_parameters * FLOAT32, hardware, num_gpus=num_gpus)
    own = encoder.num_parameters / num_gpus
    optimizer = 7 * FLOAT32 * own / hardware.memory_bytes_per_s  # reads weight, gradient and two moments, writes three of them
    data = rows_per_gpu * measured.data_s_per_row
    not_hidden = max(0.0, gradients - BACKWARD_SHARE * compute)
    before = compute + not_hidden + parameters + optimizer + data
    gathered = encoder.num_parameters * (measured.checkpoint_bytes_per_parameter - FLOAT32)  # the moments
    speed = hardware.network_bytes_per_s if num_gpus > GPUS_PER_NODE else hardware.inside_bytes_per_s
    checkpoint = gathered / speed * before / checkpoint_every_s
    return Step(compute, not_hidden, parameters, optimizer, data, checkpoint)


def exchange_s(num_bytes: float, hardware: Hardware, *, num_gpus: int) -> float:
    """Seconds to sum gradients into each worker's part, or to give all workers all parts."""
    if num_gpus == 1:
        return 0.0
    inside = num_bytes * (min(num_gpus, GPUS_PER_NODE) - 1) / min(num_gpus, GPUS_PER_NODE) / hardware.inside_bytes_per_s
    num_nodes = -(-num_gpus // GPUS_PER_NODE)
    if num_nodes == 1:
        return inside
    between = num_bytes * (num_nodes - 1) / num_nodes / hardware.network_bytes_per_s
    return inside + between + (num_nodes - 1) * hardware.latency_s
