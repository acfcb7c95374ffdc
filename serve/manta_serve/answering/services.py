"""`Services`: the services of the models of one replica, and the one that a request is for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from manta_serve.http.problems import ApiProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import FastAPI
    from starlette.requests import Request

    from manta_serve.answering.service import Service

F = TypeVar("F")
NAME_PARAMETER = {
    "parameters": [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "description": "A model of /v1/models."}
    ]
}
"""The OpenAPI description of the name in a path."""


class Services:
    """The services of one replica, which share its batcher, cache and metrics. The first one answers if a path names no model."""

    def __init__(self, first: Service, *others: Service) -> None:
        self.first = first
        self._all = (first, *others)

    def __iter__(self) -> Iterator[Service]:
        """Yield the services, the first one first."""
        return iter(self._all)

    @property
    def ready(self) -> bool:
        """True while requests should be sent here."""
        return all(service.ready for service in self)

    def of(self, request: Request) -> Service:
        """Return the service of the model that the request's path names, or the first one if it names none.

        Raises:
            ApiProblem: there is no such model here.
        """
        name = request.path_params.get("name")
        if name is None:
            return self.first
        found = next((service for service in self if service.name == name), None)
        if found is None:
            names = [service.name for service in self]
            there = f"there is {names[0]}" if len(names) == 1 else f"there are {', '.join(names)}"
            raise ApiProblem(404, "unknown_model", f"There is no model of this name here; {there}.")
        return found

    def drain(self) -> None:
        """Report not ready, so that other replicas get the next requests. Requests that still arrive are answered."""
        for service in self:
            service.drain()

    def close(self) -> None:
        """End the threads. After that, nothing can be answered."""
        for service in self:
            service.close()


def for_each_model(api: FastAPI, method: str, *, first: str, named: str, **described: Any) -> Callable[[F], F]:
    """Decorate a handler as the route `first` of the first model, and as the route `named` of the model that the path names."""

    def add(handler: F) -> F:
        extra = described.pop("openapi_extra", {})
        route: Any = api.add_api_route
        route(first, handler, methods=[method], openapi_extra=extra, **described)
        route(named, handler, methods=[method], openapi_extra=extra | NAME_PARAMETER, **described)
        return handler

    return add
