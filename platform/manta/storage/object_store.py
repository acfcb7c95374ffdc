"""Storage in an object store (`s3://`, `gs://` and others that pyarrow or fsspec opens), through a mirror on each node.

All code works on plain folders. `mirror_of(url)` is the folder in which a node keeps its copy of the contents of a URL. A path in
it tells which URL it mirrors. So `store` and `fetch` accept paths of any node, and do nothing for other folders. The object store
is authoritative. The mirror is a cache, which may be deleted when nothing runs on the node.
"""

from __future__ import annotations

import os
import posixpath
import re
import secrets
import shutil
import time
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from manta.errors import InputError, MantaError, RunError
from manta.storage.urls import open_filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

T = TypeVar("T")
MIRRORS = "mirror-of"
"""The folder above all mirrors. Below it, a path has the scheme, the bucket and the place in the bucket."""
SMALL_BYTES = 64 * 1024
"""Maximum size of files that are always fetched again. Small marker files can change twice within one tick of a store's clock."""
COUNTING = ("manta.json", "state.json", "run.json", "report.json")
"""Marker files of a model, a checkpoint, a run and a finished run. Uploaded last: a folder without its marker is incomplete."""
HALF = ".partial"
"""Suffix of the name of a file that is being written."""
COPIED_BYTES = 16 * 1024**2
PAUSES_S = (1.0, 4.0, 16.0)
"""Pauses between the attempts of a failed transfer."""


def mirror_of(url: str) -> Path:
    """Return the folder of this node's copy of a URL, in $MANTA_CACHE or ~/.cache/manta. Nothing is created.

    Raises:
        InputError: the URL names no place in a bucket, or holds a password.
    """
    scheme, _, place = url.partition("://")
    parts = [part for part in place.split("/") if part]
    if not scheme or not parts or {".", ".."} & {*parts} or "?" in place:
        raise InputError(f"storage: {url} names no place in a bucket; write it as s3://bucket/folder.")
    if re.search(":[^/]*@", place):
        raise InputError("storage: a URL must not hold a password; give the credentials as the store's own variables or files.")
    return cache_folder().joinpath(MIRRORS, scheme, *parts)


def cache_folder() -> Path:
    """Return the folder of what this node may compute or fetch again. Nothing is created."""
    return Path(os.environ.get("MANTA_CACHE") or "~/.cache/manta").expanduser().absolute()


def url_of(path: Path) -> str | None:
    """Return the URL that a path of any node mirrors; None if the path is in no mirror."""
    if MIRRORS not in path.parts:
        return None
    scheme, *parts = path.parts[path.parts.index(MIRRORS) + 1 :] or ("",)
    return f"{scheme}://{'/'.join(parts)}" if parts else None


def shown(path: Path) -> str:
    """Return a path as messages show it: as a URL if it is in a mirror, because the URL works on every node."""
    return url_of(path) or str(path)


def here(path: Path) -> Path:
    """Convert a path that was recorded on any node to the path on this node."""
    url = url_of(path)
    return path if url is None else mirror_of(url)


def names(folder: Path) -> list[str]:
    """Return the names in a folder, from the object store if it is a mirror; empty if there is no such folder.

    Raises:
        RunError: the store cannot be reached.
    """
    url = url_of(folder)
    if url is None:
        return sorted(path.name for path in folder.glob("*"))
    return sorted({name.partition("/")[0] for name in _remote_files(url)})


def fetch(path: Path, *, without: Collection[str] = ()) -> Path:
    """Make this node's copy of a file or folder match the object store, and return its path on this node.

    Files that are already up to date are not fetched again. `without` are names in the folder that are left alone.

    Raises:
        RunError: the store cannot be reached or the disk is full.
    """
    url = url_of(path)
    if url is None:
        return path
    target = mirror_of(url)
    files = {name: info for name, info in _remote_files(url).items() if name.partition("/")[0] not in without}
    for path_here in sorted((target, *target.rglob("*")), reverse=True):  # the contents of a folder come before it
        name = path_here.relative_to(target).as_posix()
        if path_here.is_dir():
            with suppress(OSError):  # it is not empty
                path_here.rmdir()
        elif name not in files and name.partition("/")[0] not in without and not name.endswith(HALF):
            path_here.unlink(missing_ok=True)
    for name, info in files.items():
        if info.size <= SMALL_BYTES or not _is_same(target / name, info):
            _again(partial(_download, url, info, target / name), f"{url} cannot be fetched")
    return target


def store(path: Path, *, without: Collection[str] = ()) -> None:
    """Upload a file or folder of a mirror to the object store. Unchanged files are skipped, and nothing is removed.

    Files in COUNTING come last. `without` are names in the folder that are not uploaded.

    Raises:
        RunError: the store cannot be reached or refuses.
    """
    url = url_of(path)
    if url is None:
        return
    there = _remote_files(url)
    found = ((file, (path.name, *file.relative_to(path).parts)) for file in (path, *path.rglob("*")) if file.is_file())
    files = [file for file, parts in found if not any(part.endswith(HALF) for part in parts)]
    for file in sorted(files, key=lambda file: (COUNTING.index(file.name) + 1 if file.name in COUNTING else 0, file)):
        name = file.relative_to(path).as_posix()
        is_there = name in there and _is_same(file, there[name])
        if not is_there and name.partition("/")[0] not in without:
            place = url if name == "." else f"{url}/{name}"
            _again(partial(_upload, file, place), f"{place} cannot be written")


