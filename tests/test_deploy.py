"""The manifests and images of `deploy/`: of the shape that Kubernetes and KubeRay take, and saying what the code understands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from manta.cli import build_app
from manta_serve.running.app import ServeArguments

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.33"

# Fields of ray.io/v1 that KubeRay 1.6 has, of those kinds of objects that the manifests hold: from its API reference,
# https://ray-project.github.io/kuberay/reference/api/. Kubernetes' own shapes are named and checked by its schemas.
SPECS: dict[str, dict[str, Any]] = {
    "RayCluster": {
        "rayVersion": str,
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": "AutoscalerOptions",
        "authOptions": "AuthOptions",
        "headGroupSpec": "HeadGroupSpec",
        "workerGroupSpecs": ["WorkerGroupSpec"],
    },
    "RayService": {"serveConfigV2": str, "rayClusterConfig": "RayCluster"},
    "RayJob": {
        "entrypoint": str,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "backoffLimit": int,
        "submitterPodTemplate": "PodTemplate",
        "rayClusterSpec": "RayCluster",
    },
    "AutoscalerOptions": {"version": str, "idleTimeoutSeconds": int, "securityContext": "SecurityContext"},
    "AuthOptions": {"mode": str, "secretName": str},
    "HeadGroupSpec": {"serviceType": str, "rayStartParams": dict, "template": "PodTemplate"},
    "WorkerGroupSpec": {
        "groupName": str,
        "replicas": int,
        "minReplicas": int,
        "maxReplicas": int,
        "rayStartParams": dict,
        "template": "PodTemplate",
    },
}


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def spec_of(kind: str) -> dict[str, Any]:
    (document,) = documents(FOLDER / f"{kind.lower()}.yaml")
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    return dict(document["spec"])


def clusters() -> list[dict[str, Any]]:
    return [spec_of("RayCluster"), spec_of("RayService")["rayClusterConfig"], spec_of("RayJob")["rayClusterSpec"]]


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def check(value: Any, shape: Any, *, at: str) -> None:
    """Walk a part of a ray.io object beside its shape."""
    if isinstance(shape, type):
        assert type(value) is shape, f"{at} is {value!r}"
        if shape is dict:
            assert all(isinstance(entry, str) for entry in value.values()), f"{at} holds what is no text"
    elif isinstance(shape, list):
        for index, entry in enumerate(value):
            check(entry, shape[0], at=f"{at}[{index}]")
    elif shape == "PodTemplate":
        validate({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": value})
    elif shape == "SecurityContext":
        container = {"name": "x", "image": "x", "securityContext": value}
        validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}})
    else:
        assert value.keys() <= SPECS[shape].keys(), f"{at} has {value.keys() - SPECS[shape].keys()}"
        for name, entry in value.items():
            check(entry, SPECS[shape][name], at=f"{at}.{name}")


def validate(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_a_manifest_passes_its_schema(path: Path) -> None:
    for document in documents(path):
        if document.get("apiVersion") == "ray.io/v1":
            check(document["spec"], document["kind"], at=document["kind"])
        elif path.name not in ("kustomization.yaml", "images.yaml"):
            validate(document)


def test_a_field_that_does_not_exist_is_found() -> None:
    cluster = spec_of("RayCluster")
    with pytest.raises(AssertionError, match="workerGroups"):
        check(cluster | {"workerGroups": []}, "RayCluster", at="RayCluster")
    cluster["headGroupSpec"]["template"]["spec"]["contaners"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        check(cluster, "RayCluster", at="RayCluster")


def test_all_nodes_have_the_locks_ray_the_token_the_storage_and_no_rights() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    for cluster in clusters():
        assert f"ray=={cluster['rayVersion']}" in lock
        assert cluster["authOptions"] == {"mode": "token", "secretName": "manta-ray-token"}
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
        for pod in pods(cluster):
            (container,) = pod["containers"]
            assert container["volumeMounts"] == [{"name": "storage", "mountPath": "/storage"}]
            assert {"name": "MANTA_STORAGE", "value": "/storage"} in container["env"]
            assert pod["securityContext"]["runAsNonRoot"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
    workers = spec_of("RayCluster")["workerGroupSpecs"]
    assert [group["minReplicas"] for group in workers] == [0, 0, 0]


def test_the_service_is_the_one_that_serve_config_describes() -> None:
    own = yaml.safe_load(spec_of("RayService")["serveConfigV2"])
    theirs = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    ServeDeploySchema.model_validate(own)
    (application,), (documented,) = own["applications"], theirs["applications"]
    ServeArguments.model_validate(application["args"])
    same = ("name", "route_prefix", "import_path")
    assert [application[key] for key in same] == [documented[key] for key in same]
    assert own["http_options"] == theirs["http_options"]


def test_the_job_runs_a_verb_that_exists() -> None:
    program, verb, experiment = shlex.split(spec_of("RayJob")["entrypoint"])
    assert program == "manta"
    assert verb in {command.name for command in build_app().registered_commands}
    assert experiment.startswith("/storage/")


def test_kustomize_puts_all_together_with_the_chosen_images() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    built = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=True).stdout
    kinds = [document["kind"] for document in yaml.safe_load_all(built)]
    assert {"RayCluster", "RayService", "Deployment", "NetworkPolicy", "PersistentVolumeClaim"} <= set(kinds)
    images = re.findall(r"image: (\S+)", built)
    assert all(image.startswith("registry.example.com/manta-") for image in images)
    assert len(images) == 8


@pytest.mark.parametrize(("role", "extras"), [("train", "jobs,demo"), ("serve", "serve"), ("ui", "ui")])
def test_an_image_is_built_from_the_lock_and_runs_as_nobody_special(role: str, extras: str) -> None:
    lines = (ROOT / "deploy" / "images" / f"{role}.Dockerfile").read_text()
    assert f'--constraint requirements.lock ".[{extras}]"' in lines
    assert re.findall(r"^USER (\d+)$", lines, flags=re.MULTILINE) == ["1000"]
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"requirements.lock", "pyproject.toml", "platform", "jobs", "serve", "ui"} <= kept
    assert all((ROOT / name).exists() for name in kept)
