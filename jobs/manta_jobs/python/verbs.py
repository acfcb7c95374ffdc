"""`manta.train`, `manta.tune` and `manta.load`: the steps of the commands of these names, for rows that a program holds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

from manta.config.file import anchor_paths, build_config
from manta.console import people_console, working
from manta.data.read import SPLIT_STEMS
from manta.errors import InputError
from manta.registry.models import find_model
from manta.storage.folders import RunFolder, Storage
from manta_jobs.python.model import Model
from manta_jobs.python.rows import as_table, listed
from manta_jobs.runs.given_rows import in_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta.config import ExperimentConfig
    from manta_jobs.python.rows import Columns, Rows
    from manta_jobs.runs.results import TrainedModel

    Source: TypeAlias = Rows | str | Path

LOADING = "Loading Ray and PyTorch"
OWN_KEYWORDS = ("train", "validation", "test", "text", "label")
"""The settings of `data` that are arguments of their own."""


class Settings(TypedDict, total=False):
    """The sections of an experiment file, with the names and meanings that they have there (docs/experiment.md)."""

    data: Mapping[str, Any]
    """Settings of the rows, such as {"test_fraction": 0.2}."""
    model: Mapping[str, Any]
    """Settings of the encoder, such as {"pretrained": "bert-base-uncased"}."""
    train: Mapping[str, Any]
    """Settings of the fine-tuning, such as {"num_epochs": 3}."""
    tune: Mapping[str, Any]
    """Settings of the search, such as {"budget": {"num_trials": 4}}."""
    registry: Mapping[str, Any]
    """Settings of the registry, such as {"promote": False}."""
    serve: Mapping[str, Any]
    """Settings of the API, for `manta serve`."""
    storage: str
    """Folder of runs, artifacts and the registry; $MANTA_STORAGE or ~/.manta unless given."""


def train(
    rows: Source | Mapping[str, Source],
    *,
    name: str,
    text: Columns = "text",
    label: str | int = "label",
    validation: Source | None = None,
    test: Source | None = None,
    address: str | None = None,
    **settings: Unpack[Settings],
) -> Model:
    """Fine-tune one model, evaluate it on the test rows and register it under `name`, as `manta train` does.

    `rows` are a pandas or Polars DataFrame, an Arrow table, a `datasets.Dataset`, a list of dicts, or the path of a file, folder,
    URL or sample as in `data.train`. A `DatasetDict`, or any mapping with the keys train, validation and test, gives several
    splits. Without `validation` and `test` rows, some of `rows` are set aside. `text` and `label` name the columns; two text
    columns make text pairs. The other settings are sections of the experiment file, such as `train={"num_epochs": 3}`. `address`
    is the Ray cluster to train on; without it, $RAY_ADDRESS, or this machine.

    Raises:
        InputError: a setting or the rows have a fault; nothing has been written.
        RunError: training failed, or the cluster does not answer.
    """
    with _experiment(
        "train", rows, validation=validation, test=test, name=name, text=text, label=label, settings=settings
    ) as config:
        console = people_console()
        with working(console, LOADING):
            from manta_jobs.cli.show_run import show_verdict
            from manta_jobs.runs import train as job
        trained = job.train(config, console=console, address=address)
    show_verdict(trained, console)
    return _model(trained)


def tune(
    rows: Source | Mapping[str, Source],
    *,
    name: str,
    text: Columns = "text",
    label: str | int = "label",
    validation: Source | None = None,
    test: Source | None = None,
    address: str | None = None,
    **settings: Unpack[Settings],
) -> Model:
    """Search the learning rate, dropout or any other setting, and register the best trial under `name`, as `manta tune` does.

    The arguments are those of `train`; `tune={...}` sets what is searched and for how long. The model's `trials` has all trials.

    Raises:
        InputError: a setting or the rows have a fault; nothing has been written.
        RunError: every trial failed, or the cluster does not answer.
    """
    with _experiment(
        "tune", rows, validation=validation, test=test, name=name, text=text, label=label, settings=settings
    ) as config:
        console = people_console()
        with working(console, LOADING):
            from manta_jobs.cli.show_run import show_verdict
            from manta_jobs.runs import tune as job
        tuned = job.tune(config, console=console, address=address)
    show_verdict(tuned.model, console)
    return _model(tuned.model)


def load(model: str | Path) -> Model:
    """Return a finished model: `NAME` for the champion of the registry, `NAME@3` for a version, or a folder such as ./support.

    Raises:
        InputError: there is no such model, or a file of it is missing or altered.
        RunError: the registry cannot be reached.
    """
    with working(people_console(), f"Loading {model}"):
        artifact, version = find_model(model if isinstance(model, str) else str(model.absolute()))
    run = RunFolder(Storage.resolve(None).runs / artifact.manifest.run)
    return Model(artifact, version=version, run=run if run.report_path.exists() else None)


def _model(trained: TrainedModel) -> Model:
    return Model(trained.artifact, version=trained.version.version, run=trained.run)


@contextmanager
def _experiment(
    verb: str,
    rows: Source | Mapping[str, Source],
    *,
    validation: Source | None,
    test: Source | None,
    name: str,
    text: Columns,
    label: str | int,
    settings: Settings,
) -> Iterator[ExperimentConfig]:
    """Give the checked config of a run whose rows can be read while the body runs."""
    source = f"manta.{verb}"
    section = settings.get("data", {})
    if not isinstance(section, Mapping):
        raise InputError(f"{source}: data takes settings such as {{'test_fraction': 0.2}}; the rows are the first argument.")
    twice = next((key for key in OWN_KEYWORDS if key in section), None)
    if twice is not None:
        raise InputError(f"{source}: give data.{twice} as {'the first argument' if twice == 'train' else f'{twice}=…'}.")
    further = {"validation": validation, "test": test}
    given = _splits(rows, source=source) | {key: value for key, value in further.items() if value is not None}
    columns = [*listed(text), label]
    files = {key: str(value) for key, value in given.items() if isinstance(value, str | Path)}
    tables = {key: as_table(value, columns=columns, what=f"{key} rows") for key, value in given.items() if key not in files}
    with in_memory(tables) as urls:
        texts = text if isinstance(text, str | int) else list(text)
        data = {**section, **files, **urls, "text": texts, "label": label}
        document: dict[str, Any] = {"name": name, **settings, "data": data}
        anchor_paths(document, Path.cwd())
        yield build_config(document, source=source)


def _splits(rows: Source | Mapping[str, Source], *, source: str) -> dict[str, Source]:
    """Return the rows of each split that they hold."""
    if not isinstance(rows, Mapping):
        return {"train": rows}
    found = {split: rows[stem] for split, stems in SPLIT_STEMS.items() for stem in stems if stem in rows}
    if "train" not in found:
        raise InputError(
            f"{source}: a mapping gives the rows of splits, and needs the key train; it has {', '.join(map(str, rows))}."
        )
    return found
