"""`manta predict`, interrupted: it goes on where it was, unless the input or the model has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from manta.console import people_console
from manta.errors import InputError
from manta.inference.predictor import Predictor
from manta_jobs.batch_prediction import predict
from manta_jobs.batch_prediction.destination import Destination
from manta_jobs.batch_prediction.locate import locate

from .predictions import NUM_ROWS, input_rows, predict_here, rows_in, write_rows

if TYPE_CHECKING:
    from pathlib import Path


def test_an_interrupted_prediction_goes_on(predictor: Predictor, small_chunks: None, tmp_path: Path) -> None:
    path, out = write_rows(tmp_path / "in.csv", input_rows()), tmp_path / "out.csv"
    partial = tmp_path / "out.csv.partial"
    assert predict_here(path, out, predictor, stop_after=3) == [0, 1, 2]
    assert not out.exists()
    # What kills can leave: a part without its line, a line cut short, a part cut short, a file of another name.
    journal = partial / "chunks.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    part = partial / "parts" / "0000000.arrow"
    part.write_bytes(part.read_bytes()[:-8])
    (partial / "parts" / "0000005.new").write_bytes(b"half")
    assert predict_here(path, out, predictor, stop_after=1) == [0]
    assert predict_here(path, out, predictor) == [2, 3, 4, 5, 6, 7]
    assert [row["id"] for row in rows_in(out)] == [str(number) for number in range(NUM_ROWS)]
    assert not partial.exists()


def test_a_folder_of_ones_own_is_not_taken_for_a_begun_prediction(predictor: Predictor, tmp_path: Path) -> None:
    mine = tmp_path / "out.csv.partial" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"out\.csv\.partial: not a folder of manta predict"):
        predict_here(write_rows(tmp_path / "in.csv", input_rows()), tmp_path / "out.csv", predictor)
    assert [path.name for path in mine.parent.iterdir()] == ["notes.txt"]


def test_a_changed_input_or_model_is_refused_until_one_starts_again(
    predictor: Predictor, small_chunks: None, tmp_path: Path
) -> None:
    path, out = write_rows(tmp_path / "in.csv", input_rows()), tmp_path / "out.csv"
    predict_here(path, out, predictor, stop_after=3)
    with pytest.raises(InputError, match=r"was begun with another model \(desk@1\); .* --overwrite starts again"):
        predict_here(path, out, predictor, model="1" * 64)
    with pytest.raises(InputError, match=r"was begun with --text text; give the same one"):
        predict_here(path, out, predictor, text=("note",))
    write_rows(path, input_rows(NUM_ROWS + 1))
    with pytest.raises(InputError, match=r"was begun with another input \(.*in\.csv has changed since\)"):
        predict_here(path, out, predictor)
    assert predict_here(path, out, predictor, start_again=True)[:3] == [0, 1, 2]
    assert len(rows_in(out)) == NUM_ROWS + 1


def test_one_process_at_a_time_writes_an_output(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = write_rows(tmp_path / "in.csv", input_rows(3)), tmp_path / "out.csv"
    inner: list[str] = []

    def meanwhile(texts: Any) -> Any:
        with pytest.raises(InputError, match="another manta predict is writing there") as caught:
            predict_here(path, out, predictor)
        inner.append(str(caught.value))
        return Predictor.predict(predictor, texts)

    monkeypatch.setattr(predictor, "predict", meanwhile)
    predict_here(path, out, predictor)
    assert len(inner) == 1
    assert len(rows_in(out)) == 3


def test_an_attempt_that_was_killed_before_it_tidied_up_is_finished(
    predictor: Predictor,
    finished: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, out = write_rows(tmp_path / "in.csv", input_rows(3)), tmp_path / "out.csv"
    model = str(finished["multiclass"].artifact.path)
    destination = Destination(out)
    with monkeypatch.context() as patch:
        patch.setattr("manta_jobs.batch_prediction.partial.shutil.rmtree", lambda path, **_: None)
        predict_here(path, out, predictor)
    assert destination.partial.exists()
    assert destination.is_in_place
    destination.check(str(path), locate(str(path))[1], overwrite=False)
    write_rows(tmp_path / "other.csv", input_rows(2)).replace(out)
    assert not destination.is_in_place
    with pytest.raises(InputError, match=r"out\.csv: is there already"):
        predict(model, str(path), out=out, text_columns=["text"], overwrite=False, console=people_console())
