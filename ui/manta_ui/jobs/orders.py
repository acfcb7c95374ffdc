"""The conversion of an experiment's YAML into a job of `manta train` or `manta tune`, checked before anything is sent.

Files uploaded to the page are sent with the job. Every other path is a path of the cluster: nothing on the page's disk is read.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

from manta.cluster.job import INPUTS, ClusterJob, cluster_job
from manta.config.file import DATA_FILES, build_config
from manta.errors import InputError
from manta_ui.jobs.experiment_form import SOURCE, document_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from manta.config import ExperimentConfig

MOST_BYTES = 100 * 1024**2
Verb = Literal["train", "tune"]


def checked(text: str, uploads: Mapping[str, Path]) -> ExperimentConfig:
    """Return the config of a YAML text, after checking that the cluster will find its files. `uploads` are files by name.

    Raises:
        InputError: one line for each setting that is unknown, wrong, or names a file that the cluster would not find.
    """
    document = document_of(text)
    config = build_config(copy.deepcopy(document), source=SOURCE, text=text)
    _check_places(document, uploads)
    return config


def run_job(verb: Verb, text: str, uploads: Mapping[str, Path], *, user: str | None) -> ClusterJob:
    """Return the job for an experiment, with the uploads that it names. `user` is who is logged in.

    Raises:
        InputError: as for `checked`, or the files are too large to be sent.
    """
    config = checked(text, uploads)
    named = {value for value in _data_of(document_of(text)).values() if value in uploads}
    size = sum(uploads[name].stat().st_size for name in named)
    if size > MOST_BYTES:
        raise InputError(
            f"The files have {size / 1e6:.0f} MB, and a job carries at most {MOST_BYTES / 1e6:.0f} MB; put them on storage that "
            "the cluster reads, such as s3://…, and name that instead."
        )
    experiment = f"{config.name}.yaml"
    files = {name: uploads[name].read_bytes() for name in named} | {experiment: text.encode()}
    params: dict[str, Any] = {"experiment": {"path": f"{INPUTS}/{experiment}"}, "address": None, "json": True}
    return cluster_job(verb, params, name=config.name, files=files, storage=config.storage, user=user)


def _check_places(document: Mapping[str, Any], uploads: Mapping[str, Path]) -> None:
    for key, value in _data_of(document).items():
        if value not in uploads and not _is_the_clusters(value):
            raise InputError(
                f"{SOURCE}: data.{key}: {value} is not among the uploaded files; upload it, or name what the cluster reads: "
                "a path from / on, a URL, or sample:NAME."
            )
    model = document.get("model")
    pretrained = model.get("pretrained") if isinstance(model, dict) else None
    if isinstance(pretrained, str) and pretrained.startswith("."):
        raise InputError(f"{SOURCE}: model.pretrained: {pretrained} is relative; give the folder on the cluster from / on.")
    storage = document.get("storage")
    if isinstance(storage, str) and not _is_the_clusters(storage):
        raise InputError(f"{SOURCE}: storage: {storage} is relative; give a folder that all nodes of the cluster share, from / on.")


def _data_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of `data` that name files, with their values."""
    data = document.get("data")
    return {key: data[key] for key in DATA_FILES if isinstance(data.get(key), str)} if isinstance(data, dict) else {}


def _is_the_clusters(location: str) -> bool:
    return "://" in location or location.startswith(("sample:", "/", "~"))
