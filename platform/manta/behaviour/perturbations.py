"""Small changes of a text that should not change its label, and templates that generate many texts.

The changes are those of CheckList (Ribeiro et al., 2020, https://arxiv.org/abs/2005.04118). Each takes its randomness only from the
given generator, so that the same seed gives the same texts. A change that does not apply returns the text unmodified.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from manta.texts import Text

FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
LEAST_TYPO_LETTERS = 4
NEGATIONS = {"can not": "can't", "cannot": "can't", "will not": "won't", "shall not": "shan't"} | {
    f"{verb} not": f"{verb}n't"
    for verb in [
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "would",
        "could",
        "should",
        "might",
        "must",
        "need",
    ]
}
PRONOUNS = {"I am": "I'm"} | {
    f"{pronoun} {verb}": f"{pronoun}'{ending}"
    for verb, ending, pronouns in (
        ("are", "re", ("you", "we", "they")),
        ("have", "ve", ("I", "you", "we", "they")),
        ("will", "ll", ("I", "you", "he", "she", "it", "we", "they")),
    )
    for pronoun in pronouns
}
EXPANSIONS = {short: long for long, short in (NEGATIONS | PRONOUNS).items()} | {"can't": "cannot"}


def typo(text: str, generator: random.Random) -> str:
    """Swap two neighboring letters inside one word; the first letter of the word stays."""
    words = [match for match in re.finditer(r"[^\W\d_]+", text) if match.end() - match.start() >= LEAST_TYPO_LETTERS]
    places = [place for word in words for place in range(word.start() + 1, word.end() - 1) if text[place] != text[place + 1]]
    if not places:
        return text
    place = generator.choice(places)
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def upper_case(text: str, generator: random.Random | None = None) -> str:
    """Convert every letter to upper case."""
    return text.upper()


def lower_case(text: str, generator: random.Random | None = None) -> str:
    """Convert every letter to lower case."""
    return text.lower()


def punctuation(text: str, generator: random.Random | None = None) -> str:
    """Remove the punctuation marks at the end; if there are none, add a full stop."""
    bare = text.rstrip(" .!?…")
    return bare if bare and bare != text else f"{text.rstrip()}."


def contractions(text: str, generator: random.Random | None = None) -> str:
    """Write short forms out; if there are none, shorten the long ones."""
    straight = text.replace("’", "'")
    expanded = _replaced(straight, EXPANSIONS)
    if expanded != straight:
        return expanded
    # "Yes, I am" has no short form: join a pronoun and its verb only before another word.
    shorter = _replaced(_replaced(straight, NEGATIONS), PRONOUNS, before=r"(?=\s+\w)")
    return shorter if shorter != straight else text


PERTURBATIONS: dict[str, Callable[..., str]] = {
    "typo": typo,
    "upper_case": upper_case,
    "lower_case": lower_case,
    "punctuation": punctuation,
    "contractions": contractions,
}
"""Perturbations that need only the text. `swap` also needs a list, and `add_sentence` the sentences."""


def swap(text: str, generator: random.Random, *, among: Sequence[str]) -> str:
    """Replace every member of `among` in the text with another member.

    Each replacement is a member that the text does not hold, and is used once, while there are enough such members.
    """
    longest_first = sorted(among, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
    found = list(dict.fromkeys(pattern.findall(text)))
    fresh = [word for word in among if word not in found]
    generator.shuffle(fresh)
    stand_ins = {word: fresh.pop() if fresh else _other(word, among, generator) for word in found}
    return pattern.sub(lambda match: stand_ins[match.group()], text)


def add_sentence(text: str, generator: random.Random, *, sentences: Sequence[str], at_start: bool) -> str:
    """Add one of the sentences before or after the text."""
    sentence = generator.choice(sentences)
    return f"{sentence} {text}" if at_start else f"{text} {sentence}"


def parts_of(text: Text) -> tuple[str, ...]:
    """Return the one text, or the two texts of a pair."""
    return (text,) if isinstance(text, str) else text


def changed_parts(text: Text, change: Callable[[str], str]) -> Text:
    """Apply a change to a text, or to both texts of a pair."""
    return change(text) if isinstance(text, str) else (change(text[0]), change(text[1]))


def fields_of(text: Text) -> list[str]:
    """Return the field names of a template, each once. Doubled braces are literal braces, not fields."""
    found = (match.group(1) for part in parts_of(text) for match in FIELD.finditer(part))
    return list(dict.fromkeys(field for field in found if field is not None))


def filled(template: Text, values: Mapping[str, str]) -> Text:
    """Replace the fields of a template with their values. A field without a value stays as it is."""

    def replacement(match: re.Match[str]) -> str:
        field = match.group(1)
        return match.group()[0] if field is None else values.get(field, match.group())

    return changed_parts(template, lambda part: FIELD.sub(replacement, part))


def expanded(
    templates: Sequence[Text], lists: Mapping[str, Sequence[str]], *, most: int, generator: random.Random
) -> list[tuple[Text, dict[str, str]]]:
    """Return templates with a value for each field: every combination, or `most` of them drawn by the generator, in order.

    The values of `{name}` come from `lists`. All occurrences of a field have the same value.

    Raises:
        KeyError: a field names no list.
    """
    choices = [[lists[field] for field in fields_of(template)] for template in templates]
    ends = list(itertools.accumulate(math.prod(map(len, options)) for options in choices))
    total = ends[-1] if ends else 0
    picked = range(total) if total <= most else sorted(generator.sample(range(total), most))
    result = []
    for number in picked:
        index = next(position for position, end in enumerate(ends) if number < end)
        rest, values = number - (ends[index - 1] if index else 0), {}
        for field, options in zip(fields_of(templates[index]), choices[index], strict=True):
            rest, place = divmod(rest, len(options))
            values[field] = options[place]
        result.append((templates[index], values))
    return result


def _replaced(text: str, pairs: Mapping[str, str], *, before: str = "") -> str:
    """Replace whole words, ignoring case. The replacement starts with a capital letter if the word did."""

    def replacement(match: re.Match[str]) -> str:
        new = lowered[match.group().lower()]
        return new[0].upper() + new[1:] if match.group()[0].isupper() else new

    lowered = {old.lower(): new for old, new in pairs.items()}
    pattern = "|".join(re.escape(old) for old in sorted(pairs, key=len, reverse=True))
    return re.sub(rf"\b(?:{pattern})\b{before}", replacement, text, flags=re.IGNORECASE)


def _other(word: str, among: Sequence[str], generator: random.Random) -> str:
    return generator.choice([other for other in among if other != word])
