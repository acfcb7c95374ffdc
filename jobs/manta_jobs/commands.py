"""The job verbs of the `manta` command. Each parses, loads the config, calls one function and says what came of it.

Ray, torch and DeepSpeed are imported when a verb runs, so that `manta --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manta.config_file import load_config
from manta.console import people_console, print_result

ExperimentArgument = Annotated[Path, typer.Argument(help="The experiment's YAML file.", metavar="EXPERIMENT.yaml")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Replace a setting: --set train.learning_rate=3e-5.", metavar="NAME=VALUE")
]
AddressOption = Annotated[
    str | None, typer.Option(help="Ray cluster to run on; $RAY_ADDRESS, else one on this machine.", metavar="ADDRESS")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


def train(experiment: ExperimentArgument, set_: SetOption = None, address: AddressOption = None, json: JsonOption = False) -> None:
    """Fine-tune one model, evaluate it on the test rows and register it."""
    config = load_config(experiment, overrides=set_)
    from manta_jobs import train as job
    from manta_jobs.report import show_trained, trained_result

    console = people_console()
    model = job.train(config, console=console, address=address)
    show_trained(model, console, experiment=experiment)
    print_result(trained_result(model), as_json=json)


def tune(experiment: ExperimentArgument, set_: SetOption = None, address: AddressOption = None, json: JsonOption = False) -> None:
    """Search learning rate, dropout or any other setting; register the best trial."""
    config = load_config(experiment, overrides=set_)
    from manta_jobs import tune as job
    from manta_jobs.report import show_tuned, tuned_result

    console = people_console()
    tuned = job.tune(config, console=console, address=address)
    show_tuned(tuned, console)
    print_result(tuned_result(tuned), as_json=json)
