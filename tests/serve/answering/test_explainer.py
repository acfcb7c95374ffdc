"""Explanations beside answers: one at a time, few in waiting, none for who has gone."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from manta.inference.attribution import StoppedError
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta_serve.answering.explainer import MOST_WAITING, Explainer
from manta_serve.http.problems import ApiProblem
from manta_serve.versions.served_model import ServedModel

from ..untrained import artifact_of, service_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from manta.inference.artifact import ModelArtifact


@pytest.fixture(scope="module")
def artifact(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    return artifact_of(tiny_model, tmp_path_factory.mktemp("explain") / "model", labels=LabelSpace.from_labels(["a", "b", "c"]))


class Endless:
    """An attributor that is at it until it is told to stop."""

    def __init__(self) -> None:
        self.begun, self.stopped = threading.Event(), threading.Event()

    def explain(self, text: str, *, label: str, should_stop: Callable[[], bool]) -> Any:
        self.begun.set()
        while not should_stop():
            self.stopped.wait(0.001)
        self.stopped.set()
        raise StoppedError


def test_answers_do_not_wait_for_explanations_and_who_gives_up_ends_one(artifact: ModelArtifact) -> None:
    service = service_of(ServedModel(Predictor(artifact, device="cpu"), name="desk", version=1))
    explainer = Explainer()
    endless = Endless()
    explainer._loaded = (artifact.path, endless)  # type: ignore[assignment]

    async def both() -> None:
        explaining = asyncio.create_task(explainer.explain(artifact, ["my parcel"], labels=["a"], deadline_s=60))
        await asyncio.to_thread(endless.begun.wait)
        assert len((await service.classify(["my parcel"])).predictions) == 1
        assert not explaining.done()
        explaining.cancel()
        await asyncio.to_thread(endless.stopped.wait)
        explainer._loaded = None
        (found,) = await explainer.explain(artifact, ["my parcel"], labels=["a"], deadline_s=60)
        assert found.label == "a"

    asyncio.run(both())
    service.close()
    explainer.close()


def test_few_wait_and_the_rest_is_told_to_come_again(artifact: ModelArtifact) -> None:
    explainer = Explainer()

    async def many() -> list[Any]:
        asked = [explainer.explain(artifact, ["my parcel"], labels=["a"], deadline_s=60) for _ in range(MOST_WAITING + 2)]
        first = await asyncio.gather(*asked, return_exceptions=True)
        return [*first, *await asyncio.gather(explainer.explain(artifact, ["my parcel"], labels=["a"], deadline_s=60))]

    *answered, refused, later = asyncio.run(many())
    assert isinstance(refused, ApiProblem)
    assert (refused.status, refused.headers) == (429, {"Retry-After": "5"})
    assert {found[0].log_odds for found in answered} == {later[0].log_odds}
    explainer.close()


def test_a_deadline_is_kept(artifact: ModelArtifact) -> None:
    explainer = Explainer()
    explainer._loaded = (artifact.path, Endless())  # type: ignore[assignment]
    with pytest.raises(ApiProblem) as refused:
        asyncio.run(explainer.explain(artifact, ["my parcel"], labels=["a"], deadline_s=0.01))
    assert refused.value.status == 504
    explainer.close()
