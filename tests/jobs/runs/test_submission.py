"""Content and destination of a job, before anything is sent."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from manta.cluster import job as cluster_job
from manta.cluster.connections import CLUSTERS_FILE, connection, jobs_address
from manta.cluster.job import SUPPORTED_PYTHON, code_package
from manta.cluster.jobs_api import JobsApi
from manta.errors import InputError
from manta_jobs.cli.job_start import MARK, placed_inputs
from manta_jobs.cli.submit_commands import check_version, verb_params, whereabouts
from manta_jobs.runs.submission.cargo import packed_inputs
from manta_jobs.runs.submission.follow import Transcript


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    for name in ("MANTA_CLUSTER", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return home


def experiment(folder: Path, **settings: Any) -> Path:
    path = folder / "e.yaml"
    path.write_text(yaml.safe_dump({"name": "far", "data": {"train": "rows.csv"}} | settings))
    (folder / "rows.csv").write_text("text,label\nhello,a\n")
    return path


def clusters_file(home: Path, *, mode: int = 0o600) -> Path:
    path = home / CLUSTERS_FILE.removeprefix("~/")
    path.parent.mkdir(parents=True)
    document = {"default": "gpu", "clusters": {"gpu": {"address": "http://gpu:8265", "token": "secret"}, "cpu": {"address": "cpu"}}}
    path.write_text(yaml.safe_dump(document))
    path.chmod(mode)
    return path


def test_what_a_config_names_travels_and_overrides_are_in_the_config_that_arrives(tmp_path: Path) -> None:
    path = experiment(tmp_path)
    packed, sent, _ = packed_inputs("train", verb_params("train", [str(path), "--set", "train.num_epochs=2"]))
    arrived = yaml.safe_load(packed.texts["e.yaml"])
    assert arrived == {"name": "far", "data": {"train": "0-rows.csv"}, "train": {"num_epochs": 2}}
    assert packed.files == {"0-rows.csv": tmp_path / "rows.csv"}
    assert sent["experiment"] == {"path": "{inputs}/e.yaml"}
    assert sent["set_"] is None


def test_what_lies_in_the_storage_or_only_over_there_stays(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "rows.csv").touch()
    data = {"train": str(shared / "rows.csv"), "test": "s3://bucket/test.csv", "validation": "/only/there.csv"}
    packed, _, storage = packed_inputs("train", {"experiment": experiment(tmp_path, storage=str(shared), data=data)})
    assert packed.files == {}
    assert yaml.safe_load(packed.texts["e.yaml"])["data"] == data
    assert storage == str(shared)


def test_a_registered_model_travels_not_even_if_a_folder_here_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "support").mkdir()
    (tmp_path / "support" / "manta.json").touch()
    monkeypatch.chdir(tmp_path)
    packed, sent, _ = packed_inputs("evaluate", {"model": "support"})
    assert (packed.files, sent["model"]) == ({}, "support")
    packed, sent, _ = packed_inputs("evaluate", {"model": "./support"})
    assert (list(packed.files), sent["model"]) == (["0-support/manta.json"], "{inputs}/0-support")


def test_two_megabytes_travel_and_two_gigabytes_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = experiment(tmp_path)
    os.truncate(tmp_path / "rows.csv", 2 * 10**6)
    assert packed_inputs("train", {"experiment": path})[0].files
    os.truncate(tmp_path / "rows.csv", 2 * 10**9)
    with pytest.raises(InputError, match=r"data.train: .*rows.csv has 2.0 GB .* at most 105 MB; put it on storage .* s3://"):
        packed_inputs("train", {"experiment": path})


def test_what_the_cluster_could_not_find_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"storage runs is relative to this file"):
        packed_inputs("train", {"experiment": experiment(tmp_path, storage="runs")})
    with pytest.raises(InputError, match=r"data.train: .*no.csv does not exist"):
        packed_inputs("train", {"experiment": experiment(tmp_path, data={"train": "no.csv"})})
    with pytest.raises(InputError, match=r"--out answered.csv would lie on some node"):
        packed_inputs("predict", {"model": "desk", "source": "s3://x/y.csv", "out": Path("answered.csv")})
    with pytest.raises(InputError, match=r"serve cannot be submitted; train, tune"):
        verb_params("serve", [])
    with pytest.raises(InputError, match=r"which experiment"):
        verb_params("train", [])


def test_rows_named_on_the_command_line_travel(tmp_path: Path) -> None:
    experiment(tmp_path)
    packed, sent, _ = packed_inputs("evaluate", verb_params("evaluate", ["desk@2", str(tmp_path / "rows.csv")]))
    assert (sent["model"], sent["data"]) == ("desk@2", "{inputs}/0-rows.csv")
    assert list(packed.files) == ["0-rows.csv"]


def test_what_a_job_brings_into_a_bucket_is_found_on_another_node(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, _, storage = packed_inputs("train", {"experiment": experiment(tmp_path, storage=f"{bucket}/manta")})
    assert yaml.safe_load(packed.texts["e.yaml"])["storage"] == storage == f"{bucket}/manta"
    written = tmp_path / "job" / "inputs"
    written.mkdir(parents=True)
    for name, content in packed.contents.items():
        (written / name).write_bytes(content)
    monkeypatch.chdir(written.parent)
    order = {"storage": storage, "inputs": "0123456789abcdef0123", "has_inputs": True}
    placed = Path(placed_inputs(order))
    assert sorted(path.name for path in placed.iterdir()) == ["0-rows.csv", "e.yaml"]
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "elsewhere"))
    found = Path(placed_inputs(order | {"has_inputs": False}))
    assert found != placed
    assert (found / "0-rows.csv").read_bytes() == (placed / "0-rows.csv").read_bytes()


def test_edited_code_is_another_package_and_the_same_code_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = code_package()
    assert code_package() == first
    names = zipfile.ZipFile(io.BytesIO(first.content)).namelist()
    assert {"manta/cli.py", "manta_jobs/cli/job_start.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    for name in ("manta", "manta_jobs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    monkeypatch.setattr(cluster_job, "_roots", lambda: {name: tmp_path / name for name in ("manta", "manta_jobs")})
    before = code_package()
    (tmp_path / "manta" / "__init__.py").write_text("edited = True\n")
    assert code_package().uri != before.uri


def test_an_option_goes_before_the_environment_and_that_before_the_file(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="which cluster"):
        connection()
    clusters_file(own_home)
    assert (connection().address, connection().token) == ("http://gpu:8265", "secret")
    assert connection(cluster="cpu").address == "http://cpu:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265/")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the environment")
    assert (connection().address, connection().token) == ("http://head:8265", "of the environment")
    monkeypatch.setenv("MANTA_CLUSTER", "gpu")
    assert connection().token == connection(cluster="gpu").token
    assert connection(address="other:9000").address == "http://other:9000"
    with pytest.raises(InputError, match="tpu: no such cluster"):
        connection(cluster="tpu")


def test_tokens_that_others_can_read_are_refused(own_home: Path, tmp_path: Path) -> None:
    path = clusters_file(own_home, mode=0o644)
    with pytest.raises(InputError, match=r"can be read by others \(mode 644\).*chmod 600"):
        connection()
    path.chmod(0o600)
    path.write_text("clusters: {gpu: {address: x, token: 12}}")
    with pytest.raises(InputError, match=r"clusters.yaml:1: clusters.gpu.token: YAML reads the value as the number 12; quote it"):
        connection()
    with pytest.raises(InputError, match="the token cannot be read"):
        connection(address="x", token_file=tmp_path / "none")


@pytest.mark.parametrize("address", ["ray://head:10001", "head:6379"])
def test_rays_other_addresses_are_told_apart(address: str) -> None:
    with pytest.raises(InputError, match="http://head:8265"):
        jobs_address(address)


def test_a_ray_that_does_not_match_and_an_address_where_nobody_is_are_a_sentence() -> None:
    check_version("2.60.9", at="x", ours="2.60.0")
    with pytest.raises(InputError, match=r"runs Ray 2.9.0, but this is Manta for Ray 2.60.0"):
        check_version("2.9.0", at="x", ours="2.60.0")
    with pytest.raises(InputError, match=r"no cluster answers at http://127.0.0.1:9 \(Connection refused\)"):
        JobsApi(connection(address="http://127.0.0.1:9")).jobs()


def test_a_transcript_keeps_lines_whole_and_our_own_to_itself() -> None:
    shown: list[str] = []
    transcript = Transcript(shown.append)
    for piece in ("fir", "st\nsec", f'ond\n\n{MARK}{{"res', 'ult": {"a": 1}}\nla', "st"):
        transcript.add(piece)
    transcript.end()
    assert cluster_job.MARK == MARK
    assert shown == ["first", "second", "last"]
    assert transcript.result == {"a": 1}


def test_supported_python_is_the_packages_own() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    least, beyond = (".".join(map(str, version)) for version in SUPPORTED_PYTHON)
    assert f'requires-python = ">={least},<{beyond}"' in text


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"model": "far", "version": 3, "artifact": "/nfs/far"}, "far version 3; on the cluster its folder is /nfs/far"),
        (
            {"model": "far@3", "artifact": "/nfs/far", "out": "/nfs/answers.csv"},
            "on the cluster the answers are in /nfs/answers.csv",
        ),
        ({"metrics": {"accuracy": 0.5}}, "."),
    ],
)
def test_a_job_that_is_done_says_where_its_result_is(result: dict[str, Any], words: str) -> None:
    assert words in whereabouts(result)
