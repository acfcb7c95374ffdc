"""A job for a Ray cluster: its code, its files and its request to the Jobs API.

A package is a zip file named by the hash of its contents. So a cluster receives the same package only once, and edited code is
always a new package. The command line and the page build their jobs here.
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
"""The lowest supported version, and the first one that is not supported: `requires-python` of the package."""
PACKAGES = ("manta", "manta_jobs")
START_SCRIPT = "job_start.py"
INPUTS = "{inputs}"
"""Placeholder for the folder of a job's files; only the running job knows its path."""
MARK = "MANTA-JOB "
"""Prefix of the output line in which a job reports its result. START_SCRIPT imports nothing of this package and repeats the
value."""


@dataclass(frozen=True)
class Package:
    """A zip file that Ray stores under the hash of its contents."""

    digest: str
    content: bytes

    @property
    def name(self) -> str:
        """The package's name on the cluster."""
        return f"_ray_pkg_{self.digest[:32]}.zip"

    @property
    def uri(self) -> str:
        """The package's URI in a runtime environment."""
        return f"gcs://{self.name}"


@dataclass(frozen=True)
class ClusterJob:
    """A job that is ready to be submitted."""

    id: str
    packages: tuple[Package, ...]
    """The packages that the cluster must have before the job is submitted."""
    request: dict[str, Any]
    """The request to the Jobs API."""


def cluster_job(
    verb: str,
    params: Mapping[str, Any],
    *,
    name: str,
    files: Mapping[str, bytes],
    storage: str | None = None,
    image_code: bool = False,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
) -> ClusterJob:
    """Build a job that calls a verb's function with `params`. `files` are put into the job's folder under their names.

    The job's id starts with `name`. `storage` is where the job keeps its files; the cluster's own storage unless given. With
    `image_code` no code is sent; the job checks that the cluster has the same code. `environment` are variables of the job's
    processes. `user` is who starts it, if that is known.
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
        "metadata": {"manta_verb": verb, "manta_code": code.digest[:16]} | ({"manta_user": user} if user else {}),
    }
    return ClusterJob(job_id, (work,) if image_code else (work, code), request)


def code_package() -> Package:
    """Return a package of the sources that this process runs, as they are on disk now."""
    return _package(
        {
            f"{package}/{file.relative_to(root).as_posix()}": file.read_bytes()
            for package, root in _roots().items()
            for file in sorted(root.rglob("*"))
            if file.is_file() and "__pycache__" not in file.parts
        }
    )


def digest_of(entries: Mapping[str, bytes]) -> str:
    """Return a hash of all names and contents."""
    found = hashlib.sha256()
    for name in sorted(entries):
        found.update(f"{len(name)}:{name}:{len(entries[name])}:".encode() + entries[name])
    return found.hexdigest()


def _roots() -> dict[str, Path]:
    """Return the folder of each package, without importing it."""
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
            info = zipfile.ZipInfo(name)  # dated 1980, so that the same contents give the same file
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, entries[name])
    return Package(digest_of(entries), buffer.getvalue())
