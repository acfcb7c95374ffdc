"""The page's way to the model: the Serve API over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Sequence

Text = tuple[str, ...]
"""One text, or the two of a pair."""
CONNECT_TIMEOUT_S = 1.0
EXPLAIN_TIMEOUT_S = 90.0
READY_TIMEOUT_S = 1.5


class ApiError(Exception):
    """The API did not answer, or refused; the message is for the person at the page."""

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None, field: str | None = None
    ) -> None:
        super().__init__(message)
        self.field = field
        """What in the request was refused, such as `texts.3`, where the API said so."""
        self.status = status
        """The HTTP status of a refusal; None where nothing answered."""
        self.retry_after_s = retry_after_s
        """When to come again, where the API said so."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What answers now, or one version of it. It can be hashed, by which gradio finds that a state has changed."""

    name: str
    version: int
    task: str
    num_texts: int
    """1 where it reads single texts, 2 where it reads pairs."""
    labels: tuple[str, ...]
    metrics: dict[str, float] = field(hash=False)
    examples: tuple[Text, ...]
    """Each as long as `num_texts`."""
    uncertain_below: float
    """How likely an answer must be right not to be uncertain."""
    target_precision: float | None
    """Share of right answers that this was chosen for, if it was."""
    precision: float | None
    """Share of right answers among the test rows that are not uncertain, where it is known."""
    coverage: float | None
    """Share of the test rows that are not uncertain, where it is known."""
    takes_feedback: bool
    candidate: int | None
    """The version that is tried on a share of the requests."""
    created: str
    """When it was trained, in UTC."""

    @property
    def is_multilabel(self) -> bool:
        """Whether several labels, or none, may apply to a text."""
        return self.task == "multilabel"


@dataclass(frozen=True)
class Answer:
    """The prediction for one text or pair."""

    labels: list[str]
    """Those that apply: one, or for a multilabel model several or none."""
    scores: dict[str, float]
    """Probability by label, the most probable first."""
    uncertain: bool
    version: int
    latency_s: float
    """From request to answer, as seen here."""


@dataclass(frozen=True)
class Word:
    """A word and how much it spoke for the label."""

    part: int
    """0, or 1 in the second text of a pair."""
    start: int
    end: int
    attribution: float
    """Its share of the change in log-odds; below 0 it spoke against the label."""


@dataclass(frozen=True)
class Explanation:
    """Why a label is as probable as it is."""

    label: str
    words: list[Word]
    complete: bool
    """Whether the words' shares add up to the whole change."""


@dataclass(frozen=True)
class FeedbackSummary:
    """What people said about answers."""

    count: int
    """Texts that somebody judged."""
    since_champion: int
    """Those of them that were judged after the champion was trained."""
    corrected: int
    """Those where the answer was wrong."""
    by_label: dict[str, int]
    """Texts by the label that people say is right."""
    duplicates: int
    """Texts that are others' again but for capitals and spaces, with the same label."""
    conflicts: list[dict[str, Any]]
    """Those with another label: `text` and its `labels`, a few of them."""
    experiment: dict[str, Any]
    """Settings of a run that repeats the champion's and learns from the feedback, too."""


