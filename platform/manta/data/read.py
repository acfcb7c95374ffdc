"""Rows from files, folders, URLs, the Hugging Face hub and the bundled samples.

Each row keeps its place, so that a check can name it. `manta.rows` reads the files. Remote URLs go through fsspec
(https://filesystem-spec.readthedocs.io), so s3://, gs://, file:// and memory:// are read alike.
"""

from __future__ import annotations

import importlib.resources
import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.config import DataConfig, nearest
from manta.data.collect import Collector, Rows
from manta.data.stored import CHUNK_ROWS
from manta.errors import InputError
from manta.rows.columns import MISSING, field_of, paths_of, position_of, twice_named
from manta.rows.contents import check_contents
from manta.rows.delimited import delimited_records, find_heading
from manta.rows.json_rows import json_records
from manta.rows.parquet import class_feature, column_at, first_unnamed, named_labels, path_of, paths_in
from manta.rows.text_file import ADVICE, GZIP, KINDS, Kind, Tape, TextFile, kind_of, read_text
from manta.storage.urls import open_filesystem, remote_errors, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

SAMPLES = ("support", "reviews")
SPLIT_STEMS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SUFFIXES = (*KINDS, *(ending + GZIP for ending in KINDS if ending != ".parquet"))
FEEDBACK_SUFFIX = ".sqlite"
"""Suffix of the database in which a service stores feedback."""


def read_splits(config: DataConfig) -> dict[str, Rows]:
    """Read the rows of every split that the config names or that its training source holds.

    Raises:
        InputError: a file is missing, unreadable, undecodable or lacks a column; the message names file and line.
    """
    sources = {"train": config.train, "validation": config.validation, "test": config.test}
    brought = _splits_of(config.train)
    splits: dict[str, Rows] = {}
    for name, source in sources.items():
        if source is None:
            if name in brought:
                splits[name] = read_rows(brought[name], name, config)
        else:
            splits[name] = read_split(source, name, config)
    return splits


def read_split(source: str, name: str, config: DataConfig, *, columns: Sequence[str | int] = ()) -> Rows:
    """Read the rows of one split, from its own file or from a source that holds several splits, with further `columns`.

    Raises:
        InputError: as for `read_splits`.
    """
    own = _splits_of(source)
    if own and name not in own:
        raise InputError(f"data.{name}: {source} has no {name} rows (it has {', '.join(own)}).")
    return read_rows(own.get(name, source), name, config, columns=columns)


def _splits_of(source: str) -> dict[str, str]:
    """Return the location of each split in a source that holds several; empty for a single file."""
    if source.startswith("sample:"):
        name = source.removeprefix("sample:")
        if name not in SAMPLES:
            raise InputError(f"{source}: no such sample; {nearest(name, list(SAMPLES))}")
        folder = importlib.resources.files("manta") / "samples" / name
        return {split: str(folder / f"{split}.csv") for split in SPLIT_STEMS}
    if source.startswith("hf://"):
        return _hub_splits(source)
    filesystem, path = open_filesystem(source)
    try:
        with remote_errors(source):
            files = [str(file) for file in filesystem.ls(path, detail=False)] if filesystem.isdir(path) else None
    except OSError as error:
        raise unreadable(source, error) from None
    return {} if files is None else _folder_splits(source, files)


