"""Error rates of the rule that admits inference formats: `python benchmarks/format_rule.py MODEL ROWS.csv` (columns text, label).

The rows are the truth: how much accuracy a format really loses, and how much it really changes calibrated probabilities. Then the
rule of `manta.inference.formats` judges many samples of them, as it does a run's test rows, beside the rule of earlier versions
(the same label on 99% of the rows, at most half a point of accuracy lost). The formats are the model's own int8, and its
safetensors with noise of several sizes added to the logits.

A format is good if it loses at most half a point and changes probabilities by at most 0.02, and bad if it loses more than a point.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from manta.inference.artifact import ModelArtifact
from manta.inference.formats import FormatRun, judged
from manta.inference.predictor import Predictor
from manta.labels import Floats, LabelSpace, Targets

SIZES = (100, 200, 400, 1000)
NOISE = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
"""Standard deviation of the noise, in those of the logits."""
NUM_SAMPLES = 1000


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a finished model's folder")
    parser.add_argument("rows", type=Path, help="a CSV of rows that the model was not trained on, the more the better")
    arguments = parser.parse_args()
    artifact = ModelArtifact.load(arguments.model)
    labels = artifact.manifest.label_space
    with arguments.rows.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts, targets = [row["text"] for row in rows], labels.encode([row["label"] for row in rows])
    reference = Predictor(artifact, device="cpu", format="safetensors").logits(texts)
    found: dict[str, Floats] = {}
    for item in artifact.manifest.formats:
        if item.accepted and item.name == "openvino-int8":
            found[item.name] = Predictor(artifact, device="cpu", format=item.name).logits(texts)
    generator = np.random.default_rng(0)
    for size in NOISE:
        found[f"noise {size:g}"] = reference + size * reference.std() * generator.standard_normal(reference.shape)
    Console(width=130).print(table(found, reference=reference, targets=targets, labels=labels))
    return 0


def table(found: dict[str, Floats], *, reference: Floats, targets: Targets, labels: LabelSpace) -> Table:
    """One row for each format: what is true of it, and the share of samples in which each rule refuses it."""
    sizes = [size for size in SIZES if size < len(targets)]
    result = Table(title=f"{len(targets)} rows; share of {NUM_SAMPLES} samples refused, earlier rule / this rule")
    for heading in ("format", "points lost", "agrees", "probabilities change", "it is", *(f"{size} rows" for size in sizes)):
        result.add_column(heading, justify="left" if heading == "format" else "right")
    expected = labels.decide(labels.probabilities(reference))
    for name, logits in found.items():
        mine = labels.decide(labels.probabilities(logits))
        lost = float((expected == targets).mean() - (mine == targets).mean())
        change = float(np.abs(labels.probabilities(logits) - labels.probabilities(reference)).max(axis=1).mean())
        verdict = "good" if lost <= 0.005 and change <= 0.02 else "bad" if lost > 0.01 else "between"
        shares = [refusals(logits, reference, targets, labels=labels, num_rows=size) for size in sizes]
        cells = [f"{before:.2f} / {now:.2f}" for before, now in shares]
        result.add_row(name, f"{100 * lost:+.2f}", f"{(mine == expected).mean():.4f}", f"{change:.4f}", verdict, *cells)
    return result


def refusals(logits: Floats, reference: Floats, targets: Targets, *, labels: LabelSpace, num_rows: int) -> tuple[float, float]:
    """Return the share of samples that the earlier rule refuses, and the share that today's rule refuses."""
    generator = np.random.default_rng(num_rows)
    before = now = 0
    for _ in range(NUM_SAMPLES):
        rows = generator.choice(len(targets), size=num_rows, replace=False)
        sample = FormatRun(logits[rows], neighbour_change=0.0, examples_per_s=1.0, size_bytes=1)
        record = judged("openvino-int8", sample, reference=reference[rows], targets=targets[rows], labels=labels)
        loss = (record.reference_accuracy or 0.0) - (record.accuracy or 0.0)
        before += (record.agreement or 0.0) < 0.99 or loss > 0.005 + 1e-9
        now += not record.accepted
    return before / NUM_SAMPLES, now / NUM_SAMPLES


if __name__ == "__main__":
    raise SystemExit(main())
