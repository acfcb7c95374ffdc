"""The accuracies on the bundled rows that the README claims: `make bench`.

For each sample: TF-IDF (1-2 grams) with logistic regression, and `manta train` with the embedded encoder, on the same fixed
splits in one run. `--json FILE` writes the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from manta.config import DataConfig
from manta.data import load_dataset

SETTINGS = {
    "support": {"train.learning_rate": 5e-4, "train.num_epochs": 3, "train.zero_stage": 1},
    "reviews": {"train.learning_rate": 3e-4, "train.num_epochs": 4},
}


def baseline_accuracy(name: str) -> float:
    """Test accuracy of TF-IDF and logistic regression on one sample."""
    dataset = load_dataset(DataConfig(train=f"sample:{name}"))
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000))
    model.fit(dataset.train.texts, dataset.train.targets)
    return float(model.score(dataset.test.texts, dataset.test.targets))


def manta_accuracy(name: str, folder: Path) -> float:
    """Test accuracy of `manta train` on one sample, by the command line."""
    experiment = folder / f"{name}.yaml"
    experiment.write_text(f"name: {name}\ndata: {{train: sample:{name}}}\ntrain: {{num_workers: 2}}\n")
    overrides = [part for key, value in SETTINGS[name].items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "manta.cli", "train", str(experiment), "--json", *overrides]
    environment = os.environ | {"MANTA_STORAGE": str(folder / "storage")}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return float(json.loads(output)["metrics"]["accuracy"])


def main() -> None:
    """Measure, print a table and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    target = parser.parse_args().json
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in SETTINGS:
            for system, value in (("tf-idf", baseline_accuracy(name)), ("manta", manta_accuracy(name, Path(folder)))):
                results.append({"system": system, "case": name, "metric": "accuracy", "value": value, "unit": "fraction"})
    for row in results:
        print(f"{row['case']:10} {row['system']:8} test accuracy {row['value']:.4f}")
    if target:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
        target.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
