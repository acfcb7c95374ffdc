"""The methods linear and contrastive on few rows: `python benchmarks/methods.py --data DIR --jobs agnews-8:0,sst2-32:1`.

Each job is a case and a seed of `quality_cases.py`. Both methods run in this process as in a run of `manta train`:
cross-validated in three folds, then on all rows. Each result is one line of `benchmarks/results/methods.jsonl`: the rows that each
has right in the folds, and the accuracy on the test rows. What is there is not run again. With `--held-out`, other training rows of
the set take the place of the folds, which is four times as quick.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from machine import compact_facts
from manta.config import ExperimentConfig
from manta.data import Split
from manta.data.dataset import NUM_FOLDS
from manta.data.encode import EncodedSplit, write_encoded
from manta.data.split import stratified_folds
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.model.encoder import load_tokenizer
from manta.model.pooled import load_encoder
from manta_jobs.training.batches import TokenizedData
from manta_jobs.training.choice import Lead
from manta_jobs.training.few_rows.contrastive import CONTRASTIVE_FOLDER, load_adapted, train_contrastive
from manta_jobs.training.few_rows.linear import LINEAR_FOLDER, Embedder, LinearModel, LinearSetup, Tally, train_linear
from manta_jobs.training.progress import Board
from quality_cases import DrawnCase, Rows, draw_case, read_set, set_of
from quality_results import append_result, read_results

RESULTS = Path(__file__).parent / "results" / "methods.jsonl"
METHODS = {"linear": (LINEAR_FOLDER, train_linear), "contrastive": (CONTRASTIVE_FOLDER, train_contrastive)}


def main() -> int:
    """Run every job that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds sst2, banking77 and agnews")
    parser.add_argument("--jobs", required=True, help="such as agnews-8:0,sst2-32:1")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of results (%(default)s)")
    parser.add_argument("--test-rows", type=int, help="how many of the test rows; all unless given")
    parser.add_argument("--held-out", type=int, help="validate on so many other training rows, without folds")
    parser.add_argument("--threads", type=int, default=1, help="threads (%(default)s)")
    arguments = parser.parse_args()
    for job in arguments.jobs.split(","):
        case, seed = job.split(":")
        if any((known["case"], known["seed"]) == (case, int(seed)) for known in read_results(arguments.results)):
            continue
        drawn = draw_case(case, seed=int(seed), data=arguments.data)
        with tempfile.TemporaryDirectory() as folder:
            others = None if arguments.held_out is None else other_rows(drawn, case, arguments.data, count=arguments.held_out)
            figures = measured(drawn, others, Path(folder), num_test_rows=arguments.test_rows, num_threads=arguments.threads)
        machine = compact_facts(arguments.threads)
        result = {"case": case, "seed": int(seed), **figures, "machine": machine, "measured": time.strftime("%Y-%m-%d")}
        append_result(arguments.results, result)
        print(json.dumps(result), flush=True)
    return 0


def other_rows(drawn: DrawnCase, case: str, data: Path, *, count: int) -> Rows:
    """Return `count` training rows of a case's set that the case has not drawn."""
    everything, used = read_set(set_of(case), data)["train"], set(drawn.train.texts)
    order = np.random.default_rng(0).permutation(len(everything))
    return everything.take(np.array([row for row in order if everything.texts[row] not in used][:count]))


def measured(
    drawn: DrawnCase, held_out: Rows | None, folder: Path, *, num_test_rows: int | None, num_threads: int
) -> dict[str, Any]:
    """Return the figures of both methods on one case, cross-validated unless rows are held out."""
    names = sorted(set(drawn.train.labels.tolist()))
    labels = LabelSpace.from_labels(names, task="auto")
    order = np.random.default_rng(0).permutation(len(drawn.test))[:num_test_rows]
    config = ExperimentConfig.model_validate({"name": "quality", "data": {"train": "rows.csv"}, "train": {"use_gpu": False}})
    tokenizer, splits = load_tokenizer(config.model), {"train": drawn.train, "test": drawn.test.take(order)}
    if held_out is not None:
        splits["validation"] = held_out
    for name, rows in splits.items():
        split = Split(rows.texts, np.searchsorted(names, rows.labels))
        write_encoded(split, folder / f"{name}.arrow", tokenizer=tokenizer, max_length=config.model.max_length)
    train, test = (EncodedSplit(folder / f"{name}.arrow") for name in ("train", "test"))
    folds = None if held_out is not None else stratified_folds(train.targets, num_folds=NUM_FOLDS, seed=0)
    truth = train.targets if held_out is None else EncodedSplit(folder / "validation.arrow").targets
    data = TokenizedData(folder, labels, int(tokenizer.pad_token_id or 0), folds)
    models: dict[str, LinearModel] = {}
    figures: dict[str, Any] = {"num_rows": len(train), "num_held_out": len(truth), "num_folds": 0 if folds is None else NUM_FOLDS}
    figures["num_test_rows"] = len(test)
    for method, (name, run) in METHODS.items():
        setup = LinearSetup(config, data, folder / name, num_threads, Board())
        started = time.process_time()
        models[method] = run(setup)
        figures[method] = {"seconds": round(models[method].seconds, 1), "cpu_s": round(time.process_time() - started, 1)}
        figures[method] |= {"strength": models[method].strength, "accuracy": round(test_accuracy(models[method], setup, test), 4)}
    lead = Lead.of(models["linear"].logits, models["contrastive"].logits, truth, labels=labels)
    figures["linear"]["right"], figures["contrastive"]["right"] = lead.linear_right, lead.contrastive_right
    return figures | {"errors": round(lead.errors, 2)}


def test_accuracy(model: LinearModel, setup: LinearSetup, test: EncodedSplit) -> float:
    """Return the share of test rows that a model has right."""
    tally = Tally(setup.board, setup.folder.name)
    tally.start(len(test))
    is_adapted = setup.folder.name == CONTRASTIVE_FOLDER
    encoder = load_adapted(setup.config.model, setup.folder) if is_adapted else load_encoder(setup.config.model)
    logits = model.regression.logits(Embedder(setup.config, encoder, pad_id=setup.data.pad_id, tally=tally).of(test))
    answers = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    return float((answers == test.targets).mean())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(str(error))
