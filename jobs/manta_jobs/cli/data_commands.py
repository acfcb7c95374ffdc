"""`manta data`: look at the rows before a model learns from them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manta.config.file import build_config, load_config
from manta.console import people_console, print_result, working
from manta.errors import InputError
from manta_jobs.cli.commands import LOADING, JsonOption, SetOption

if TYPE_CHECKING:
    from manta.config import ExperimentConfig

data = typer.Typer(help="Look at labeled rows before a model learns from them.", no_args_is_help=True)
RowsArgument = Annotated[
    str, typer.Argument(help="An experiment's YAML file, or a file of labeled rows.", metavar="EXPERIMENT_OR_CSV")
]
LabelOption = Annotated[str | None, typer.Option(help="The label column of a file of rows. Default: label.", metavar="COLUMN")]


@data.command()
def check(
    rows: RowsArgument,
    text: Annotated[str | None, typer.Option(help="The text column of a file of rows. Default: text.", metavar="COLUMN")] = None,
    label: LabelOption = None,
    out: Annotated[
        Path | None, typer.Option(help="New file for all suspects. Default: one in the storage.", metavar="FILE.jsonl")
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Find rows whose label is probably wrong, near-duplicates with different labels, and outliers."""
    is_experiment = rows.lower().endswith((".yaml", ".yml"))
    config = _config(rows, text=text, label=label, overrides=set_, is_experiment=is_experiment)
    console = people_console()
    with working(console, LOADING):
        from manta_jobs.data.check import check_labels
        from manta_jobs.data.view import show_check

    result = check_labels(config, data=rows, is_experiment=is_experiment, out=out, console=console)
    show_check(result, console, is_experiment=is_experiment)
    print_result(result.to_dict(), as_json=json)


@data.command()
def suggest(
    rows: RowsArgument,
    pool: Annotated[
        str, typer.Argument(help="Unlabeled rows: a CSV, TSV, JSONL or Parquet file, or a folder of such files.", metavar="POOL")
    ],
    count: Annotated[int, typer.Option(help="The number of rows to label next.", min=1)] = 50,
    text: Annotated[str | None, typer.Option(help="The text column of both files. Default: text.", metavar="COLUMN")] = None,
    label: LabelOption = None,
    target: Annotated[
        float | None,
        typer.Option(help="Forecast how many more labels bring accuracy to this share, such as 0.95.", min=0.0, max=1.0),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the chosen rows. In one that exists, rows with a label are kept and learned from, and the others are "
            "replaced. Default: POOL-to-label.csv in this folder.",
            metavar="FILE.csv",
        ),
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Choose the unlabeled rows to label next: uncertain ones that differ from each other."""
    is_experiment = rows.lower().endswith((".yaml", ".yml"))
    config = _config(rows, text=text, label=label, overrides=set_, is_experiment=is_experiment)
    file = out if out is not None else Path(f"{Path(pool).name.split('.')[0]}-to-label.csv")
    console = people_console()
    with working(console, LOADING):
        from manta_jobs.data.suggest import suggest as choose
        from manta_jobs.data.suggest_view import show_suggested

    result = choose(config, pool, data=rows, count=count, is_experiment=is_experiment, out=file, target=target, console=console)
    given = {"--text": text, "--label": label, "--target": target, "--out": out}
    options = [("--count", count), *given.items(), *(("--set", setting) for setting in set_ or ())]
    words = ["manta", "data", "suggest", rows, pool, *(str(part) for pair in options if pair[1] is not None for part in pair)]
    show_suggested(result, console, command=shlex.join(words), experiment=rows if is_experiment else None)
    print_result(result.to_dict(), as_json=json)


def _config(
    rows: str, *, text: str | None, label: str | None, overrides: list[str] | None, is_experiment: bool
) -> ExperimentConfig:
    """Return the config of an experiment, or one of a file of rows.

    Raises:
        InputError: the config is wrong, or columns are given for an experiment, which names its own.
    """
    if not is_experiment:
        given: dict[str, Any] = {name: value for name, value in (("text", text), ("label", label)) if value is not None}
        name = Path(rows.removeprefix("sample:")).name.split(".")[0]
        document = {"name": "".join(letter if letter.isalnum() else "-" for letter in name).strip("-") or "rows"}
        return build_config({**document, "data": {"train": rows, **given}}, source=rows, overrides=overrides)
    if text is not None or label is not None:
        raise InputError(f"--text and --label are for a file of rows; {rows} names its own columns in data.text and data.label.")
    return load_config(Path(rows), overrides=overrides)
