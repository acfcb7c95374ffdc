"""The job verbs of the `manta` command. Each loads the config, calls one function and prints the result.

Ray, torch and DeepSpeed are imported only when a verb runs, so that `manta --help` responds at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manta.config.file import load_config
from manta.console import people_console, print_result, working
from manta.errors import InputError

LOADING = "Loading Ray and PyTorch"
READING = "Reading the rows"
"""Group of options in the help."""
ExperimentArgument = Annotated[Path, typer.Argument(help="The experiment's YAML file.", metavar="EXPERIMENT.yaml")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Replace a setting: --set train.learning_rate=3e-5.", metavar="NAME=VALUE")
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Ray cluster to run on. Default: $RAY_ADDRESS, else this machine.", metavar="ADDRESS"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


def train(
    experiment: Annotated[Path | None, typer.Argument(help="The experiment's YAML file.", metavar="EXPERIMENT.yaml")] = None,
    set_: SetOption = None,
    resume: Annotated[str | None, typer.Option(help="Continue this interrupted run; give no experiment.", metavar="RUN")] = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Fine-tune one model, evaluate it on the test rows and register it."""
    check_what_to_run(experiment, set_=set_, resume=resume)
    config = load_config(experiment, overrides=set_) if experiment is not None else None
    console = people_console()
    with working(console, LOADING):
        from manta_jobs.cli.show_run import show_trained, trained_result
        from manta_jobs.runs import train as job

    if config is not None:
        model = job.train(config, console=console, address=address)
    else:
        model = job.resume(str(resume), console=console, address=address)
    show_trained(model, console, experiment=experiment)
    print_result(trained_result(model), as_json=json)


def preflight(
    experiment: ExperimentArgument, set_: SetOption = None, address: AddressOption = None, json: JsonOption = False
) -> None:
    """Check everything before a run: data, memory, cluster, disk, time, and the baseline that fine-tuning must beat."""
    config = load_config(experiment, overrides=set_)
    console = people_console()
    with working(console, LOADING):
        from manta_jobs.preflight import run as job

    result = job.preflight(config, console=console, address=address)
    print_result(result.to_dict(), as_json=json)
    result.refuse()


