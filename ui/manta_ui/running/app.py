"""The page as a Ray Serve application: `serve run manta_ui.running.app:build api=http://… auth=users.json route_prefix=/page`.

It has one replica, because a person's texts, requests and uploads stay in the process that first served that person. More replicas
need a proxy in front that keeps each person on one replica, which Ray's proxy does not do.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from manta_ui.running.run import PageSettings, page_app

if TYPE_CHECKING:
    from ray.serve import Application


class PageArguments(BaseModel):
    """Arguments of the application."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api: str
    """URL at which the API answers. The replica's $MANTA_API_KEY is sent to it."""
    auth: Path
    """The file of users. It is required, because other machines reach Serve's port."""
    tracking: str | None = None
    """URL of the MLflow server."""
    address: str | None = None
    """URL of the dashboard that accepts jobs."""
    token_file: Path | None = None
    """File with the cluster's token."""
    allowed_hosts: str = ""
    """Names under which people reach the page, such as a proxy's, separated by commas."""


def build(args: PageArguments) -> Application:
    """Build the application, with one replica."""
    from ray import serve

    @serve.deployment(name="page", num_replicas=1, max_ongoing_requests=1000)  # an open page holds a request
    @serve.ingress(lambda: page_app(settings_of(args), until=ending_with_the_process()))
    class Page:
        """The replica that holds the page."""

    page: Any = Page
    application: Application = page.bind()
    return application


def ending_with_the_process() -> ExitStack:
    """Return a stack that is closed when the replica's process ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack


def settings_of(args: PageArguments) -> PageSettings:
    """Return the arguments as the settings of `manta ui`."""
    return PageSettings(
        api=args.api,
        host="0.0.0.0",  # noqa: S104  # so that a file of users is required
        port=0,
        auth=args.auth,
        tracking=args.tracking,
        cluster=None,
        address=args.address,
        token_file=args.token_file,
        allowed_hosts=tuple(name.strip() for name in args.allowed_hosts.split(",") if name.strip()),
    )
