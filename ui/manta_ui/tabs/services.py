"""The services that the tabs use, and the components that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import gradio as gr

    from manta_ui.access.accounts import Accounts
    from manta_ui.clients.api import ServeClient
    from manta_ui.clients.tracking import TrackingClient
    from manta_ui.jobs.cluster_jobs import ClusterJobs


@dataclass(frozen=True)
class Services:
    """The services behind one page, the same for everyone who opens it."""

    api: ServeClient
    tracking: TrackingClient | None
    """None if there is no tracking server; its tabs then say what to set."""
    jobs: ClusterJobs | None
    """None if no cluster is named; its tab then says what to set."""
    accounts: Accounts | None
    """The accounts that may log in; None if no login is required, which is allowed on this machine only."""
    storage: Path
    """This machine's storage folder, in which the tab Labels finds the checks of labels."""

    def may_promote(self, user: str | None) -> bool:
        """Tell whether a person may change which version answers, and start or stop jobs. `user` is gradio's `request.username`."""
        return self.accounts is None or (user is not None and self.accounts.may_promote(user))


@dataclass(frozen=True)
class Frame:
    """The place of a tab in its page, and the components by which tabs exchange data."""

    page: gr.Blocks
    """Its event `.load` means that someone opened the page."""
    tab: gr.Tab
    """The tab that is being built. Its event `.select` means that someone opened the tab."""
    tabs: gr.Tabs
    """To go to another tab, return `gr.Tabs(selected="jobs")` for it. The ids are the names of the modules."""
    answering: gr.State
    """The `ModelInfo` of the model that answers, or None. Its event `.change` means another model, or the first one."""
    queue: gr.State
    """The `Queue` of the file that was classified in the tab Batch, which the tab Correct shows; None until then."""
    prepared_config: gr.State
    """An experiment's YAML from one tab, for the tab Jobs to start from; empty until then. Its event `.change` means a new one."""
