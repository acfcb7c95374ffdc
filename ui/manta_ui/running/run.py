"""Build the page from its settings, and keep it open."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manta.cluster.connections import connection
from manta.cluster.jobs_api import JobsApi
from manta.cluster.ports import check_port, is_loopback
from manta.console import working
from manta.errors import InputError
from manta.storage.folders import Storage
from manta.storage.urls import check_scheme
from manta_ui.access.accounts import Accounts
from manta_ui.access.sessions import Sessions
from manta_ui.clients.api import ServeClient
from manta_ui.clients.tracking import TrackingClient
from manta_ui.jobs.cluster_jobs import ClusterJobs
from manta_ui.running.local_cluster import PageCluster
from manta_ui.running.tracking_server import TrackingServer
from manta_ui.tabs.services import Services

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI
    from rich.console import Console

API_KEY = "MANTA_API_KEY"
TOGETHER = 20
"""People who may wait for an answer at the same time. The API refuses requests if that is too many for it."""
HTTP = ("http://", "https://")
MAX_FILE_SIZE = "100mb"


@dataclass(frozen=True)
class PageSettings:
    """Settings of the page."""

    api: str
    """URL at which `manta serve` answers."""
    host: str
    port: int
    auth: Path | None
    """The file of users; None if no login is required."""
    tracking: str | None
    """URL of the MLflow server."""
    cluster: str | None
    """Name of a cluster in the file of clusters."""
    address: str | None
    """URL of a cluster's dashboard, which accepts jobs."""
    token_file: Path | None
    """File with the cluster's token."""
    allowed_hosts: tuple[str, ...] = ()
    """Names of a proxy or of this machine under which people reach the page, besides the address it listens on."""


def run_page(settings: PageSettings, *, console: Console) -> None:
    """Show the page until Ctrl-C.

    Raises:
        InputError: the port is taken, the file of users or the cluster is missing or wrong, or others could reach the page
            without a login.
    """
    import uvicorn

    check_port(settings.host, settings.port)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("manta.page").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything the page started ends with it
    with ExitStack() as stack:
        with working(console, "Starting the page"):
            app = page_app(settings, until=stack)
            check_port(settings.host, settings.port)  # another process may have been quicker
            listening = stack.enter_context(socket.create_server((settings.host, settings.port)))
        console.print(f"The page is at http://{settings.host}:{settings.port} and asks {settings.api}. Ctrl-C stops it.")
        # Open pages hold a request each, which is cut off.
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listening])


def page_app(settings: PageSettings, *, until: ExitStack) -> FastAPI:
    """Return the page as an ASGI application. Everything it starts is stopped with `until`.

    Raises:
        InputError: the file of users or the cluster is missing or wrong, or others could reach the page without a login.
    """
    accounts = checked_accounts(settings)
    cluster_jobs = until.enter_context(jobs_of(settings))
    files = until.enter_context(tempfile.TemporaryDirectory(prefix="manta-page-"))
    # gradio reads these on import: no data leaves this machine, and uploads are deleted when the page is closed.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = files
    import gradio as gr
    from fastapi import FastAPI

    from manta_ui.access.guard import BrowserGuard, PageNames
    from manta_ui.look.theme import STYLE_SHEETS, page_head, page_theme
    from manta_ui.tabs.page import build_page

    services = Services(
        api=ServeClient(settings.api, key=os.environ.get(API_KEY)),
        tracking=until.enter_context(tracking_of(settings)),
        jobs=cluster_jobs,
        accounts=accounts,
        storage=Storage.resolve(None).root,
    )
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BrowserGuard, names=PageNames(settings.host, allowed=settings.allowed_hosts), uploads=Path(files))
    gr.mount_gradio_app(
        app,
        build_page(services).queue(default_concurrency_limit=TOGETHER),
        path="",
        auth=accounts.check if accounts else None,
        theme=page_theme(),
        css_paths=[*STYLE_SHEETS],
        head=page_head(),
        max_file_size=MAX_FILE_SIZE,
        ssr_mode=False,
        show_error=False,
        run_history=False,  # texts are not stored
        footer_links=[],
    )
    if accounts is not None:
        app.routes[-1].app.tokens = Sessions(accounts.has)  # type: ignore[attr-defined]  # the application that gradio mounted
    return app


@contextmanager
def tracking_of(settings: PageSettings) -> Iterator[TrackingClient]:
    """Yield a client of the registry on the named MLflow server, else on a server started for this machine's storage.

    Raises:
        InputError: the server's address has no http://.
    """
    check_scheme(settings.tracking or "", setting="--tracking")
    if settings.tracking and settings.tracking.startswith(HTTP):
        yield TrackingClient(settings.tracking)
        return
    with TrackingServer(Storage.resolve(None)) as server:
        yield server.client()


@contextmanager
def jobs_of(settings: PageSettings) -> Iterator[ClusterJobs | None]:
    """Yield the jobs of the cluster that is named as for `manta submit`, else of one that this machine starts for the first job.

    None if none is named and other machines reach the page, or a cluster cannot run here.

    Raises:
        InputError: there is no such cluster, or its token cannot be read.
    """
    address = settings.address
    if not (address or settings.cluster or os.environ.get("MANTA_CLUSTER")):
        address = os.environ.get("RAY_ADDRESS", "")
        if not address.startswith(HTTP):  # Ray's other addresses accept no jobs
            if not (is_loopback(settings.host) and PageCluster.can_start()):
                yield None
                return
            with PageCluster(Storage.resolve(None)) as cluster:
                yield ClusterJobs(cluster.api, is_up=cluster.is_up)
            return
    api = JobsApi(connection(cluster=settings.cluster, address=address, token_file=settings.token_file))
    yield ClusterJobs(lambda: api)


def checked_accounts(settings: PageSettings) -> Accounts | None:
    """Return the accounts that may log in; None if no login is required.

    Raises:
        InputError: others could reach the page without a login, or the file of users cannot be used.
    """
    if settings.auth is None:
        if not is_loopback(settings.host):
            raise InputError(
                f"the page would listen on {settings.host}, for everybody who reaches this machine; have people log in with "
                "--auth FILE, which is made by: manta ui add-user NAME --auth FILE"
            )
        return None
    accounts = Accounts(settings.auth)
    if not accounts.all():
        raise InputError(f"{settings.auth}: nobody is in it; add someone with: manta ui add-user NAME --auth {settings.auth}")
    return accounts