class ServeClient:
    """Talks to one Serve API. Any thread may use it."""

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.has_key = bool(key)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        # Through no proxy of the environment's: the API is the one that was named, often on this very machine.
        self._http = httpx.Client(base_url=self.url, timeout=timeout, headers=headers, limits=limits, trust_env=False)

    def check_ready(self) -> None:
        """Whether it is there and a model is loaded; this asks for no key and counts towards no rate.

        Raises:
            ApiError: it is not; the message says why.
        """
        response = self._send("GET", "/readyz", timeout=READY_TIMEOUT_S)
        if not response.is_success:
            message = f"The model at {self.url} is not ready (status {response.status_code}); it may be starting."
            raise ApiError(message, status=response.status_code)

    def model(self, *, version: int | None = None) -> ModelInfo:
        """What answers now, or the version that is asked for.

        Raises:
            ApiError: the API does not answer, or does not have this version.
        """
        body = self._json(self._send("GET", "/v1/model", headers=_pinned(version)))
        abstain = body["abstain"]
        examples = tuple((example,) if isinstance(example, str) else tuple(example) for example in body["examples"])
        return ModelInfo(
            name=body["name"],
            version=body["version"],
            task=body["task"],
            num_texts=body["num_texts"],
            labels=tuple(body["labels"]),
            metrics=body["metrics"],
            examples=examples,
            uncertain_below=abstain["below"],
            target_precision=abstain["target_precision"],
            precision=abstain["precision"],
            coverage=abstain["coverage"],
            takes_feedback=body["feedback"],
            candidate=body["candidate"],
            created=body["created"],
        )

    def classify(self, *texts: str, version: int | None = None) -> Answer:
        """Classify one text, or two as a pair.

        Raises:
            ApiError: the API does not answer, or refuses the text.
        """
        return self.classify_all([texts], version=version)[0]

    def classify_all(self, rows: Sequence[Text], *, version: int | None = None, top_k: int | None = None) -> list[Answer]:
        """Classify several texts or pairs by one request; the answers come in their order, all by one version.

        `top_k` is how many labels their scores hold; all unless given.

        Raises:
            ApiError: the API does not answer, or refuses a text.
        """
        asked = {"texts": [_as_json(row) for row in rows]} | ({} if top_k is None else {"top_k": top_k})
        response = self._send("POST", "/v1/classify", json=asked, headers=_pinned(version))
        body = self._json(response)
        return [
            Answer(
                labels=prediction["labels"],
                scores=prediction["scores"],
                uncertain=prediction["uncertain"],
                version=body["model"]["version"],
                latency_s=response.elapsed.total_seconds(),
            )
            for prediction in body["predictions"]
        ]

    def explain(self, *texts: str, version: int) -> Explanation:
        """Which words spoke for and against the label that a version gives; it takes as long as some hundred answers.

        Raises:
            ApiError: the API does not answer, refuses the text, or explains too many already.
        """
        asked = {"texts": [_as_json(texts)], "explain": True, "top_k": 1}
        timeout = httpx.Timeout(EXPLAIN_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        body = self._json(self._send("POST", "/v1/classify", json=asked, headers=_pinned(version), timeout=timeout))
        found = body["predictions"][0]["explanation"]
        words = [Word(**{name: word[name] for name in Word.__dataclass_fields__}) for word in found["words"]]
        return Explanation(label=found["label"], words=words, complete=found["complete"])

    def say(self, texts: Text, *, answer: str | list[str], correction: str | list[str], version: int) -> bool:
        """Tell what the right label of a text is; False where the same was said before.

        Raises:
            ApiError: the API does not answer, or keeps no feedback (status 403).
        """
        said = {"text": _as_json(texts), "answer": answer, "correction": correction, "version": version}
        return bool(self._json(self._send("POST", "/v1/feedback", json=said))["stored"])

    def feedback(self) -> FeedbackSummary:
        """What people said about answers so far.

        Raises:
            ApiError: the API does not answer, or keeps no feedback (status 403).
        """
        body = self._json(self._send("GET", "/v1/feedback"))
        return FeedbackSummary(**{name: body[name] for name in FeedbackSummary.__dataclass_fields__})

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise self._gone(error) from None

    def _gone(self, error: httpx.HTTPError) -> ApiError:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return ApiError(f"The model at {self.url} takes too long to answer. Try again in a moment.")
        return ApiError(f"No model answers at {self.url}. Start it with: manta serve")

    def _json(self, response: httpx.Response) -> Any:
        try:
            body = response.json()
        except ValueError:
            raise ApiError(
                f"{self.url} answered, but not as Manta's API does (status {response.status_code}).", status=response.status_code
            ) from None
        if response.is_success:
            return body
        problem = body.get("error", {}) if isinstance(body, dict) else {}
        message = problem.get("message", f"The model at {self.url} refused (status {response.status_code}).")
        if response.status_code == 401:
            message = f"The model at {self.url} asks for an API key; start the page with MANTA_API_KEY set to one."
        retry = response.headers.get("retry-after", "")
        raise ApiError(
            message,
            status=response.status_code,
            retry_after_s=float(retry) if retry.isdecimal() else None,
            field=problem.get("field"),
        )


def _as_json(texts: Text) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)


def _pinned(version: int | None) -> dict[str, str]:
    return {} if version is None else {"Manta-Version": str(version)}
