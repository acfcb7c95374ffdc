"""The format that `auto` takes: timed here, remembered, and always one that works."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from manta.errors import InputError
from manta.inference import fastest
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import with_formats as with_records
from manta.inference.artifact_writing import with_golden
from manta.inference.formats import CPU_FORMATS, FORMAT_FILES, GPU_FORMAT, SAFETENSORS, InferenceFormat
from manta.inference.golden import GoldenPredictions
from manta.inference.predictor import Predictor, chosen_format
from manta_jobs.packaging.golden import record_golden

from ..conftest import PAIRS

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(autouse=True)
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "TIMING_S", 0.0)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "fastest-format"


@pytest.fixture
def copied(with_formats: ModelArtifact, tmp_path: Path) -> ModelArtifact:
    return ModelArtifact.load(Path(shutil.copytree(with_formats.path, tmp_path / "model")))


def seconds_of(artifact: ModelArtifact) -> dict[Any, float]:
    tokenizer: Any = Predictor(artifact, device="cpu", format=SAFETENSORS)._tokenizer
    return fastest._Timing(artifact, tokenizer, num_threads=1).of([SAFETENSORS, *CPU_FORMATS])


def test_the_fastest_is_taken_and_remembered_for_all_processes_of_the_machine(with_formats: ModelArtifact, cache: Path) -> None:
    first = Predictor(with_formats, device="cpu")
    (memory,) = cache.iterdir()
    found = json.loads(memory.read_text())
    assert set(found["seconds"]) == {SAFETENSORS, *CPU_FORMATS}
    assert first.format == found["format"] == min(found["seconds"], key=found["seconds"].__getitem__)
    other = next(name for name in CPU_FORMATS if name != first.format)
    memory.write_text(json.dumps({"format": other, "seconds": {}}))
    again = Predictor(with_formats, device="cpu")
    assert again.format == other
    np.testing.assert_allclose(again.logits(PAIRS), first.logits(PAIRS), rtol=0, atol=1.0)


def test_of_two_processes_that_choose_at_once_the_first_decides(cache: Path) -> None:
    names: Any = [SAFETENSORS, *CPU_FORMATS]
    assert fastest._remember(cache / "key.json", names, best="openvino-int8", seconds={}) == "openvino-int8"
    assert fastest._remember(cache / "key.json", names, best="openvino-fp32", seconds={}) == "openvino-int8"
    assert [path.name for path in cache.iterdir()] == ["key.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"format": "onnx-int8"}', "\x00"])
def test_a_memory_that_cannot_be_used_is_replaced(with_formats: ModelArtifact, cache: Path, content: str) -> None:
    Predictor(with_formats, device="cpu")
    (memory,) = cache.iterdir()
    memory.write_text(content)
    assert Predictor(with_formats, device="cpu").format == json.loads(memory.read_text())["format"]


def test_a_cache_that_cannot_be_written_keeps_nothing_and_stops_nothing(
    with_formats: ModelArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "file" / "cache"))
    assert Predictor(with_formats, device="cpu").predict(PAIRS[:1])


def test_another_processor_engine_or_architecture_is_timed_anew(
    with_formats: ModelArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: Any = [SAFETENSORS, *CPU_FORMATS]
    here = fastest._key(with_formats, names)
    assert fastest._key(with_formats, names[:2]) != here
    other = with_formats.manifest.model_copy(update={"files": {"config.json": "0"}})
    assert fastest._key(ModelArtifact(with_formats.path, other), names) != here
    monkeypatch.setattr(fastest, "_processor", lambda: "another")
    assert fastest._key(with_formats, names) != here


def test_without_openvino_the_safetensors_answer(with_formats: ModelArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it fails, as where there is no wheel of it
    assert Predictor(with_formats, device="cpu").format == SAFETENSORS
    with pytest.raises(InputError, match=r"the inference format openvino-int8 needs a package that is not installed \(.*openvino"):
        Predictor(with_formats, device="cpu", format="openvino-int8")


def test_a_format_that_answers_otherwise_on_this_machine_takes_no_part(
    copied: ModelArtifact, caplog: pytest.LogCaptureFixture
) -> None:
    golden = record_golden(copied, PAIRS[:4])
    assert set(seconds_of(with_golden(copied, golden))) == {SAFETENSORS, *CPU_FORMATS}
    turned = tuple(row[::-1] for row in golden.probabilities["openvino-int8"])
    other = GoldenPredictions(texts=golden.texts, probabilities={**golden.probabilities, "openvino-int8": turned})
    assert set(seconds_of(with_golden(copied, other))) == {SAFETENSORS, "openvino-fp32"}
    assert "the inference format openvino-int8 of desk is not used: " in caplog.text
    assert "of its 4 golden predictions come out otherwise as openvino-int8" in caplog.text


def test_a_format_that_does_not_load_takes_no_part(copied: ModelArtifact) -> None:
    (copied.path / "model-int8.xml").write_bytes(b"no graph")
    assert set(seconds_of(copied)) == {SAFETENSORS, "openvino-fp32"}


@pytest.mark.parametrize(
    ("name", "on_cpu", "message"),
    [
        ("onnx-fp16", True, "inference format onnx-fp16: unknown; known ones are auto, safetensors, openvino-fp32, openvino-int8"),
        ("onnx-fp32", True, "inference format onnx-fp32: no longer computed; use auto"),
        ("openvino-fp32", False, "runs on a CPU only"),
    ],
)
def test_a_format_that_cannot_be_had_is_refused(with_formats: ModelArtifact, name: Any, on_cpu: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen_format(with_formats, name, on_cpu=on_cpu)


def test_a_gpu_takes_its_own_format_where_it_was_accepted_and_has_instructions_for_it(
    with_formats: ModelArtifact, copied: ModelArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manta.inference.predictor.gpu_computes_bf16", lambda: True)
    assert chosen_format(with_formats, "auto", on_cpu=False) == SAFETENSORS
    for accepted, expected in ((False, SAFETENSORS), (True, GPU_FORMAT)):
        record = InferenceFormat(name=GPU_FORMAT, file="model.safetensors", accepted=accepted, reason="measured")
        made = with_records(copied, [record], folder=copied.path)
        assert chosen_format(made, "auto", on_cpu=False) == expected
    monkeypatch.setattr("manta.inference.predictor.gpu_computes_bf16", lambda: False)
    assert chosen_format(made, "auto", on_cpu=False) == SAFETENSORS
    with pytest.raises(InputError, match="torch-bf16 runs on a GPU only; use safetensors, or the device cuda"):
        Predictor(made, device="cpu", format=GPU_FORMAT)
    assert Predictor(made, device="cpu").format != GPU_FORMAT


def test_a_model_without_formats_says_so_and_times_nothing(finished: dict[str, Any], cache: Path) -> None:
    with pytest.raises(InputError, match="has no inference format openvino-int8; use safetensors"):
        Predictor(finished["binary"].artifact, device="cpu", format="openvino-int8")
    assert Predictor(finished["binary"].artifact, device="cpu").format == SAFETENSORS
    assert not cache.exists()


def test_threads_follow_torchs(with_formats: ModelArtifact) -> None:
    forward: Any = Predictor(with_formats, device="cpu", format="openvino-fp32")._forward
    assert forward._request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads() == 1
    forward = Predictor(with_formats, device="cpu", format="openvino-int8", num_threads=2)._forward
    assert forward._request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 2


FIGURES = {"accepted": True, "reason": "", "num_rows": 40, "accuracy": 1.0, "reference_accuracy": 1.0, "examples_per_s": 900.0}
FORMER_RECORDS = {
    "forms": [  # as long as int8 was dynamic
        {"name": "onnx-fp32", "file": "model.onnx", "agreement": 1.0, "reference_examples_per_s": 90.0, **FIGURES},
        {"name": "onnx-int8", "file": "model-int8.onnx", "agreement": 1.0, "reference_examples_per_s": 90.0, **FIGURES},
    ],
    "formats": [  # as long as OpenVINO read the ONNX graph
        {"name": "onnx-fp32", "file": "model.onnx", **FIGURES},
        {"name": "openvino-fp32", "file": "model.onnx", **FIGURES},
        {"name": "openvino-int8", "file": "model-int8.xml", **FIGURES},
    ],
}


@pytest.mark.parametrize(("key", "remaining"), [("forms", []), ("formats", ["openvino-int8"])])
def test_an_artifact_of_an_earlier_version_is_served_in_its_other_formats(
    copied: ModelArtifact, key: str, remaining: list[str]
) -> None:
    """Its ONNX graphs stay in the folder, checked by their sha256, and answer nothing."""
    from manta.inference.artifact import MANIFEST_FILE, file_sha256

    manifest = json.loads((copied.path / MANIFEST_FILE).read_text())
    for name in FORMAT_FILES["openvino-fp32"] if remaining else (file for files in FORMAT_FILES.values() for file in files):
        (copied.path / name).unlink()
        del manifest["files"][name]
    records = FORMER_RECORDS[key]
    del manifest["formats"]
    manifest[key] = records
    rows = [[0.2, 0.3, 0.5]]
    golden = {"format": 1, "texts": [PAIRS[0]], "probabilities": {"safetensors": rows} | {item["name"]: rows for item in records}}
    (copied.path / "golden.json").write_text(json.dumps(golden))
    (copied.path / "model.onnx").write_bytes(b"a graph")
    (copied.path / "model-int8.onnx").write_bytes(b"a graph of dynamic int8")
    for name in ("golden.json", "model.onnx", "model-int8.onnx"):
        manifest["files"][name] = file_sha256(copied.path / name)
    (copied.path / MANIFEST_FILE).write_text(json.dumps(manifest))
    old = ModelArtifact.load(copied.path)
    assert [item.name for item in old.manifest.formats] == remaining
    loaded = old.golden()
    assert loaded is not None
    assert not {"onnx-fp32", "onnx-int8"} & {*loaded.probabilities}
    assert Predictor(old, device="cpu").format in {SAFETENSORS, *remaining}
    with pytest.raises(InputError, match="onnx-fp32: no longer computed"):
        Predictor(old, device="cpu", format="onnx-fp32")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="this model has no inference format openvino-fp32"):
        Predictor(old, device="cpu", format="openvino-fp32")
    (copied.path / "model.onnx").write_bytes(b"altered")
    with pytest.raises(InputError, match=r"model\.onnx: altered"):
        ModelArtifact.load(copied.path)
