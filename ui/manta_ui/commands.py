"""`manta ui`: open the page."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from manta.console import people_console
from manta.ports import check_port


def ui(
    api: Annotated[str, typer.Option(help="Where `manta serve` answers.")] = "http://127.0.0.1:8000",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 7860,
) -> None:
    """Open the page where people try the model, until Ctrl-C."""
    check_port(host, port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported; nothing leaves this machine
    from manta_ui.client import ServeClient
    from manta_ui.look import STYLE_SHEET, page_head, page_theme
    from manta_ui.page import build_page
    from manta_ui.services import Services

    page = build_page(Services(api=ServeClient(api), tracking=None, jobs=None, accounts=None))
    page.launch(
        server_name=host,
        server_port=port,
        theme=page_theme(),
        css_paths=[STYLE_SHEET],
        head=page_head(),
        quiet=True,
        ssr_mode=False,
        share=False,
        prevent_thread_lock=True,
    )
    people_console().print(f"The page is at http://{host}:{port} and asks {api}. Ctrl-C stops it.")
    page.block_thread()
