"""Files that the page offers for download. They are deleted when the page is closed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def held_path(name: str) -> Path:
    """Return a path at which to write such a file. No other file has the same path."""
    return Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))) / Path(name).name
