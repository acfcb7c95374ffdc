"""Choice of the encoder's weights that learn, and their learning rates: freezing, LoRA adapters, layer-wise decay."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from manta.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from manta.config import LoraSettings, ModelConfig

ADAPTED = "base_model.model."
"""The prefix of names in a model with LoRA adapters."""
FINAL_NORMS = {"final_norm", "final_layer_norm", "norm", "ln", "ln_f"}
"""Names of the norm behind the last layer."""
READS_CLS = {"bert", "roberta", "xlm-roberta", "camembert", "electra"}
"""Architectures with BERT's layer structure whose classification head reads only the first token."""

UNREAD = {"big_bird": ".pooler.", "esm": ".contact_head.", "roformer": ".embed_positions."}
"""Part of an encoder, by architecture, that a classifier does not read, or only as constants. No gradient reaches it."""


def is_unread(name: str, model_type: str) -> bool:
    """Tell whether a parameter takes no part in the training of a classifier."""
    return UNREAD.get(model_type, name + ".") in name


def adapt(model: PreTrainedModel, config: ModelConfig) -> PreTrainedModel:
    """Return the model with its frozen parts and those that no gradient reaches frozen, or with LoRA adapters in its layers.

    Raises:
        InputError: the architecture has no such layers, or no linear layer has a given name.
    """
    kind = model.config.model_type
    if config.lora is not None:
        model = _with_adapters(model, config.lora)
    elif config.freeze_embeddings or config.freeze_layers:
        layers, num_layers = encoder_layers(model)
        if config.freeze_layers > num_layers:
            raise InputError(f"model.freeze_layers is {config.freeze_layers}, but {config.pretrained} has {num_layers} layers.")
        for name, parameter in model.named_parameters():
            parameter.requires_grad = depth(name, layers, num_layers) <= num_layers - config.freeze_layers
    for name, parameter in model.named_parameters():
        if is_unread(name, kind):
            parameter.requires_grad = False
    return model


def compute_only_cls(model: PreTrainedModel) -> bool:
    """Make the last layer compute its output only for [CLS], which the head reads. Return True if the architecture allows it.

    Keys and values still cover all tokens. The output projection and the feed-forward network skip the other tokens, whose results
    are not used. This saves an eighth of the work of a six-layer encoder. Logits and gradients stay the same.
    """
    if model.config.model_type not in READS_CLS:
        return False
    layers, num_layers = encoder_layers(model)
    last = model.get_submodule(f"{layers}.{num_layers - 1}.attention.output")
    # Its inputs are the attention's output and, for the residual, the layer's input: both `(batch, tokens, hidden)`.
    last.register_forward_pre_hook(lambda module, inputs: tuple(states[:, :1] for states in inputs))
    return True


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model as plain `transformers` has it: adapters, if any, are merged into the weights next to them."""
    plain: PreTrainedModel = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return plain


def encoder_layers(model: PreTrainedModel) -> tuple[str, int]:
    """Return the name of the encoder's list of layers, such as `bert.encoder.layer`, and its length.

    Raises:
        InputError: the list of layers cannot be identified.
    """
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers
    ]
    # Lists side by side each hold a part of every layer.
    if lists and not any(other.rpartition(".")[0] == lists[0].rpartition(".")[0] for other in lists[1:]):
        return lists[0], int(model.config.num_hidden_layers)
    raise InputError(
        f"model.pretrained: {type(model).__name__} has no list of layers that can be told apart; "
        "leave model.freeze_layers, model.freeze_embeddings, model.lora and train.layer_decay at their defaults."
    )


def depth(name: str, layers: str, num_layers: int) -> int:
    """Return a parameter's depth below the head: 0 in head and pooler, 1 in the last layer, …, layers + 1 in the embeddings.

    A norm behind the last layer counts to that layer; whatever else the encoder has beside its layers, to the embeddings.
    """
    found = re.search(rf"(?:^|\.){re.escape(layers)}\.(\d+)\.", name)
    if found:
        return num_layers - int(found.group(1))
    encoder = layers.removeprefix(ADAPTED).partition(".")[0]
    path = name.removeprefix(ADAPTED).split(".")
    if path[0] != encoder or "pooler" in path:
        return 0
    return 1 if FINAL_NORMS & set(path) and "embeddings" not in path else num_layers + 1


def parameter_groups(
    model: PreTrainedModel, *, learning_rate: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the parameters that learn, as groups for AdamW: matrices have weight decay, biases and norms have none.

    With `layer_decay` below 1, the learning rate of each layer is that factor times the rate of the layer above it (Howard & Ruder,
    2018, https://arxiv.org/abs/1801.06146; Clark et al., 2020, https://arxiv.org/abs/2003.10555).
    """
    layers, num_layers = encoder_layers(model) if layer_decay < 1 else ("", 0)
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            level = depth(name, layers, num_layers) if layer_decay < 1 else 0
            groups.setdefault((level, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * layer_decay**level,
            "weight_decay": weight_decay if is_matrix else 0.0,
        }
        for (level, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _with_adapters(model: PreTrainedModel, settings: LoraSettings) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    layers, num_layers = encoder_layers(model)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name.startswith(layers)]
    known = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if not known:
        raise InputError(
            f"model.lora: the layers of {type(model).__name__} have no linear layers that could get adapters; remove it."
        )
    wanted = known if settings.target_modules == "all-linear" else settings.target_modules
    for target in wanted:
        if target not in known:
            raise InputError(f"model.lora.target_modules: no linear layer is called {target!r}; there are {', '.join(known)}.")
    head = [name for name, _ in model.named_parameters() if depth(name, layers, num_layers) == 0]
    adapted: Any = get_peft_model(
        model,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=[name for name in linear if name.rsplit(".", 1)[-1] in wanted],
        ),
    )
    for name, parameter in adapted.named_parameters():
        if name.removeprefix(ADAPTED) in head:  # the head is new, so all of it learns
            parameter.requires_grad = True
    wrapped: PreTrainedModel = adapted  # it behaves like the model it wraps
    return wrapped
