"""All checks together, and `manta preflight`, `train` and `tune`: what they print, leave with and keep."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rich.console import Console

from manta.cli import main
from manta.console import people_console
from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta_jobs.cluster.connection import Cluster, WorkerResources
from manta_jobs.preflight import checks
from manta_jobs.preflight import run as preflight
from manta_jobs.preflight.checks import Check
from manta_jobs.preflight.probe import ProbeError, ProbeResult
from manta_jobs.preflight.run import Preflight, examine, kept_preflight, load_inputs
from manta_jobs.runs.prepare import prepare

from ..conftest import experiment

if TYPE_CHECKING:
    from manta_jobs.preflight.tokens import TokenSample

NODE = {"CPU": 4.0, "memory": 8e9}
PACE = ProbeResult(
    startup_s=10.0, train_s_per_row=0.02, update_s=0.1, evaluation_s_per_row=0.01, num_rows=9, device="CPU", device_bytes=None
)


def test_a_fault_leaves_out_what_takes_long(three_classes: Path, tiny_model: Path) -> None:
    inputs = load_inputs(experiment(three_classes, tiny_model))
    good = examine(inputs, cluster=Cluster([NODE]), searches=True)
    assert [
        check.name for check in good.checks
    ] == "data labels tokens method encoder workers batch search disk registry memory baseline".split()
    good.refuse()
    linear = examine(load_inputs(experiment(three_classes, tiny_model, method="linear")), cluster=Cluster([NODE]), searches=False)
    assert [check.name for check in linear.checks] == "data labels tokens method workers disk registry baseline".split()
    assert linear.memory is None
    method = next(check for check in linear.checks if check.name == "method")
    unread = "model.dropout, train.learning_rate, train.num_epochs, train.batch_size have no effect on these methods"
    assert (method.status, unread in method.words, good.checks[3].status) == ("warning", True, "OK")
    assert good.baseline is not None
    bad = examine(inputs, cluster=Cluster([{"CPU": 1.0, "memory": 8e9}]), searches=True)
    assert bad.baseline is None
    with pytest.raises(InputError, match=r"train\.num_workers is 2 with 1 CPU each, but the cluster has 1 CPU"):
        bad.refuse()


def test_a_gpus_memory_is_known_once_a_worker_has_seen_it(three_classes: Path, tiny_model: Path) -> None:
    inputs = load_inputs(experiment(three_classes, tiny_model))
    cluster = Cluster([NODE | {"GPU": 2.0}])
    before = examine(inputs, cluster=cluster, searches=False)
    assert "a GPU's memory is looked at" in next(check.words for check in before.checks if check.name == "memory")
    pace = dataclasses.replace(PACE, device="a GPU", device_bytes=1000)
    after = examine(inputs, cluster=cluster, searches=False, probe=lambda sample, resources: pace)
    assert [check.name for check in after.faults] == ["memory"]
    assert after.time is not None


def test_a_probe_without_figures_is_a_warning(three_classes: Path, tiny_model: Path) -> None:
    def lost(sample: TokenSample, resources: WorkerResources) -> ProbeResult:
        raise ProbeError("no worker could be timed within 120 s; the cluster may be busy")

    found = examine(load_inputs(experiment(three_classes, tiny_model)), cluster=Cluster([NODE]), searches=False, probe=lost)
    said = next(check for check in found.checks if check.name == "time")
    assert said == Check(
        "time", "warning", "the time is not known: no worker could be timed within 120 s; the cluster may be busy."
    )


def test_only_concerns_and_the_baseline_are_said_before_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = (Check("data", "warning", "said before"), Check("disk", "OK", "fine"), Check("tokens", "warning", "[all] cut"))
    preflight.show_concerns(Preflight((*found, Check("baseline", "OK", "0.9."))), people_console())
    assert capsys.readouterr().err == "Warning: tokens: [all] cut\nTo beat: 0.9.\n"


def test_a_run_keeps_what_was_known_before_it(three_classes: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = prepare(experiment(three_classes, tiny_model), verb="train", console=people_console())
    kept = kept_preflight(prepared.folder)
    assert kept["baseline"]["test"]["accuracy"] > 0.8
    assert kept["memory"]["needed"] > 0
    assert kept["can_work"]
    assert "To beat: TF-IDF with logistic regression reaches" in capsys.readouterr().err
    (prepared.folder.path / preflight.PREFLIGHT_FILE).unlink()
    assert kept_preflight(prepared.folder) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"zero_optimization": {"reduce_bucket_size": "many"}},
            "train.deepspeed.zero_optimization.reduce_bucket_size: 'many' is wrong: input should be a valid integer",
        ),
        ({"tensorboard": {"enabled": True, "x": 2}}, "train.deepspeed.tensorboard.x: 2 is wrong: extra inputs are not permitted"),
        ({"flops_profiler": 3}, "train.deepspeed.flops_profiler: DeepSpeed cannot use 3 (AttributeError: "),
    ],
)
def test_what_deepspeed_refuses_is_one_sentence_before_anything_starts(
    three_classes: Path, tiny_model: Path, own_storage: Path, settings: dict[str, Any], message: str
) -> None:
    config = experiment(three_classes, tiny_model, deepspeed=settings)
    with pytest.raises(InputError) as caught:
        prepare(config, verb="train", console=people_console())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
    assert not own_storage.exists()


def test_settings_that_deepspeed_takes_are_no_fault(three_classes: Path, tiny_model: Path) -> None:
    load_inputs(experiment(three_classes, tiny_model, deepspeed={"zero_optimization": {"reduce_bucket_size": 5e8}}))


# The command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["manta", *arguments])
    try:
        main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def written(folder: Path, data: Path, model: Path, **train: Any) -> str:
    data_settings = {"train": str(data), "validation_fraction": 0.1}
    document = {"name": "tiny", "data": data_settings, "model": {"pretrained": str(model), "max_length": 32}, "train": train}
    document["registry"] = {"fast_formats": False}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("verb", ["preflight", "train", "tune"])
@pytest.mark.parametrize("fault", ["workers", "disk", "memory", "registry"])
def test_what_cannot_work_leaves_with_2_and_nothing_on_disk(
    verb: str,
    fault: str,
    three_classes: Path,
    tiny_model: Path,
    tmp_path: Path,
    own_storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train: dict[str, Any] = {}
    if fault == "workers":
        train, words = {"num_workers": 2, "cpus_per_worker": 512}, "train.num_workers is 2 with 512 CPU each"
    elif fault == "disk":
        limited = checks.check_disk
        monkeypatch.setattr(checks, "check_disk", lambda *args, **more: limited(*args, **more, free_bytes=1000))
        words = "0.0 MB free"
    elif fault == "memory":
        # Of this machine, and of the session's cluster, which is there when other tests have asked for it before.
        monkeypatch.setattr("manta_jobs.cluster.connection.free_host_memory", lambda: 1_000_000)
        monkeypatch.setattr("manta_jobs.cluster.connection.cluster_nodes", lambda: [{"CPU": 4.0, "memory": 1e6}])
        words = "Not even one row at a time fits"
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        words = "no MLflow server answers"
    assert run(monkeypatch, verb, written(tmp_path, three_classes, tiny_model, **train)) == 2
    output = capsys.readouterr()
    assert words in " ".join(output.err.split())
    assert "Error: " in output.err
    assert "Traceback" not in output.err
    assert output.out == ""
    assert not own_storage.exists()


@pytest.mark.parametrize("verb", ["preflight", "train", "tune"])
@pytest.mark.parametrize("fault", ["missing", "pointer", "cut"])
def test_weights_that_are_not_whole_are_known_before_anything_starts(
    verb: str,
    fault: str,
    three_classes: Path,
    tiny_model: Path,
    tmp_path: Path,
    own_storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = shutil.copytree(tiny_model, tmp_path / "model") / "model.safetensors"
    if fault == "missing":
        weights.unlink()
    else:
        weights.write_bytes(b"version https://git-lfs.github.com/spec/v1" if fault == "pointer" else weights.read_bytes()[:5000])
    assert run(monkeypatch, verb, written(tmp_path, three_classes, weights.parent)) == 2
    error = capsys.readouterr().err
    words = {"missing": "has no weights", "pointer": "is a Git LFS pointer", "cut": "is not a whole file of weights"}[fault]
    assert words in " ".join(error.split())
    assert "Traceback" not in error
    assert not own_storage.exists()


def test_an_encoder_that_needs_more_memory_than_is_free_here_is_not_tried(
    three_classes: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "free_host_memory", lambda: 1_000_000)
    found = examine(load_inputs(experiment(three_classes, tiny_model)), cluster=Cluster([NODE]), searches=False)
    said = next(check for check in found.checks if check.name == "encoder")
    assert (said.status, said.words.partition(":")[0]) == ("warning", "not tried")


def test_json_has_every_check_also_when_something_cannot_work(
    three_classes: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, three_classes, tiny_model, cpus_per_worker=512)
    assert run(monkeypatch, "preflight", path, "--json") == 2
    answer = json.loads(capsys.readouterr().out)
    assert not answer["can_work"]
    assert [check["name"] for check in answer["checks"] if check["status"] == "cannot work"] == ["workers"]


@pytest.mark.timeout(300)
def test_preflight_then_a_run_that_shows_estimate_and_baseline(
    ray_cluster: None,
    three_classes: Path,
    tiny_model: Path,
    tmp_path: Path,
    own_storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("manta_jobs.preflight.probe.TRAIN_S", 0.5)
    path = written(
        tmp_path, three_classes, tiny_model, method="full", num_workers=2, cpus_per_worker=1, num_epochs=1, learning_rate=1e-6
    )
    assert run(monkeypatch, "preflight", path, "--json", "--set", "model.max_length=5", "--set", "train.cost_per_hour=2") == 0
    output = capsys.readouterr()
    answer = json.loads(output.out)
    by_name = {check["name"]: check for check in answer["checks"]}
    assert by_name["tokens"]["status"] == "warning"
    assert "cuts 100.0%" in by_name["tokens"]["words"]
    assert "at ZeRO 0 (auto: everything fits each worker), of" in by_name["memory"]["words"]
    assert answer["time"]["run_s"] > 0
    assert answer["time"]["run_cost"] > 0
    assert "Preflight of tiny" in output.err
    assert not own_storage.exists()

    assert run(monkeypatch, "train", path, "--json") == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    report = json.loads(Path(result["report"]).read_text())
    assert report["baseline"] == result["baseline"]
    assert report["preflight"]["memory"]["needed"] > 0
    assert report["distribution"]["zero_stage"] == 0
    assert "zero_stage: auto" in (Path(result["report"]).parent / "config.yaml").read_text()
    peaks = [worker["peak_bytes"] for worker in report["distribution"]["workers"]]
    assert 0.5 < max(peaks) / report["preflight"]["memory"]["needed"] < 2
    shown = " ".join(output.err.split())
    assert "Training on 2 workers with DeepSpeed; if it is interrupted" in shown
    assert shown.count("The 2 workers train at ZeRO 0 (auto: everything fits each worker).") == 1
    assert f"against {report['baseline']['test']['accuracy']:.4f}." in shown
    assert f"TF-IDF {report['baseline']['test']['f1_macro']:.4f}" in shown
    # So small a learning rate learns nothing, and the last lines say so.
    assert ModelArtifact.load(Path(result["artifact"])).manifest.metrics["accuracy"] < report["baseline"]["test"]["accuracy"]
    assert "Fine-tuning does not beat TF-IDF with logistic regression here" in shown
    assert "The learning rate of 1e-06 is too low for 3 classes in 6 steps" in shown
    assert "• train.learning_rate: " in shown


def test_bytes_are_said_in_two_or_three_digits() -> None:
    said = [checks.bytes_phrase(count) for count in (1_400_000, 45_432_592, 136_297_776, 1_385_497_696, 73.7e9)]
    assert said == ["1.4 MB", "45 MB", "136 MB", "1.4 GB", "73.7 GB"]


def test_the_table_has_a_row_for_each_check() -> None:
    console = Console(record=True, width=120)
    found = (Check("disk", "cannot work", "too [small]."), Check("data", "OK", "fine."))
    preflight.show_preflight(Preflight(found), console, title="Preflight of tiny")
    lines = console.export_text().splitlines()
    assert lines[0].strip() == "Preflight of tiny"
    assert "cannot work" in lines[2]
    assert "too [small]." in lines[2]
