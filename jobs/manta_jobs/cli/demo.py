"""`manta demo`: all steps on the bundled messages, from tuning to a page in the browser.

Serving and the page run as separate processes, started through the `manta` command. The demo stops them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from manta.cluster.http import http_client
from manta.cluster.ports import check_port
from manta.config.file import load_config
from manta.console import duration, people_table, working
from manta.errors import InputError, RunError
from manta.storage.folders import Storage
from manta_jobs.cli.show_run import model_table, next_commands, show_next, verdict_line
from manta_jobs.cluster.connection import num_cores
from manta_jobs.runs.tune import tune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from manta.config import ExperimentConfig
    from manta_jobs.runs.results import TunedModel

HOST = "127.0.0.1"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
MIN_FREE_BYTES = 3 * 1024**3
SELF_CHECK_TEXTS = (
    "The parcel was promised for Monday and it is Thursday now",
    "cant get in, it says my password is wrong",
    "You took the money twice for one kettle",
)


@dataclass(frozen=True)
class DemoResult:
    """The results and checks of the demo."""

    tuned: TunedModel
    answers: list[tuple[str, str, float]]
    """Text, label and probability of each text that was classified over HTTP."""
    api_url: str
    page_url: str
    wall_s: float


def demo_config(*, overrides: list[str] | None = None) -> ExperimentConfig:
    """Return the experiment that the demo runs. Its file is a good starting point for new ones."""
    import importlib.resources

    with importlib.resources.as_file(importlib.resources.files("manta") / "samples" / "support.yaml") as path:
        return load_config(path, overrides=overrides)


def demo(config: ExperimentConfig, *, console: Console, api_port: int, page_port: int, once: bool) -> DemoResult:
    """Tune, register, serve, classify over HTTP and open the page. Keep running until Ctrl-C unless `once`.

    Raises:
        InputError: a port is taken or there is too little disk space.
        RunError: a step failed.
    """
    started = time.monotonic()
    storage = Storage.resolve(config.storage)
    preflight(storage, ports=(api_port, page_port), console=console)
    tuned = tune(config, console=console)
    api_url, page_url = f"http://{HOST}:{api_port}", f"http://{HOST}:{page_port}"
    logs = tuned.model.run.path
    for number in (signal.SIGINT, signal.SIGTERM):  # either one stops the services below, in place of Ray's handlers
        signal.signal(number, signal.default_int_handler)
    with ExitStack() as stack:
        serve_command = ["serve", tuned.model.version.name, "--host", HOST, "--port", str(api_port)]
        stack.enter_context(
            service(serve_command, log=logs / "serve.log", url=f"{api_url}/readyz", storage=storage, console=console)
        )
        answers = [classify(api_url, text) for text in SELF_CHECK_TEXTS]
        ui_command = ["ui", "--api", api_url, "--host", HOST, "--port", str(page_port)]
        stack.enter_context(service(ui_command, log=logs / "ui.log", url=page_url, storage=storage, console=console))
        result = DemoResult(tuned, answers, api_url, page_url, time.monotonic() - started)
        show(result, console)
        if not once:
            console.print("Ctrl-C stops the API and the page; the model stays registered.")
            with suppress(KeyboardInterrupt):
                signal.pause()
    return result


def preflight(storage: Storage, *, ports: tuple[int, ...], console: Console) -> None:
    """Check the ports and the free disk space before work starts.

    Raises:
        InputError: a port is taken or there is too little disk space.
    """
    for port in ports:
        check_port(HOST, port)
    existing = next(folder for folder in (storage.root, *storage.root.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < MIN_FREE_BYTES:
        raise InputError(
            f"{storage.root} has {free_bytes / 1024**3:.1f} GiB free; the demo needs 3. Set MANTA_STORAGE to another disk."
        )
    console.print(f"Preflight: {num_cores()} cores, {free_bytes / 1024**3:.0f} GiB free at {storage.root}, ports free")


@contextmanager
def service(command: list[str], *, log: Path, url: str, storage: Storage, console: Console) -> Iterator[None]:
    """Run `manta COMMAND` as a separate process while the body runs. It is ready when `url` responds.

    Raises:
        RunError: it ended or timed out before it responded; the message says why.
    """
    environment = os.environ | {"MANTA_STORAGE": str(storage.root)}
    environment.pop("RAY_ADDRESS", None)
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603  # our own command
            [sys.executable, "-m", "manta.cli", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        with working(console, f"Starting manta {command[0]}"):
            _wait_until_ready(process, url, log)
        yield
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            raise RunError(f"manta {log.stem} ended at once: {lines[-1] if lines else 'no output'} (all of it: {log})")
        with suppress(httpx.HTTPError), http_client(url, timeout_s=5.0) as client:
            if client.get(url).is_success:
                return
        time.sleep(0.25)
    raise RunError(f"{url} did not answer within {START_TIMEOUT_S:.0f} s; see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def classify(api_url: str, text: str) -> tuple[str, str, float]:
    """Classify one text through the API, and return text, label and probability."""
    with http_client(api_url, timeout_s=60.0) as client:
        prediction: dict[str, Any] = client.post("/v1/classify", json={"texts": [text]}).raise_for_status().json()["predictions"][0]
    return text, str(prediction["label"]), float(prediction["score"])


def show(result: DemoResult, console: Console) -> None:
    """Print the closing table."""
    model = result.tuned.model
    console.print(verdict_line(model))
    answers = people_table("text", "label", "probability", title="Classified over HTTP")
    for text, label, score in result.answers:
        answers.add_row(text, label, f"{score:.2f}")
    console.print(answers)
    table = model_table(model, report=str(result.tuned.page))
    table.add_row("best config", str(result.tuned.best_config_path))
    table.add_row("API", f"{result.api_url} (docs at /docs)")
    table.add_row("page", result.page_url)
    table.add_row("demo took", duration(result.wall_s))
    console.print(table)
    again = (f"manta train {result.tuned.best_config_path}", "repeat the best trial")
    show_next([*next_commands(model.promotion, experiment=None), again], console)
