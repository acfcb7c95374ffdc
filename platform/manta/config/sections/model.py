"""The section `model`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from manta.config.sections.section import Section, not_blank

TaskName = Literal["auto", "binary", "multiclass", "multilabel"]


class LoraSettings(Section):
    """Low-rank adapters (Hu et al., 2021, https://arxiv.org/abs/2106.09685): small added matrices learn, the encoder is frozen."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the added matrices. A higher rank can learn more, and overfits sooner."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of the adapters."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get adapters, such as [query, value]. `all-linear` takes all linear layers of the encoder."""


class ModelConfig(Section):
    """The pretrained encoder, its task, and its protection from overfitting."""

    pretrained: str = "embedded"
    """A model id on the Hugging Face hub, a folder in its format, or `embedded`: the offline all-MiniLM-L6-v2
    of the [demo] extra (22.7 M parameters, English)."""
    task: TaskName = "auto"
    """Kind of classification. `binary` has one logit and a sigmoid, `multiclass` a softmax over the classes, `multilabel` a sigmoid
    for each label, so that several or none may apply. `auto` is multilabel for lists of labels, else decides by the number of
    labels."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability of every dropout of the encoder and its head. Raise it if the model overfits the training rows."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Maximum number of tokens per text, special tokens included. Longer texts are cut, unless `data.long_texts` is windows. Time
    and memory grow with it."""
    freeze_embeddings: bool = False
    """True if the embeddings stay as pretrained. They are half of a small encoder: less to overfit, less to compute."""
    freeze_layers: Annotated[int, Field(ge=0)] = 0
    """Number of first layers that stay as pretrained. The embeddings below them then stay, too."""
    lora: LoraSettings | None = None
    """Adapters instead of full fine-tuning, such as {rank: 8}. They are merged into the finished model. null: all weights learn."""

    @field_validator("pretrained")
    @classmethod
    def _no_blank(cls, value: str) -> str | None:
        return not_blank(value)

    @model_validator(mode="after")
    def _lora_freezes_already(self) -> ModelConfig:
        if self.lora is not None and (self.freeze_embeddings or self.freeze_layers):
            name = "freeze_embeddings" if self.freeze_embeddings else "freeze_layers"
            raise ValueError(f"model.lora freezes the whole encoder, so model.{name} has no effect; remove one of them")
        return self
