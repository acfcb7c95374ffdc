"""`Model`: a finished model in a Python program, from a run of this program or from the registry."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.config.file import read_document
from manta.console import people_console
from manta.errors import InputError
from manta.storage.folders import RunFolder, Storage
from manta_jobs.python.rows import as_table, is_table, listed, texts_of
from manta_jobs.runs.given_rows import in_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

    from manta.inference.artifact import ModelArtifact
    from manta.inference.predictor import Prediction, Predictor
    from manta.texts import Text
    from manta_jobs.python.rows import Columns, Rows
    from manta_jobs.runs.results import FinishedEvaluation


class Model:
    """A finished model. It answers in this process; only one thread at a time may use it."""

    def __init__(self, artifact: ModelArtifact, *, version: int | None, run: RunFolder | None) -> None:
        """Take a model's folder, its version in the registry and its run. Nothing is loaded yet."""
        self.artifact = artifact
        self.version = version
        """Its version in the registry; None for a folder that is not registered."""
        self.run = run
        """The folder of the run that made it; None if it is not on this machine."""

    @property
    def name(self) -> str:
        """The registered model's name."""
        return self.artifact.manifest.name

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the columns of `predict_proba`."""
        return self.artifact.manifest.labels

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics on the test rows, by name; with the prefix `validation_` those on the validation rows."""
        return self.artifact.manifest.metrics

    @property
    def config(self) -> dict[str, Any]:
        """The settings of its training, as the YAML has them, without any that is still `auto`."""
        return self.artifact.manifest.config

    @property
    def path(self) -> Path:
        """The model's folder, which `manta.load` and plain `transformers` load."""
        return self.artifact.path

    @property
    def report(self) -> Path | None:
        """The run's report: `report.html` of a search, else `report.json`; None if it is not on this machine."""
        if self.run is None:
            return None
        page = self.run.path / "report.html"
        return page if page.exists() else self.run.report_path

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The losses and metrics of each epoch of its training, in order. A linear model has none.

        Raises:
            InputError: its run is not on this machine.
        """
        history: list[dict[str, Any]] = json.loads(self._run_folder.report_path.read_text(encoding="utf-8"))["history"]
        return history

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The trials of the search that made it, best first: values, status, score and epochs. Empty if there was no search.

        Raises:
            InputError: its run is not on this machine.
        """
        path = self._run_folder.path / "trials.yaml"
        trials: list[dict[str, Any]] = (
            read_document(path, what="list of trials", example="trials: […]")["trials"] if path.exists() else []
        )
        return trials

    def predict(self, texts: Iterable[Text] | Rows) -> list[Prediction]:
        """Return the answer for each text or pair: label, score, the scores of all labels, and whether it is uncertain.

        `texts` is any sequence, such as a list or a column of a DataFrame, or a table that has the text columns of the training.

        Raises:
            InputError: a text is missing, empty or of the wrong kind, or a column is missing.
        """
        return self._predictor.predict(self._texts(texts))

    def predict_proba(self, texts: Iterable[Text] | Rows) -> npt.NDArray[np.float64]:
        """Return the calibrated probability of each label `(texts, labels)`, in the order of `labels`. `texts` are as in `predict`.

        Raises:
            InputError: as for `predict`.
        """
        return self._predictor.labels.probabilities(self._predictor.logits(self._texts(texts)))

    def evaluate(
        self,
        rows: Rows | str | Path,
        *,
        text: Columns | None = None,
        label: str | int | None = None,
        slices: Sequence[str] = (),
        address: str | None = None,
    ) -> Evaluation:
        """Evaluate it on labeled rows, and write a report, as `manta evaluate` does.

        `rows` are as in `manta.train`. The columns are those of the training, unless `text` and `label` name others. Results are
        shown for each value of the columns in `slices`. `address` is the Ray cluster that computes; without it, $RAY_ADDRESS or
        this machine.

        Raises:
            InputError: the rows cannot be read or have a fault; the message names the row.
            RunError: the report cannot be written, or the cluster does not answer.
        """
        from manta_jobs.runs.evaluate import evaluate

        tables = {}
        if is_table(rows) or not isinstance(rows, str | Path):
            own = self.config["data"]
            columns = [*listed(own["text"] if text is None else text), own["label"] if label is None else label, *slices]
            tables = {"evaluation": as_table(rows, columns=columns, what="evaluation rows")}
        with in_memory(tables) as urls:
            found = evaluate(
                self._handle,
                urls.get("evaluation", str(rows)),
                settings={"text": text, "label": label},
                console=people_console(),
                address=address,
                columns=slices,
            )
        return Evaluation(found)

    @cached_property
    def _predictor(self) -> Predictor:
        from manta.inference.predictor import Predictor
        from manta.model.pretrained import quiet_transformers

        with quiet_transformers():
            return Predictor(self.artifact)

    @property
    def _handle(self) -> str:
        """The model for the commands: its version, if the registry of this machine's storage has it, else its folder."""
        is_here = self.run is None or self.run.path.parent == Storage.resolve(None).runs
        return str(self) if self.version is not None and is_here else str(self.path)

    @property
    def _run_folder(self) -> RunFolder:
        if self.run is None:
            raise InputError(f"{self}: the folder of its run ({self.artifact.manifest.run}) is not on this machine.")
        return self.run

    def _texts(self, texts: Iterable[Text] | Rows) -> list[Text]:
        return texts_of(texts, columns=listed(self.config["data"]["text"]), num_texts=self.artifact.manifest.num_texts)

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"

    def __repr__(self) -> str:
        places = {"model folder": self.path, "run folder": self.run and self.run.path, "report": self.report}
        lines = [f"  {name:<12}  {place}" for name, place in places.items() if place is not None]
        figures = f"test accuracy {self.metrics['accuracy']:.4f}, macro F1 {self.metrics['f1_macro']:.4f}"
        return "\n".join([f"Model {self}: {len(self.labels)} labels, {figures}", *lines])


class Evaluation:
    """The result of a model on labeled rows."""

    def __init__(self, found: FinishedEvaluation) -> None:
        """Take the result of `manta evaluate`."""
        assessment = found.assessment
        self.report = found.page
        """The report, an HTML page with the surest mistakes, the calibration and the behaviour tests."""
        self.num_rows = assessment.num_rows
        self.metrics = assessment.metrics
        """Metrics over all rows, by name."""
        self.per_label = assessment.per_class
        """Precision, recall, F1, ranking areas and number of rows of each label."""
        self._title = assessment.subject.title

    def __repr__(self) -> str:
        figures = f"accuracy {self.metrics['accuracy']:.4f}, macro F1 {self.metrics['f1_macro']:.4f}"
        return f"Evaluation of {self._title} on {self.num_rows:,} rows: {figures}\n  report  {self.report}"
