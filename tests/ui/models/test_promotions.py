"""The jobs by which the page changes which version answers."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from manta_jobs.cli import model_commands
from manta_ui.models.promotions import Step, promotion_job

REGISTRY = {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}


@pytest.mark.parametrize(
    ("step", "verb", "params"),
    [
        ("check", "promote", {"model": "desk@2", "json": True, "dry_run": True}),
        ("promote", "promote", {"model": "desk@2", "json": True}),
        ("rollback", "rollback", {"model": "desk", "json": True}),
    ],
)
def test_a_step_is_a_verb_of_manta_models_on_the_registry_that_is_shown(step: Step, verb: str, params: dict[str, object]) -> None:
    job = promotion_job(step, "desk", 2, registry=REGISTRY, user="ada")
    with zipfile.ZipFile(io.BytesIO(job.packages[0].content)) as archive:
        order = json.loads(archive.read("order.json"))
    assert (order["verb"], order["params"], order["has_inputs"]) == (verb, params, False)
    assert params.keys() <= getattr(model_commands, verb).__annotations__.keys()
    assert job.request["runtime_env"]["env_vars"] == REGISTRY | {"MANTA_USER": "ada"}
    assert job.request["metadata"]["manta_verb"] == verb


def test_without_a_login_the_log_names_the_page() -> None:
    job = promotion_job("promote", "desk", 2, registry={}, user=None)
    assert job.request["runtime_env"]["env_vars"]["MANTA_USER"].startswith("the page on ")
