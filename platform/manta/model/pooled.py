"""A linear model: a frozen encoder, its pooled token states and one linear layer, in the layout of sentence-transformers.

`AutoModelForSequenceClassification` cannot express the mean of an encoder's token states, which sentence encoders are trained to
use. So the folder has the encoder's `config.json` and `model.safetensors` at its root, `modules.json`, `1_Pooling`, `2_Normalize`
if the encoder scales its embeddings, and a dense layer without an activation. `SentenceTransformer(folder).encode(texts)` returns
the logits; no code and no pickle is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import functional

from manta.model.encoder import check_length
from manta.model.pretrained import load_errors, pretrained_source, quiet_transformers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from manta.config import ModelConfig
    from manta.model.regression import Regression

MODULES_FILE = "modules.json"
POOLING_FOLDER, NORMALIZE_FOLDER = "1_Pooling", "2_Normalize"
TYPES = "sentence_transformers.models."
POOLING_MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
"""The names of the settings of `1_Pooling/config.json` up to sentence-transformers 5, which all versions read."""


@dataclass(frozen=True)
class Pooling:
    """Pooling: how token states become one vector for a text."""

    mode: Literal["mean", "cls"] = "mean"
    """The mean over all tokens that are no padding, or the state of the first one."""
    normalize: bool = False
    """True if the vector is scaled to length 1."""


class PooledEncoder(torch.nn.Module):
    """An encoder whose forward pass returns one vector for each text."""

    def __init__(self, encoder: PreTrainedModel, pooling: Pooling) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling

    def forward(self, *, attention_mask: torch.Tensor, **inputs: torch.Tensor | None) -> torch.Tensor:
        """Return embeddings `(batch, hidden)`.

        `inputs` are `input_ids` or `inputs_embeds` and, for some models that read text pairs, `token_type_ids`.
        """
        given = {name: values for name, values in inputs.items() if values is not None}
        states: torch.Tensor = self.encoder(attention_mask=attention_mask, **given).last_hidden_state
        if self.pooling.mode == "cls":
            vectors = states[:, 0]
        else:
            weights = attention_mask.unsqueeze(-1).to(states.dtype)
            vectors = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return functional.normalize(vectors, dim=1) if self.pooling.normalize else vectors


class PooledClassifier(torch.nn.Module):
    """A linear model that is called like a classifier of `transformers`: its output has `logits` `(batch, labels)`."""

    def __init__(self, encoder: PooledEncoder, head: torch.nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's config."""
        return self.encoder.encoder.config

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the word embeddings."""
        look_up: torch.nn.Module = self.encoder.encoder.get_input_embeddings()
        return look_up

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> Any:
        """Return the logits of token ids or of word embeddings, with the mask of the tokens that are no padding."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        if attention_mask is None:
            raise ValueError("attention_mask is needed: the mean leaves padding out")
        vectors = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, inputs_embeds=inputs_embeds
        )
        return SequenceClassifierOutput(logits=self.head(vectors))


def load_encoder(config: ModelConfig) -> PooledEncoder:
    """Load the pretrained encoder in fp32 on the CPU, with its own pooling, for inference.

    Raises:
        InputError: the model cannot be found, or cannot read `max_length` tokens.
    """
    from transformers import AutoModel

    source = pretrained_source(config.pretrained)
    with load_errors(config.pretrained), quiet_transformers():
        encoder: PreTrainedModel = AutoModel.from_pretrained(
            source, dtype=torch.float32, weights_only=True, trust_remote_code=False
        ).eval()
    check_length(encoder.config, config)
    return PooledEncoder(encoder.requires_grad_(False), pooling_of(source))


def is_sentence_encoder(config: ModelConfig) -> bool:
    """Tell whether the pretrained model was trained to embed texts: its folder then has the layout of sentence-transformers."""
    return _read_json(pretrained_source(config.pretrained), MODULES_FILE) is not None


