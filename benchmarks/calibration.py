"""Calibration of a finished model on labeled rows.

    python benchmarks/calibration.py ARTIFACT DATA --text text --label category

Expected calibration error and Brier score with plain and with calibrated probabilities, and how many rows are answered at what
precision. The rows should be ones that the model was neither trained nor calibrated on. `--json FILE` writes the figures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from figures import write_results
from machine import machine_facts
from manta.config import DataConfig
from manta.data import load_labelled
from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.inference.calibration import CalibrationFigures, figures_on
from manta.inference.predictor import Predictor


def figures_of(artifact: ModelArtifact, data: str, *, text: list[str], label: str) -> CalibrationFigures:
    """The calibration figures of an artifact on a labelled file, by the form of the model that answers.

    Raises:
        InputError: the model was not calibrated, or the rows cannot be read.
    """
    manifest = artifact.manifest
    if manifest.calibration is None:
        raise InputError(f"{artifact.path}: this model was finished without calibration; train it again.")
    config = DataConfig.model_validate({"train": data, "text": text[0] if len(text) == 1 else text, "label": label})
    split = load_labelled(data, config, labels=manifest.label_space)
    logits = Predictor(artifact).logits(split.texts)
    return figures_on(manifest.calibration, logits, split.targets, labels=manifest.label_space)


def show(artifact: ModelArtifact, figures: CalibrationFigures) -> None:
    """Print them as a table, and what they mean for the answers."""
    console = Console()
    table = Table(title=f"{artifact.manifest.name} on {figures.num_rows:,} rows", title_justify="left")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("expected calibration error", f"{figures.ece_before:.4f}", f"{figures.ece_after:.4f}")
    table.add_row("Brier score", f"{figures.brier_before:.4f}", f"{figures.brier_after:.4f}")
    console.print(table)
    if artifact.manifest.calibration is not None:
        for sentence in artifact.manifest.calibration.model_copy(update={"test": figures}).sentences():
            console.print(sentence)


def result_rows(case: str, figures: CalibrationFigures) -> list[dict[str, Any]]:
    """The figures in the benchmarks' JSON form."""
    values = figures.model_dump(exclude={"num_rows"})
    return [{"system": "manta", "case": case, "metric": name, "value": value, "unit": "fraction"} for name, value in values.items()]


def main() -> None:
    """Measure, print, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="a model folder")
    parser.add_argument("data", help="labelled rows: a file or URL")
    parser.add_argument("--text", action="append", help="the text column (text); twice for text pairs")
    parser.add_argument("--label", default="label", help="the label column (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    try:
        artifact = ModelArtifact.load(arguments.artifact)
        figures = figures_of(artifact, arguments.data, text=arguments.text or ["text"], label=arguments.label)
    except InputError as error:
        sys.exit(str(error))
    show(artifact, figures)
    if arguments.json:
        write_results(arguments.json, machine_facts(torch.get_num_threads()), result_rows(Path(arguments.data).stem, figures))


if __name__ == "__main__":
    main()
