"""Clusters that fit, fit later, never fit, or have the wrong nodes; and the one that the repository ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from manta.config import ExperimentConfig
from manta.errors import InputError
from manta_jobs.cluster.check import check_cluster, read_plan

SHIPPED = Path(__file__).parents[3] / "cluster.yaml"
SEARCH = {"train": {"num_workers": 2, "use_gpu": True}, "tune": {"budget": {"num_trials": 4}}}


def experiment(**sections: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"name": "x", "data": {"train": "x.csv"}} | sections)


def cluster_file(
    folder: Path, *, head: dict[str, Any] | None = None, worker: dict[str, Any] | None = None, **settings: Any
) -> Path:
    kinds = {
        "head": {"resources": {"CPU": 0}, "node_config": {}},
        "gpu": {"resources": {"CPU": 8, "GPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 3} | (worker or {}),
    }
    document = {"cluster_name": "x", "provider": {"type": "aws"}, "available_node_types": kinds, "head_node_type": "head"}
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(document | {"max_workers": 5} | settings))
    return path


@pytest.mark.parametrize(
    ("cluster", "sections", "verdict", "words"),
    [
        ({"worker": {"min_workers": 1}}, SEARCH, "fits", "starts with room for 2 and can grow to 6: 3 trials at a time."),
        (
            {},
            SEARCH,
            "fits after scaling",
            "needs 4 trials × 2 GPUs; the cluster starts with room for 0 and can grow to 6",
        ),
        (
            {},
            {"train": {"num_workers": 8, "use_gpu": True}},
            "never fits",
            "this run needs 8 GPUs; the cluster starts with room",
        ),
        ({"max_workers": 1}, {"train": {"num_workers": 3}}, "never fits", "can grow to 2. Raise max_workers"),
        ({}, {"train": {"num_workers": 1, "cpus_per_worker": 9}}, "never fits", "this run needs 1 GPU with 9 CPU"),
        ({"worker": {"resources": {"CPU": 8, "TPU": 4}}}, SEARCH, "wrong accelerator", "but the cluster has TPU."),
        (
            {"worker": {"labels": {"ray.io/accelerator-type": "T4"}}},
            {"train": {"precision": "bf16"}},
            "wrong accelerator",
            "train.precision is bf16, which T4 does not compute in",
        ),
        (
            {"docker": {"image": "rayproject/ray:2.60.0-py311", "worker_image": "rayproject/ray:2.60.0-py312-gpu"}},
            SEARCH,
            "mixed Python versions",
            "head has 3.11, gpu has 3.12.",
        ),
        (
            {"setup_commands": ["python3.11 -m venv env"], "worker": {"docker": {"worker_image": "x:2.60.0-py311"}}},
            {},
            "fits after scaling",
            "this run needs 1 GPU;",
        ),
    ],
)
def test_the_verdict(cluster: dict[str, Any], sections: dict[str, Any], verdict: str, words: str, tmp_path: Path) -> None:
    found = check_cluster(cluster_file(tmp_path, **cluster), experiment(**sections))
    assert found.verdict == verdict
    assert words in found.words
    if not verdict.startswith("fits"):
        with pytest.raises(InputError, match=verdict):
            found.refuse()


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ({"idle_timeout": 3}, "'idle_timeout' was unexpected"),
        ({"max_workers": "many"}, "max_workers: 'many' is not of type 'integer'"),
        ({"worker": {"resources": {"CPU": 1.5}}}, "available_node_types.gpu.resources.CPU: 1.5 is not of type 'integer'"),
        ({"worker": {"resources": {}}}, "available_node_types.gpu.resources is empty"),
        ({"head_node_type": "boss"}, "head_node_type boss is not one of"),
        ({"docker": {"image": "rayproject/ray:2.9.0-py311"}}, "has Ray 2.9, but this is Manta for Ray"),
    ],
)
def test_what_the_launcher_would_not_take_is_a_sentence(cluster: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        check_cluster(cluster_file(tmp_path, **cluster))
    assert sentence in str(error.value)


def test_the_shipped_cluster_is_valid_and_grows_from_nothing() -> None:
    assert check_cluster(SHIPPED).verdict == "valid"
    plan = read_plan(SHIPPED)
    assert {kind.least for kind in plan.types} == {0}
    assert {kind.python for kind in plan.types} == {"3.11"}
    found = check_cluster(SHIPPED, experiment(**SEARCH))
    assert found.words.endswith("the cluster starts with room for 0 and can grow to 8: 4 trials at a time.")


def test_the_shipped_cluster_is_private_and_asks_for_a_token() -> None:
    document = yaml.safe_load(SHIPPED.read_text())
    assert document["provider"]["use_internal_ips"]
    starts = [line for key in ("head", "worker") for line in document[f"{key}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    spot, on_demand = (document["available_node_types"][name] for name in ("gpu_spot", "gpu_on_demand"))
    assert spot["priority"] > on_demand["priority"]
    market = "ray.io/market-type"
    assert (spot["labels"].pop(market), on_demand["labels"].pop(market)) == ("spot", "on-demand")
    assert (spot["resources"], spot["labels"]) == (on_demand["resources"], on_demand["labels"])
