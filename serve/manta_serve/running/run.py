"""Start the application, print its address, and run until it is stopped."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from manta.cluster.ports import check_port, is_loopback
from manta.cluster.ray_start import LOCAL_HOST, starting_ray
from manta.console import working
from manta.errors import InputError, RunError, last_cause
from manta.registry.models import ModelRegistry
from manta.registry.versions import RegisteredVersion
from manta.storage.folders import Storage
from manta_serve.access.keys import KeyStore
from manta_serve.feedback import FeedbackStore
from manta_serve.running.haproxy import haproxy_environment
from manta_serve.running.profiles import ALL_INTERFACES, Ingress, ProfileName, ingress_of

if TYPE_CHECKING:
    from rich.console import Console

    from manta.config import ServeConfig
    from manta_serve.running.app import ServeArguments

APPLICATION = "manta"
OWN_CLUSTER = {
    # Despite its name it also works on Linux: Ray's own ports stay on this machine.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Other users of the machine cannot give this cluster commands.
    "RAY_AUTH_MODE": "token",
}
DRAIN_TIMEOUT_S = 10.0
PORT_IS_TAKEN = ("Failed to bind", "cannot bind socket", "No available ports", "port already in use")
"""Words of Ray's proxy, of HAProxy and of a replica about a port that another process has."""


def run_server(name: str | None, *, storage: str | None, config: ServeConfig, profile: ProfileName, console: Console) -> None:
    """Serve the champions of a model and of `config.models` until SIGINT or SIGTERM. Requests received by then are still answered.

    It runs on the Ray cluster at $RAY_ADDRESS, else on a new one on this machine.

    Raises:
        InputError: there is no such model, the port is taken, or the service would listen beyond this machine without API keys.
        RunError: the model did not load.
    """
    root = Storage.resolve(storage)
    ingress = ingress_of(config, profile)
    check_keys(ingress.host, root)
    config = with_feedback(config, profile=profile, storage=root)
    with working(console, "Looking up the champion"):
        first = champion_of(root, name)
        versions = [first, *(champion_of(root, other) for other in dict.fromkeys(config.models) if other != first.name)]
    check_port(ingress.host, config.port)
    with TemporaryDirectory(prefix="manta-", dir="/tmp") as folder:  # a socket's path is short
        environment = dict(ingress.environment)
        if profile == "production":
            environment |= haproxy_environment(Path(folder))
        if not os.environ.get("RAY_ADDRESS"):
            environment |= OWN_CLUSTER | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.update(environment)  # Ray Serve reads it on import
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        _run(versions, root, config=config, ingress=ingress, console=console)


def _run(versions: list[RegisteredVersion], root: Storage, *, config: ServeConfig, ingress: Ingress, console: Console) -> None:
    with working(console, "Loading Ray Serve"):
        import ray

        from manta_serve.running.app import ServeArguments

    arguments = ServeArguments(
        model=versions[0].name,
        storage=str(root.root),
        num_cpus=max(1, len(os.sched_getaffinity(0)) // config.max_replicas),
        serve=config,
        require_keys=not is_loopback(ingress.host),
    )
    what = " and ".join(f"{version.name} version {version.version}" for version in versions)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS") or None
    with starting_ray(address), working(console, "Starting Ray"):
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"_node_ip_address": LOCAL_HOST}),
        )
    # Set after Ray has started, because Ray installs its own handlers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stop = threading.Event()
    try:
        with working(console, f"Loading {what}"):
            _start(arguments, ingress, what=what)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        url = f"http://{'127.0.0.1' if ingress.host != config.host else config.host}:{config.port}"
        console.print(f"{what} answer{'s' * (len(versions) == 1)} at {url} (try it at {url}/docs). Ctrl-C stops it.")
        for version in versions if config.feedback else []:
            console.print(f"Corrections are kept in {FeedbackStore(root, version.name, max_bytes=0).path}")
        stop.wait()
        console.print("Stopping, once what was asked is answered.")
        _drain(ingress.drain_notice_s)
    finally:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # Ray reports its own shutdown like an error
            _end()


def with_feedback(config: ServeConfig, *, profile: ProfileName, storage: Storage) -> ServeConfig:
    """Return the settings, with feedback on unless they turn it off, if it comes from this machine and stays on it."""
    is_local = profile == "laptop" and storage.url is None and not os.environ.get("RAY_ADDRESS")
    return config if "feedback" in config.model_fields_set or not is_local else config.model_copy(update={"feedback": True})


def _end() -> None:
    import ray
    from ray import serve

    if not os.environ.get("RAY_ADDRESS"):  # otherwise the cluster is shared: leave its other applications alone
        serve.shutdown()
    ray.shutdown()


def _start(arguments: ServeArguments, ingress: Ingress, *, what: str) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions

    from manta_serve.running.app import build

    # On a cluster of one machine, nothing but HAProxy, by its launcher, listens beyond it.
    host = LOCAL_HOST if ingress.host == ALL_INTERFACES and not os.environ.get("RAY_ADDRESS") else ingress.host
    try:
        serve.start(http_options=HTTPOptions(host=host, port=ingress.proxy_port))
    except Exception as error:
        place = f"{ingress.host}:{ingress.proxy_port}"
        _refuse_taken(str(error), place)
        raise RunError(f"Ray Serve did not start at {place} ({last_cause(error)}).") from error
    try:
        serve.run(build(arguments), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        # The error names the deployment only; the deployment has the traceback of each process, and the reason at its end.
        found = serve.status().applications.get(APPLICATION)
        told = "\n".join([str(error), *(item.message for item in (found.deployments.values() if found else ()))]).strip()
        serve.delete(APPLICATION)
        _refuse_taken(told, f"{ingress.host}:{arguments.serve.port}")
        reason = told.splitlines()[-1].strip()
        raise RunError(f"{what} did not start: {reason}") from error


def _refuse_taken(told: str, place: str) -> None:
    """Refuse the port if Ray's error says that it is taken: another process was quicker than our own check."""
    if any(words in told for words in PORT_IS_TAKEN):
        raise InputError(f"{place} is taken; choose another with --port.") from None


def _drain(notice_s: float) -> None:
    """Report not ready, wait until load balancers notice, and end the replicas when all requests in progress are answered."""
    from ray import serve

    try:
        serve.get_app_handle(APPLICATION).broadcast("drain").results(timeout_s=DRAIN_TIMEOUT_S)
        time.sleep(notice_s)
    except Exception:  # a replica that is gone cannot be told; the others still finish their requests
        logging.getLogger(__name__).exception("not every replica could be told to drain")
    serve.delete(APPLICATION)


def check_keys(host: str, storage: Storage) -> None:
    """Refuse to listen beyond this machine while there is no API key.

    Raises:
        InputError: other machines can reach the host, and there is no API key.
    """
    if not is_loopback(host) and not KeyStore(storage).any():
        raise InputError(
            f"the API would listen on {host}, for everybody who reaches this machine, and there is no API key; "
            "make one with: manta keys create NAME"
        )


def champion_of(storage: Storage, name: str | None) -> RegisteredVersion:
    """Return the champion of the named model, or of the only model if no name is given.

    Raises:
        InputError: no name is given and there is not exactly one model, or the model has no champion.
    """
    registry = ModelRegistry(storage, must_exist=True)
    if name is None:
        names = sorted({version.name for version in registry.versions()})
        if len(names) != 1:
            known = f"there are {', '.join(names)}; name one" if names else "there are none; run `manta train` first"
            raise InputError(f"which model? In {storage.root} {known}.")
        name = names[0]
    return registry.get(name)
