"""Lost processes of Ray, in words. Ray's own errors end with a paragraph on its environment variables."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ray.exceptions import RayError, RayTaskError

from manta.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Parts of the errors of Ray about a process that it killed because its machine had hardly any memory left.
OUT_OF_MEMORY = ("low on memory", "out of memory", "memory usage threshold")
LESS_MEMORY = (
    "lower train.micro_batch_size or train.batch_size, run fewer workers (train.num_workers), or free memory on that machine"
)


class WorkersLostError(RunError):
    """Failure of a run that lost its workers by no fault of its own, and can be resumed."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether Ray killed the process because its machine ran out of memory."""
    is_of_ray = isinstance(error, RayError) or type(error).__module__.startswith("ray.")
    return is_of_ray and any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


def reason(*errors: BaseException) -> str:
    """Return the reason for a loss, to follow the phrase about it; empty if Ray gives none that helps."""
    return " because its machine ran out of memory" if any(map(ran_out_of_memory, errors)) else ""


def advice(*errors: BaseException) -> str:
    """Return what to change after a loss, to stand before the full stop; empty if nothing is known to help."""
    return f"; {LESS_MEMORY}" if any(map(ran_out_of_memory, errors)) else ""


@contextmanager
def losses_named(resume: str | None = None) -> Iterator[None]:
    """Replace Ray's error on a lost process by one sentence; add the command `resume`, with which the work goes on.

    Raises:
        WorkersLostError: a process was lost in the body.
    """
    try:
        yield
    except WorkersLostError as error:
        raise (WorkersLostError(f"{error} Go on with: {resume}") if resume else error) from error.__cause__
    except RayTaskError:
        raise  # the task's own error
    except RayError as error:
        sentence = f"A process of the cluster was lost{reason(error)}{advice(error)}."
        raise WorkersLostError(f"{sentence} Go on with: {resume}" if resume else sentence) from error
