"""The decisions of `benchmarks/quality.py`: the drawn rows, the repeated runs, and the arithmetic of its tables."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import quality
import quality_cases
import quality_results
import quality_systems
import quality_table
from quality_results import Job

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    for name, num_rows in (("train", 8000), ("dev", 4), ("test", 10)):
        rows = (f"{name} sentence {number}\t{number % 2}\n" for number in range(num_rows))
        (folder / f"{name}.tsv").write_text("".join(rows), encoding="utf-8")
    news = tmp_path / "data" / "agnews"
    news.mkdir()
    for name, num_rows in (("train", 400), ("test", 8)):
        lines = (json.dumps({"body": f"{name} {number}", "topic": "ABCD"[number % 4]}) for number in range(num_rows))
        (news / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    quality_cases.read_set.cache_clear()
    return tmp_path / "data"


def counts(case: quality_cases.DrawnCase) -> dict[str, int]:
    return dict(Counter(case.train.labels.tolist()))


def test_a_seed_draws_the_same_rows_and_another_one_others(data: Path) -> None:
    first, again, other = (quality_cases.draw_case("sst2-8", seed=seed, data=data) for seed in (0, 0, 1))
    assert first.train.texts == again.train.texts
    assert set(first.train.texts) != set(other.train.texts)
    assert first.test.texts == other.test.texts
    assert len(first.test) == 10


def test_small_cases_have_as_many_rows_of_each_class_and_a_class_with_fewer_gives_all(data: Path) -> None:
    assert counts(quality_cases.draw_case("sst2-32", seed=0, data=data)) == {"0": 32, "1": 32}
    assert counts(quality_cases.draw_case("agnews-128", seed=0, data=data)) == dict.fromkeys("ABCD", 100)
    assert counts(quality_cases.draw_case("sst2-full", seed=0, data=data)) == {"0": 4000, "1": 4000}


def test_the_unbalanced_case_has_two_percent_of_one_class(data: Path) -> None:
    assert counts(quality_cases.draw_case("sst2-unbalanced", seed=0, data=data)) == {"0": 2940, "1": 60}


def test_the_noisy_case_changes_a_tenth_of_the_training_labels_and_no_other(data: Path) -> None:
    clean, noisy = (quality_cases.draw_case(name, seed=3, data=data) for name in ("agnews-full", "agnews-noisy"))
    assert noisy.train.texts == clean.train.texts
    assert (noisy.train.labels != clean.train.labels).sum() == 40
    assert noisy.test.labels.tolist() == clean.test.labels.tolist()
    changed = np.flatnonzero(noisy.train.labels != clean.train.labels)
    assert set(noisy.train.labels[changed].tolist()) == set("ABCD")


def test_bundled_rows_are_training_and_validation_rows_together() -> None:
    drawn = quality_cases.draw_case("reviews", seed=0, data=None)
    assert (len(drawn.train), len(drawn.test)) == (736, 184)


def result(case: str, system: str, seed: int, value: float, **more: Any) -> quality_results.Result:
    own = {"case": case, "system": system, "seed": seed, "label": "", "accuracy": value, "f1_macro": value / 2}
    return own | {"wall_s": 10.0, "train_s": 5.0, "num_rows": 100} | more


@pytest.fixture
def results() -> list[quality_results.Result]:
    rows = [result("sst2-8", "plain-loop", seed, value) for seed, value in enumerate((0.50, 0.60, 0.70))]
    manta = {"label": "after", "kept_share": 0.9, "num_validation_rows": 200, "num_epochs": 4, "kept_epoch": 3}
    rows += [result("sst2-8", "manta", seed, value, **manta) for seed, value in enumerate((0.56, 0.60, 0.67))]
    rows += [result("agnews-full", "plain-loop", 0, 0.90), result("agnews-full", "manta", 0, 0.88, **manta)]
    return [*rows, result("sst2-unbalanced", "tf-idf", 0, 0.8)]


def test_what_is_in_the_file_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ran = tmp_path / "results" / "quality.jsonl", []
    quality_results.append_result(path, result("reviews", "tf-idf", 0, 0.5))
    quality_results.append_result(path, result("reviews", "manta", 0, 0.7, label="before"))

    def run_system(system: str, folder: Path, *, seed: int, **_: Any) -> dict[str, Any]:
        assert (folder / "train.jsonl").read_text(encoding="utf-8").count("\n") == 736
        ran.append((system, seed))
        if system == "plain-loop":
            raise quality.SystemFailedError("out of memory")
        return {"accuracy": 0.75, "f1_macro": 0.7, "train_s": 1.0, "wall_s": 2.0}

    monkeypatch.setattr(quality, "run_system", run_system)
    asked = argparse.Namespace(results=path, data=None, label="after", cases=["reviews"], seeds=[0, 1], systems=[])
    asked.systems = ["tf-idf", "setfit", "plain-loop", "manta"]
    failed = quality.measure(quality.planned(asked), asked, quality_systems.Interpreters(peers="python"))
    assert ran == [("plain-loop", 0), ("manta", 0), ("tf-idf", 1), ("plain-loop", 1), ("manta", 1)]
    assert failed == [Job("reviews", "plain-loop", 0), Job("reviews", "plain-loop", 1)]
    known = {Job.of(line) for line in quality_results.read_results(path)}
    assert known == {Job("reviews", "tf-idf", seed) for seed in (0, 1)} | {
        Job("reviews", "manta", 0, "before"),
        Job("reviews", "manta", 0, "after"),
        Job("reviews", "manta", 1, "after"),
    }
    written = quality_results.read_results(path)[-1]
    assert (written["num_rows"], written["num_test_rows"], written["num_classes"]) == (736, 184, 2)
    assert written["revision"]


def test_the_rest_takes_as_long_as_the_same_system_did(results: list[quality_results.Result]) -> None:
    results = [result("sst2-8", "manta", 0, 0.5, wall_s=20.0), result("sst2-full", "manta", 0, 0.5, wall_s=300.0, num_rows=6000)]
    assert quality_results.expected_s(Job("sst2-8", "manta", 1), num_rows=100, results=results) == 20.0
    assert quality_results.expected_s(Job("agnews-full", "manta", 0), num_rows=4000, results=results) == 300.0
    assert quality_results.expected_s(Job("agnews-full", "tf-idf", 0), num_rows=4000, results=results) == 160.0
    assert quality_results.expected_s(Job("sst2-8", "tf-idf", 0), num_rows=100, results=[]) is None


def test_the_table_has_means_and_standard_deviations(results: list[quality_results.Result]) -> None:
    page = quality_table.systems_page(results)
    assert page.headings == ["case", "tf-idf", "plain-loop", "manta (after)"]
    assert page.rows == [
        ["sst2-8", "", "0.600 ± 0.100 (10)", "0.610 ± 0.056 (10)"],
        ["agnews-full", "", "0.900 (10)", "0.880 (10)"],
        ["sst2-unbalanced (macro F1)", "0.400 (10)", "", ""],
    ]


def test_differences_are_taken_seed_by_seed(results: list[quality_results.Result]) -> None:
    found = quality_table.difference(quality_table.by_job(results), "sst2-8", "manta (after)", "plain-loop")
    assert found is not None
    assert found.mean == pytest.approx(0.01)  # of 0.06, 0 and -0.03
    assert found.standard_error == pytest.approx(math.sqrt((0.05**2 + 0.01**2 + 0.04**2) / 2) / math.sqrt(3))
    assert found.num_seeds == 3
    assert found.verdict == ""
    alone = quality_table.difference(quality_table.by_job(results), "agnews-full", "manta (after)", "plain-loop")
    assert alone == quality_table.Difference(pytest.approx(-0.02), None, 1)  # type: ignore[arg-type]
    assert alone.verdict == "below"


def test_mantas_table_ends_with_the_mean_over_cases(results: list[quality_results.Result]) -> None:
    page = quality_table.manta_page(results, "manta (after)")
    assert page.rows[0] == ["sst2-8", "+0.0100", "0.0265", "3", "", "5", "", "4", "3", "90%", "200"]
    assert page.rows[-1][:2] == ["mean over cases", "-0.0050"]
    assert quality_table.markdown(page).splitlines()[3] == "| --- " * len(page.headings) + "|"


def test_a_report_says_what_was_kept_and_may_leave_things_out() -> None:
    report = {
        "best_epoch": 2,
        "history": [{"epoch": epoch, "examples_per_s": speed} for epoch, speed in ((1, 100.0), (2, 50.0), (3, 50.0))],
        "baseline": {"num_rows": {"train": 900, "validation": 100, "test": 50}},
        "config": {"train": {"learning_rate": 1e-4, "zero_stage": 2}},
        "distribution": {"zero_stage": 0},
    }
    figures = quality_systems.manta_figures(report)
    assert (figures["train_s"], figures["kept_s"], figures["kept_share"]) == (45.0, 27.0, 0.6)
    assert (figures["num_epochs"], figures["kept_epoch"], figures["num_validation_rows"]) == (3, 2, 100)
    assert (figures["learning_rate"], figures["zero_stage"]) == (1e-4, 0)
    assert set(quality_systems.manta_figures({}).values()) == {None}
    crossed = quality_systems.manta_figures(report | {"folds_s": 30.0})
    assert (crossed["train_s"], crossed["kept_s"], crossed["folds_s"]) == (75.0, 57.0, 30.0)
