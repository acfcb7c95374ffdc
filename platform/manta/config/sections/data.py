"""The section `data`."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from manta.config.label_names import fault_of
from manta.config.sections.section import Section, not_blank

NO_ENCODINGS_OF_FILES = {
    "idna",
    "punycode",
    "undefined",
    "unicode-escape",
    "unicode_escape",
    "raw-unicode-escape",
    "raw_unicode_escape",
}
AUTO_VALIDATION_FRACTION = 0.1


class DataConfig(Section):
    """The source of labeled texts, and their split."""

    train: str
    """Training rows: a .csv, .tsv, .jsonl, .json or .parquet file (text may be gzipped: .csv.gz), a folder with train.*,
    validation.* and test.*, a URL (s3://, gs://, …), a dataset on the Hugging Face hub (hf://owner/name[:config]) or bundled rows
    (sample:support, sample:reviews). Relative paths are relative to the YAML file."""
    validation: str | None = None
    """Rows that compare trials and calibrate the probabilities. Without them, `validation_fraction` applies."""
    test: str | None = None
    """Rows that are read once, at the very end. Without them, `test_fraction` of the training rows is set aside."""
    feedback: str | None = None
    """Further training rows: the file in which a service stores feedback on its answers (`serve.feedback`), or that of
    `manta data suggest`, whose rows without a label are left out. They are added after
    validation and test rows were set aside. If a text is in both, the label of the feedback counts."""
    corrections: str | None = None
    """A file of decisions about labels (labels.jsonl), as people make them in the page after `manta data check` or
    `manta data suggest`. They are applied when rows are read, in every split and to `feedback`. The files stay as they are."""
    text: str | int | tuple[str | int, str | int] = "text"
    """The text column: its name, or its position (from 0) if `header` is false. A dotted name such as data.body is a field inside
    an object of JSON or Parquet. For text pairs, a list of two columns, such as [premise, hypothesis]."""
    label: str | int = "label"
    """The label column: its name, or its position (from 0). Labels may be words or integers."""
    label_separator: Annotated[str, Field(min_length=1)] = "|"
    """Separator of the labels in one field if `model.task` is multilabel, such as billing|urgent. An empty field means that no
    label applies. JSONL, Parquet and hub rows may hold lists instead."""
    normalize_labels: bool = False
    """True if labels that only look different (by case, blanks, invisible characters, Unicode form, or as 0 and 0.0) are merged
    into their most frequent spelling. False: they stay apart, and the run warns of them."""
    labels: dict[str, str | None] | None = None
    """New names of labels, such as {refund: billing, spam: null}. Labels with the same new name are merged, rows of a label with
    null are left out. Of several labels a row, only this one is left out. The files of the rows stay as they are."""
    long_texts: Literal["cut", "windows"] = "cut"
    """Reading of texts with more than `model.max_length` tokens. `cut`: only the start. `windows`: the whole text, in windows that
    overlap by a quarter; the text's logits are the mean of theirs. Each epoch of a fine-tuning reads the next window of a text. An
    answer takes as many times as long as its text has windows."""
    header: bool = True
    """True if the first line of CSV and TSV files names the columns."""
    delimiter: Annotated[str, Field(min_length=1)] = "auto"
    """The character between the fields of CSV and TSV files, such as ";". `auto` is the comma (in TSV the tab). In CSV it is
    also the semicolon, tab or vertical bar if the text and label columns are found only with it; the run says so."""
    encoding: Annotated[str, Field(min_length=1)] = "auto"
    """The encoding of text files, such as latin-1. `auto` is UTF-8, UTF-16 if the file starts with a byte order mark, or
    Windows-1252 if the bytes are not UTF-8 and its letters make words; the run says so."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    """Share of the training rows (between 0 and 1) that is set aside, class by class, if no validation rows are given. A class with
    too few rows stays in training, and the run names it. `auto` is a tenth. Below 500 training rows, or below 2,000 with fewer
    than 15 per label, `auto` sets none aside: the model is cross-validated, and then trained on all rows."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training rows (between 0 and 1) that is set aside, class by class, if no test rows are given."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of these splits. It is separate from `train.seed`, so that runs with other seeds use the same splits."""
    behaviour: str | None = None
    """A YAML file with behaviour tests, which `manta evaluate` and the gate run. Bundled samples have their own. A relative path is
    relative to the YAML file."""

    @field_validator("train", "validation", "test", "feedback", "corrections", "behaviour")
    @classmethod
    def _no_blank(cls, value: str | None) -> str | None:
        return not_blank(value)

    @field_validator("text", mode="before")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) != 2:
            raise ValueError(f"data.text lists {len(value)} columns; give one column, or exactly two for text pairs")
        return value

    @field_validator("labels")
    @classmethod
    def _consistent_names(cls, value: dict[str, str | None] | None) -> dict[str, str | None] | None:
        if value and (fault := fault_of(value)):
            raise ValueError(fault)
        return value

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        if value != "auto" and (len(value) != 1 or value in '"\r\n'):
            raise ValueError(f'data.delimiter is {value!r}; give one character, such as ; (a tab is "\\t"), or auto')
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            name = codecs.lookup(value if value != "auto" else "utf-8").name
            "".encode(name)
            if name in NO_ENCODINGS_OF_FILES:
                raise LookupError
        except (LookupError, UnicodeError):
            raise ValueError(f"data.encoding is {value!r}, which is unknown; give one such as utf-8, latin-1 or utf-16") from None
        return value

    @model_validator(mode="after")
    def _columns(self) -> DataConfig:
        columns = self.text_columns
        if self.label in columns:
            raise ValueError(f"data.text and data.label both name the column {self.label!r}; they must differ")
        if len(set(columns)) < len(columns):
            raise ValueError(f"data.text names the column {columns[0]!r} twice; a text pair needs two columns")
        if len(columns) == 2 and self.long_texts == "windows":
            raise ValueError("data.long_texts windows is for single texts, and data.text names a pair; use cut")
        if not self.header and any(isinstance(column, str) for column in (*columns, self.label)):
            raise ValueError("data.header is false, so data.text and data.label must be positions such as 0 and 1")
        if self.validation_share + self.test_fraction >= 1:
            raise ValueError("data.validation_fraction and data.test_fraction together leave no rows to train on")
        return self

    @property
    def validation_share(self) -> float:
        """The share of the training rows that is set aside for validation, if any is."""
        return AUTO_VALIDATION_FRACTION if self.validation_fraction == "auto" else self.validation_fraction

    @property
    def text_columns(self) -> tuple[str | int, ...]:
        """The one text column, or the two of a text pair."""
        return self.text if isinstance(self.text, tuple) else (self.text,)
