"""The output path OUT: its format, and the check that it may be written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.rows.text_file import Kind
    from manta_jobs.batch_prediction.join import OutKind
    from manta_jobs.batch_prediction.locate import InputFile

OUT_KINDS: dict[str, OutKind] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
IN_A_FOLDER: dict[Kind, OutKind] = {"csv": "csv", "tsv": "csv", "jsonl": "jsonl", "json": "jsonl", "parquet": "parquet"}
"""The kind of the files in an output folder, by the input's."""


@dataclass(frozen=True)
class Destination:
    """The path that the answers are written to."""

    path: Path

    @property
    def is_folder(self) -> bool:
        """True if OUT is a folder of files."""
        return not self.path.suffix

    @property
    def partial(self) -> Path:
        """The folder of the chunks finished so far."""
        return self.path.with_name(self.path.name + ".partial")

    @property
    def is_in_place(self) -> bool:
        """True if an earlier attempt wrote OUT but was killed before it removed the partial folder."""
        try:
            inode = json.loads((self.partial / "joined.json").read_text(encoding="utf-8"))["inode"]
        except (OSError, ValueError):
            return False
        return self.path.exists() and bool(self.path.stat().st_ino == inode)

    def kind(self, source: Kind) -> OutKind:
        """Return the format of the output files: the one of OUT's extension, or in a folder the one nearest to the input's."""
        return IN_A_FOLDER[source] if self.is_folder else OUT_KINDS[self.path.suffix.lower()]

    def check(self, source: str, files: Sequence[InputFile], *, overwrite: bool) -> None:
        """Refuse an OUT that cannot be written, that exists already, or that is the input itself.

        Raises:
            InputError: OUT is refused; the message names the path and says what to do.
        """
        path, endings = self.path, ", ".join(OUT_KINDS)
        if path.suffix and path.suffix.lower() not in OUT_KINDS:
            raise InputError(f"{path}: must end in {endings}, or have no ending for a folder of files; change --out.")
        if not path.parent.is_dir():
            raise InputError(f"{path.parent}: no such folder; make it or change --out.")
        inputs = [Path(file.url).resolve() for file in files]
        is_inside = path.parent.resolve() == inputs[0].parent and not source.endswith(inputs[0].name)
        if is_inside or path.resolve() in inputs:
            raise InputError(f"{path}: {'lies in the folder that is read' if is_inside else 'is the input'}; change --out.")
        if path.exists() and not self.is_in_place:
            self._check_replaceable(overwrite=overwrite)

    def _check_replaceable(self, *, overwrite: bool) -> None:
        path = self.path
        if not overwrite:
            raise InputError(f"{path}: is there already; choose another --out, or give --overwrite to replace it.")
        if self.is_folder != path.is_dir():
            there, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
            raise InputError(f"{path}: is a {there}, but the output is a {wanted}; change --out.")
        if self.is_folder and not all(file.name.startswith("part-") for file in path.iterdir()):
            raise InputError(f"{path}: holds other files than those of manta predict; change --out.")
