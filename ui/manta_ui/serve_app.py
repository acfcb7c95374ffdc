"""The page as a Ray Serve application: `serve run manta_ui.serve_app:build api=http://… auth=users.json route_prefix=/page`.

One replica: what a person typed, asked and uploaded lives in the process that they met first. More replicas need a proxy in front
that keeps each person with one of them, which Ray's does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from manta_ui.run import PageSettings, page_app

if TYPE_CHECKING:
    from ray.serve import Application


class PageArguments(BaseModel):
    """What the application is built from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api: str
    """Where the API answers; $MANTA_API_KEY of the replica is shown to it."""
    auth: Path
    """The file of users: Serve's port is reached from other machines."""
    tracking: str | None = None
    """URL of the MLflow server."""
    address: str | None = None
    """URL of the dashboard that takes jobs."""
    token_file: Path | None = None
    """File with the cluster's token."""


def build(args: PageArguments) -> Application:
    """The application, with one replica."""
    from ray import serve

    @serve.deployment(name="page", num_replicas=1, max_ongoing_requests=1000)  # an open page holds a request
    @serve.ingress(lambda: page_app(settings_of(args)))
    class Page:
        """Holds the page."""

    page: Any = Page
    application: Application = page.bind()
    return application


def settings_of(args: PageArguments) -> PageSettings:
    """The same settings as those of `manta ui`."""
    return PageSettings(
        api=args.api,
        host="0.0.0.0",  # noqa: S104  # so that a file of users is asked for
        port=0,
        auth=args.auth,
        tracking=args.tracking,
        cluster=None,
        address=args.address,
        token_file=args.token_file,
    )
