"""Rows from files, folders, URLs, the Hugging Face hub and the bundled samples.

Every reader records the place of each row, so that a check can name it. The file's extension decides the format. Remote URLs go
through fsspec (https://filesystem-spec.readthedocs.io), so s3://, gs://, file:// and memory:// are read alike.
"""

from __future__ import annotations

import codecs
import csv
import importlib.resources
import io
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manta.config import DataConfig, nearest
from manta.errors import InputError
from manta.storage.urls import open_filesystem

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLES = ("support", "reviews")
SPLIT_STEMS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Rows:
    """Unchecked texts and labels, with the place of each row."""

    source: str
    """The file's name in messages."""
    unit: str
    """The unit of `positions`: "line" (from 1, the header included) or "row" (from 1)."""
    texts: list[Any]
    """One value per row, or a tuple of two if `pair_columns` names two columns."""
    labels: list[Any]
    positions: list[int]
    pair_columns: tuple[str | int, ...] = ()
    """The two text columns of text pairs; empty for single texts."""
    columns: dict[str | int, list[Any]] = field(default_factory=dict)
    """The requested further columns, by name; None if a JSONL row lacks the field."""

    def where(self, index: int) -> str:
        """Return the place of one row, such as `dev.csv, line 17`."""
        return f"{self.source}, {self.unit} {self.positions[index]}"


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
    if not filesystem.isdir(path):
        return {}
    return _folder_splits(source, [str(file) for file in filesystem.ls(path, detail=False)])


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
        raise InputError(f"{source}: the folder has no train file; expected train{', train'.join(SUFFIXES)}.")
    return found


def read_rows(location: str, split: str, config: DataConfig, *, columns: Sequence[str | int] = ()) -> Rows:
    """Read the rows of one file, URL or hub split. Only the presence of the columns is checked.

    Raises:
        InputError: it is missing, unreadable, undecodable or lacks a column; the message names file and line.
    """
    if location.startswith("hf://"):
        return _read_hub(location, split, config, columns)
    suffix = next((known for known in (*SUFFIXES, ".ndjson") if location.lower().endswith(known)), None)
    if suffix is None:
        raise InputError(f"{location}: unknown kind of file; data.{split} must end in {', '.join(SUFFIXES)}.")
    filesystem, path = open_filesystem(location)
    try:
        content: bytes = filesystem.cat_file(path)
    except FileNotFoundError:
        raise InputError(f"{location}: no such file; check data.{split}.") from None
    except OSError as error:
        raise InputError(f"{location}: cannot be read ({error}).") from None
    if suffix == ".parquet":
        return _read_parquet(location, content, config, columns)
    text = _decoded(location, content)
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(location, text, config, columns)
    return _read_delimited(location, text, config, columns, tab=suffix == ".tsv")


def _decoded(location: str, content: bytes) -> str:
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{location}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8."
        ) from None


def _read_delimited(location: str, text: str, config: DataConfig, extra: Sequence[str | int], *, tab: bool) -> Rows:
    """Read CSV, whose fields may be quoted, or TSV, whose registered media type has no quoting."""
    csv.field_size_limit(2**31 - 1)
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE) if tab else csv.reader(stream, strict=True)
    rows = Rows(location, "line", [], [], [], _pair_columns(config), {column: [] for column in extra})
    columns: list[int] | None = None
    num_texts = len(config.text_columns)
    start = 1
    try:
        for record in reader:
            line, start = start, reader.line_num + 1
            if not record:
                continue
            if columns is None:
                columns = _delimited_columns(location, record, config, extra)
                if config.header:
                    continue
            if max(columns) >= len(record):
                raise InputError(
                    f"{location}, line {line}: {len(record)} {'field' if len(record) == 1 else 'fields'} "
                    f"where at least {max(columns) + 1} are needed; check the delimiters and quotes."
                )
            values = [record[column] for column in columns]
            rows.texts.append(_one_or_pair(values[:num_texts]))
            rows.labels.append(values[num_texts])
            rows.positions.append(line)
            for column, value in zip(extra, values[num_texts + 1 :], strict=True):
                rows.columns[column].append(value)
    except csv.Error as error:
        raise InputError(f"{location}, line {start}: not valid CSV ({error}).") from None
    return rows


def _delimited_columns(location: str, first: list[str], config: DataConfig, extra: Sequence[str | int]) -> list[int]:
    header = first if config.header else None
    return [_column(location, name, header, len(first), key) for key, name in _column_settings(config, extra)]


