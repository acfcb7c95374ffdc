"""Hooks of MkDocs (https://www.mkdocs.org/user-guide/configuration/#hooks), named in `mkdocs.yml`."""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\((\.\.?/[^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace links to files outside `docs/`, which the site does not have, by their paths in the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def as_path(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", folder, match[2]))
        return match[0] if path.startswith("docs/") else f"{match[1]} (`{path}`)" if match[1] != path else f"`{path}`"

    return LINK.sub(as_path, markdown)
