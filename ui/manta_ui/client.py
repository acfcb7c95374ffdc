"""The page's way to the model: the Serve API over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx


class ApiError(Exception):
    """The API did not answer, or refused; the message is for the person at the page."""


@dataclass(frozen=True)
class ModelInfo:
    """What answers now."""

    name: str
    version: int
    task: str
    num_texts: int
    """1 where it reads single texts, 2 where it reads pairs."""
    labels: list[str]
    metrics: dict[str, float]
    examples: list[tuple[str, ...]]
    """Each as long as `num_texts`."""
    uncertain_below: float
    """How likely an answer must be right not to be uncertain."""
    target_precision: float | None
    """Share of right answers that this was chosen for, if it was."""


@dataclass(frozen=True)
class Answer:
    """The prediction for one text or pair."""

    labels: list[str]
    """Those that apply: one, or for a multilabel model several or none."""
    scores: dict[str, float]
    uncertain: bool
    version: int
    latency_s: float
    """From request to answer, as seen here."""


class ServeClient:
    """Talks to one Serve API."""

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, timeout=httpx.Timeout(timeout_s, connect=2.0))

    def model(self) -> ModelInfo:
        """What answers now.

        Raises:
            ApiError: the API does not answer.
        """
        body = self._json(self._send("GET", "/v1/model"))
        examples = [(example,) if isinstance(example, str) else tuple(example) for example in body["examples"]]
        return ModelInfo(
            name=body["name"],
            version=body["version"],
            task=body["task"],
            num_texts=body["num_texts"],
            labels=body["labels"],
            metrics=body["metrics"],
            examples=examples,
            uncertain_below=body["abstain"]["below"],
            target_precision=body["abstain"]["target_precision"],
        )

    def classify(self, *texts: str) -> Answer:
        """Classify one text, or two as a pair.

        Raises:
            ApiError: the API does not answer, or refuses the text.
        """
        response = self._send("POST", "/v1/classify", json={"texts": [texts[0] if len(texts) == 1 else texts]})
        body = self._json(response)
        prediction = body["predictions"][0]
        return Answer(
            labels=prediction["labels"],
            scores=prediction["scores"],
            uncertain=prediction["uncertain"],
            version=body["model"]["version"],
            latency_s=response.elapsed.total_seconds(),
        )

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **arguments)
        except httpx.TimeoutException:
            raise ApiError(f"The model at {self.url} takes too long to answer. Try again in a moment.") from None
        except httpx.HTTPError:
            raise ApiError(f"No model answers at {self.url}. Start it with: manta serve") from None

    def _json(self, response: httpx.Response) -> Any:
        try:
            body = response.json()
        except ValueError:
            raise ApiError(f"{self.url} answered, but not as Manta's API does (status {response.status_code}).") from None
        if response.is_success:
            return body
        problem = body.get("error", {}) if isinstance(body, dict) else {}
        raise ApiError(problem.get("message", f"The model at {self.url} refused (status {response.status_code})."))
