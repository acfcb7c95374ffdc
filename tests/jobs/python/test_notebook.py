"""docs/notebooks/quickstart.ipynb in a kernel of its own, with the embedded encoder."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[3] / "docs" / "notebooks" / "quickstart.ipynb"
LAST_SETTING = 'registry={"fast_formats": False},'


def test_the_notebook_is_kept_without_results() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Every cell succeeds, and all that training says is one output of its cell. One epoch is enough for that."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [cell for cell in notebook.cells if LAST_SETTING in cell.source]
    cell.source = cell.source.replace(LAST_SETTING, f'{LAST_SETTING} train={{"num_epochs": 1}},')
    NotebookClient(notebook, timeout=1400, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    _, training, model, answers, evaluation, loaded = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    (said,) = [output.data["text/plain"] for output in training]
    assert "epoch 1/1: training loss" in said
    assert "reviews@1 is the champion" in said
    assert "\x1b" not in said
    (shown,) = model
    assert shown.data["text/plain"].startswith("Model reviews@1: 2 labels, test accuracy 0.")
    assert [line.split()[0] in ("negative", "positive") for line in answers[-1].text.splitlines()] == [True, True]
    assert evaluation[-1].data["text/plain"].startswith("Evaluation of reviews version 1 on 184 rows: accuracy 0.")
    assert loaded[-1].data["text/plain"].startswith("Model reviews@1: 2 labels")
