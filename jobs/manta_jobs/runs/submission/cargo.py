"""The local files that a job carries: its config, and the files that the config and the verb's arguments name."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from manta.cluster.job import INPUTS
from manta.config.file import DATA_FILES, anchor_paths, build_config, parse_document, read_text
from manta.console import bytes_phrase
from manta.errors import InputError
from manta.storage.folders import names_a_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_BYTES = 100 * 1024**2


@dataclass
class Cargo:
    """Files that travel with a job, by their name in the job's folder."""

    limit: int = MOST_BYTES
    files: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    _locations: dict[Path, tuple[str, str]] = field(default_factory=dict)

    def add(self, path: Path, *, what: str) -> str:
        """Add a file or folder, and return its name in the job's folder. Messages call it `what`."""
        path = path.expanduser().resolve()
        if path not in self._locations:
            name = f"{len(self._locations)}-{path.name}"
            self._locations[path] = (name, what)
            if path.is_dir():
                for file in sorted(path.rglob("*")):
                    if file.is_file():
                        self.files[f"{name}/{file.relative_to(path).as_posix()}"] = file
            else:
                self.files[name] = path
        return self._locations[path][0]

    def check_size(self) -> None:
        """Check that the files are small enough to travel, without reading them.

        Raises:
            InputError: they are too large; the message names the largest and says what to do.
        """
        sizes = {name: file.stat().st_size for name, file in self.files.items()}
        if sum(sizes.values()) <= self.limit:
            return
        shares = [
            (sum(size for file, size in sizes.items() if file.split("/")[0] == name), what, path)
            for path, (name, what) in self._locations.items()
        ]
        size, what, path = max(shares)
        raise InputError(
            f"{what}: {path} has {bytes_phrase(size)} (all together {bytes_phrase(sum(sizes.values()))}), and a job carries at "
            f"most {bytes_phrase(self.limit)}; put it on storage that the cluster reads, such as s3://… or a folder that all nodes "
            "share, and name that in its place."
        )

    @cached_property
    def contents(self) -> dict[str, bytes]:
        """Content of all files, read once; nothing may be added afterwards."""
        texts = {name: text.encode() for name, text in self.texts.items()}
        return texts | {name: file.read_bytes() for name, file in self.files.items()}


def packed_inputs(verb: str, params: Mapping[str, Any], *, limit: int = MOST_BYTES) -> tuple[Cargo, dict[str, Any], str | None]:
    """Return the local files that a verb's arguments name, the arguments for the job, and the config's storage.

    A path in the config or the arguments travels if it exists here. Paths in the config's `storage` do not travel, as the cluster
    reads them itself. URLs, samples, registered models and paths that exist only on the cluster stay as they are.

    Raises:
        InputError: the config is wrong, a file is missing, the files are too large, or a result would be left on one node.
    """
    cargo, sent, storage = Cargo(limit=limit), dict(params), None
    if params.get("experiment") is not None:
        path = Path(params["experiment"])
        document, storage = _packed_config(cargo, path, overrides=params.get("set_"))
        cargo.texts[path.name] = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        sent |= {"experiment": {"path": f"{INPUTS}/{path.name}"}, "set_": None}
    for name in ("model", "data", "source", "behaviour", "corrections"):
        value = params.get(name)
        is_registered = name == "model" and not names_a_folder(str(value))
        if value is not None and not is_registered and Path(value).expanduser().exists():
            inside = f"{INPUTS}/{cargo.add(Path(value), what=name)}"
            sent[name] = {"path": inside} if isinstance(value, Path) else inside
    out = params.get("out")
    if out is not None:
        if not out.is_absolute():
            raise InputError(
                f"--out {out} would lie on some node of the cluster; give a path from / on, in a folder that all nodes share."
            )
        sent["out"] = {"path": str(out)}
    cargo.check_size()
    return cargo, sent | {"address": None, "json": True}, storage


def _packed_config(cargo: Cargo, path: Path, *, overrides: Sequence[str] | None) -> tuple[dict[str, Any], str | None]:
    text = read_text(path)
    document = parse_document(text, source=str(path))
    stays = str(document.get("storage") or "/")
    if not stays.startswith(("/", "~")) and "://" not in stays:
        raise InputError(f"{path}: storage {stays} is relative to this file; a job needs a folder that all nodes share, from / on.")
    anchor_paths(document, path.resolve().parent)
    config = build_config(document, source=str(path), text=text, overrides=list(overrides or []))
    shared = Path(config.storage).expanduser() if config.storage else None
    for section, key in (*(("data", key) for key in DATA_FILES), ("model", "pretrained")):
        value = getattr(getattr(config, section), key)
        if value is None or "://" in value or value.startswith("sample:"):
            continue
        local = Path(value).expanduser()
        is_path = local.is_absolute() or local.exists()
        if not is_path or (shared is not None and local.is_relative_to(shared)):
            continue
        if local.exists():
            name = cargo.add(local, what=f"{section}.{key}")
            document[section][key] = f"./{name}" if section == "model" else name
        elif local.is_relative_to(path.resolve().parent):
            raise InputError(f"{section}.{key}: {local} does not exist; check the path.")
    return document, config.storage
