"""Faults that `manta.train`, `tune` and `load` refuse before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import manta

ROWS = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", "y", None]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 3e-5}, "manta.train: unknown setting learning_rate; did you mean train.learning_rate?"),
        ({"train": {"lerning_rate": 3e-5}}, "manta.train: unknown setting train.lerning_rate; did you mean learning_rate?"),
        ({"model": {"learning_rate": 3e-5}}, "manta.train: unknown setting model.learning_rate; did you mean train.learning_rate?"),
        ({"data": ROWS}, "manta.train: data takes settings such as .* the rows are the first argument"),
        ({"data": {"label": "topic"}}, "manta.train: give data.label as label=…"),
        ({"rows": {"text": ["a"]}}, "manta.train: a mapping gives the rows of splits, and needs the key train; it has text"),
        ({"rows": "none.csv"}, r"none\.csv: no such file"),
        ({}, "train rows, row 3: the label is missing"),
        ({"validation": pd.DataFrame({"text": ["a"]})}, "validation rows: no column 'label'; known ones are text"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(arguments: dict[str, Any], message: str, own_storage: Path) -> None:
    with pytest.raises(manta.InputError, match=message):
        manta.train(arguments.pop("rows", ROWS), name="support", **arguments)
    assert not own_storage.exists()


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(manta.InputError, match="this is not a model folder made by Manta"):
        manta.load(tmp_path)
