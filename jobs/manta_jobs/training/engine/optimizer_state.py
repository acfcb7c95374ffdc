"""Saving an engine's state to checkpoints and restoring it, at any ZeRO stage and with any number of workers.

ZeRO cuts parameters into fragments that lie in flat tensors of different workers. A checkpoint holds each moment as a whole tensor
under the parameter's name; in fp16 it also holds the float32 master weights. So training can resume with fewer or more workers.
DeepSpeed's own checkpoints are pickles for one number of workers; its universal ones do not cover ZeRO 0.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from manta_jobs.training.checkpoints import OPTIMIZER_FILE, WEIGHTS_FILE, CheckpointWriter, TrainingState
from manta_jobs.training.engine.build import full_weights
from manta_jobs.training.engine.zero import Fragment, fragments, restore_scaler, scaler_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deepspeed import DeepSpeedEngine

MOMENTS = ("exp_avg", "exp_avg_sq")
SAVE_EVERY = 10.0
"""A checkpoint after an epoch is cheap if training since the last checkpoint took this many times as long as writing that one."""


class Saver:
    """Checkpoints of one training: gathered from all workers, and written by worker 0 in the background.

    All workers must call each method together.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = CheckpointWriter(folder)
        self._saved_at = time.monotonic()
        self._saved_step: int | None = None

    @property
    def age_s(self) -> float:
        """Seconds since the last checkpoint, or since the start."""
        return time.monotonic() - self._saved_at

    def save(self, engine: DeepSpeedEngine, state: TrainingState) -> None:
        """Gather a checkpoint and begin to write it."""
        state.scaler = scaler_state(engine)
        moments = {} if state.finished else gather_moments(engine)
        masters = gather_master_weights(engine) if engine.fp16_enabled() else {}
        with full_weights(engine) as weights:
            if dist.get_rank() == 0:
                copies = {name: tensor.detach().float().cpu().clone() for name, tensor in weights.items()} | masters
                self._writer.write(state, weights=copies, moments=moments)
        self._saved_at, self._saved_step = time.monotonic(), state.step

    def has_saved(self, state: TrainingState) -> bool:
        """Tell whether the last checkpoint is of the current step."""
        return self._saved_step == state.step

    def is_cheap(self) -> bool:
        """Tell whether a checkpoint now costs little compared with the training since the last one. Worker 0 decides for all.

        An epoch of a few rows takes less time than its checkpoint.
        """
        answer: list[bool] = [self._saved_step is None or self.age_s > SAVE_EVERY * self._writer.took_s]
        dist.broadcast_object_list(answer, src=0)
        return answer[0]

    def wait(self) -> None:
        """Wait until the checkpoint under way is on disk.

        Raises:
            OSError: it could not be written.
        """
        self._writer.wait()


def restore(engine: DeepSpeedEngine, checkpoint: Path, state: TrainingState) -> None:
    """Put a checkpoint's moments, fp16 master weights and loss scale back into an engine."""
    from safetensors import safe_open

    with safe_open(checkpoint / OPTIMIZER_FILE, framework="pt") as moments:
        restore_moments(engine, moments, num_updates=state.step - state.skipped_steps)
    if engine.fp16_enabled():
        with safe_open(checkpoint / WEIGHTS_FILE, framework="pt") as weights:
            restore_master_weights(engine, weights)
    restore_scaler(engine, state.scaler)


def gather_moments(engine: DeepSpeedEngine) -> dict[str, torch.Tensor]:
    """Return both moments of every parameter as whole tensors, on the CPU of worker 0; empty on other workers.

    Keys are `exp_avg.NAME` and `exp_avg_sq.NAME`. All workers must call it together.
    """
    state = engine.basic_optimizer.state
    return {
        f"{moment}.{name}": value
        for moment in MOMENTS
        for name, value in _gather_whole(engine, lambda part, key=moment: _held(state, part, key)).items()  # type: ignore[misc]
    }


