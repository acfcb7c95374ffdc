"""Contributions of words to an answer: integrated gradients on a model's word embeddings.

The method is that of Sundararajan et al., 2017 (https://arxiv.org/abs/1703.01365). A text is compared with a baseline: the same
text with every token replaced by padding. The change of the label's log-odds from the baseline to the text is divided among the
tokens. The shares add up to that change (completeness). This is checked, because with too few steps along the path they would not.

The log-odds of a label are log(p / (1 - p)) of its probability p in the answer, so that one measure serves every task. For a binary
or multilabel model they are the calibrated logit, for a multiclass model the logit against all other classes together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from manta.errors import InputError
from manta.texts import token_ids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from manta.labels import LabelSpace
    from manta.model.pooled import PooledClassifier
    from manta.texts import LongTexts, Text

STEPS = (8, 16, 32, 64, 128)
"""Numbers of points on the path from baseline to text, tried in order until the shares add up."""
TOLERANCE = 0.02
"""The largest accepted error of the shares' sum: this fraction of the change, or this much log-odds if that is more."""
BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Word:
    """A word, or another unit that the tokenizer treats as a word, and its share."""

    part: int
    """0 in a single text and in the first text of a pair, 1 in the second."""
    start: int
    """Position of its first character (Unicode code point) in the original text."""
    end: int
    text: str
    attribution: float
    """Share of this word in the change of log-odds. Above 0 it speaks for the label, below 0 against it."""


@dataclass(frozen=True)
class Explanation:
    """Explanation of a label's probability by the words of the text."""

    label: str
    words: tuple[Word, ...]
    """The words in their order. Words beyond the model's maximum length were not read and are not listed."""
    log_odds: float
    """Log-odds of the label for this text."""
    baseline_log_odds: float
    """Log-odds of the label for the baseline."""
    error: float
    """Difference between the sum of attributions and `log_odds - baseline_log_odds`."""
    num_steps: int

    @property
    def complete(self) -> bool:
        """True if the attributions add up, within 2% of the change or 0.02."""
        return self.error <= TOLERANCE * max(1.0, abs(self.log_odds - self.baseline_log_odds))


class StoppedError(Exception):
    """Signal that an explanation was stopped because it is no longer needed."""


class Attributor:
    """A finished model that explains its answers. It is not thread-safe: only one thread at a time may use it."""

    def __init__(self, folder: Path, *, labels: LabelSpace, max_length: int, long_texts: LongTexts = "cut") -> None:
        """Load the safetensors of a model folder on the CPU, regardless of the inference format that answers."""
        from transformers import AutoTokenizer

        from manta.model.finished import load_finished

        self._model = load_finished(folder).requires_grad_(False)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._labels, self._max_length, self._long_texts = labels, max_length, long_texts

    def explain(self, text: Text, *, label: str, should_stop: Callable[[], bool] = lambda: False) -> Explanation:
        """Return the words' shares in a label's log-odds. `should_stop` is called every few hundred milliseconds.

        Raises:
            InputError: the text is read in several windows, or the tokenizer does not report positions.
            StoppedError: `should_stop` returned True.
        """
        if self._long_texts == "windows":
            ids = token_ids(self._tokenizer, [text], max_length=self._max_length, long_texts="windows")["input_ids"][0]
            if len(ids) > self._max_length:
                raise InputError(
                    f"this text is read in {-(-len(ids) // self._max_length)} windows, and only texts of one window "
                    f"({self._max_length} tokens) are explained; give a part of it."
                )
        return explain(
            self._model,
            self._tokenizer,
            text,
            label=label,
            labels=self._labels,
            max_length=self._max_length,
            should_stop=should_stop,
        )


