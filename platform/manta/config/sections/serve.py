"""The section `serve`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from manta.config.sections.section import NAME, Section


class TrafficConfig(Section):
    """The traffic split between champion and candidate."""

    candidate: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Percentage of requests that the candidate answers instead of the champion. The same `Manta-Key` gets the same version."""
    shadow: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Percentage of the champion's answers that the candidate also computes, if there is time. Its answers are only compared."""


HostName = Annotated[str, StringConstraints(pattern=r"^(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)$")]
"""A host name, a name's ending such as *.example.com, or `*`."""


class ServeConfig(Section):
    """Address, limits and traffic of the API that serves the champion."""

    host: str = "127.0.0.1"
    """Address the API listens on. The default is reachable from this machine only; any other address requires API keys."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the API."""
    num_replicas: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = 1
    """Number of replicas, the processes that hold the model and answer. [min, max] follows the load; a min of 0 keeps none while
    there are no requests."""
    models: tuple[Annotated[str, NAME], ...] = ()
    """Further registered models of the same service, at /v1/models/NAME/classify. The experiment's own model comes first and
    answers at /v1/classify, too. The other settings of `serve` apply to each model, the limits to all of them together."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 1024**2
    """Largest request body in bytes; a larger one is refused (413)."""
    max_texts: Annotated[int, Field(ge=1)] = 256
    """Maximum number of texts or pairs in one request."""
    max_characters: Annotated[int, Field(ge=1)] = 20_000
    """Maximum number of characters in one text."""
    max_queued_texts: Annotated[int, Field(ge=1)] = 1024
    """Number of texts that may wait for a replica. Beyond it, requests are refused (429) and told when to retry."""
    deadline_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds after which a request without an answer is given up (504)."""
    traffic: TrafficConfig = TrafficConfig()
    """The traffic split between champion and candidate."""
    extra_versions: Annotated[int, Field(ge=0)] = 2
    """Number of versions besides champion and candidate that are loaded when a request asks for one. Each needs memory."""
    cached_answers: Annotated[int, Field(ge=0)] = 0
    """Number of texts whose answers each replica keeps in memory, so that they are not computed again; 0: none. The least recently
    asked text makes room. It pays where texts repeat. Only hashes of texts are kept, but a quick answer tells a client that the
    text was asked before."""
    feedback: bool = False
    """True if POST /v1/feedback stores texts, answers and corrections, which `data.train` reads like other rows. Unless it is set,
    `manta serve` stores them if only this machine reaches it (profile laptop)."""
    feedback_max_bytes: Annotated[int, Field(ge=100 * 1024)] = 100 * 1024**2
    """Maximum number of bytes of stored feedback; beyond it, feedback is refused."""
    sample_texts: bool = False
    """True if each replica keeps a random sample of 200 of the latest texts in memory, for people to judge in the page. It needs
    `feedback: true`, where the judgments go. A key with the scope `review` reads these texts."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Number of requests that each API key may send per minute (429 beyond it). null: no limit."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Names under which clients reach the API besides this machine's own, such as api.example.com or *.example.com, without a port.
    Requests for other names are refused (421). `*` allows all."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages, such as https://desk.example.com, whose scripts may read answers. Empty: none."""
    log_requests: bool = False
    """True if every request is logged, which costs some throughput. False: only the service's own failures are logged."""
    log_texts: bool = False
    """True if these log lines hold the users' texts."""

    @model_validator(mode="after")
    def _bounds(self) -> ServeConfig:
        if self.min_replicas > self.max_replicas:
            low, high = self.min_replicas, self.max_replicas
            raise ValueError(f"serve.num_replicas [{low}, {high}] is reversed; the smaller number comes first")
        if self.sample_texts and not self.feedback:
            raise ValueError("serve.sample_texts needs serve.feedback: true, which stores the judgments on these texts")
        if self.max_queued_texts < self.max_texts:
            raise ValueError(
                f"serve.max_queued_texts {self.max_queued_texts} leaves no room for a request of serve.max_texts {self.max_texts}; "
                f"set it to {self.max_texts} or more"
            )
        return self

    @property
    def min_replicas(self) -> int:
        """The smallest number of replicas; with 0, none runs while there are no requests."""
        return self.num_replicas if isinstance(self.num_replicas, int) else self.num_replicas[0]

    @property
    def max_replicas(self) -> int:
        """The largest number of replicas."""
        return self.num_replicas if isinstance(self.num_replicas, int) else self.num_replicas[1]
