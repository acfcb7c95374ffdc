"""`manta demo`: all steps on the bundled messages, from a first model to a tuned one behind the API and the page.

A linear model answers first, as it takes seconds. The search goes on behind it, and the service changes to the tuned model once
the registry promotes it. Serving and the page run as separate processes, started through the `manta` command. The demo stops them.
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
from manta_jobs.registry.promotion import outcome_lines
from manta_jobs.runs.train import train
from manta_jobs.runs.tune import tune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from manta.config import ExperimentConfig
    from manta.registry.versions import RegisteredVersion
    from manta_jobs.registry.promotion import Promotion
    from manta_jobs.runs.results import TrainedModel, TunedModel

HOST = "127.0.0.1"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
TAKEOVER_TIMEOUT_S = 60.0
"""Longest time until the service answers with the promoted version. It looks into the registry every two seconds."""
MIN_FREE_BYTES = 3 * 1024**3
QUICKLY = {"train.method": "linear", "registry.fast_formats": False}
"""Settings of the first model. It needs no faster formats, as a tuned one soon takes its place."""
SELF_CHECK_TEXTS = (
    "The parcel was promised for Monday and it is Thursday now",
    "cant get in, it says my password is wrong",
    "You took the money twice for one kettle",
)


@dataclass(frozen=True)
class DemoResult:
    """The results and checks of the demo."""

    first: TrainedModel
    """The linear model that answered while the search ran."""
    first_answer_s: float
    """Seconds until the linear model answered over HTTP."""
    tuned: TunedModel
    answering: int
    """Version that answers at the end: the tuned one, unless the gate refused it."""
    answers: list[tuple[str, str, float]]
    """Text, label and probability of each text that was classified over HTTP by that version."""
    api_url: str
    page_url: str
    wall_s: float


def demo_config(*, overrides: list[str] | None = None) -> ExperimentConfig:
    """Return the experiment that the demo runs. Its file is a good starting point for new ones."""
    import importlib.resources

    with importlib.resources.as_file(importlib.resources.files("manta") / "samples" / "support.yaml") as path:
        return load_config(path, overrides=overrides)


def demo(config: ExperimentConfig, *, console: Console, api_port: int, page_port: int, once: bool) -> DemoResult:
    """Train a linear model, serve it and open the page; then tune, and wait until the better model answers.

    Keep running until Ctrl-C unless `once`.

    Raises:
        InputError: a port is taken or there is too little disk space.
        RunError: a step failed.
    """
    started = time.monotonic()
    storage = Storage.resolve(config.storage)
    preflight(storage, ports=(api_port, page_port), console=console)
    api_url, page_url = f"http://{HOST}:{api_port}", f"http://{HOST}:{page_port}"
    first = train(config.with_values(QUICKLY), console=console)
    logs = first.run.path
    stop_by_exception()
    with ExitStack() as stack:
        serve_command = ["serve", first.version.name, "--host", HOST, "--port", str(api_port)]
        stack.enter_context(
            service(serve_command, log=logs / "serve.log", url=f"{api_url}/readyz", storage=storage, console=console)
        )
        classify(api_url, SELF_CHECK_TEXTS[0])
        first_answer_s = time.monotonic() - started
        ui_command = ["ui", "--api", api_url, "--host", HOST, "--port", str(page_port)]
        stack.enter_context(service(ui_command, log=logs / "ui.log", url=page_url, storage=storage, console=console))
        console.print(f"{champion_after(first.promotion)} answers at {page_url}. A search for a better model follows.")
        tuned = tune(config, console=console)
        stop_by_exception()
        answering = champion_after(tuned.model.promotion).version
        with working(console, f"Waiting until version {answering} answers"):
            _wait_for_version(api_url, answering)
        answers = [classify(api_url, text) for text in SELF_CHECK_TEXTS]
        result = DemoResult(first, first_answer_s, tuned, answering, answers, api_url, page_url, time.monotonic() - started)
        show(result, console)
        if not once:
            console.print("Ctrl-C stops the API and the page; the models stay registered.")
            with suppress(KeyboardInterrupt):
                signal.pause()
    return result


def champion_after(promotion: Promotion) -> RegisteredVersion:
    """Return the version that is served after a decision. A demo's models have a champion from the first one on."""
    return promotion.version if promotion.champion is None or promotion.promoted else promotion.champion


def stop_by_exception() -> None:
    """Make Ctrl-C and SIGTERM raise KeyboardInterrupt, in place of Ray's handlers, so that the services are stopped."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _wait_for_version(api_url: str, version: int) -> None:
    """Wait until the service answers with a version.

    Raises:
        RunError: it still answers with another one.
    """
    deadline = time.monotonic() + TAKEOVER_TIMEOUT_S
    with http_client(api_url, timeout_s=60.0) as client:
        while (found := client.get("/v1/model").raise_for_status().json()["version"]) != version:
            if time.monotonic() > deadline:
                raise RunError(f"{api_url} answers with version {found}, not with the champion, version {version}.")
            time.sleep(0.5)


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
    for line in outcome_lines(model.promotion):
        console.print(line)
    answers = people_table("text", "label", "probability", title=f"Classified over HTTP by version {result.answering}")
    for text, label, score in result.answers:
        answers.add_row(text, label, f"{score:.2f}")
    console.print(answers)
    table = model_table(model, report=str(result.tuned.page))
    table.add_row("best config", str(result.tuned.best_config_path))
    table.add_row("API", f"{result.api_url} (docs at /docs)")
    table.add_row("page", result.page_url)
    table.add_row("first answer", f"after {duration(result.first_answer_s)}, by {champion_after(result.first.promotion)}")
    table.add_row("demo took", duration(result.wall_s))
    console.print(table)
    again = (f"manta train {result.tuned.best_config_path}", "repeat the best trial")
    show_next([*next_commands(model.promotion, experiment=None), again], console)
