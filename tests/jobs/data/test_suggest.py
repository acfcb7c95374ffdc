"""`manta data suggest`: which rows are chosen, what the file keeps, what a forecast says, and what is refused."""

from __future__ import annotations

import csv
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from manta.cli import build_app
from manta.config import ExperimentConfig
from manta.console import people_console
from manta.data import load_dataset
from manta.errors import InputError
from manta.label_check.decisions import LabelDecision, add_decisions
from manta.label_check.learned import LEARNED_FILE, Learned
from manta.label_check.suspects import UNLABELED, Suspects
from manta.labels import LabelSpace
from manta.model.regression import fit_regression
from manta_jobs.data.choice import choose, margins
from manta_jobs.data.forecast import LearningCurve, PowerLaw, forecast, learning_curve, power_law, too_few
from manta_jobs.data.suggest import Suggested, suggest

from ...conftest import WORDS, rows_of, write_csv

LABELS = list(WORDS)
SPACE = LabelSpace(("a", "b", "c", "d"), "multiclass")


def config_of(data: dict[str, Any], model: Path) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "name": "rows",
            "data": data,
            "model": {"pretrained": str(model), "max_length": 32},
            "train": {"precision": "fp32", "use_gpu": False},
        }
    )


def run(config: ExperimentConfig, pool: Path, out: Path, *, count: int = 10, is_experiment: bool = False) -> Suggested:
    data = str(config.data.train)
    return suggest(
        config, str(pool), data=data, count=count, is_experiment=is_experiment, out=out, target=None, console=people_console()
    )


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fill(path: Path, truth: dict[str, str], *, most: int) -> list[str]:
    """Fill in the label of the first rows, and return their texts."""
    rows = read(path)
    for row in rows[:most]:
        row["label"] = truth[row["text"]]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return [row["text"] for row in rows[:most]]


def read_labeled(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, dict[str, str]]:
    """Labeled rows; a pool with a further column, some labeled texts and repeated ones; and the labels of the pool."""
    rows = rows_of(LABELS, 260)
    labeled = write_csv(tmp_path / "rows.csv", rows[:60])
    pool = tmp_path / "pool.csv"
    with pool.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("id", "text", "label"), *((n, text, "?") for n, (text, _) in enumerate(rows[30:] + rows[60:90]))]
        )
    return labeled, pool, dict(rows)


def test_labels_that_people_give_in_the_page_are_kept_learned_from_and_trained_on(
    files: tuple[Path, Path, dict[str, str]], tiny_model: Path, tmp_path: Path
) -> None:
    labeled, pool, truth = files
    config, out = config_of({"train": str(labeled)}, tiny_model), tmp_path / "next.csv"
    first = run(config, pool, out)
    queue = Suspects.read(first.queue)
    assert (len(queue.rows), queue.decisions, queue.labels) == (10, tmp_path / "labels.jsonl", tuple(sorted(LABELS)))
    near = queue.rows[0].neighbors[0]
    assert (near.label, str(near.place)) == (truth[str(near.text)], f"{near.place.file}:{near.place.line}")
    assert labeled.read_text().splitlines()[near.place.line - 1].startswith(f'"{near.text}"')
    given = {row.text_hash: None if number == 0 else truth[str(row.text)] for number, row in enumerate(queue.rows[:6])}
    add_decisions(queue.decisions, [LabelDecision(digest, UNLABELED, label, "ada") for digest, label in given.items()])

    trained = load_dataset(config.data.model_copy(update={"feedback": str(out), "corrections": str(queue.decisions)}))
    for row in queue.rows:
        label = given.get(row.text_hash)
        found = [
            trained.labels.names[target]
            for text, target in zip(trained.train.texts, trained.train.targets, strict=True)
            if text == row.text
        ]
        assert found == ([] if label is None else [label])

    learned = Learned.read(first.queue.with_name(LEARNED_FILE))
    assert learned is not None
    assert learned.open_hashes == tuple(row.text_hash for row in queue.rows)
    assert learned.accuracy({}).num_judged == len({text for text, _ in read_labeled(labeled)})
    labels = {digest: label for digest, label in given.items() if label}
    assert learned.accuracy(labels).num_rows == learned.accuracy({}).num_rows + 5

    second = run(config, pool, out)
    assert (second.num_labeled, second.num_filled) == (60 + 5, 5)
    after = Learned.read(second.queue.with_name(LEARNED_FILE))
    assert after is not None
    assert after.accuracy({}).num_rows == learned.accuracy(labels).num_rows
    assert after.accuracy({}).num_judged == learned.accuracy({}).num_judged  # rows that were chosen are not judged
    assert [row["label"] for row in read(out)[:5]] == [label for label in given.values() if label]
    assert not {row.text_hash for row in queue.rows[:6]} & {row.text_hash for row in Suspects.read(second.queue).rows}


