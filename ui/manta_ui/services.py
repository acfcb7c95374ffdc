"""What the tabs ask: the services behind the page, and the few components that they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

    from manta_ui.accounts import Accounts
    from manta_ui.client import ServeClient
    from manta_ui.jobs_client import JobsClient
    from manta_ui.tracking_client import TrackingClient


@dataclass(frozen=True)
class Services:
    """The services behind one page, the same for everyone who opens it."""

    api: ServeClient
    tracking: TrackingClient | None
    """None where there is no tracking server: its tabs say what to set."""
    jobs: JobsClient | None
    """None where no cluster was named: its tab says what to set."""
    accounts: Accounts | None
    """Who may log in; None where nobody has to, which is on this machine only."""

    def may_promote(self, user: str | None) -> bool:
        """Whether a person may change which version answers, and start or stop jobs; `user` is gradio's `request.username`."""
        return self.accounts is None or (user is not None and self.accounts.may_promote(user))


@dataclass(frozen=True)
class Frame:
    """Where a tab stands in its page, and the components by which tabs hand things to each other."""

    page: gr.Blocks
    """`.load` tells that someone opened it."""
    tab: gr.Tab
    """The tab that is being built; `.select` tells that someone came to it."""
    tabs: gr.Tabs
    """To go to another tab, return `gr.Tabs(selected="jobs")` for it; the ids are the modules' names."""
    answering: gr.State
    """The `ModelInfo` of the model that answers, or None while none does. `.change` tells of another one, and of the first."""
    prepared_config: gr.State
    """An experiment's YAML that one tab made and the tab Jobs starts from; an empty string until then. `.change` tells of it."""
