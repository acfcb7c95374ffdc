"""Fixtures for the tests of `manta predict`: a model, and chunks of few rows."""

# ruff: noqa: F811  # fixtures that are imported and asked for
from __future__ import annotations

from typing import Any

import pytest

from manta.inference.predictor import Predictor

from ...platform.conftest import calibration, finished, make_artifact, one_thread  # noqa: F401  # fixtures


@pytest.fixture(scope="module")
def predictor(finished: dict[str, Any], one_thread: None) -> Predictor:
    return Predictor(finished["multiclass"].artifact, device="cpu")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 7 rows, groups of 2 chunks: files of some rows have several of each."""
    monkeypatch.setattr("manta_jobs.batch_prediction.plan.CHUNK_ROWS", 7)
    monkeypatch.setattr("manta_jobs.batch_prediction.read.CHUNK_ROWS", 7)
    monkeypatch.setattr("manta_jobs.batch_prediction.join.GROUP_CHUNKS", 2)
