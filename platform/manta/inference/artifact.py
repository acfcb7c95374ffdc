"""`ModelArtifact`: a model folder that loads offline on a CPU, with Manta, and with plain `transformers` or sentence-transformers.

It holds `model.safetensors`, `config.json`, the tokenizer, a model card, `manta.json`, golden predictions
(`manta.inference.golden`) and sometimes the weights in faster formats (`manta.inference.formats`), but no pickle. It is written
under a temporary name and renamed. Every file's sha256 is checked when the folder is loaded.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from manta.config import Method
from manta.config.yaml_model import faults
from manta.errors import InputError
from manta.inference.answer_profile import AnswerProfile
from manta.inference.calibration import Calibration, uncertain_below
from manta.inference.estimated_accuracy import AnswerSums
from manta.inference.formats import FORMAT_FILES, FORMER_FILES, WEIGHTS_FILE, InferenceFormat
from manta.inference.golden import GOLDEN_FILE, GoldenPredictions
from manta.inference.scope import SCOPE_FILE, Scope
from manta.labels import LabelSpace, Task
from manta.texts import LongTexts, NumTexts, Text

if TYPE_CHECKING:
    pass


MANIFEST_FILE = "manta.json"
CARD_FILE = "README.md"
ALL_FORMAT_FILES = tuple(file for files in FORMAT_FILES.values() for file in files)
ADDED_FILES = (CARD_FILE, GOLDEN_FILE, SCOPE_FILE, *ALL_FORMAT_FILES)
"""Files that are added to a folder that is already complete without them."""


class Manifest(BaseModel):
    """The contents of `manta.json`, which describes a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    name: str
    """The registered model's name."""
    method: Method | None = None
    """The method that made the model; None for a model of an earlier version."""
    task: Task
    labels: list[str]
    """Label names in the order of the logits."""
    thresholds: list[float] | None = None
    """The probability from which each label applies, in the order of `labels`; 0.5 unless given. Multilabel only."""
    num_texts: NumTexts = 1
    """Number of texts per row: 1 for a text, 2 for a pair."""
    max_length: int
    """Maximum number of tokens per text or pair in training."""
    long_texts: LongTexts = "cut"
    """Part that is read of a text with more tokens: its start, or all of it in windows whose logits are averaged."""
    metrics: dict[str, float]
    """Metrics on the test split. Those with the prefix `validation_` are as measured in training, before calibration."""
    examples: list[Text]
    """Texts or pairs of the test split, as examples for users."""
    data_hash: str
    """`TextDataset.content_hash` of the data on which the model was trained and tested."""
    config: dict[str, Any]
    """The `ExperimentConfig` of the training."""
    run: str
    """Name of the run that made the model."""
    pretrained: str
    versions: dict[str, str]
    """Versions of the packages that made the model."""
    created: str
    """Time in UTC, ISO 8601."""
    formats: tuple[InferenceFormat, ...] = ()
    """Inference formats of the same model that were made and compared, including refused ones."""
    calibration: Calibration | None = None
    """Temperature, abstain threshold, and calibration figures with them."""
    answers: AnswerProfile | None = None
    """Profile of the answers to the validation rows; None for a model of an earlier version."""
    answer_sums: AnswerSums | None = None
    """Sums over the answers to the validation rows, from which accuracy is estimated in service; None as for `answers`."""
    scope: Scope | None = None
    """The distance from which a text is out of scope; None where none was chosen, and for a model of an earlier version."""
    files: dict[str, str]
    """sha256 of every other file in the folder."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, value: Any) -> Any:
        """Read the formats of an earlier version, without those that are no longer computed. Their files stay listed."""
        records = value.get("formats", value.get("forms")) if isinstance(value, dict) else None
        if not isinstance(records, list):
            return value
        kept = [item for item in records if not (isinstance(item, dict) and item.get("file") in FORMER_FILES)]
        return {name: item for name, item in value.items() if name != "forms"} | {"formats": kept}

    @model_validator(mode="after")
    def _labels_fit(self) -> Manifest:
        try:
            _ = self.label_space
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _names_stay_inside(self) -> Manifest:
        for name in (*self.files, *(item.file for item in self.formats)):
            path = PurePosixPath(name)
            if not name or path.is_absolute() or ".." in path.parts or name != str(path) or name == MANIFEST_FILE:
                raise ValueError(f"{name!r} is not the name of a file in the model folder")
        return self

    @property
    def label_space(self) -> LabelSpace:
        """The label space, with the thresholds and the temperature."""
        return LabelSpace(
            tuple(self.labels),
            self.task,
            tuple(self.thresholds) if self.thresholds else None,
            self.calibration.temperature if self.calibration else 1.0,
        )

    @property
    def is_linear(self) -> bool:
        """True for a linear model, whose folder has the layout of sentence-transformers (`manta.model.pooled`)."""
        from manta.model.pooled import MODULES_FILE

        return MODULES_FILE in self.files

    @property
    def uncertain_below(self) -> float:
        """The confidence (`LabelSpace.confidence`) below which an answer is uncertain."""
        found = self.calibration
        return uncertain_below(
            found.abstain_below if found else None, task=self.task, is_guaranteed=bool(found and found.guarantee is not None)
        )


@dataclass(frozen=True)
class ModelArtifact:
    """A finished model on disk, complete and unaltered."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: Path) -> ModelArtifact:
        """Open an artifact and check every file's sha256.

        Raises:
            InputError: the folder is no artifact, or a file is missing or altered; the message names it.
        """
        try:
            manifest = Manifest.model_validate_json((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{path}: no {MANIFEST_FILE}; this is not a model folder made by Manta.") from None
        except (ValidationError, UnicodeDecodeError) as error:
            reason = ": ".join(next(iter(faults(error).items()))) if isinstance(error, ValidationError) else "not text"
            raise InputError(f"{path / MANIFEST_FILE}: damaged or of another version ({reason}); export the model again.") from None
        for name in sorted({WEIGHTS_FILE, *manifest.files}):
            file = path / name
            if not file.resolve().is_relative_to(path.resolve()):
                raise InputError(f"{file}: a link to {file.resolve()}, outside of the model folder; put the file itself there.")
            if not file.is_file():
                raise InputError(f"{file}: missing from the model folder; fetch the model again.")
            if name not in manifest.files or file_sha256(file) != manifest.files[name]:
                raise InputError(f"{file}: altered or cut short (its sha256 is not the recorded one); fetch the model again.")
        for name in _unlisted(path, manifest):
            raise InputError(f"{path / name}: {MANIFEST_FILE} does not list it, so who wrote it is unknown; move it elsewhere.")
        _check_own_code(path)
        return cls(path, manifest)

    def golden(self) -> GoldenPredictions | None:
        """Return the golden predictions; None for a model of an earlier version.

        Raises:
            InputError: the file cannot be read.
        """
        if GOLDEN_FILE not in self.manifest.files:
            return None
        file = self.path / GOLDEN_FILE
        try:
            recorded = GoldenPredictions.model_validate_json(file.read_text(encoding="utf-8"))
            return recorded.with_formats({item.name: item.golden for item in self.manifest.formats if item.golden is not None})
        except (OSError, ValueError):
            raise InputError(f"{file}: damaged or of another version; fetch the model again.") from None

    @classmethod
    def recover(cls, path: Path) -> ModelArtifact:
        """Open the artifact of a run that may have been interrupted. Files whose addition was interrupted are removed.

        Raises:
            InputError: as for `load`.
        """
        try:
            manifest = Manifest.model_validate_json((path / MANIFEST_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls.load(path)
        for name in set(ADDED_FILES) - set(manifest.files):
            (path / name).unlink(missing_ok=True)
        return cls.load(path)


def _check_own_code(path: Path) -> None:
    """Refuse a model that only code in its folder could build. Manta writes no such model."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # transformers says what is wrong
    if "auto_map" in config:
        from transformers import CONFIG_MAPPING

        from manta.model.pretrained import OWN_CODE

        if config.get("model_type") not in CONFIG_MAPPING:
            raise InputError(OWN_CODE.format(model=path))


def _unlisted(path: Path, manifest: Manifest) -> list[str]:
    """Return the files that are not in the manifest and that a loader might read.

    Hidden and half-written files are left out, and so are those of formats: they join a folder before its manifest lists them, and
    until then nothing reads them.
    """
    found = (file.relative_to(path) for file in sorted(path.rglob("*")) if not file.is_dir())
    return [
        str(name)
        for name in found
        if str(name) not in (MANIFEST_FILE, *manifest.files, *ALL_FORMAT_FILES)
        and name.suffix != ".partial"
        and not any(part.startswith(".") for part in name.parts)
    ]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