def test_filled_rows_are_kept_and_learned_from_and_open_ones_give_way(
    files: tuple[Path, Path, dict[str, str]], tiny_model: Path, tmp_path: Path
) -> None:
    labeled, pool, truth = files
    config, out = config_of({"train": str(labeled)}, tiny_model), tmp_path / "next.csv"
    first = run(config, pool, out)
    rows = read(out)
    assert list(rows[0]) == ["text", "label", "suggested", "probability", "margin", "id", "pool_label"]
    assert len({row["text"] for row in rows}) == len(rows) == 10
    known = {row["text"] for row in read(labeled)}
    assert not known & {row["text"] for row in rows}
    assert all(row["label"] == "" and row["suggested"] in LABELS and row["pool_label"] == "?" for row in rows)
    assert [float(row["margin"]) for row in rows] == sorted(float(row["margin"]) for row in rows)
    assert (first.num_labeled, first.num_open, first.num_pool, first.num_filled) == (60, 200, 260, 0)

    again = run(config, pool, out)
    assert [row.text for row in again.rows] == [row.text for row in first.rows]

    filled = fill(out, truth, most=6)
    second = run(config, pool, out)
    assert (second.num_labeled, second.num_open, second.num_filled) == (66, 194, 6)
    assert [row["text"] for row in read(out)[:6]] == filled
    assert [row["label"] for row in read(out)] == [truth[text] for text in filled] + [""] * 10
    assert not {row.text for row in second.rows} & {*filled, *known}

    (tmp_path / "rest.csv").write_text("text\n" + "".join(f"{text}\n" for text in [*filled, *known]))
    with pytest.raises(InputError, match="every text has a label already; give a pool with other texts"):
        run(config, tmp_path / "rest.csv", out)


def test_filled_rows_are_trained_on_and_open_ones_are_not(
    files: tuple[Path, Path, dict[str, str]], tiny_model: Path, tmp_path: Path
) -> None:
    labeled, pool, truth = files
    config, out = config_of({"train": str(labeled)}, tiny_model), tmp_path / "next.csv"
    run(config, pool, out, is_experiment=True)
    held_out = set(load_dataset(config.data).test.texts)
    before = len(load_dataset(config.data).train)
    filled = fill(out, truth, most=4)
    dataset = load_dataset(config.data.model_copy(update={"feedback": str(out)}))
    assert len(dataset.train) == before + 4
    assert set(filled) <= set(dataset.train.texts)
    assert any("have no label yet, and are left out: 6." in warning for warning in dataset.warnings)
    assert set(dataset.test.texts) == held_out
    fill(out, dict.fromkeys(truth, "refund"), most=1)
    with pytest.raises(InputError, match=r"next\.csv, line 2: the label 'refund' never occurs in the training rows"):
        run(config, pool, out)


def test_pairs_and_json(text_pairs: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in text_pairs.read_text().splitlines()]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:100]))
    pool = [{"before": row["before"], "after": row["after"], "meta": {"n": n}} for n, row in enumerate(rows[100:200])]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*pool, {"before": "x"}]))
    config = config_of({"train": str(tmp_path / "rows.jsonl"), "text": ["before", "after"]}, tiny_model)
    found = run(config, tmp_path / "pool.jsonl", tmp_path / "next.csv", count=5)
    first = read(tmp_path / "next.csv")[0]
    assert (first["first"], first["second"]) == found.rows[0].text
    assert pool[json.loads(first["meta"])["n"]]["before"] == first["first"]
    assert found.num_pool == 100


def topics(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of length 1 and their labels. A label has ten topics, some of them rare, and no topic tells of another one."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(40, 24))
    topic = np.minimum(generator.geometric(0.12, size=count) - 1, 39)  # the first topics are common, the last ones rare
    rows = directions[topic] / np.linalg.norm(directions[topic], axis=1, keepdims=True) + 0.1 * generator.normal(size=(count, 24))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), topic % 4


