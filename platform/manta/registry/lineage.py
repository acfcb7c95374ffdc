"""Lineage of a version as tags: the data, the config, the code and the packages that made it."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from manta import __version__

if TYPE_CHECKING:
    from manta.inference.artifact import Manifest

GIT_WITHIN_S = 5.0


def lineage_tags(manifest: Manifest) -> dict[str, str]:
    """Return the tags of a version: run, base model, hashes of data and config, code and environment."""
    config = json.dumps(manifest.config, sort_keys=True, ensure_ascii=False)
    return {
        "manta.run": manifest.run,
        "manta.pretrained": manifest.pretrained,
        "manta.data_hash": manifest.data_hash,
        "manta.config_hash": hashlib.sha256(config.encode()).hexdigest(),
        "manta.environment": json.dumps({"python": platform.python_version()} | manifest.versions),
        **{f"manta.{key}": value for key, value in code_version().items()},
    }


def code_version() -> dict[str, str]:
    """Return the package's version and, if the code is a git checkout, `git_commit`, `git_folder` and `git_dirty`.

    The working folder is tried first, because it holds the user's own code, then the folder of this package. Files that git does
    not track do not count as changes.
    """
    found = {"package_version": __version__}
    for folder in (Path.cwd(), Path(__file__).parent):
        commit = _git(folder, "rev-parse", "HEAD")
        if commit:
            changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
            top = _git(folder, "rev-parse", "--show-toplevel") or str(folder)
            return found | {"git_commit": commit, "git_dirty": str(changes != "").lower(), "git_folder": Path(top).name}
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git for a folder; None if there is no git, no checkout, or no answer."""
    try:
        done = subprocess.run(  # noqa: S603  # no argument comes from outside
            ["git", "-C", str(folder), *arguments],  # noqa: S607  # wherever git is installed
            capture_output=True,
            text=True,
            timeout=GIT_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
