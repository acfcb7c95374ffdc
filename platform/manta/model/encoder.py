"""The encoder and its head: any `AutoModelForSequenceClassification` checkpoint, adapted, never trained from scratch.

A BERT-like encoder reads token ids and an attention mask. The representation of [CLS] goes through dropout into a linear head
(Devlin et al., 2019, https://arxiv.org/abs/1810.04805). In training, the forward pass also takes labels and returns the loss, see
`manta.model.loss`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.errors import InputError
from manta.model.pretrained import load_errors, pretrained_source, quiet_transformers

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from manta.config import ModelConfig
    from manta.labels import LabelSpace

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "spm.model")
# Their positions start after the padding token's id, so fewer positions are left for tokens.
PADDED_POSITIONS = {
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "roberta-prelayernorm",
    "data2vec-text",
    "ibert",
    "mpnet",
    "longformer",
}
UNUSUAL_DROPOUT = 0.123
MOST_NAMES = 8
"""Labels of an earlier fine-tuning that a sentence names."""
# Rates that only other heads and tasks than sequence classification read.
OTHER_TASKS_DROPOUT = {"qa_dropout", "summary_first_dropout", "layerdrop"}


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the model's own tokenizer, set to pad on the right, as training does.

    Raises:
        InputError: the model cannot be found, or its tokenizer has no padding token.
    """
    from transformers import AutoTokenizer

    source = pretrained_source(config.pretrained)
    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"model.pretrained: {config.pretrained} has no tokenizer ({', '.join(TOKENIZER_FILES)}); "
            "save the model's own tokenizer in the same folder."
        )
    with load_errors(config.pretrained), quiet_transformers():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, padding_side="right", trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"model.pretrained: the tokenizer of {config.pretrained} has no padding token, so texts of different length cannot "
            "share a batch; give an encoder such as BERT."
        )
    return tokenizer


def load_model_config(config: ModelConfig, labels: LabelSpace) -> PretrainedConfig:
    """Load the architecture's config and set our label names, loss and dropout.

    Raises:
        InputError: the model cannot be found, or `max_length` exceeds its position embeddings.
    """
    result = _pretrained_config(config.pretrained)
    _check_size(result, config.pretrained)
    check_length(result, config)
    result.num_labels = labels.num_logits
    # transformers selects the loss by this name: BCE on each logit, or cross-entropy over classes.
    result.problem_type = "single_label_classification" if labels.task == "multiclass" else "multi_label_classification"
    set_dropout(result, config.dropout)
    if result.model_type == "big_bird":
        # Its sparse attention begins with batches of long texts, so that an answer would depend on the texts beside it.
        result.attention_type = "original_full"
    return result


def _check_size(encoder: PretrainedConfig, name: str) -> None:
    """Refuse an encoder without layers or width, as a damaged `config.json` has it."""
    width = getattr(encoder, "hidden_size", None) or getattr(encoder, "dim", None)  # DistilBERT's name is dim
    for setting, value in (("hidden_size", width or 0), ("num_hidden_layers", getattr(encoder, "num_hidden_layers", None))):
        if value is not None and value < 1:
            raise InputError(f"model.pretrained: the config.json of {name} has {setting} {value}; fetch the model again.")


def check_length(encoder: PretrainedConfig, config: ModelConfig) -> None:
    """Check that an encoder can read as many tokens as `max_length`.

    Raises:
        InputError: it has fewer position embeddings.
    """
    positions = getattr(encoder, "max_position_embeddings", None)
    if positions is not None and encoder.model_type in PADDED_POSITIONS:
        positions -= encoder.pad_token_id + 1
    if positions is not None and 0 < positions < config.max_length:
        raise InputError(f"model.max_length {config.max_length} is more than the {positions} tokens {config.pretrained} can read.")


def _pretrained_config(name: str) -> PretrainedConfig:
    from transformers import AutoConfig

    source = pretrained_source(name)
    with load_errors(name), quiet_transformers():
        config: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False)
    return config