def _folder_splits(source: str, files: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for split, stems in SPLIT_STEMS.items():
        names = [stem + suffix for stem in stems for suffix in SUFFIXES]
        matches = [file for file in files if file.rsplit("/", 1)[-1] in names]
        if len(matches) > 1:
            listed = ", ".join(sorted(file.rsplit("/", 1)[-1] for file in matches))
            raise InputError(f"{source}: several files for {split} ({listed}); name one in data.{split}.")
        if matches:
            found[split] = f"{source.rstrip('/')}/{matches[0].rsplit('/', 1)[-1]}"
    if "train" not in found:
        raise InputError(f"{source}: the folder has no train file; expected train{', train'.join(KINDS)}.")
    return found


def read_rows(location: str, split: str, config: DataConfig, *, columns: Sequence[str | int] = ()) -> Rows:
    """Read the rows of one file, URL or hub split. Only the presence of the columns is checked.

    Raises:
        InputError: it is missing, unreadable, undecodable, has a faulty row or lacks a column; the message names file and line.
    """
    if location.startswith("hf://"):
        return _read_hub(location, split, config, columns)
    if location.lower().endswith(FEEDBACK_SUFFIX):
        return _read_feedback(location, split, config, columns)
    kind = kind_of(location)
    if kind is None:
        raise InputError(f"{location}: unknown kind of file; data.{split} must end in {', '.join(KINDS)} (or .gz after text).")
    read = _read_delimited if kind in ("csv", "tsv") else _read_json
    try:
        with remote_errors(location):
            if kind == "parquet":
                return _read_parquet(location, config, columns)
            return read_text(
                location,
                lambda file: read(file, kind, config, columns),
                encoding=config.encoding,
                advice=f"{ADVICE} or set data.encoding (such as cp1251, gbk or utf-16-le)",
            )
    except FileNotFoundError:
        raise InputError(f"{location}: no such file; check data.{split}.") from None
    except OSError as error:
        raise unreadable(location, error) from None


def _read_delimited(file: TextFile, kind: Kind, config: DataConfig, extra: Sequence[str | int]) -> Rows:
    settings = _column_settings(config, extra)
    heading = find_heading(
        file,
        kind,
        fits=lambda names: all(_place(name, names, has_header=config.header) is not None for _, name in settings),
        delimiter=config.delimiter,
        has_header=config.header,
    )
    if not heading.names:
        raise InputError(f"{file.url}: no rows; {'its first line must name the columns' if config.header else 'it is empty'}.")
    rows = Collector(file.url, "line", config, extra, remarks=(file.remark, heading.remark))
    advice = "; if another sign is between the fields, set data.delimiter" if len(heading.names) == 1 else ""
    columns = [_column(file.url, name, heading.names, key, has_header=config.header, advice=advice) for key, name in settings]
    needed = max(columns) + 1 if config.header else len(heading.names)
    with file.open() as stream:
        for record in delimited_records(Tape(stream, newline=""), heading, url=file.url):
            fields = record.fields
            if record.fault is not None:
                raise InputError(f"{file.url}, line {record.line}: {record.fault}.")
            if len(fields) < needed:
                raise InputError(
                    f"{file.url}, line {record.line}: {len(fields)} {'field' if len(fields) == 1 else 'fields'} "
                    f"where at least {needed} are needed; check the delimiters and quotes."
                )
            rows.add([fields[column] for column in columns], record.line)
    return rows.finished()


def _read_json(file: TextFile, kind: Kind, config: DataConfig, extra: Sequence[str | int]) -> Rows:
    rows = Collector(file.url, "line", config, extra, remarks=(file.remark,))
    return _collected(rows, ((record.line, record.row) for record in json_records(file, kind)), config, extra)


def _collected(
    rows: Collector, records: Iterable[tuple[int, dict[str, Any] | str]], config: DataConfig, extra: Sequence[str | int]
) -> Rows:
    """Return the rows of numbered objects. A record that is a string is a fault, which it describes."""
    source, unit = rows.source, rows.unit
    settings = _column_settings(config)
    known: set[str] = set()
    for position, row in records:
        if isinstance(row, str):
            raise InputError(f"{source}, {unit} {position}: {row}.")
        values = [field_of(row, str(name)) for _, name in settings]
        for (key, name), value in zip(settings, values, strict=True):
            if value is MISSING:
                raise InputError(
                    f"{source}, {unit} {position}: no field {name!r} ({key}); {nearest(str(name), list(paths_of(row)))}"
                )
        further = [field_of(row, str(name)) for name in extra]
        known.update(name for name, value in zip(map(str, extra), further, strict=True) if value is not MISSING)
        rows.add([*values, *(None if value is MISSING else value for value in further)], position)
    found = rows.finished()
    missing = [name for name in extra if str(name) not in known]
    if missing and found.texts:  # some rows may lack it, but not all
        raise InputError(f"{source}: no row has the field {missing[0]!r} (--slice).")
    return found


def _read_feedback(location: str, split: str, config: DataConfig, extra: Sequence[str | int]) -> Rows:
    """Read the database of a service's feedback, oldest row first."""
    path = Path(open_filesystem(location)[1])
    if not path.is_file():
        raise InputError(f"{location}: no such file on this machine; check data.{split}.")
    query = "SELECT id, text, label, answer, version, at FROM feedback ORDER BY id"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            found = map(_feedback_record, database.execute(query))
            return _collected(Collector(location, "row", config, extra), found, config, extra)
    except sqlite3.Error as error:
        raise InputError(f"{location}: not a database of feedback ({error}); check data.{split}.") from None


def _feedback_record(row: tuple[int, str, str, str, int, str]) -> tuple[int, dict[str, Any]]:
    """Return number and content of one row, as a line of JSON would have it."""
    number, text, label, answer, version, at = row
    given = json.loads(text)
    names = {"text": given} if isinstance(given, str) else dict(zip(("first", "second"), given, strict=True))
    return number, {**names, "label": json.loads(label), "answer": json.loads(answer), "version": version, "at": at}


def _column_settings(config: DataConfig, extra: Sequence[str | int] = ()) -> list[tuple[str, str | int]]:
    """Return setting and column of the text (or of each of a pair's two texts), of the label, and of each further column."""
    texts = [("data.text", column) for column in config.text_columns]
    return [*texts, ("data.label", config.label), *(("--slice", column) for column in extra)]


def _place(name: str | int, names: Sequence[str], *, has_header: bool) -> int | None:
    """Return the position of a column that is given by name or position; None if there is none."""
    if isinstance(name, int):
        return name if 0 <= name < len(names) else None
    return position_of(name, names) if has_header else None


def _column(location: str, name: str | int, names: Sequence[str], key: str, *, has_header: bool = True, advice: str = "") -> int:
    found = _place(name, names, has_header=has_header)
    if found is not None:
        return found
    if isinstance(name, int):
        raise InputError(f"{location}: {key} is column {name}, but the columns run from 0 to {len(names) - 1}.")
    raise InputError(f"{location}: no column {name!r} ({key}); {nearest(name, list(names))}{advice}")


def _read_parquet(location: str, config: DataConfig, extra: Sequence[str | int]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, path = open_filesystem(location)
    rows = Collector(location, "row", config, extra)
    try:
        with filesystem.open(path, "rb") as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            twice = twice_named(schema.names)
            if twice is not None:
                raise InputError(f"{location}: two columns are named {twice!r}; rename one.")
            paths = [_parquet_path(location, name, schema, key) for key, name in _column_settings(config, extra)]
            num_texts = len(config.text_columns)
            features = [None] * num_texts + [class_feature(schema, path) for path in paths[num_texts:]]
            wanted = list(dict.fromkeys(schema.names[path[0]] for path in paths))
            for group in range(file.num_row_groups):  # over all at once, `iter_batches` keeps what it has read of those before
                for batch in file.iter_batches(CHUNK_ROWS, row_groups=[group], columns=wanted):
                    table = pa.Table.from_batches([batch])
                    by_name = [(table.schema.get_field_index(schema.names[path[0]]), *path[1:]) for path in paths]
                    columns = [column_at(table, path).to_pylist() for path in by_name]
                    rows.add_columns(_with_names(columns, features, rows))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        check_contents(location)
        raise InputError(f"{location}: not a readable Parquet file ({str(error).splitlines()[0].rstrip('.')}).") from None
    return rows.finished()


def _with_names(columns: Sequence[list[Any]], features: Sequence[Any], rows: Collector) -> list[list[Any]]:
    """Return the columns of the rows that come next, with class labels by their names."""
    named = [named_labels(column, feature) for column, feature in zip(columns, features, strict=True)]
    for column, feature in zip(named, features, strict=True):
        if feature is not None and (found := first_unnamed(column, feature)):
            raise InputError(
                f"{rows.source}, row {rows.num_rows + found[0] + 1}: the label {found[1]} has no name in the file's list of "
                "labels; fix or remove the row."
            )
    return named


def _parquet_path(location: str, name: str | int, schema: pa.Schema, key: str) -> tuple[int, ...]:
    if isinstance(name, str):
        path = path_of(name, schema)
        if path is None:
            raise InputError(f"{location}: no column {name!r} ({key}); {nearest(name, list(paths_in(schema)))}")
        return path
    return (_column(location, name, schema.names, key),)


def _hub_splits(source: str) -> dict[str, str]:
    import datasets

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each retry; our error says it once
    name, config_name = _hub_name(source)
    try:
        available = datasets.get_dataset_split_names(name, config_name)
    except Exception as error:  # noqa: BLE001  # the hub's client raises many types: offline, not found, gated, bad config
        raise _hub_error(source, error) from None
    splits = {split: next((stem for stem in stems if stem in available), None) for split, stems in SPLIT_STEMS.items()}
    return {split: f"{source}#{stem}" for split, stem in splits.items() if stem}


def _read_hub(location: str, split: str, config: DataConfig, extra: Sequence[str | int]) -> Rows:
    import datasets

    source, _, stem = location.partition("#")
    name, config_name = _hub_name(source)
    try:
        table = datasets.load_dataset(name, config_name, split=stem or split)
    except Exception as error:  # noqa: BLE001  # likewise
        raise _hub_error(source, error) from None
    names, features = table.column_names, table.features.to_dict()
    wanted = [names[_column(source, value, names, key)] for key, value in _column_settings(config, extra)]
    num_texts = len(config.text_columns)
    kinds = [None] * num_texts + [features[name] for name in wanted[num_texts:]]
    rows = Collector(f"{source} ({stem or split})", "row", config, extra)
    for batch in table.select_columns(list(dict.fromkeys(wanted))).iter(CHUNK_ROWS):
        rows.add_columns(_with_names([batch[name] for name in wanted], kinds, rows))
    return rows.finished()


def _hub_name(source: str) -> tuple[str, str | None]:
    name, _, config_name = source.removeprefix("hf://").partition(":")
    if not name:
        raise InputError(f"{source}: names no dataset of the hub; write hf://owner/name.")
    return name, config_name or None


def _hub_error(source: str, error: Exception) -> InputError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return InputError(f"{source}: the dataset could not be fetched from the hub ({reason}); check the name and the network.")