def _held(state: dict[torch.Tensor, dict[str, torch.Tensor]], part: Fragment, moment: str) -> torch.Tensor:
    """Return a moment from the optimizer's state: zeros if it has made no update, because all steps were skipped."""
    held = state[part.flat]
    return held[moment] if moment in held else torch.zeros_like(part.flat.detach())


def gather_master_weights(engine: DeepSpeedEngine) -> dict[str, torch.Tensor]:
    """Return the float32 weights that fp16 training updates, gathered like `gather_moments`; keys are parameter names."""
    return _gather_whole(engine, lambda part: part.flat.detach())


def restore_moments(engine: DeepSpeedEngine, moments: Any, *, num_updates: int) -> None:
    """Put this worker's part of each moment in an open file into its optimizer's state, as if it had made `num_updates` updates."""
    state = engine.basic_optimizer.state
    for part in fragments(engine):
        held = state[part.flat]
        if not held:
            held["step"] = torch.tensor(float(num_updates), dtype=torch.float32, device=part.flat.device)
            for moment in MOMENTS:
                held[moment] = torch.zeros_like(part.flat.detach())
        for moment in MOMENTS:
            _put(moments, f"{moment}.{part.name}", part, into=held[moment])


def restore_master_weights(engine: DeepSpeedEngine, weights: Any) -> None:
    """Put this worker's part of the float32 weights in an open file into the tensors that fp16 training updates."""
    for part in fragments(engine):
        _put(weights, part.name, part, into=part.flat.detach())


def _put(file: Any, name: str, part: Fragment, *, into: torch.Tensor) -> None:
    into.view(-1)[part.offset : part.offset + part.length] = read_part(file, name, part).to(into.device)


def read_part(file: Any, name: str, part: Fragment) -> torch.Tensor:
    """Return a fragment of a tensor in an open file of safetensors, flat. Read no more than the rows that it lies in."""
    if not part.shape:
        return torch.as_tensor(file.get_tensor(name)).reshape(-1)
    width = part.shape.numel() // part.shape[0]
    first = part.start // width
    rows = torch.as_tensor(file.get_slice(name)[first : -(-(part.start + part.length) // width)])
    return rows.reshape(-1)[part.start - first * width :][: part.length]


def _gather_whole(engine: DeepSpeedEngine, flat_of: Callable[[Fragment], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return whole tensors by parameter name on worker 0; empty on other workers.

    `flat_of` gives a fragment's tensor, which must have the layout of the flat parameters.
    """
    mine = list(fragments(engine))
    if engine.zero_optimization_stage() == 0:  # every worker has them whole
        return {part.name: flat_of(part).cpu().clone() for part in mine} if dist.get_rank() == 0 else {}
    places = [(part.name, tuple(part.shape), part.start, part.length) for part in mine]
    everywhere: list[list[tuple[str, tuple[int, ...], int, int]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, places)
    packed = torch.zeros(max(sum(length for *_, length in theirs) for theirs in everywhere), device=engine.device)
    position = 0
    for part in mine:
        packed[position : position + part.length] = flat_of(part).view(-1)[part.offset : part.offset + part.length]
        position += part.length
    whole: dict[str, torch.Tensor] = {}
    for theirs, values in zip(everywhere, _gather(packed), strict=False):
        position = 0
        for name, shape, start, length in theirs:
            target = whole.setdefault(name, torch.zeros(shape))
            target.view(-1)[start : start + length] = values[position : position + length].cpu()
            position += length
    return whole


def _gather(packed: torch.Tensor) -> list[torch.Tensor]:
    """Return every worker's tensor on worker 0; empty on other workers."""
    if dist.get_world_size() == 1:
        return [packed]
    if dist.get_rank() == 0:
        collected = [torch.empty_like(packed) for _ in range(dist.get_world_size())]
        dist.gather(packed, collected, dst=0)
        return collected
    dist.gather(packed, dst=0)
    return []