def discard(path: Path) -> None:
    """Remove a file or folder, if it exists, from this node and, if it is in a mirror, from the object store.

    Raises:
        RunError: the store cannot be reached or refuses.
    """
    url, local = url_of(path), here(path)
    if local.is_dir():
        shutil.rmtree(local, ignore_errors=True)
    else:
        local.unlink(missing_ok=True)
    if url is not None and (found := _remote_files(url)):
        system, base = _opened(url)
        remove = system.delete_file if "." in found else system.delete_dir
        _again(partial(remove, base), f"{url} cannot be removed")


def check(url: str) -> None:
    """Check that a small object can be written and removed below a URL.

    Raises:
        InputError: it cannot, with the store's own reason, or the file system for such URLs is not installed.
    """
    system, base = _opened(url)
    probe = posixpath.join(base, f".manta-seen-{secrets.token_hex(4)}")
    try:
        with system.open_output_stream(probe) as file:
            file.write(b"manta")
        system.delete_file(probe)
    except Exception as error:  # noqa: BLE001  # each file system raises its own types
        raise InputError(
            f"storage: {url} cannot be written ({_reason(error)}); check the bucket, the credentials and, unless it is the "
            "cloud's own, AWS_ENDPOINT_URL."
        ) from None


def _remote_files(url: str) -> dict[str, Any]:
    """Return the files below a URL by relative path, or a single file as `.`, as `pyarrow.fs.FileInfo`."""
    from pyarrow.fs import FileSelector, FileType

    system, base = _opened(url)

    def find() -> list[Any]:
        found = system.get_file_info(base)
        if found.type == FileType.File:
            return [found]
        return list(system.get_file_info(FileSelector(base, recursive=True, allow_not_found=True)))

    found = _again(find, f"{url} cannot be read")
    return {posixpath.relpath(info.path.strip("/"), base.strip("/")): info for info in found if info.type == FileType.File}


def _opened(url: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URL, and the path in it."""
    scheme, _, place = url.partition("://")
    bucket, _, below = place.partition("/")
    system, base = _file_system(f"{scheme}://{bucket}")
    return system, posixpath.join(base, below)


@lru_cache(maxsize=8)
def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a bucket's URL: pyarrow's own, which honors AWS_ENDPOINT_URL, else one that fsspec finds."""
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    patience = "?retry_limit_seconds=30" if url.startswith(("gs://", "gcs://")) else ""  # not 15 minutes; others retry for seconds
    try:
        system, base = FileSystem.from_uri(url + patience)
    except Exception as error:  # noqa: BLE001  # each file system raises its own types
        if "Unrecognized filesystem type" not in str(error):
            raise InputError(f"storage: {url} cannot be opened ({_reason(error)}).") from None
        try:
            found, base = open_filesystem(url)
        except InputError as unknown:
            raise InputError(f"storage: {unknown}") from None
        system = PyFileSystem(FSSpecHandler(found))
    return system, base


def _is_same(file: Path, info: Any) -> bool:
    """Tell whether a file of the mirror equals the object: a stored or fetched file gets the object's modification time."""
    try:
        state = file.stat()
    except OSError:
        return False
    return bool(state.st_size == info.size and state.st_mtime_ns == info.mtime_ns)


def _upload(file: Path, url: str) -> None:
    system, place = _opened(url)
    with file.open("rb") as source, system.open_output_stream(place) as sink:
        shutil.copyfileobj(source, sink, COPIED_BYTES)
    _stamp(file, system.get_file_info(place))


def _download(url: str, info: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{secrets.token_hex(4)}{HALF}")
    try:
        with _opened(url)[0].open_input_stream(info.path) as source, half.open("wb") as sink:
            shutil.copyfileobj(source, sink, COPIED_BYTES)
        _stamp(half, info)
        half.replace(file)
    finally:
        half.unlink(missing_ok=True)


def _stamp(file: Path, info: Any) -> None:
    """Set a file's modification time to its object's, by which the two are compared. Not every file system has such times."""
    if info.mtime_ns is not None:
        os.utime(file, ns=(info.mtime_ns, info.mtime_ns))


def _again(work: Callable[[], T], failure: str) -> T:
    """Call `work` and retry it after failures. At last, raise a RunError of `failure` and the store's own reason."""
    for pause_s in (*PAUSES_S, None):
        try:
            return work()
        except MantaError:
            raise
        except Exception as error:  # noqa: BLE001  # each file system raises its own types
            if pause_s is None:
                raise RunError(f"{failure} ({_reason(error)}).") from None
            time.sleep(pause_s)
    raise AssertionError


def _reason(error: Exception) -> str:
    """Return the store's own message on one line, without the operation and the number of the request."""
    words = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"^When .*?(?=AWS Error)| \(Request ID: [^)]*\)", "", words).removesuffix(".")[:300]
