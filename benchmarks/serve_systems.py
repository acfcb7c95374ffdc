"""Starts the servers of `serve.py`, one at a time, each in processes of its own; and the forward pass without a server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from machine import environment
from predict import with_formats
from serve_load import Target
from systems import SystemFailedError, finished

FORMATS = {"manta": ("openvino-fp32",), "manta-int8": ("openvino-int8",)}
MANTA = [f"{name}{profile}" for name in FORMATS for profile in ("", "-production")]
NAME = "bench"
START_LIMIT_S, STOP_LIMIT_S = 240.0, 45.0
MAX_TOKENS = 512


def of_manta(model: Path, name: str, target: Path) -> Path:
    """A copy of a model with only the formats that a system is to use, cut at as many tokens as the pipelines cut at.

    Raises:
        SystemFailedError: eight-bit integers are asked for and the model has no such format, or it was refused.
    """
    try:
        copy = with_formats(model, FORMATS[name], target)
    except SystemFailedError:
        if name != "manta":
            raise
        copy = with_formats(model, (), target.with_name("safetensors"))  # float32 without OpenVINO
    manifest = json.loads((copy / "manta.json").read_text(encoding="utf-8"))
    manifest["max_length"] = MAX_TOKENS
    (copy / "manta.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return copy


def forward_alone(model: Path, texts: list[str], *, num_threads: int) -> float:
    """Texts a second that the predictor answers when it has them all at once.

    Raises:
        SystemFailedError: it failed.
    """
    code = (
        "import json, sys, time, torch; from pathlib import Path; from manta.inference.artifact import ModelArtifact; "
        "from manta.inference.predictor import Predictor; torch.set_num_threads(int(sys.argv[2])); texts = json.load(sys.stdin); "
        "predictor = Predictor(ModelArtifact.load(Path(sys.argv[1])), device='cpu'); predictor.predict(texts[:64]); "
        "started = time.perf_counter(); predictor.predict(texts); print(len(texts) / (time.perf_counter() - started))"
    )
    command = [sys.executable, "-c", code, str(model), str(num_threads)]
    done = subprocess.run(
        command, input=json.dumps(texts[:2000]), env=environment(num_threads), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemFailedError(done.stderr[-500:])
    return float(done.stdout)


@contextmanager
def running(
    system: str, model: Path, folder: Path, *, num_threads: int, settings: dict[str, Any] | None = None
) -> Iterator[tuple[psutil.Process, Target]]:
    """A server, from when it answers until the body ends. `settings` are those of `serve`, for Manta.

    Raises:
        SystemFailedError: it did not start.
    """
    port, key = free_port(), None
    variables = environment(num_threads)
    variables.pop("RAY_ADDRESS", None)
    if system in MANTA:
        variables["MANTA_STORAGE"] = str(folder / "storage")
        profile = "production" if system.endswith("-production") else "laptop"
        key = register(model, variables)
        experiment = folder / "bench.yaml"  # JSON is YAML, too
        name = json.loads((model / "manta.json").read_text(encoding="utf-8"))["name"]
        document = {"name": name, "data": {"train": "none.csv"}, "storage": variables["MANTA_STORAGE"], "serve": settings or {}}
        experiment.write_text(json.dumps(document), encoding="utf-8")
        command = [sys.executable, "-m", "manta.cli", "serve", str(experiment), "--profile", profile, "--port", str(port)]
        target = Target(port, "/v1/classify", key)
    else:
        script = Path(__file__).with_name("serve_peers.py")
        command = [sys.executable, str(script), system, str(model), str(port), str(num_threads)]
        target = Target(port, "/predict")
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output, start_new_session=True)
    server = psutil.Process(process.pid)
    try:
        wait_until_it_answers(process, target, log)
        yield server, target
    finally:
        started = server.children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in psutil.wait_procs(started, timeout=10)[1]:
            child.kill()


def register(model: Path, variables: dict[str, str]) -> str:
    """Make a model the champion of a storage of its own; an API key for it."""
    code = (
        "import sys; from pathlib import Path; from manta.inference.artifact import ModelArtifact; "
        "from manta.registry.models import ModelRegistry; "
        "from manta.storage.folders import Storage; from manta.registry.tracking import RunTracker; "
        "from manta_serve.access.keys import KeyStore; "
        f"storage = Storage.resolve(None); tracker = RunTracker(storage); tracker.start('run', experiment='{NAME}', config={{}}); "
        "registry = ModelRegistry(storage); artifact = ModelArtifact.load(Path(sys.argv[1])); "
        f"registry.register(artifact, run_id=tracker.run_id); version = registry.versions()[0]; registry.set_champion(version); "
        "print(KeyStore(storage).create('bench'))"
    )
    return finished([sys.executable, "-c", code, str(model)], variables)[0].split()[-1]


def wait_until_it_answers(process: subprocess.Popen[bytes], target: Target, log: Path) -> None:
    """Until one sentence is answered.

    Raises:
        SystemFailedError: the server ended, or took too long.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {target.key}"} if target.key else {})
    url = f"http://127.0.0.1:{target.port}{target.path}"
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            request = urllib.request.Request(url, data=b'{"texts": ["a fine film"]}', headers=headers)
            with urllib.request.urlopen(request, timeout=30):  # noqa: S310  # our own http address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise SystemFailedError(lines[-1] if lines else "it did not answer")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