def explain(
    model: PreTrainedModel | PooledClassifier,
    tokenizer: PreTrainedTokenizerBase,
    text: Text,
    *,
    label: str,
    labels: LabelSpace,
    max_length: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Explanation:
    """Return the words' shares in the log-odds of one label for a text or pair.

    Raises:
        InputError: the tokenizer does not report the positions of its tokens in the text.
        StoppedError: `should_stop` returned True.
    """
    if not tokenizer.is_fast:
        raise InputError("this model cannot explain its answers: its tokenizer does not say where its tokens stood in the text.")
    pair = (text,) if isinstance(text, str) else text
    encoded: Any = tokenizer(*pair, truncation="longest_first", max_length=max_length, return_special_tokens_mask=True)
    inputs, baseline = _embeddings(model, tokenizer, encoded)
    types = encoded["token_type_ids"] if len(pair) == 2 and "token_type_ids" in encoded else None

    def log_odds(embeddings: torch.Tensor) -> torch.Tensor:
        """Return the label's log-odds `(batch,)` for embeddings `(batch, tokens, hidden)`."""
        if should_stop():
            raise StoppedError
        extra = {} if types is None else {"token_type_ids": torch.tensor([types] * len(embeddings))}
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        logits = model(inputs_embeds=embeddings, attention_mask=mask, **extra).logits
        return _log_odds(logits / labels.temperature, index=labels.names.index(label), task=labels.task)

    with torch.no_grad():
        there, here = (float(value) for value in log_odds(torch.stack([baseline, inputs])))
    shares, error, num_steps = np.zeros(len(inputs)), abs(here - there), 0
    for num_steps in STEPS:
        shares = _integrated(log_odds, inputs, baseline, num_steps=num_steps)
        error = abs(float(shares.sum()) - (here - there))
        if error <= TOLERANCE * max(1.0, abs(here - there)):
            break
    words = tuple(_words(encoded, pair, shares))
    return Explanation(label, words, log_odds=here, baseline_log_odds=there, error=error, num_steps=num_steps)


def _embeddings(
    model: PreTrainedModel | PooledClassifier, tokenizer: PreTrainedTokenizerBase, encoded: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return word embeddings `(tokens, hidden)` of the text and of its baseline, which keeps only the special tokens."""
    ids = torch.tensor(encoded["input_ids"])
    special = torch.tensor(encoded["special_tokens_mask"], dtype=torch.bool)
    blank = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.unk_token_id
    look_up = model.get_input_embeddings()
    with torch.no_grad():
        return look_up(ids), look_up(torch.where(special, ids, torch.full_like(ids, blank or 0)))


def _log_odds(logits: torch.Tensor, *, index: int, task: str) -> torch.Tensor:
    """Return the log-odds of one label `(batch,)`, from calibrated logits `(batch, labels)`."""
    if task == "multilabel":
        return logits[:, index]
    others = [position for position in range(logits.shape[1]) if position != index]
    return logits[:, index] - torch.logsumexp(logits[:, others], dim=1)


def _integrated(
    function: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, baseline: torch.Tensor, *, num_steps: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return each token's share `(tokens,)`: its change times the mean gradient on the path, by Gauss-Legendre quadrature.

    For the same error, it needs about a quarter of the steps of evenly spaced points.
    """
    points, weights = (torch.tensor(values, dtype=torch.float32) for values in np.polynomial.legendre.leggauss(num_steps))
    points, weights = (points + 1) / 2, weights / 2
    change = inputs - baseline
    total = torch.zeros_like(inputs)
    size = max(1, BATCH_TOKENS // len(inputs))
    for start in range(0, num_steps, size):
        chosen = slice(start, start + size)
        way = (baseline + points[chosen, None, None] * change).requires_grad_()
        (gradients,) = torch.autograd.grad(function(way).sum(), way)
        total += (weights[chosen, None, None] * gradients).sum(dim=0)
    shares: np.ndarray[Any, np.dtype[np.float64]] = (total * change).sum(dim=1).double().numpy()
    return shares


def _words(encoded: Any, texts: tuple[str, ...], shares: np.ndarray[Any, np.dtype[np.float64]]) -> list[Word]:
    """Combine tokens into words. Special tokens, whose share is 0, are left out."""
    found: dict[tuple[int, int], list[int]] = {}
    for token, (part, word) in enumerate(zip(encoded.sequence_ids(0), encoded.word_ids(0), strict=True)):
        if part is not None and word is not None:
            found.setdefault((part, word), []).append(token)
    words = []
    for (part, _), tokens in found.items():
        places = [encoded.token_to_chars(0, token) for token in tokens]
        start = min((place.start for place in places if place is not None), default=0)
        end = max((place.end for place in places if place is not None), default=start)
        words.append(Word(part, start, end, texts[part][start:end], attribution=float(shares[tokens].sum())))
    return words
