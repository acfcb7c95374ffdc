"""Address and token of a cluster, from options, the environment or `~/.config/manta/clusters.yaml`."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from manta.config.file import parse_document, read_text
from manta.config.yaml_model import YamlModel, faults
from manta.config.yaml_text import nearest_place, places_in
from manta.errors import InputError

CLUSTERS_FILE = "~/.config/manta/clusters.yaml"
JOBS_PORT = 8265


class KnownCluster(YamlModel):
    """One cluster of the clusters file."""

    address: str
    """Address of the dashboard, such as http://10.0.0.5:8265."""
    token: str | None = None
    """The cluster's token. Without one, $RAY_AUTH_TOKEN or Ray's token file applies."""


class ClustersFile(YamlModel):
    """The contents of the clusters file."""

    clusters: dict[str, KnownCluster]
    """Clusters by name."""
    default: str | None = None
    """The name of the cluster that is used if none is named."""


@dataclass(frozen=True)
class Connection:
    """The address of a Jobs API, and the token for it."""

    address: str
    """The URL, such as http://10.0.0.5:8265, without a slash at the end."""
    token: str | None
    options: str = ""
    """The options that select this cluster again, for commands that are suggested to the user."""

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers of each request."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def connection(*, cluster: str | None = None, address: str | None = None, token_file: Path | None = None) -> Connection:
    """Return the connection to the selected cluster: from the options, else the environment, else the file's default.

    $MANTA_CLUSTER names a cluster of the file; $RAY_ADDRESS is an address. The token comes from `token_file`, else from the
    cluster's entry, else from Ray's own places: $RAY_AUTH_TOKEN, the file at $RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Raises:
        InputError: no cluster is named, the named one does not exist, or the file is wrong or readable by others.
    """
    if cluster and address:
        raise InputError("--cluster and --address both name a cluster; give one of them.")
    given = " ".join(f"{name} {value}" for name, value in (("--cluster", cluster), ("--address", address)) if value)
    given += f" --token-file {token_file}" if token_file else ""
    name = cluster or (None if address else os.environ.get("MANTA_CLUSTER"))
    where = address or (None if name else os.environ.get("RAY_ADDRESS"))
    known = None if where else _known_cluster(name)
    if known is not None:
        where = known.address
    if where is None:
        raise InputError(
            f"which cluster? Give --address http://HEAD:{JOBS_PORT}, set RAY_ADDRESS, or write {CLUSTERS_FILE} (docs/clusters.md)."
        )
    token = _read_token(token_file) if token_file else (known and known.token) or _token_as_ray()
    return Connection(jobs_address(where), token, given.strip())


def jobs_address(where: str) -> str:
    """Return the URL of the Jobs API.

    Raises:
        InputError: the address is one of Ray's other addresses.
    """
    scheme, separator, rest = where.rpartition("://")
    rest = rest.rstrip("/")
    if separator and scheme not in {"http", "https"}:
        raise InputError(f"{where}: jobs go to the dashboard's address, such as http://{rest.split(':')[0]}:{JOBS_PORT}.")
    if separator:
        return f"{scheme}://{rest}"
    host, colon, port = rest.rpartition(":")
    if not colon:
        host, port = rest, str(JOBS_PORT)
    if port in {"6379", "10001"}:
        raise InputError(f"{where} is not where jobs go; that is the dashboard's address, such as http://{host}:{JOBS_PORT}.")
    return f"http://{host}:{port}"


def _known_cluster(name: str | None) -> KnownCluster | None:
    """Return the named cluster of the file, or its default; None if no cluster is named and there is no file or default."""
    path = Path(CLUSTERS_FILE).expanduser()
    if not path.exists():
        if name:
            raise InputError(f"{name}: no such cluster, as there is no {path}; see docs/clusters.md.")
        return None
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise InputError(f"{path} can be read by others (mode {mode:o}), and it holds tokens; chmod 600 {path}")
    text = read_text(path, what="clusters file")
    try:
        found = ClustersFile.model_validate(parse_document(text, source=str(path), example="clusters: {gpu: {address: …}}"))
    except ValidationError as error:
        places = places_in(text, source=str(path))
        told = (f"{nearest_place(places, name) or path}: {name}: {problem}." for name, problem in faults(error).items())
        raise InputError("\n".join(told)) from None
    name = name or found.default
    if name is None:
        return None
    if name not in found.clusters:
        raise InputError(f"{name}: no such cluster in {path}; it has {', '.join(found.clusters)}.")
    return found.clusters[name]


def _token_as_ray() -> str | None:
    """Return the token from the places where Ray looks for it, in Ray's order."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return _read_token(Path(path))
    default = Path("~/.ray/auth_token").expanduser()
    return _read_token(default) if default.is_file() else None


def _read_token(path: Path) -> str:
    try:
        token = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the token cannot be read ({getattr(error, 'strerror', None) or 'it is not text'}).") from None
    if not token:
        raise InputError(f"{path}: there is no token in it; make one with ray get-auth-token --generate.")
    return token
