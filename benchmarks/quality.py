"""Accuracy of Manta's defaults beside other ways to use the same encoder: `make bench`, or `python benchmarks/quality.py`.

Every system gets the same rows, drawn by the seed (`quality_cases.py`), and the embedded encoder:

- `tf-idf`         word and word-pair weights with logistic regression: no encoder at all
- `frozen`         the encoder's embeddings as they are, with logistic regression
- `setfit`         SetFit with its defaults; 150 steps where there are more than 20 classes; only with up to 32 rows a class
- `trainer-5e-5x3` Hugging Face Trainer, batches of like length, learning rate 5e-5, 3 epochs, last epoch; `trainer-2e-4x5` likewise
- `plain-loop`     AdamW at 2e-4, last epoch; 20, 10, 5 epochs at 8, 32, 128 rows a class, 3 with more
- `manta`          `manta train` as it comes: it sets validation rows aside by itself, the others train on every row. Labels tell
                   its versions apart: `before` and `after` fine-tune only, `ladder` is `train.method: auto` of two methods,
                   `contrastive` of three, `fitted-head` begins fine-tuning with a regression
- `manta-full`     `manta train` with `train.method: full`, whatever the number of rows; only when asked for
- `manta-tuned`    `manta tune` as it comes
- `bad-start`      `manta train` with learning rate 1e-3 and no dropout; only when asked for

Each result is one line of `benchmarks/results/quality.jsonl`, written as soon as it is known. What is there is not run again, so
an interrupted benchmark goes on where it stopped. Everything takes hours on two cores; choose with --cases, --systems and --seeds.

    python benchmarks/quality.py --data DIR --peers-python .venv-peers/bin/python --label ladder
    python benchmarks/quality.py --data DIR --checkout ../older --label before --systems manta
    python benchmarks/quality.py --table --markdown
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from machine import compact_facts, use_cores
from manta.errors import InputError
from manta.model.pretrained import pretrained_source
from quality_cases import CASES, SAMPLES, DrawnCase, default_seeds, draw_case, set_of, write_case
from quality_results import Job, Result, append_result, duration, expected_s, read_results, without_known
from quality_systems import DEFAULT_SYSTEMS, MANTA, SYSTEMS, Interpreters, run_system, why_skipped
from quality_table import print_tables
from systems import SystemFailedError

RESULTS = Path(__file__).parent / "results" / "quality.jsonl"


def main() -> int:
    """Run what is not known yet, or print the tables; 1 if a system failed."""
    arguments = parsed_arguments()
    if arguments.table:
        print_tables(read_results(arguments.results), as_markdown=arguments.markdown)
        return 0
    interpreters = Interpreters(manta=arguments.python, checkout=arguments.checkout, peers=arguments.peers_python)
    return 1 if measure(planned(arguments), arguments, interpreters) else 0


def parsed_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds sst2, banking77 and agnews; the bundled samples need none")
    parser.add_argument("--cases", type=parted, help=f"all that --data allows unless given: {','.join(CASES)}")
    parser.add_argument(
        "--systems",
        type=parted,
        default=list(DEFAULT_SYSTEMS),
        help=f"{','.join(SYSTEMS)} (default: {','.join(DEFAULT_SYSTEMS)})",
    )
    parser.add_argument(
        "--seeds", type=lambda text: [int(part) for part in parted(text)], help="such as 0,1,2; by case unless given"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of results (%(default)s)")
    parser.add_argument("--label", default="ladder", help="names this set of Manta's results (%(default)s)")
    parser.add_argument("--peers-python", help="interpreter with setfit and sentence-transformers, for frozen and setfit")
    parser.add_argument("--python", help="interpreter of another environment that runs Manta; PYTHONPATH is not handed on to it")
    parser.add_argument("--checkout", type=Path, help="run the Manta of this checkout, with the same interpreter or with --python")
    parser.add_argument("--table", action="store_true", help="print the tables of the results instead")
    parser.add_argument("--markdown", action="store_true", help="as Markdown")
    arguments = parser.parse_args()
    if arguments.cases is None:
        arguments.cases = list(CASES if arguments.data else SAMPLES)
    for what, given, known in (("case", arguments.cases, CASES), ("system", arguments.systems, SYSTEMS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    without_rows = [case for case in arguments.cases if set_of(case) not in SAMPLES]
    if without_rows and not arguments.data and not arguments.table:
        parser.error(f"{', '.join(without_rows)} need --data, the folder that holds the sets")
    return arguments


def parted(text: str) -> list[str]:
    """The names in a list with commas."""
    return text.split(",")


def planned(arguments: argparse.Namespace) -> list[Job]:
    """Every job that was asked for, case by case."""
    return [
        Job(case, system, seed, arguments.label if system in MANTA else "")
        for case in arguments.cases
        for seed in arguments.seeds or default_seeds(case)
        for system in arguments.systems
    ]


def measure(jobs: list[Job], arguments: argparse.Namespace, interpreters: Interpreters) -> list[Job]:
    """Run the jobs that have no result; those that failed."""
    results, num_threads, encoder = read_results(arguments.results), use_cores(None), pretrained_source("embedded")
    cases = {(job.case, job.seed): draw_case(job.case, seed=job.seed, data=arguments.data) for job in jobs}
    todo = runnable(without_known(jobs, results), cases, interpreters)
    print(f"{len(jobs)} results asked for, {len(todo)} to measure", flush=True)
    machine = compact_facts(num_threads)
    facts = interpreters.manta_facts() if any(job.system in MANTA for job in todo) else {}
    failed: list[Job] = []
    for number, job in enumerate(todo, start=1):
        drawn = cases[job.case, job.seed]
        try:
            with tempfile.TemporaryDirectory() as folder:
                write_case(drawn, Path(folder))
                figures = run_system(
                    job.system, Path(folder), seed=job.seed, num_threads=num_threads, encoder=encoder, interpreters=interpreters
                )
        except SystemFailedError as error:
            print(f"{job.column} failed on {job.case}, seed {job.seed}:\n{error}", file=sys.stderr, flush=True)
            failed.append(job)
            continue
        result = line_of(job, figures | (facts if job.system in MANTA else {}), drawn=drawn, machine=machine)
        append_result(arguments.results, result)
        results.append(result)
        left = [expected_s(rest, num_rows=len(cases[rest.case, rest.seed].train), results=results) for rest in todo[number:]]
        show_progress(result, number=number, num_jobs=len(todo), left_s=sum(value or 0.0 for value in left))
    return failed


def runnable(jobs: list[Job], cases: dict[tuple[str, int], DrawnCase], interpreters: Interpreters) -> list[Job]:
    """The jobs without those that a system leaves out, which are said once a case."""
    kept: list[Job] = []
    said: set[str] = set()
    for job in jobs:
        reason = why_skipped(job.system, rows_per_class=cases[job.case, job.seed].rows_per_class, interpreters=interpreters)
        if reason is None:
            kept.append(job)
            continue
        sentence = f"{job.system} skips {job.case}: {reason}."
        if sentence not in said:
            print(sentence, file=sys.stderr, flush=True)
            said.add(sentence)
    return kept


def line_of(job: Job, figures: Result, *, drawn: DrawnCase, machine: Result) -> Result:
    """A result as the file has it."""
    own = {"case": job.case, "system": job.system, "seed": job.seed, "label": job.label}
    sizes = {"num_rows": len(drawn.train), "num_test_rows": len(drawn.test), "num_classes": drawn.num_classes}
    return own | figures | sizes | {"machine": machine, "measured": time.strftime("%Y-%m-%d")}


def show_progress(result: Result, *, number: int, num_jobs: int, left_s: float) -> None:
    """One line about a result, and when the rest will be there."""
    figures = f"accuracy {result['accuracy']:.4f}, macro F1 {result['f1_macro']:.4f}, {result['wall_s']:.1f} s"
    what = f"{result['case']:16} {Job.of(result).column:16} seed {result['seed']}"
    print(f"{number}/{num_jobs} {what}  {figures}; the rest: {duration(left_s)}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(str(error))
