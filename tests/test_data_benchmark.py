"""The benchmark of `manta data check`: how errors are planted, and how its tables read."""

from __future__ import annotations

import json

import numpy as np

import data
from estimated import accuracy_measured
from manta.config import ExperimentConfig
from manta.data.dataset import checked_splits
from manta.labels import LabelSpace
from manta_jobs.data.neighbors import nearest
from scope import scope_measured


def drawn() -> data.Drawn:
    """Rows of four labels, of which the first two and the last two lie near each other."""
    generator = np.random.default_rng(0)
    targets = np.arange(200) % 4
    means = np.array([[1, 0, 0], [1, 0.3, 0], [0, 0, 1], [0, 0.3, 1]])
    rows = means[targets] + 0.05 * generator.normal(size=(200, 3))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    config = ExperimentConfig.model_validate({"name": "x", "data": {"train": "x.csv"}})
    labels, texts = LabelSpace(("a", "b", "c", "d"), "multiclass"), [f"text {index}" for index in range(200)]
    return data.Drawn(config, labels, texts, vectors, targets, vectors, targets, nearest(vectors))


def test_as_many_labels_are_exchanged_as_the_kind_says_and_similar_ones_for_the_nearest() -> None:
    rows = drawn()
    for kind, share in data.PLANTED.items():
        given = data.planted(rows, kind, seed=1)
        is_wrong = given != rows.targets
        assert is_wrong.sum() == round(share * 200)
        assert (given == data.planted(rows, kind, seed=1)).all()
        if kind == "similar-10":
            np.testing.assert_array_equal(given[is_wrong], rows.targets[is_wrong] ^ 1)


def test_planted_errors_are_ranked_better_than_by_chance_and_fixing_them_regains_accuracy() -> None:
    found = data.result(drawn(), "uniform-20", seed=0)
    assert found["num_planted"] == 40
    assert found["auprc"]["self-confidence"] > 0.8  # by chance 0.2
    assert found["num_found"] > 20
    assert found["accuracy"]["self-confidence"][-1] >= found["accuracy"]["planted"]
    row = {"case": "x", "planted": "uniform-20", **found}
    assert "| x | uniform-20 | 200 | 40 |" in data.flagged_table({("x", "uniform-20"): [row]})[-1]
    assert data.auprc_table({("x", "uniform-20"): [row]})[-1].count("**") >= 2


def test_the_guides_figures_are_those_of_the_results() -> None:
    lines = [json.loads(line) for line in data.RESULTS.read_text(encoding="utf-8").splitlines()]
    results = [row for row in lines if "planted" in row]  # the others are of what to label next
    groups: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in results:
        groups.setdefault((row["case"], row["planted"]), []).append(row)
    guide = (data.RESULTS.parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    lines = [*data.auprc_table(groups)[2:], *data.flagged_table(groups)[2:]]
    assert [line for line in lines if line not in guide] == []
    assert [line for line in data.accuracy_table(groups) if "| self-confidence |" in line and line not in guide] == []
    everything = [json.loads(line) for line in data.RESULTS.read_text(encoding="utf-8").splitlines()]
    tables = [data.auroc_lines(everything), data.caught_lines(everything), data.accuracy_lines(everything)]
    assert all(len(table) > 2 for table in tables)
    assert [line for table in tables for line in table[2:] if line not in guide] == []


def test_a_held_out_label_is_told_by_its_neighbors_and_a_shift_of_labels_is_estimated() -> None:
    """Rows whose held-out label lies elsewhere, and whose labels have shares of their own in each window."""
    rows = drawn()
    found = scope_measured(rows, {"far": -rows.vectors}, held_out=[3], seed=0)
    assert found["num_labels"] == 3
    assert found["auroc"]["3rd"]["far"] == 1.0
    assert found["auroc"]["3rd"]["held out"] > 0.9
    kinds = {part["kind"]: part["windows"] for part in accuracy_measured(rows, -rows.vectors, rows.vectors, held_out=[3], seed=0)}
    assert np.mean([abs(window["estimate"]) for window in kinds["labels"]]) < 0.05
    assert all(abs(window["estimate"]) > 0.1 for window in kinds["new topic"])  # confident answers to what is none of the labels


def test_the_rows_of_the_bundled_samples_can_be_drawn() -> None:
    config = ExperimentConfig.model_validate({"name": "data", "data": data.CASES["support"].data})
    split = checked_splits(config.data, task="auto", refuse_conflicts=False).splits["train"]
    assert abs(len(data.share(split, 300, 0)) - 300) < 10
