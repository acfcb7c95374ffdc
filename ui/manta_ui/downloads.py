"""Files that the page holds for someone to download. They are gone when the page is closed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def held_path(name: str) -> Path:
    """Where to write such a file; nobody else's has that path."""
    return Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))) / Path(name).name