def _column_settings(config: DataConfig, extra: Sequence[str | int] = ()) -> list[tuple[str, str | int]]:
    """Return setting and column of the text (or of each of a pair's two texts), of the label, and of each further column."""
    texts = [("data.text", column) for column in config.text_columns]
    return [*texts, ("data.label", config.label), *(("--slice", column) for column in extra)]


def _pair_columns(config: DataConfig) -> tuple[str | int, ...]:
    return config.text_columns if len(config.text_columns) == 2 else ()


def _one_or_pair(texts: Sequence[Any]) -> Any:
    return texts[0] if len(texts) == 1 else tuple(texts)


def _texts_of(columns: list[list[Any]]) -> list[Any]:
    """Return the texts of column-wise rows."""
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _column(location: str, name: str | int, header: list[str] | None, width: int, key: str) -> int:
    if isinstance(name, int):
        if not 0 <= name < width:
            raise InputError(f"{location}: {key} is column {name}, but the columns run from 0 to {width - 1}.")
        return name
    names = header or []  # never empty: DataConfig requires positions if there is no header
    if name not in names:
        raise InputError(f"{location}: no column {name!r} ({key}); {nearest(name, names)}")
    return names.index(name)


def _read_json_lines(location: str, text: str, config: DataConfig, extra: Sequence[str | int]) -> Rows:
    rows = Rows(location, "line", [], [], [], _pair_columns(config), {column: [] for column in extra})
    known: dict[str, None] = {}
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except json.JSONDecodeError as error:
            raise InputError(f"{location}, line {line}: not valid JSON ({error.msg}, column {error.colno}).") from None
        if not isinstance(record, dict):
            raise InputError(f'{location}, line {line}: expected an object such as {{"text": …, "label": …}}.')
        for key, name in _column_settings(config):
            if name not in record:
                raise InputError(f"{location}, line {line}: no field {name!r} ({key}); {nearest(str(name), list(record))}")
        rows.texts.append(_one_or_pair([record[column] for column in config.text_columns]))
        rows.labels.append(record[config.label])
        rows.positions.append(line)
        known |= dict.fromkeys(record)
        for column in extra:
            rows.columns[column].append(record.get(column))
    for column in extra:
        _column(location, column, list(known), len(known), "--slice")  # some rows may lack it, but not all
    return rows


def _read_parquet(location: str, content: bytes, config: DataConfig, extra: Sequence[str | int]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        indices = [_column(location, name, names, len(names), key) for key, name in _column_settings(config, extra)]
        table = file.read(columns=list(dict.fromkeys(names[index] for index in indices)))
        values = [table.column(names[index]).to_pylist() for index in indices]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{location}: not a readable Parquet file ({error}).") from None
    return _rows_of(location, values, config, extra)


def _rows_of(source: str, values: list[list[Any]], config: DataConfig, extra: Sequence[str | int]) -> Rows:
    """Build rows from columns in the order of `_column_settings`."""
    num_texts = len(config.text_columns)
    texts, labels = _texts_of(values[:num_texts]), values[num_texts]
    columns = dict(zip(extra, values[num_texts + 1 :], strict=True))
    return Rows(source, "row", texts, labels, list(range(1, len(labels) + 1)), _pair_columns(config), columns)


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
    names = table.column_names
    wanted = [names[_column(source, value, names, len(names), key)] for key, value in _column_settings(config, extra)]
    label = len(config.text_columns)
    values = [list(table[name]) for name in wanted]
    values[label:] = [
        _hub_labels(column, table.features[name]) for column, name in zip(values[label:], wanted[label:], strict=True)
    ]
    return _rows_of(f"{source} ({stem or split})", values, config, extra)


def _hub_labels(values: list[Any], feature: Any) -> list[Any]:
    """Return labels by name if the hub stores them as numbers. The hub marks a hidden label with -1, which counts as missing."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return [None if value is None or value < 0 else feature.int2str(value) for value in values]
    inner = getattr(feature, "feature", None)  # the element type of a list
    if inner is None:
        return values
    return [None if value is None else _hub_labels(value, inner) for value in values]


def _hub_name(source: str) -> tuple[str, str | None]:
    name, _, config_name = source.removeprefix("hf://").partition(":")
    return name, config_name or None


def _hub_error(source: str, error: Exception) -> InputError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return InputError(f"{source}: the dataset could not be fetched from the hub ({reason}); check the name and the network.")
