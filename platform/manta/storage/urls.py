"""The file system behind a path or URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.errors import InputError

if TYPE_CHECKING:
    import fsspec


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a path or URL, and the path within it.

    Raises:
        InputError: the URL is of no known kind, or its kind needs a package that is not installed.
    """
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InputError(f"{url}: this kind of URL needs another package ({error}).") from None
    except ValueError as error:
        raise InputError(f"{url}: not a path or URL that can be read ({error}).") from None
    return filesystem, str(path)