def test_chosen_rows_teach_more_than_random_ones() -> None:
    fit = partial(fit_regression, labels=SPACE, strength=10.0)
    test_rows, test_targets = topics(2000, seed=100)

    def accuracy(rows: np.ndarray, targets: np.ndarray) -> float:
        return float((SPACE.decide(SPACE.probabilities(fit(rows, targets).logits(test_rows))) == test_targets).mean())

    gains = []
    for seed in range(5):
        rows, targets = topics(1500, seed=seed)
        own = np.arange(40)
        pool = np.arange(40, 1500)
        probabilities = SPACE.probabilities(fit(rows[own], targets[own]).logits(rows[pool]))
        chosen = pool[choose(rows[pool], probabilities, count=30, seed=seed)]
        drawn = np.random.default_rng(seed).choice(pool, 30, replace=False)
        by_choice, by_chance = (accuracy(rows[np.r_[own, more]], targets[np.r_[own, more]]) for more in (chosen, drawn))
        gains.append(by_choice - by_chance)
    assert min(gains) > 0
    assert np.mean(gains) > 0.02


def test_near_copies_are_not_chosen_together_and_do_not_crowd_out_others() -> None:
    generator = np.random.default_rng(0)
    rows, _ = topics(300, seed=1)
    copies = np.repeat(rows[:3], 200, axis=0) + 0.0005 * generator.normal(size=(600, 24))
    all_rows = np.concatenate([copies / np.linalg.norm(copies, axis=1, keepdims=True), rows[3:]]).astype(np.float32)
    probabilities = np.full((len(all_rows), 4), 0.25)
    probabilities[600:] = [0.4, 0.3, 0.2, 0.1]  # the copies are the most uncertain rows
    found = choose(all_rows, probabilities, count=20, seed=0)
    groups = [row // 200 if row < 600 else row for row in found.tolist()]
    assert len(set(groups)) == len(groups) == 20
    assert len(choose(all_rows[:600], probabilities[:600], count=20, seed=0)) == 3


def test_uncertain_rows_are_preferred() -> None:
    rows, _ = topics(1000, seed=2)
    probabilities = np.tile([0.97, 0.01, 0.01, 0.01], (1000, 1))
    unsure = np.random.default_rng(0).choice(1000, 100, replace=False)
    probabilities[unsure] = [0.3, 0.28, 0.22, 0.2]
    assert set(choose(rows, probabilities, count=10, seed=0).tolist()) <= set(unsure.tolist())
    assert margins(probabilities)[unsure[0]] == pytest.approx(0.02)


def drawn_curve(law: PowerLaw, *, seed: int, num_rows: int = 1000) -> LearningCurve:
    """A learning curve whose answers are right with the probabilities of a law."""
    generator = np.random.default_rng(seed)
    sizes = np.unique(np.geomspace(num_rows / 10, num_rows * 0.8, 6).astype(np.int64))
    folds = np.concatenate([generator.permutation(num_rows) % 5 == fold for fold in range(5)]).reshape(5, num_rows)
    is_judged = np.concatenate([folds, folds])
    difficulty = generator.random(num_rows)  # a row that is hard for one fit is hard for the others
    is_right = difficulty[None, None, :] < law.at(sizes)[None, :, None] + 0.01 * generator.normal(size=(10, len(sizes), 1))
    return LearningCurve(sizes, is_right, is_judged)


def test_a_forecast_covers_a_known_power_law() -> None:
    law = PowerLaw(asymptote=1.0, drop=0.2, exponent=0.6, unit=500)
    assert power_law(np.array([100, 200, 400, 800]), law.at(np.array([100, 200, 400, 800]))).rows_for(0.9) == pytest.approx(
        law.rows_for(0.9), rel=0.02
    )
    truth = law.rows_for(0.95) - 3000
    told = [forecast(drawn_curve(law, seed=seed, num_rows=3000), target=0.95, num_rows=3000, seed=seed) for seed in range(6)]
    given = [found for found in told if found.labels is not None]
    assert len(given) >= 3
    ends = [found.labels or (0, 0, 0) for found in given]
    assert sum(low <= truth <= high for _, low, high in ends) >= 0.8 * len(ends)
    assert all(low <= about <= high <= 10 * low for about, low, high in ends)
    about, low, high = ends[0]
    assert f"About {about:,} more labels, {low:,} to {high:,} (90% interval), bring accuracy from" in given[0].sentence()


def test_a_flat_curve_too_few_rows_and_a_reached_target_are_said() -> None:
    flat = forecast(drawn_curve(PowerLaw(0.8, 0.0, 0.5, 800), seed=0), target=0.95, num_rows=1000)
    assert flat.labels is None
    assert "does not tell how many labels bring accuracy to 95%" in flat.sentence()
    reached = forecast(drawn_curve(PowerLaw(0.99, 0.02, 0.5, 800), seed=0), target=0.7, num_rows=1000)
    assert reached.labels == (0, 0, 0)
    assert "70% is reached" in reached.sentence()
    assert too_few(60, 3) == "60 labeled rows are too few for a forecast; it needs 100."
    assert too_few(300, 77) is not None
    assert too_few(100, 3) is None


def test_a_learning_curve_rises_and_judges_typical_rows_that_no_fit_has_seen() -> None:
    rows, targets = topics(300, seed=3)
    heard: list[int] = []
    is_typical = np.arange(300) < 200
    curve = learning_curve(
        rows,
        targets,
        labels=SPACE,
        fit=partial(fit_regression, labels=SPACE, strength=10.0),
        is_typical=is_typical,
        tell=heard.append,
    )
    accuracy = curve.accuracy()
    assert accuracy[-1] > accuracy[0] + 0.1
    assert heard == list(range(1, len(curve.is_judged) * len(curve.sizes) + 1))
    np.testing.assert_array_equal(curve.is_judged.sum(axis=0), 2 * is_typical)
    shuffled = random.Random(0).sample(targets.tolist(), 300)
    chance = learning_curve(rows, np.array(shuffled), labels=SPACE, fit=partial(fit_regression, labels=SPACE, strength=10.0))
    assert chance.accuracy()[-1] < 0.5


def test_the_command_says_where_the_file_is_and_what_to_type_next(
    files: tuple[Path, Path, dict[str, str]], tiny_model: Path, tmp_path: Path
) -> None:
    labeled, pool, _ = files
    (tmp_path / "x.yaml").write_text(f"name: x\ndata: {{train: {labeled}}}\n")
    command = ["data", "suggest", str(tmp_path / "x.yaml"), str(pool), "--json", "--count", "5", "--target", "0.99"]
    settings = [f"model.pretrained={tiny_model}", "model.max_length=32", "train.precision=fp32"]
    command += ["--out", str(tmp_path / "next.csv"), *(part for setting in settings for part in ("--set", setting))]
    answer = CliRunner().invoke(build_app(), command)
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    assert {"text_hash", "text", "suggested", "probability", "margin"} == result["rows"][0].keys()
    assert len(result["rows"]) == len(read(tmp_path / "next.csv")) == 5
    assert result["forecast"]["labels"] is None
    assert "too few for a forecast" in result["forecast"]["reason"]
    assert f"manta data suggest {tmp_path}/x.yaml {pool} --count 5 --target 0.99 --out {tmp_path}/next.csv --set" in answer.stderr
    assert f"manta train {tmp_path}/x.yaml --set data.feedback={tmp_path}/next.csv" in answer.stderr
    refused = CliRunner().invoke(build_app(), [*command, "--count", "0"])
    assert refused.exit_code == 2
    assert "greater than or equal to 1" in refused.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("body\na b\n", "no column 'text' (--text)"),
        ("text\n", "no rows"),
        ("", "empty"),
        ("text\n \n\u200b\n", "no row has a text"),
    ],
)
def test_a_pool_that_cannot_be_used_is_one_sentence(
    files: tuple[Path, Path, dict[str, str]], tiny_model: Path, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(InputError) as refused:
        run(config_of({"train": str(files[0])}, tiny_model), tmp_path / "bad.csv", tmp_path / "next.csv")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "next.csv").exists()


def test_another_file_is_never_replaced(files: tuple[Path, Path, dict[str, str]], tiny_model: Path, tmp_path: Path) -> None:
    labeled, pool, _ = files
    config, before = config_of({"train": str(labeled)}, tiny_model), labeled.read_text()
    with pytest.raises(InputError, match="is no file of chosen rows; name another file"):
        run(config, pool, labeled)
    assert labeled.read_text() == before
    with pytest.raises(InputError, match=r"must end in \.csv"):
        run(config, pool, tmp_path / "next.jsonl")
    with pytest.raises(InputError, match=r"pool2\.csv: no such file"):
        run(config, tmp_path / "pool2.csv", tmp_path / "next.csv")


def test_rows_with_several_labels_are_refused(several_labels: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = config_of({"train": str(several_labels), "label_separator": ";"}, tiny_model).with_values({"model.task": "multilabel"})
    with pytest.raises(InputError, match="rows have several labels each; manta data suggest needs rows with one label"):
        run(config, several_labels, tmp_path / "next.csv")