def head_sentence(config: ModelConfig, labels: LabelSpace) -> str:
    """Return a sentence on the head that a checkpoint brings from an earlier fine-tuning; empty if it brings none.

    Raises:
        InputError: the model cannot be found.
    """
    pretrained = _pretrained_config(config.pretrained)
    if not any(name.endswith("ForSequenceClassification") for name in pretrained.architectures or ()):
        return ""
    if _keeps_head(pretrained, labels):
        return f"{config.pretrained} was fine-tuned for the same labels before, so training goes on with its head."
    names = _label_names(pretrained)
    shown = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    what = "another kind of task" if names == labels.names else f"other labels ({shown})"
    return f"{config.pretrained} was fine-tuned for {what} before: its head is left out, and a new one begins."


def _label_names(pretrained: PretrainedConfig) -> tuple[str, ...]:
    return tuple(str(name) for _, name in sorted((pretrained.id2label or {}).items()))


def keeps_head(config: ModelConfig, labels: LabelSpace) -> bool:
    """Tell whether the model begins with the head of the pretrained checkpoint, which was fine-tuned for the same labels before.

    Raises:
        InputError: the model cannot be found.
    """
    return _keeps_head(_pretrained_config(config.pretrained), labels)


def _keeps_head(pretrained: PretrainedConfig, labels: LabelSpace) -> bool:
    """Tell whether a checkpoint's head gives our labels: the same names in the same order, for the same kind of task."""
    was_multilabel = pretrained.problem_type == "multi_label_classification"
    return _label_names(pretrained) == labels.names and was_multilabel == (labels.task == "multilabel")


def set_dropout(config: PretrainedConfig, rate: float) -> None:
    """Set every dropout setting of an architecture to the same rate.

    The names differ: BERT, RoBERTa and ELECTRA have hidden_dropout_prob, attention_probs_dropout_prob and classifier_dropout,
    DistilBERT has dropout, attention_dropout and seq_classif_dropout, DeBERTa has pooler_dropout, ModernBERT has mlp_dropout …
    """
    for name in list(config.to_dict()):
        is_rate = name.endswith(("dropout", "dropout_prob")) and not isinstance(getattr(config, name), bool)
        if is_rate and name not in OTHER_TASKS_DROPOUT:
            setattr(config, name, rate)


def build_model(config: ModelConfig, labels: LabelSpace) -> PreTrainedModel:
    """Build the pretrained encoder with a linear head on [CLS], in fp32 on the CPU.

    The head is new, unless the checkpoint was fine-tuned for the same labels before (see `head_sentence`). A new head is drawn from
    torch's global generator, so seed it first. The forward pass takes `input_ids`, `attention_mask` and, for
    some models that read text pairs, `token_type_ids`, each `(batch, tokens)`. It returns the logits. In training,
    `manta.model.loss.TrainedClassifier` also takes the labels and returns the loss.

    Raises:
        InputError: the model cannot be found, or has no variant for sequence classification.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from manta.model.adapt import is_unread

    model_config = load_model_config(config, labels)
    has_head = keeps_head(config, labels)
    if has_head:
        model_config.num_labels = len(labels.names)
    with load_errors(config.pretrained), quiet_transformers():
        model: PreTrainedModel
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            pretrained_source(config.pretrained),
            config=model_config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the head of another number of labels; other sizes are looked at below
            weights_only=True,  # of pickled weights only tensors are read, so they run no code
            trust_remote_code=False,
        )
    lacking = loading["missing_keys"] | {name for name, *_ in loading["mismatched_keys"]}
    _prepare_head(model, labels, keeps_head=has_head, was_drawn=lacking)
    # Heads are new, and so is the pooler of an encoder pretrained without one. Any other missing tensor would train from scratch.
    encoder = f"{model.base_model_prefix}."
    missing = sorted(
        name
        for name in lacking
        if name.startswith(encoder) and ".pooler." not in name and not is_unread(name, model_config.model_type)
    )
    if missing:
        raise InputError(
            f"model.pretrained: the weights of {config.pretrained} lack {len(missing)} of the encoder's tensors "
            f"(such as {missing[0]}); it would train from zero. Give a pretrained encoder."
        )
    _check_dropout(model, config.dropout)
    return model


def check_architecture(config: ModelConfig, labels: LabelSpace) -> None:
    """Refuse an architecture that is no classifier or that `model.dropout` does not fully reach. No weights are read.

    Raises:
        InputError: the message gives the reason.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    # A rate that no architecture has by default shows a dropout that keeps its own.
    unusual = load_model_config(config.model_copy(update={"dropout": UNUSUAL_DROPOUT}), labels)
    with load_errors(config.pretrained), torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(unusual, trust_remote_code=False)
    _check_dropout(model, UNUSUAL_DROPOUT)


