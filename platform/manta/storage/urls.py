"""The file system behind a path or URL."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from manta.errors import InputError, MantaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import fsspec


HOST_AND_PORT = re.compile(r"[A-Za-z0-9.-]+:[0-9]+(?:/.*)?")


def check_scheme(address: str, *, setting: str) -> None:
    """Refuse the address of a server that is a host and a port only.

    Raises:
        InputError: it has no http://.
    """
    if HOST_AND_PORT.fullmatch(address):
        raise InputError(f"{setting} {address} is no URL; write http://{address}.")


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a path or URL, and the path within it.

    Raises:
        InputError: the URL is of no known kind, or its kind needs a package that is not installed.
    """
    import fsspec

    if "\0" in url:
        raise InputError(f"{url!r}: no path or URL holds a null character; remove it.")
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InputError(f"{url}: this kind of URL needs another package ({error}).") from None
    except ValueError as error:
        raise InputError(f"{url}: not a path or URL that can be read ({error}).") from None
    return filesystem, str(path)


def unreadable(url: str, error: Exception) -> InputError:
    """Return the error about a file that cannot be read, with the first line of the reason."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"{url}: cannot be read ({reason}).")


@contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Make one sentence of what the client of an object store or a web server raises. Paths and OS errors are left as they are.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        yield
    except (MantaError, OSError):
        raise
    except Exception as error:
        if "://" not in url:
            raise
        raise unreadable(url, error) from None
