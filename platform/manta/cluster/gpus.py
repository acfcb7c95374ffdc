"""The GPUs that this process may use.

Ray no longer hides a machine's GPUs from a task or actor that asks for none. `torch.cuda.is_available` alone would let every such
process load its model onto the first GPU, unreserved.
"""

from __future__ import annotations

import os
import sys
from typing import Literal

VISIBLE = "CUDA_VISIBLE_DEVICES"


def hide_unassigned_gpus(*, use_gpu: bool | Literal["auto"] = "auto") -> None:
    """Hide all GPUs from this process if it is a worker of Ray without an assigned GPU, or if `train.use_gpu` is False.

    Call it before the process asks torch for GPUs. Otherwise a process outside of Ray keeps what it sees.
    """
    ray = sys.modules.get("ray")
    if use_gpu is False or (ray is not None and ray.is_initialized() and not ray.get_gpu_ids()):
        os.environ[VISIBLE] = ""


def order_gpus() -> None:
    """List the GPUs that this worker sees by number, as Ray orders the workers. Call it before the process asks torch for GPUs.

    Ray lists them as text: 0, 1, 10, 11, …, 2. DeepSpeed takes the GPU at the place of the local rank, which would be another one
    than Ray's on nodes with more than ten.
    """
    ids = os.environ.get(VISIBLE, "").split(",")
    if all(name.isdigit() for name in ids):
        os.environ[VISIBLE] = ",".join(sorted(ids, key=int))