def _check_dropout(model: PreTrainedModel, rate: float) -> None:
    others = dropout_rates(model) - {rate}
    if others:
        raise InputError(
            f"model.pretrained: model.dropout does not reach every dropout of {type(model).__name__} (some keep "
            f"{', '.join(f'{other:g}' for other in sorted(others))}); this architecture is not supported."
        )


def _prepare_head(model: PreTrainedModel, labels: LabelSpace, *, keeps_head: bool, was_drawn: set[str]) -> None:
    """Replace a head of other labels that was loaded by a new one; give a kept head of a binary task its one logit.

    `was_drawn` are the parameters that loading has drawn already.
    """
    import torch

    for name in head_parameter_names(model.config):
        parameter = model.get_parameter(name)
        owner = model.get_submodule(name.rpartition(".")[0])
        with torch.no_grad():
            if keeps_head and labels.num_logits == 1:  # the inverse of `two_logit_head`
                row = torch.nn.Parameter(parameter[1:] - parameter[:1])
                setattr(owner, name.rpartition(".")[2], row)
                owner.out_features = 1
            elif not keeps_head and name not in was_drawn:
                parameter.zero_()
                if parameter.ndim > 1:
                    parameter.normal_(std=getattr(model.config, "initializer_range", 0.02))
    model.num_labels = model.config.num_labels = labels.num_logits


def dropout_rates(model: torch.nn.Module) -> set[float]:
    """Return all dropout rates of the built modules, whether set in a dropout module or used in a functional call."""
    rates: set[float] = set()
    for module in model.modules():
        if "dropout" in type(module).__name__.lower():
            rates.add(float(getattr(module, "p", getattr(module, "drop_prob", 0.0))))
        elif isinstance(getattr(module, "attention_dropout", None), float | int):
            rates.add(float(module.attention_dropout))  # type: ignore[arg-type]
    return rates


def head_parameter_names(config: PretrainedConfig) -> list[str]:
    """Return the names of the parameters whose size depends on the number of labels: those of the final linear layer."""
    import torch
    from transformers import AutoModelForSequenceClassification

    shapes: list[dict[str, torch.Size]] = []
    for num_labels in (1, 2):
        changed = type(config).from_dict(config.to_dict())
        changed.num_labels = num_labels
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(changed, trust_remote_code=False)
        shapes.append({name: parameter.shape for name, parameter in model.named_parameters()})
    return [name for name, shape in shapes[0].items() if shape != shapes[1][name]]


def two_logit_head(weights: dict[str, Any], config: PretrainedConfig) -> dict[str, Any]:
    """Return the weights with the one-logit head replaced by its exact two-logit equivalent: rows 0 and w.

    softmax((0, z))[1] is sigmoid(z), so plain `transformers` names both labels and gives the same probabilities.
    """
    import torch

    changed = dict(weights)
    for name in head_parameter_names(config):
        row = changed[name]
        changed[name] = torch.cat([torch.zeros_like(row), row])
    return changed
