"""`manta data check` on rows with planted errors: what it finds, where it says they are, and what it refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from manta.cli import build_app
from manta.config import ExperimentConfig
from manta.console import people_console
from manta.data.dataset import TextDataset
from manta.errors import InputError
from manta.label_check.decisions import LabelDecision, add_decisions
from manta.label_check.suspects import Suspects
from manta.labels import LabelSpace
from manta_jobs.data.check import LabelCheck, all_rows, check_labels
from manta_jobs.data.doubts import doubts, held_out_suspects, overlaps
from manta_jobs.data.embeddings import FOLDER, embeddings
from manta_jobs.data.neighbors import contradicted, nearest, outliers

from ...conftest import WORDS, rows_of, write_csv

LABELS = list(WORDS)
ODD = "qqq zzz"


def other_than(label: str) -> str:
    return LABELS[(LABELS.index(label) + 1) % len(LABELS)]


def with_errors(rows: list[tuple[str, str]], count: int, *, seed: int = 0) -> tuple[list[tuple[str, str]], set[int]]:
    """Rows of which `count` have another label, and their indices."""
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    return [(text, other_than(label) if at in chosen else label) for at, (text, label) in enumerate(rows)], chosen


def config_of(data: dict[str, Any], model: Path) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {
            "name": "rows",
            "data": data,
            "model": {"pretrained": str(model), "max_length": 32},
            "train": {"precision": "fp32", "use_gpu": False},
        }
    )


def check(config: ExperimentConfig, *, data: str = "x.yaml", is_experiment: bool = True, out: Path | None = None) -> LabelCheck:
    return check_labels(config, data=data, is_experiment=is_experiment, out=out, console=people_console())


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[int]]:
    """A folder of train and test rows, and the indices of those with a wrong label: the test rows follow those of training."""
    rows, wrong = with_errors(rows_of(LABELS, 240), 24)
    folder = tmp_path_factory.mktemp("planted")
    write_csv(folder / "train.csv", rows[:180])
    write_csv(folder / "test.csv", rows[180:])
    return folder, wrong


def test_planted_errors_come_first_and_are_named_by_file_line_and_split(
    planted: tuple[Path, set[int]], tiny_model: Path, tmp_path: Path
) -> None:
    folder, wrong = planted
    result = check(config_of({"train": str(folder), "validation_fraction": 0.1}, tiny_model), out=tmp_path / "found.jsonl")
    assert result.num_rows["test"] == 60
    assert sum(result.num_rows.values()) == 240
    assert list(result.num_rows) == ["train", "test", "validation"]

    def row_of(suspect: Any) -> int:
        return suspect.place.line - 2 + (180 if suspect.place.split == "test" else 0)

    doubted = [suspect for suspect in result.found.rows if "label" in suspect.kinds]
    rows = [row_of(suspect) for suspect in doubted]
    assert len(set(rows) & wrong) >= 16  # of 24; as many rows by chance hold 3
    assert len(rows) <= 40
    assert sum(row in wrong for row in rows[:15]) >= 12
    assert {suspect.place.file.rsplit("/", 1)[-1] for suspect in doubted} == {"train.csv", "test.csv"}
    assert all((suspect.place.split == "test") == suspect.place.file.endswith("test.csv") for suspect in doubted)
    right = [suspect for suspect in doubted if row_of(suspect) in wrong]
    assert sum(other_than(str(suspect.proposed)) == suspect.given for suspect in right) >= 0.9 * len(right)
    assert 0.75 < result.agreement < 0.95
    assert result.noise is not None
    assert result.noise.least < 24 / 240 < result.noise.rate + 0.05
    assert result.noise.is_sure
    read = Suspects.read(tmp_path / "found.jsonl")
    assert [suspect.text_hash for suspect in read.rows] == [suspect.text_hash for suspect in result.found.rows]
    assert read.labels == tuple(sorted(LABELS))
    assert len(read.rows[0].neighbors) == 5


def test_decisions_are_applied_before_a_check_and_a_second_check_embeds_nothing(
    planted: tuple[Path, set[int]], tiny_model: Path, tmp_path: Path, own_storage: Path
) -> None:
    folder, _ = planted
    config = config_of({"train": str(folder), "corrections": str(tmp_path / "labels.jsonl")}, tiny_model)
    first = check(config)  # before anybody has decided
    assert first.corrections is None
    assert first.file.is_relative_to(own_storage / "checks")
    (cache,) = (tmp_path / "cache" / FOLDER).glob("*.bin")
    size = cache.stat().st_size
    add_decisions(
        tmp_path / "labels.jsonl",
        [LabelDecision(item.text_hash, item.given, item.proposed) for item in first.found.rows[:10]]
        + [LabelDecision(item.text_hash, item.given, None) for item in first.found.rows[10:12]],
    )
    second = check(config)
    assert cache.stat().st_size == size
    assert sum(second.num_rows.values()) == 238
    assert second.counts()["label"] < first.counts()["label"]
    assert second.corrections is not None
    assert (second.corrections.relabeled, second.corrections.dropped) == (10, 2)
    assert second.found.decisions == tmp_path / "labels.jsonl"


def test_embeddings_go_on_where_an_interruption_left_them(tiny_model: Path, tmp_path: Path) -> None:
    config, texts = config_of({"train": "rows.csv"}, tiny_model), [text for text, _ in rows_of(LABELS, 20)]
    whole = embeddings(texts, config, console=people_console())
    (cache,) = (tmp_path / "cache" / FOLDER).glob("*.bin")
    content = cache.read_bytes()
    cache.write_bytes(content[: len(content) // 2])
    np.testing.assert_allclose(embeddings(texts, config, console=people_console()), whole, rtol=0, atol=1e-5)
    assert cache.stat().st_size == len(content)


def test_new_names_of_labels_count_in_a_check(three_classes: Path, tiny_model: Path) -> None:
    config = config_of({"train": str(three_classes), "labels": {"billing": "money", "account": None}}, tiny_model)
    rows = all_rows(config, is_experiment=False)
    assert rows.labels.names == ("delivery", "money")
    assert len(rows.texts) == len(rows.places) == 160


def test_windows_have_embeddings_of_their_own(tiny_model: Path) -> None:
    texts = ["the parcel is late", "hello " * 60 + "parcel"]
    cut = config_of({"train": "rows.csv"}, tiny_model)
    first, other = (
        embeddings(texts, config, console=people_console()) for config in (cut, cut.with_values({"data.long_texts": "windows"}))
    )
    np.testing.assert_allclose(other[0], first[0], rtol=0, atol=1e-6)
    assert np.abs(other[1] - first[1]).max() > 1e-3


def test_several_labels_a_row(several_labels: Path, tiny_model: Path, tmp_path: Path) -> None:
    lines = several_labels.read_text().splitlines()
    wrong = set(random.Random(1).sample(range(1, len(lines)), 40))
    flipped = [
        line if at not in wrong else line.rsplit(",", 1)[0] + "," + ";".join(set(WORDS) - set(line.rsplit(",", 1)[1].split(";")))
        for at, line in enumerate(lines)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(flipped) + "\n")
    config = config_of({"train": str(tmp_path / "rows.csv"), "label_separator": ";"}, tiny_model)
    result = check(config.with_values({"model.task": "multilabel"}), is_experiment=False)
    found = [item for item in result.found.rows if "label" in item.kinds]
    first = [item.place.line - 1 for item in found[:30]]
    assert sum(line in wrong for line in first) >= 20
    assert result.num_rows == {"": 500}
    assert all(isinstance(item.given, tuple) and isinstance(item.proposed, tuple) for item in found)


def test_pairs_of_texts_and_very_few_rows(text_pairs: Path, tiny_model: Path, tmp_path: Path) -> None:
    config = config_of({"train": str(text_pairs), "text": ["before", "after"]}, tiny_model)
    result = check(config, is_experiment=False, out=tmp_path / "pairs.jsonl")
    assert result.agreement > 0.6
    assert all(isinstance(item.text, tuple) for item in result.found.rows)
    assert Suspects.read(tmp_path / "pairs.jsonl").rows[0].text == result.found.rows[0].text

    write_csv(tmp_path / "few.csv", rows_of(LABELS[:2], 4))
    few = check(config_of({"train": str(tmp_path / "few.csv")}, tiny_model), is_experiment=False)
    assert few.num_rows == {"": 4}


def test_json_has_a_row_for_each_suspect(planted: tuple[Path, set[int]], tiny_model: Path, tmp_path: Path) -> None:
    folder, wrong = planted
    command = ["data", "check", str(folder / "train.csv"), "--json", "--out", str(tmp_path / "out.jsonl")]
    settings = [f"model.pretrained={tiny_model}", "model.max_length=32", "train.precision=fp32"]
    answer = CliRunner().invoke(build_app(), [*command, *(part for setting in settings for part in ("--set", setting))])
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    first = result["suspects"][0]
    assert {"text_hash", "given", "proposed", "probability", "file", "line", "split"} <= first.keys()
    assert first["split"] is None
    assert first["line"] - 2 in wrong
    assert result["decisions"] == str(folder / "labels.jsonl")
    assert "rows to look at" in answer.stderr


def test_near_duplicates_with_different_labels_and_outliers_are_suspects(tiny_model: Path, tmp_path: Path) -> None:
    rows = rows_of(LABELS, 120)
    twin = rows[7][0].replace(" ", "  ")
    write_csv(
        tmp_path / "rows.csv", [*rows, (twin, other_than(rows[7][1])), (rows[9][0], other_than(rows[9][1])), (ODD, "account")]
    )
    result = check(config_of({"train": str(tmp_path / "rows.csv")}, tiny_model), is_experiment=False)
    twins = {item.place.line for item in result.found.rows if "duplicate" in item.kinds}
    assert {9, 122, 11, 123} <= twins
    assert len(twins) <= 8
    assert {item.place.line for item in result.found.rows if "outlier" in item.kinds} == {124}


def clustered(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of length 1 around a direction for each of four labels, and the labels."""
    generator = np.random.default_rng(seed)
    targets = np.arange(count) % 4
    rows = np.eye(4, 16)[targets] + 0.15 * generator.normal(size=(count, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), targets


def test_neighbors_are_those_of_all_pairs() -> None:
    rows, targets = clustered(1500)
    found = nearest(rows, num_neighbors=3)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    np.testing.assert_array_equal(found.rows, np.argsort(-cosines, axis=1)[:, :3])
    assert not contradicted(found, targets).any()
    lonely = rows.copy()
    lonely[4] = np.eye(16)[15]
    far = np.flatnonzero(outliers(nearest(lonely))).tolist()
    assert 4 in far
    assert len(far) <= 3


def test_labels_that_are_mixed_up_both_ways_overlap() -> None:
    generator = np.random.default_rng(0)
    targets = np.arange(400) % 4
    truth = np.where((targets < 2) & (generator.random(400) < 0.3), 1 - targets, targets)
    truth[truth == 3] = np.where(np.arange(100) < 20, 2, 3)  # in one direction only
    probabilities = np.full((400, 4), 0.02)
    probabilities[np.arange(400), truth] = 0.94
    (pair,) = overlaps(probabilities, targets, LabelSpace(("a", "b", "c", "d"), "multiclass"))
    assert {pair.first, pair.second} == {"a", "b"}
    assert pair.first_as_second == int(((targets == 0) & (truth == 1)).sum())
    assert f"{pair.first_as_second} rows" in pair.sentence()
    quality = doubts(probabilities, targets, task="multiclass").quality
    assert average_precision_score(truth != targets, -quality) == pytest.approx(1.0)


def test_a_runs_held_out_rows_are_counted(three_classes: Path) -> None:
    from manta.data import load_dataset

    dataset: TextDataset = load_dataset(config_of({"train": str(three_classes)}, three_classes).data)
    targets = dataset.validation.targets
    answers = np.where(np.arange(len(targets)) < 6, (targets + 1) % 3, targets)
    logits = 5.0 * np.eye(3)[answers]
    found = held_out_suspects(logits, dataset)
    assert (found.count, found.num_rows, found.split) == (6, len(targets), "train")
    assert found.sentence("manta data check x.yaml") == (
        f"6 of {len(targets)} training rows may be wrongly labeled; manta data check x.yaml lists them."
    )


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("text,label\n", {}, "no rows"),
        ("", {}, "no rows"),
        ("body,label\na,b\n", {}, "no column 'text' (data.text)"),
        ("text,label\na b,x\nc d,x\n", {}, "every row has the label 'x'"),
        ("text,label\na b,x\nc d,x\ne f,y\n", {}, "the only row with the label 'y'"),
        ("text,label\na b,x\nc d,\n", {}, "line 3: the label is missing"),
    ],
)
def test_rows_that_cannot_be_checked_are_one_sentence(
    tiny_model: Path, tmp_path: Path, content: str, options: dict[str, Any], words: str
) -> None:
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(InputError) as refused:
        check(config_of({"train": str(tmp_path / "rows.csv"), **options}, tiny_model), is_experiment=False)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_wrong_options_are_one_sentence(planted: tuple[Path, set[int]], tiny_model: Path, tmp_path: Path) -> None:
    folder, _ = planted
    taken = tmp_path / "taken.jsonl"
    taken.write_text("mine")
    with pytest.raises(InputError, match="exists already; name a new file"):
        check(config_of({"train": str(folder)}, tiny_model), out=taken)
    assert taken.read_text() == "mine"
    (tmp_path / "x.yaml").write_text(f"name: x\ndata: {{train: {folder}}}\n")
    answer = CliRunner().invoke(build_app(), ["data", "check", str(tmp_path / "x.yaml"), "--text", "body"])
    assert isinstance(answer.exception, InputError)
    assert "--text and --label are for a file of rows" in str(answer.exception)
