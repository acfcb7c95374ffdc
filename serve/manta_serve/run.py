"""Start the application, say where it answers, and stay until told to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING

from manta.config import ServeConfig
from manta.errors import InputError, RunError
from manta.ports import check_port
from manta.registry import ModelRegistry, RegisteredVersion
from manta.storage import Storage

if TYPE_CHECKING:
    from rich.console import Console


def run_server(name: str | None, *, storage: str | None, config: ServeConfig, console: Console) -> None:
    """Serve a model's champion until SIGINT or SIGTERM.

    It runs on the Ray cluster at $RAY_ADDRESS, else on one of its own on this machine.

    Raises:
        InputError: there is no such model, or the port is taken.
        RunError: the model did not load.
    """
    root = Storage.resolve(storage)
    version = champion_of(root, name)
    check_port(config.host, config.port)

    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    from manta_serve.app import ServeArguments, build

    num_cpus = max(1, len(os.sched_getaffinity(0)) // config.num_replicas)
    arguments = ServeArguments(model=version.name, storage=str(root.root), num_replicas=config.num_replicas, num_cpus=num_cpus)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ray.init(
        address=os.environ.get("RAY_ADDRESS") or "local",
        include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        with console.status(f"Loading {version.name} version {version.version}"):
            serve.start(http_options=HTTPOptions(host=config.host, port=config.port))
            try:
                serve.run(build(arguments), name="manta", route_prefix="/")
            except RuntimeError as error:
                raise RunError(f"{version.name} version {version.version} did not start: {error}") from error
        url = f"http://{config.host}:{config.port}"
        # Set after Ray has started, which puts handlers of its own in place.
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        console.print(f"{version.name} version {version.version} answers at {url} (try it at {url}/docs). Ctrl-C stops it.")
        stop.wait()
        console.print("Stopping.")
    finally:
        if os.environ.get("RAY_ADDRESS"):
            serve.delete("manta")  # the cluster is not ours: leave what else it serves alone
        else:
            serve.shutdown()
        ray.shutdown()


def champion_of(storage: Storage, name: str | None) -> RegisteredVersion:
    """The champion of the named model, or of the only one there is.

    Raises:
        InputError: it cannot be told which model is meant, or it has no champion.
    """
    registry = ModelRegistry(storage)
    if name is None:
        names = sorted({version.name for version in registry.versions()})
        if len(names) != 1:
            known = f"there are {', '.join(names)}; name one" if names else "there are none; run `manta train` first"
            raise InputError(f"which model? In {storage.root} {known}.")
        name = names[0]
    return registry.get(name)
