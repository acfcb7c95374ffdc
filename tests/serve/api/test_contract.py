"""The live API against its own OpenAPI document, by schemathesis: what it may be sent, and what it may answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from manta.labels import LabelSpace

from ..live_api import live_api
from ..untrained import artifact_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

TAKING = ["post /v1/classify", "post /v1/feedback", "post /predict", "post /"]
OPERATIONS = [
    *TAKING,
    *("post /v1/models/{name}/classify", "post /v1/models/{name}/feedback", "post /v1/models/{name}/predict"),
    *("post /models/{name}", "get /v1/models", "get /v1/models/{name}", "get /v1/models/{name}/feedback"),
    *("get /v1/feedback", "get /v1/feedback/texts", "get /v1/models/{name}/feedback/texts"),
    *("get /v1/model", "get /metrics", "get /healthz", "get /readyz"),
]


@pytest.fixture(scope="module")
def document(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of the API on a real socket, whose log shows no fault in the end."""
    folder = tmp_path_factory.mktemp("contract")
    artifact = artifact_of(tiny_model, folder / "model", labels=LabelSpace.from_labels(["account", "billing", "delivery"]))
    kept = {"feedback": True, "sample_texts": True}
    with live_api(artifact.path, folder / "storage", settings=kept, log=folder / "log") as (_, url):
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")
    assert "Traceback" not in (folder / "log").read_text()


def named(found: Any) -> str:
    return f"{found.ok().method} {found.ok().path}"


def test_the_document_has_every_operation(document: Any) -> None:
    assert sorted(map(named, document.get_all_operations())) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, GenerationMode.POSITIVE) for name in OPERATIONS] + [(name, GenerationMode.NEGATIVE) for name in TAKING],
)
def test_every_answer_is_as_documented(document: Any, name: str, mode: GenerationMode) -> None:
    (operation,) = (found.ok() for found in document.get_all_operations() if named(found) == name)

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=15 if mode is GenerationMode.POSITIVE else 5,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        # A pair, or a label that this model does not have, fits the document and is refused by the model (422).
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    send()
