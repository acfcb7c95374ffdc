"""Training on GPUs without waiting: the host prepares work while the GPU computes, and reads nothing back within a step.

Each value that the host reads from a GPU, such as `tensor.item()` or `if tensor.all()`, waits until the GPU has done all its work;
then the GPU waits for the host. `tests/jobs/training/test_no_waiting.py` looks for such places in a step: at ZeRO 0 there is none;
at ZeRO 1 and 2, DeepSpeed reads the gradients' norm.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    import torch

Item = TypeVar("Item")

STEPS_AHEAD = 2
"""Steps whose rows wait in memory for the GPU."""
GIVE_UP_EVERY_S = 0.2


def read_no_masks() -> None:
    """Have transformers take every mask that it is given as one with padding, without looking into it, in this process.

    It looks whether a mask can be left out, and waits for the GPU to know. `batches.WorkerRows` leaves it out by itself.
    """
    from transformers import masking_utils

    masking_utils._ignore_bidirectional_mask_sdpa = _can_be_left_out


def _can_be_left_out(padding_mask: torch.Tensor | None, kv_length: int, local_attention_size: int | None = None) -> bool:
    return padding_mask is None and (local_attention_size is None or kv_length < local_attention_size)


def made_ahead(items: Iterable[Item]) -> Generator[Item]:
    """Yield items that a thread makes ahead, and raise what it raises. Closing the iterator ends the thread."""
    made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=STEPS_AHEAD)
    is_over = threading.Event()

    def put(item: Item | None, error: BaseException | None = None) -> None:
        while not is_over.is_set():
            with suppress(queue.Full):
                made.put((item, error), timeout=GIVE_UP_EVERY_S)
                return

    def make() -> None:
        try:
            for item in items:
                put(item)
                if is_over.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:  # noqa: BLE001  # raised on the training thread
            put(None, error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        is_over.set()
        thread.join()
