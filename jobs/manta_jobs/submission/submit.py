"""`manta submit`: send a verb's work to a cluster as a job."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta_jobs.checks import bytes_phrase
from manta_jobs.submission.cargo import code_package, job_package, packed_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from manta_jobs.submission.jobs_api import JobsApi

SUPPORTED_PYTHON = ((3, 11), (3, 13))
"""From the first on, and before the second: `requires-python` of the package."""


def submit(verb: str, params: Mapping[str, Any], *, api: JobsApi, console: Console, image_code: bool = False) -> str:
    """Send the verb with its arguments, as its function takes them, and what it needs of this machine; the job's id.

    With `image_code` no code travels: the job looks that the cluster's is the same.

    Raises:
        InputError: what it needs is wrong or too large; nothing was sent.
        RunError: the cluster did not take it.
    """
    cargo, sent, storage = packed_inputs(verb, params)
    code = code_package()
    order = {
        "verb": verb,
        "params": sent,
        "python": SUPPORTED_PYTHON,
        "inputs": cargo.digest,
        "has_inputs": bool(cargo.files or cargo.texts),
        "storage": storage,
        "code": code.digest if image_code else None,
    }
    work = job_package(cargo, order)
    runtime_env: dict[str, Any] = {"working_dir": work.uri}
    packages = [work]
    if not image_code:
        runtime_env["py_modules"] = [code.uri]
        packages.append(code)
    with console.status(f"Sending {bytes_phrase(sum(len(package.content) for package in packages))} to {api.address}"):
        for package in packages:
            api.upload(package)
    name = Path(params["experiment"]).stem if params.get("experiment") is not None else "manta"
    job_id = f"{name}-{verb}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    metadata = {"manta_verb": verb, "manta_code": code.digest[:16]}
    api.submit(job_id, entrypoint="python job_start.py", runtime_env=runtime_env, metadata=metadata)
    return job_id
