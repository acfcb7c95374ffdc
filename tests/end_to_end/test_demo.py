"""The whole way as a user goes it: `manta demo` in a process of its own, its API, its page in a browser, and Ctrl-C."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from manta.cluster.ports import free_ports
from manta.inference.predictor import Predictor
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXTS = ["Where is the parcel that was promised for Monday?", "locked out", "You took my money twice, and the receipt says once!"]
START_TIMEOUT_S = 400


@dataclass(frozen=True)
class Demo:
    """A running `manta demo`."""

    process: subprocess.Popen[str]
    storage: Path
    api: str
    page: str


@pytest.fixture(scope="module")
def demo(tiny_model: Path, listens_to_ctrl_c: Callable[[], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """`manta demo` with the tiny model, up to the open page."""
    folder = tmp_path_factory.mktemp("demo")
    ports = free_ports(2)
    settings = {
        "model.pretrained": tiny_model,
        "model.max_length": 48,
        "train.num_epochs": 1,
        "train.learning_rate": 3e-3,
        "tune.budget.num_trials": 2,
        "registry.fast_formats": "false",
    }
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "manta.cli", "demo", "--json", "--port", str(ports[0]), "--ui-port", str(ports[1]), *overrides]
    environment = os.environ | {"MANTA_STORAGE": str(folder / "storage")}
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            cwd=folder,
            start_new_session=True,
            preexec_fn=listens_to_ctrl_c,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "Ctrl-C stops" not in (folder / "stderr").read_text():
            assert process.poll() is None, (folder / "stderr").read_text()
            assert time.monotonic() < deadline, (folder / "stderr").read_text()
            time.sleep(0.5)
        yield Demo(process, folder / "storage", *(f"http://127.0.0.1:{port}" for port in ports))
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_api_answers_as_the_registered_model_does(demo: Demo) -> None:
    registry = ModelRegistry(Storage(demo.storage))
    artifact = registry.files.fetch(registry.get("demo-support"))
    logits = Predictor(artifact, device="cpu").logits(TEXTS)
    answers = post(f"{demo.api}/v1/classify", {"texts": TEXTS})["predictions"]
    names = artifact.manifest.labels
    for row, answer in zip(logits, answers, strict=True):
        for index, name in enumerate(names):
            odds = math.log(answer["scores"][name] / answer["scores"][names[0]])
            assert odds == pytest.approx(float(row[index] - row[0]), abs=1e-4)


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_api_and_page_listen_on_this_machine_only(demo: Demo) -> None:
    ports = {int(url.rsplit(":", 1)[1]) for url in (demo.api, demo.page)}
    listening = [item.laddr for item in psutil.net_connections("tcp") if item.status == psutil.CONN_LISTEN]
    found = {(address.ip, address.port) for address in listening if address.port in ports}
    assert found == {("127.0.0.1", port) for port in ports}


@pytest.mark.ray
@pytest.mark.page
@pytest.mark.timeout(180)
def test_a_person_types_a_text_and_reads_the_label(demo: Demo) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    expected = post(f"{demo.api}/v1/classify", {"texts": [TEXTS[0]]})["predictions"][0]
    requested: list[str] = []
    faults: list[str] = []
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        page.on("request", lambda request: requested.append(request.url))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(demo.page)
        champion = ModelRegistry(Storage(demo.storage)).get("demo-support").version
        expect(page.locator("#model")).to_contain_text(f"demo-support version {champion}: 8 labels", timeout=30_000)
        page.locator("#text textarea").fill(TEXTS[0])
        page.locator("#classify").click()
        verdict = expected["label"] if not expected["uncertain"] else "Not sure"
        expect(page.locator("#answer .manta-label")).to_have_text(verdict, timeout=30_000)
        expect(page.locator("#answer .manta-bars")).to_contain_text(expected["label"])
        # An example from the model's own rows, by a click.
        example = page.locator("#examples button").first
        example.click()
        expect(page.locator("#text textarea")).to_have_value(json.loads(example.get_attribute("data-texts") or "")[0])
        browser.close()
    assert faults == []
    assert [url for url in requested if not url.startswith((demo.page, "data:", "blob:"))] == []


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_ctrl_c_ends_everything_the_demo_started(demo: Demo) -> None:
    """Comes last: it ends the demo of this module."""
    started = psutil.Process(demo.process.pid).children(recursive=True)
    assert started
    demo.process.send_signal(signal.SIGINT)
    output, _ = demo.process.communicate(timeout=90)
    assert demo.process.returncode == 0
    result = json.loads(output)
    assert result["model"] == "demo-support"
    assert result["num_trials"] == 2
    assert result["version"] == 2  # the linear model, which answered first, is version 1
    assert result["answering"] == (2 if result["promotion"]["promoted"] else 1)
    assert 0 < result["first_answer_s"] < result["wall_s"]
    assert Path(result["artifact"], "manta.json").is_file()
    assert len(result["answers"]) == 3
    _, alive = psutil.wait_procs(started, timeout=20)
    assert [process.name() for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