def demo(
    once: Annotated[bool, typer.Option("--once", help="Check that everything answers, stop it again and exit.")] = False,
    port: Annotated[int, typer.Option(help="Port of the API.", min=1, max=65535)] = 8000,
    ui_port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 7860,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Run everything once, offline: train on the bundled messages, serve, open the page, tune, serve the better model."""
    console = people_console()
    with working(console, LOADING):
        from manta_jobs.cli import demo as job
        from manta_jobs.cli.show_run import tuned_result

    config = job.demo_config(overrides=set_)
    result = job.demo(config, console=console, api_port=port, page_port=ui_port, once=once)
    answers = [{"text": text, "label": label, "score": score} for text, label, score in result.answers]
    urls = {"api": result.api_url, "page": result.page_url}
    served = {"answering": result.answering, "first_answer_s": round(result.first_answer_s, 1), "wall_s": round(result.wall_s, 1)}
    print_result(tuned_result(result.tuned) | urls | served | {"answers": answers}, as_json=json)


def evaluate(
    model: Annotated[str, typer.Argument(help="A registered model, NAME@VERSION, or a model folder.")],
    data: Annotated[str, typer.Argument(help="Labeled rows: a file, URL or sample as in data.test.")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="The text column; its position from 0 with --no-header. Give it twice for text pairs. Default: as in training.",
            metavar="COLUMN",
            rich_help_panel=READING,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="The label column; its position from 0 with --no-header. Default: as in training.",
            metavar="COLUMN",
            rich_help_panel=READING,
        ),
    ] = None,
    label_separator: Annotated[
        str | None,
        typer.Option(
            help="Separator of the labels in one field. Default: as in training.", metavar="SIGN", rich_help_panel=READING
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="The first line of CSV and TSV files names the columns. Default: as in training.",
            rich_help_panel=READING,
        ),
    ] = None,
    corrections: Annotated[
        str | None,
        typer.Option(help="Decisions about labels to apply, as data.corrections.", metavar="LABELS.jsonl", rich_help_panel=READING),
    ] = None,
    slice_: Annotated[
        list[str] | None, typer.Option("--slice", help="Show results for each value of this column; repeatable.", metavar="COLUMN")
    ] = None,
    slice_pattern: Annotated[
        list[str] | None, typer.Option(help="Show results for the rows that match; repeatable.", metavar="NAME=REGEX")
    ] = None,
    behaviour: Annotated[
        Path | None,
        typer.Option(help="File with behaviour tests. Default: the tests of the model's own config.", metavar="SUITE.yaml"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the report. Default: one in the storage.", metavar="FOLDER")
    ] = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Evaluate a finished model on labeled rows: scores, slices, mistakes, calibration, behaviour tests, speed."""
    console = people_console()
    with working(console, LOADING):
        from manta_jobs.reporting.evaluation.terminal import evaluation_result, show_evaluation
        from manta_jobs.runs import evaluate as job

    settings = {
        "text": text,
        "label": label,
        "label_separator": label_separator,
        "header": header,
        "corrections": corrections,
    }
    found = job.evaluate(
        model,
        data,
        settings=settings,
        console=console,
        address=address,
        columns=slice_ or [],
        patterns=slice_pattern or [],
        behaviour=behaviour,
        out=out,
    )
    show_evaluation(found.assessment, found.page, console)
    print_result(evaluation_result(found.assessment, found.page), as_json=json)


def predict(
    model: Annotated[str, typer.Argument(help="A registered model, NAME@VERSION, or a model folder.")],
    source: Annotated[
        str, typer.Argument(help="CSV, TSV, JSONL or Parquet: a file, a folder of such files, or a URL.", metavar="INPUT")
    ],
    out: Annotated[
        Path, typer.Option(help="File to write, ending in .csv, .jsonl or .parquet; without an ending, a folder of files.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(help="The text column. Give it twice for text pairs. Default: as in training.", metavar="COLUMN"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT, and start again instead of continuing an interrupted prediction.")
    ] = False,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Classify every row of a file or folder. Start an interrupted run again to continue it."""
    console = people_console()
    with working(console, LOADING):
        from manta_jobs.batch_prediction import predict as job
        from manta_jobs.batch_prediction.view import show_predicted

    result = job(model, source, out=out, text_columns=text, overwrite=overwrite, console=console, address=address)
    show_predicted(result, console)
    print_result(result.to_dict(), as_json=json)


def tune(
    experiment: Annotated[Path | None, typer.Argument(help="The experiment's YAML file.", metavar="EXPERIMENT.yaml")] = None,
    set_: SetOption = None,
    resume: Annotated[str | None, typer.Option(help="Continue this interrupted search; give no experiment.", metavar="RUN")] = None,
    address: AddressOption = None,
    json: JsonOption = False,
) -> None:
    """Search the learning rate, dropout or any other setting, and register the best trial."""
    check_what_to_run(experiment, set_=set_, resume=resume)
    config = load_config(experiment, overrides=set_) if experiment is not None else None
    console = people_console()
    with working(console, LOADING):
        from manta_jobs.cli.show_run import show_tuned, tuned_result
        from manta_jobs.runs import tune as job

    if config is not None:
        tuned = job.tune(config, console=console, address=address)
    else:
        tuned = job.resume(str(resume), console=console, address=address)
    show_tuned(tuned, console)
    print_result(tuned_result(tuned), as_json=json)


def check_what_to_run(experiment: Path | None, *, set_: list[str] | None, resume: str | None) -> None:
    """Check that the command has either a new experiment or a run to resume.

    Raises:
        InputError: neither or both were given, or `--set` was given with `--resume`.
    """
    if experiment is None and resume is None:
        raise InputError("which experiment? Give its YAML file, or --resume RUN to continue an interrupted one.")
    if resume is not None and (experiment is not None or set_):
        raise InputError("--resume continues with the run's own config; give neither an experiment file nor --set.")