def pooling_of(source: str) -> Pooling:
    """Return the pooling that a model's folder or hub id says; the mean of its tokens if it says nothing.

    Other modules of a sentence encoder, such as a dense layer behind the pooling, are left out.
    """
    modules = _read_json(source, MODULES_FILE) or []
    kinds = {str(module.get("type", "")).rpartition(".")[2]: str(module.get("path", "")) for module in modules}
    settings = _read_json(source, f"{kinds['Pooling']}/config.json") if "Pooling" in kinds else None
    return Pooling("cls" if settings and _is_cls(settings) else "mean", normalize="Normalize" in kinds)


def _is_cls(settings: dict[str, Any]) -> bool:
    return settings.get("pooling_mode") == "cls" or bool(settings.get("pooling_mode_cls_token"))


def _read_json(source: str, name: str) -> Any:
    """Return the contents of a model's JSON file; None if it has none."""
    from transformers.utils import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = cached_file(source, name, **quiet)
    return None if found is None else json.loads(Path(found).read_text(encoding="utf-8"))


def linear_layer(regression: Regression, *, is_binary: bool) -> torch.nn.Linear:
    """Return a regression as a layer. Of a binary task, it has the exact two-logit equivalent: rows 0 and w."""
    weights, bias = torch.from_numpy(regression.weights).float(), torch.from_numpy(regression.bias).float()
    if is_binary:
        weights, bias = torch.cat([torch.zeros_like(weights), weights]), torch.cat([torch.zeros_like(bias), bias])
    layer = torch.nn.Linear(weights.shape[1], weights.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weights)
        layer.bias.copy_(bias)
    return layer


def is_pooled(folder: Path) -> bool:
    """Tell whether a finished model's folder has the layout of this module."""
    return (folder / MODULES_FILE).is_file()


def write_pooled(model: PooledClassifier, folder: Path, *, max_length: int) -> None:
    """Write the model into a folder, without its tokenizer. Texts are cut at `max_length` tokens."""
    encoder, head = model.encoder, model.head
    plain = type(model.config).from_dict(model.config.to_dict())
    plain.architectures = [type(encoder.encoder).__name__]
    plain.save_pretrained(folder)
    _write_tensors(folder / "model.safetensors", encoder.encoder.state_dict())
    width, num_labels = head.in_features, head.out_features
    parts = {"": "Transformer", POOLING_FOLDER: "Pooling"} | ({NORMALIZE_FOLDER: "Normalize"} if encoder.pooling.normalize else {})
    dense = f"{len(parts)}_Dense"
    parts[dense] = "Dense"
    _write_json(
        folder / MODULES_FILE,
        [
            {"idx": index, "name": str(index), "path": path, "type": TYPES + kind}
            for index, (path, kind) in enumerate(parts.items())
        ],
    )
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    modes = {name: mode == encoder.pooling.mode for name, mode in POOLING_MODES.items()}
    _write_json(folder / POOLING_FOLDER / "config.json", {"word_embedding_dimension": width, **modes})
    activation = "torch.nn.modules.linear.Identity"
    settings = {"in_features": width, "out_features": num_labels, "bias": True, "activation_function": activation}
    _write_json(folder / dense / "config.json", settings)
    _write_tensors(folder / dense / "model.safetensors", {f"linear.{name}": values for name, values in head.state_dict().items()})


def load_pooled(folder: Path) -> PooledClassifier:
    """Load a model that `write_pooled` wrote, for inference, in fp32 on the CPU."""
    from safetensors.torch import load_file
    from transformers import AutoModel

    with quiet_transformers():
        encoder: PreTrainedModel = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        ).eval()
    (dense,) = folder.glob("*_Dense")
    tensors = load_file(dense / "model.safetensors")
    head = torch.nn.Linear(tensors["linear.weight"].shape[1], tensors["linear.weight"].shape[0])
    head.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in tensors.items()})
    return PooledClassifier(PooledEncoder(encoder, pooling_of(str(folder))), head).eval()


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: values.contiguous() for name, values in tensors.items()}, path, metadata={"format": "pt"})


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
