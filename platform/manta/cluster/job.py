"""A job for a Ray cluster: the code and files that travel with it, and what the Jobs API is asked to run.

Packages are zips whose name is the hash of their contents, so that a cluster that has one gets it once, and edited code is
always another file than the one before. The command line and the page make their jobs here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import secrets
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SUPPORTED_PYTHON = ((3, 11), (3, 13))
"""From the first on, and before the second: `requires-python` of the package."""
PACKAGES = ("manta", "manta_jobs")
START_SCRIPT = "job_start.py"
INPUTS = "{inputs}"
"""Stands for the folder that a job's files lie in, which only the job knows."""
MARK = "MANTA-JOB "
"""What begins the line in which a job says what came of it; START_SCRIPT, which stands alone, has it as well."""


@dataclass(frozen=True)
class Package:
    """A zip that Ray keeps under the hash of what is in it."""

    digest: str
    content: bytes

    @property
    def name(self) -> str:
        """Its name among the cluster's packages."""
        return f"_ray_pkg_{self.digest[:32]}.zip"

    @property
    def uri(self) -> str:
        """What a runtime environment calls it."""
        return f"gcs://{self.name}"


@dataclass(frozen=True)
class ClusterJob:
    """One job, ready to be sent."""

    id: str
    packages: tuple[Package, ...]
    """What the cluster must have before it is asked."""
    request: dict[str, Any]
    """What the Jobs API is asked."""


def cluster_job(
    verb: str,
    params: Mapping[str, Any],
    *,
    name: str,
    files: Mapping[str, bytes],
    storage: str | None = None,
    image_code: bool = False,
    environment: Mapping[str, str] | None = None,
) -> ClusterJob:
    """A job that calls a verb's function with `params`, beside `files` by their names in the job's folder.

    `name` begins its id. `storage` is where the job keeps its files, that of the cluster unless given. With `image_code` no
    code travels: the job looks that the cluster's is the same. `environment` are variables of the job's processes.
    """
    code = code_package()
    order = {
        "verb": verb,
        "params": dict(params),
        "python": SUPPORTED_PYTHON,
        "inputs": digest_of(files),
        "has_inputs": bool(files),
        "storage": storage,
        "code": code.digest if image_code else None,
    }
    script = (_roots()["manta_jobs"] / "cli" / START_SCRIPT).read_bytes()
    entries = {"order.json": json.dumps(order, indent=2).encode(), START_SCRIPT: script}
    work = _package(entries | {f"inputs/{file}": content for file, content in files.items()})
    runtime_env: dict[str, Any] = {"working_dir": work.uri}
    if not image_code:
        runtime_env["py_modules"] = [code.uri]
    if environment:
        runtime_env["env_vars"] = dict(environment)
    job_id = f"{name}-{verb}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    request = {
        "entrypoint": f"python {START_SCRIPT}",
        "submission_id": job_id,
        "runtime_env": runtime_env,
        "metadata": {"manta_verb": verb, "manta_code": code.digest[:16]},
    }
    return ClusterJob(job_id, (work,) if image_code else (work, code), request)


def code_package() -> Package:
    """The sources that this process runs, as they are on disk now."""
    return _package(
        {
            f"{package}/{file.relative_to(root).as_posix()}": file.read_bytes()
            for package, root in _roots().items()
            for file in sorted(root.rglob("*"))
            if file.is_file() and "__pycache__" not in file.parts
        }
    )


def digest_of(entries: Mapping[str, bytes]) -> str:
    """A hash of all names and contents."""
    found = hashlib.sha256()
    for name in sorted(entries):
        found.update(f"{len(name)}:{name}:{len(entries[name])}:".encode() + entries[name])
    return found.hexdigest()


def _roots() -> dict[str, Path]:
    """Where the packages lie; looking for one imports nothing of it."""
    found = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found[package] = Path(spec.origin).parent
    return found


def _package(entries: Mapping[str, bytes]) -> Package:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name)  # of 1980: the same contents are the same file
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, entries[name])
    return Package(digest_of(entries), buffer.getvalue())
