"""`manta cluster check`: check that Ray's launcher accepts a `cluster.yaml`, and that an experiment's work fits the cluster.

No cloud is asked. The file must state what a node has under `resources`, which Ray's autoscaler uses as well.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manta.config.file import read_document
from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from manta.config import ExperimentConfig

Verdict = Literal["valid", "fits", "fits after scaling", "never fits", "wrong accelerator", "mixed Python versions"]

OTHER_ACCELERATORS = ("TPU", "neuron_cores", "HPU", "NPU")
WITHOUT_BF16 = ("K80", "P100", "P4", "V100", "T4")
"""GPUs that do not compute in bfloat16: those older than Nvidia's Ampere."""
IMAGE_TAG = re.compile(r":(?P<ray>\d+\.\d+)[\w.]*-py(?P<python>3\d+)")
COMMAND_PYTHON = re.compile(r"\bpython(3\.\d+)\b")


@dataclass(frozen=True)
class NodeType:
    """One kind of node in the cluster file."""

    name: str
    resources: Mapping[str, float]
    accelerator: str | None
    """Accelerator type, such as T4, if the file states it."""
    least: int
    most: int
    python: str | None
    """Python version, such as 3.11, if the image's tag or the set-up commands state it."""

    def holds(self, bundle: Mapping[str, float]) -> int:
        """Return the number of a run's workers that fit on one such node."""
        return int(min(self.resources.get(kind, 0.0) // need for kind, need in bundle.items()))


@dataclass(frozen=True)
class ClusterPlan:
    """The nodes that the launcher would start, at least and at most."""

    head: NodeType
    workers: tuple[NodeType, ...]
    most_workers: int

    @property
    def types(self) -> tuple[NodeType, ...]:
        """Every kind of node, the head's first."""
        return (self.head, *self.workers)

    def capacity(self, bundle: Mapping[str, float], *, grown: bool) -> int:
        """Return the number of a run's workers that fit on the cluster as it starts, or as far `grown` as it can be."""
        room, left = self.head.holds(bundle), self.most_workers
        for kind in sorted(self.workers, key=lambda kind: kind.holds(bundle), reverse=True):
            count = min(kind.most if grown else kind.least, left)
            room, left = room + count * kind.holds(bundle), left - count
        return room


@dataclass(frozen=True)
class CheckedCluster:
    """Result of the check."""

    verdict: Verdict
    words: str

    def refuse(self) -> None:
        """Raise an error if the work cannot be done.

        Raises:
            InputError: the verdict and its explanation.
        """
        if self.verdict not in {"valid", "fits", "fits after scaling"}:
            raise InputError(f"{self.verdict}: {self.words}")


def check_cluster(path: Path, config: ExperimentConfig | None = None) -> CheckedCluster:
    """Check a cluster file. With a config, also check that its run fits the cluster, or its search if it has one.

    Raises:
        InputError: Ray's launcher would not accept the file.
    """
    plan = read_plan(path)
    pythons = {kind.name: kind.python for kind in plan.types if kind.python}
    if len(set(pythons.values())) > 1:
        listed = ", ".join(f"{name} has {python}" for name, python in pythons.items())
        return CheckedCluster("mixed Python versions", f"Ray's nodes must all run the same Python, but {listed}.")
    if config is None:
        return CheckedCluster("valid", f"{len(plan.types)} kinds of nodes, at most {plan.most_workers} workers beside the head.")
    return _fit(plan, config)


def read_plan(path: Path) -> ClusterPlan:
    """Read a cluster file and check it against Ray's own schema.

    Raises:
        InputError: the file is not valid; the message names the place.
    """
    document = read_document(path, what="cluster file", example="cluster_name: manta")
    _check_schema(document, path)
    kinds = document.get("available_node_types") or {}
    head = document.get("head_node_type")
    if head not in kinds:
        raise InputError(f"{path}: head_node_type {head} is not one of available_node_types ({', '.join(kinds)}).")
    most = int(document.get("max_workers", sum(int(kind.get("max_workers", 0)) for kind in kinds.values())))
    for name, kind in kinds.items():
        if not kind["resources"]:
            raise InputError(
                f"{path}: available_node_types.{name}.resources is empty; say what a node has, such as {{CPU: 4, GPU: 1}}, "
                "as nothing can be checked without it."
            )
    _check_ray(document, path)
    types = {name: _node_type(name, kind, document, is_head=name == head, most=most) for name, kind in kinds.items()}
    return ClusterPlan(types.pop(head), tuple(types.values()), most)


def _check_schema(document: Mapping[str, Any], path: Path) -> None:
    import jsonschema
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    errors = sorted(jsonschema.Draft7Validator(schema).iter_errors(document), key=lambda error: list(map(str, error.path)))
    if errors:
        where = [".".join(map(str, error.path)) or "the file" for error in errors]
        raise InputError("\n".join(f"{path}: {place}: {error.message}" for place, error in zip(where, errors, strict=True)))


def _check_ray(document: Mapping[str, Any], path: Path) -> None:
    """Check that the images that state a Ray version have the one that this code was made for."""
    import ray

    ours = ".".join(ray.__version__.split(".")[:2])
    for image in _images(document):
        tag = IMAGE_TAG.search(image)
        if tag and tag["ray"] != ours:
            raise InputError(f"{path}: the image {image} has Ray {tag['ray']}, but this is Manta for Ray {ours}.")


def _images(document: Mapping[str, Any]) -> list[str]:
    docker = document.get("docker") or {}
    kinds = (document.get("available_node_types") or {}).values()
    found = [docker.get(key) for key in ("image", "head_image", "worker_image")]
    return [image for image in (*found, *((kind.get("docker") or {}).get("worker_image") for kind in kinds)) if image]


def _node_type(name: str, kind: Mapping[str, Any], document: Mapping[str, Any], *, is_head: bool, most: int) -> NodeType:
    docker, role = document.get("docker") or {}, "head" if is_head else "worker"
    own = (kind.get("docker") or {}).get("worker_image") if not is_head else None
    image = own or docker.get(f"{role}_image") or docker.get("image") or ""
    commands = document.get("setup_commands", []) + (
        kind.get("worker_setup_commands") or document.get(f"{role}_setup_commands", [])
    )
    tag, command = IMAGE_TAG.search(image), COMMAND_PYTHON.search("\n".join(commands))
    resources = kind["resources"]
    prefix = "accelerator_type:"
    labels = kind.get("labels") or {}
    accelerator = labels.get("ray.io/accelerator-type") or next(
        (key.removeprefix(prefix) for key in resources if key.startswith(prefix)), None
    )
    python = command[1] if command else f"3.{tag['python'][1:]}" if tag else None
    least, limit = int(kind.get("min_workers", 0)), int(kind.get("max_workers", most))
    return NodeType(name, resources, accelerator, 0 if is_head else least, 0 if is_head else limit, python)


def _fit(plan: ClusterPlan, config: ExperimentConfig) -> CheckedCluster:
    train = config.train
    has_gpus = any(kind.resources.get("GPU") for kind in plan.types)
    use_gpu = has_gpus if train.use_gpu == "auto" else train.use_gpu
    if use_gpu and (wrong := _wrong_accelerator(plan.types, precision=train.precision)):
        return CheckedCluster("wrong accelerator", wrong)
    cpus = 1 if train.cpus_per_worker == "auto" else train.cpus_per_worker
    bundle = {"CPU": float(cpus)} | ({"GPU": 1.0} if use_gpu else {})
    now, grown = (plan.capacity(bundle, grown=grown) for grown in (False, True))
    unit = ("GPU" if use_gpu else "worker") if cpus == 1 else f"GPU with {cpus} CPU" if use_gpu else f"worker of {cpus} CPU"
    workers, plural = train.min_workers, "" if train.min_workers == 1 else "s"
    searches = "tune" in config.model_fields_set
    trials = config.tune.budget.num_trials
    needs = (
        f"this tune needs {trials} trials × {workers} {unit}{plural}" if searches else f"this run needs {workers} {unit}{plural}"
    )
    holds = f"the cluster starts with room for {now} and can grow to {grown}"
    at_once = min(trials, grown // workers)
    pace = f": {at_once} trial{'s' if at_once > 1 else ''} at a time" if searches and at_once else ""
    words = f"{needs}; {holds}{pace}."
    if grown < workers:
        return CheckedCluster("never fits", f"{words} Raise max_workers, choose larger nodes, or lower train.num_workers.")
    return CheckedCluster("fits" if now >= workers else "fits after scaling", words)


def _wrong_accelerator(types: Sequence[NodeType], *, precision: str) -> str | None:
    """Return the reason why the nodes' accelerators do not suit the run; None if they do."""
    with_gpus = [kind for kind in types if kind.resources.get("GPU")]
    others = sorted({name for kind in types for name in OTHER_ACCELERATORS if kind.resources.get(name)})
    if not with_gpus and others:
        return f"the run trains on GPUs (train.use_gpu), but the cluster has {', '.join(others)}."
    old = sorted({kind.accelerator for kind in with_gpus if kind.accelerator in WITHOUT_BF16 and kind.accelerator})
    if precision == "bf16" and old and len({kind.accelerator for kind in with_gpus}) == len(old):
        return f"train.precision is bf16, which {', '.join(old)} does not compute in; set it to auto or fp16, or choose newer GPUs."
    return None
