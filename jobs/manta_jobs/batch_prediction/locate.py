"""The files of an INPUT: one file, a folder of files of one kind, or a URL of either that fsspec supports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from manta.errors import InputError
from manta.rows.text_file import KINDS, Kind, kind_of
from manta.storage.urls import open_filesystem

if TYPE_CHECKING:
    import fsspec

SIGNS_OF_CHANGE = ("mtime", "ETag", "etag", "LastModified", "last_modified", "updated", "md5Hash", "created")
"""Names under which fsspec's file systems report a file's last change or a checksum of its content."""


class InputFile(BaseModel):
    """One input file, with the facts that show whether it has changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    """Path or URL."""
    size: int
    """In bytes."""
    signs: dict[str, str]
    """Time of the last change, ETag, or other such facts that the file system reports."""


def locate(source: str) -> tuple[Kind, tuple[InputFile, ...]]:
    """Return the kind and the files of an INPUT. Files of a folder are sorted by name; hidden ones (. or _) are skipped.

    Raises:
        InputError: INPUT does not exist, cannot be read in parts, has no files, or has files of several kinds.
    """
    filesystem, path = open_filesystem(source)
    try:
        is_folder = filesystem.isdir(path)
        infos = filesystem.ls(path, detail=True) if is_folder else [filesystem.info(path)]
    except FileNotFoundError:
        raise InputError(f"{source}: no such file or folder; check INPUT.") from None
    except Exception as error:  # noqa: BLE001  # each of fsspec's file systems raises its own exceptions
        raise InputError(f"{source}: cannot be read ({_first_line(error)}).") from None
    if not is_folder:
        return _kind(source), (_input_file(source, infos[0], filesystem, path),)
    named = sorted((str(info["name"]).rstrip("/").rsplit("/", 1)[-1], info) for info in infos)
    named = [(name, info) for name, info in named if not name.startswith((".", "_"))]
    for name, info in named:
        if info["type"] == "directory":
            raise InputError(f"{source}: holds the folder {name}; give a folder that holds files only.")
    kinds = {_kind(f"{source.rstrip('/')}/{name}") for name, _ in named}
    if len(kinds) != 1:
        found = f"holds files of several kinds ({', '.join(sorted(kinds))})" if kinds else "holds no files"
        raise InputError(f"{source}: {found}; give a folder with files of one kind.")
    files = [_input_file(f"{source.rstrip('/')}/{name}", info, filesystem, str(info["name"])) for name, info in named]
    return kinds.pop(), tuple(files)


def read_range(file: InputFile, start: int, end: int) -> bytes:
    """Return bytes `start` to `end` of a file.

    Raises:
        OSError: they cannot be read, or the file system returned a different number of bytes.
    """
    filesystem, path = open_filesystem(file.url)
    content: bytes = filesystem.cat_file(path, start=start, end=end)
    if len(content) != end - start:
        raise OSError(f"{len(content)} bytes came where {end - start} were asked for")
    return content


def _kind(name: str) -> Kind:
    kind = kind_of(name)
    if kind is None:
        raise InputError(f"{name}: unknown kind of file; expected one that ends in {', '.join(KINDS)} (or .gz after text).")
    return kind


def _input_file(url: str, info: dict[str, Any], filesystem: fsspec.AbstractFileSystem, path: str) -> InputFile:
    is_local = filesystem.protocol == "file" or "file" in filesystem.protocol
    if info.get("size") is None:
        raise InputError(f"{url}: its server does not say how long it is; download it and give the file.")
    signs = {name: str(info[name]) for name in SIGNS_OF_CHANGE if info.get(name) is not None}
    file = InputFile(url=path if is_local else url, size=int(info["size"]), signs=signs)
    if not is_local and file.size > 1:
        try:
            read_range(file, 0, 1)
        except Exception as error:  # noqa: BLE001  # as above
            raise InputError(f"{url}: cannot be read in parts ({_first_line(error)}); download it and give the file.") from None
    return file


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
