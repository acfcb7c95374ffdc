"""The mean of gradients over workers on CPUs at ZeRO 0: rows of embeddings that no worker's texts touched are not sent.

Half of a small encoder's parameters are word embeddings, and a batch uses a hundredth of their rows; the other gradients are zero.
DeepSpeed sends all of them, copied together and apart again, and copies where there is one worker, too. The result is the same,
to the last bit where rows are left out. On GPUs, whose links are a hundred times as fast, DeepSpeed's own reduction is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

MIN_ROWS = 4096
"""A matrix of fewer rows is sent whole."""


def reduces_itself(engine: DeepSpeedEngine) -> bool:
    """Whether this engine's gradients are reduced here; DeepSpeed is told to leave them alone."""
    if engine.zero_optimization_stage() != 0 or engine.device.type != "cpu":
        return False
    engine.enable_backward_allreduce = False
    return True


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Put the mean over all workers in the place of each gradient. All workers must call it together."""
    if dist.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    matrices = [gradient for gradient in gradients if gradient.ndim == 2 and len(gradient) >= MIN_ROWS]
    sent = {id(gradient) for gradient in matrices}
    rest = [gradient for gradient in gradients if id(gradient) not in sent]
    waiting = [dist.all_reduce(gradient, async_op=True) for gradient in rest]
    for gradient in matrices:
        _sum_touched_rows(gradient)
    for work in waiting:
        work.wait()
    for gradient in rest:
        gradient.div_(dist.get_world_size())


def _sum_touched_rows(gradient: torch.Tensor) -> None:
    """The mean of a matrix over workers, by way of those rows only that are not zero on all of them."""
    touched = gradient.any(dim=1).to(torch.uint8)
    dist.all_reduce(touched, op=dist.ReduceOp.MAX)
    rows = touched.nonzero().squeeze(1)
    values = gradient[rows]
    dist.all_reduce(values)
    gradient[rows] = values.div_(dist.get_world_size())
