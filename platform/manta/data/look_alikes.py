"""Labels and texts that only look different: by case, blanks, invisible characters, Unicode form or the writing of a number."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING

from manta.data.coded import Coded, label_counts
from manta.data.repeats import conflicts
from manta.labels import RowLabels, names_of
from manta.texts import UNSEEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.data.collect import Rows
    from manta.texts import Text

MISSING_WORDS = {"NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "None"}
"""Words that programs write where a value is missing."""
SAME_SIGHT = str.maketrans("аеорсухіјѕԁ‐‑‒–—−’‘ʼ", "aeopcyxijsd------'''")
"""Letters of Cyrillic, dashes and apostrophes, and the ASCII that one sees in them."""
QUOTES = frozenset("'\"`´‘’‚“”„«»‹›")
MOST_SHOWN = 5


def folded(name: str) -> str:
    """Return the form in which names that only look different are equal."""
    if name.isascii() and name.isprintable():  # most labels
        plain = " ".join(name.casefold().split())
    else:
        letters = _seen(unicodedata.normalize("NFKC", name)).casefold().replace("i\u0307", "i")
        plain = " ".join(unicodedata.normalize("NFKC", letters.translate(SAME_SIGHT)).split())
    plain = plain[1:-1].strip() if is_quoted(plain) else plain
    return str(Decimal(plain).normalize() + 0) if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?", plain) else plain


def _seen(name: str) -> str:
    """Return a name without characters that one does not see, and with ASCII for letters that look like it."""
    shown = (
        letter for letter in name if letter.isspace() or not (letter in UNSEEN or unicodedata.category(letter) in ("Cf", "Cc"))
    )
    return "".join(shown).translate(SAME_SIGHT)


def is_quoted(name: str) -> bool:
    """Tell whether a name stands between quotes, such as single ones, which CSV does not know."""
    return len(name) > 2 and name[0] in QUOTES and name[-1] in QUOTES


def spellings(labels: Coded[RowLabels]) -> dict[str, Counter[str]]:
    """Return the spellings of each label and the rows of each, by `folded` name."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for name, count in label_counts(labels).items():
        found[folded(name)][name] = count
    return found


def usual_names(found: dict[str, Counter[str]]) -> dict[str, str]:
    """Return the most frequent spelling of each label, by `folded` name; of equally frequent ones the first in the alphabet."""
    return {key: min(counts, key=lambda name: (-counts[name], name)) for key, counts in found.items()}


def label_warnings(found: dict[str, Counter[str]], *, merged: bool) -> list[str]:
    """Return one sentence with all labels that have several spellings, and one on labels that may stand for a missing value."""
    groups = [counts for counts in found.values() if len(counts) > 1]
    names = {name: count for counts in found.values() for name, count in counts.items() if name in MISSING_WORDS}
    warnings = []
    if groups:
        shown = "; ".join(map(_listed, groups[:MOST_SHOWN])) + ("; …" if len(groups) > MOST_SHOWN else "")
        done = (
            "merged into the most frequent spelling, as data.normalize_labels says"
            if merged
            else "they are learned as different labels; data.normalize_labels: true merges them into the most frequent spelling"
        )
        warnings.append(f"labels that only look different: {shown}; {done}.")
    spelled = [name for counts in found.values() for name in counts]
    if spelled and all(map(is_quoted, spelled)):
        warnings.append(
            f"each label has quotes that belong to it, such as {spelled[0]}: in CSV, only double quotes directly at the delimiter "
            "enclose a field; write these, or remove the quotes."
        )
    if names:
        listed = ", ".join(f"{name!r} ({_rows(count)})" for name, count in sorted(names.items()))
        warnings.append(f"labels that may stand for a missing value: {listed}; remove these rows if they do.")
    return warnings


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _listed(counts: Counter[str]) -> str:
    forms = {unicodedata.normalize("NFC", _seen(name)) for name in counts}
    show = repr if len(forms) == len(counts) else ascii  # which shows what each character is
    return ", ".join(f"{show(name)} ({_rows(count)})" for name, count in counts.most_common())


def text_warnings(rows: Rows, labels: Coded[RowLabels]) -> list[str]:
    """Return a sentence on texts that differ by case or blanks only and have two labels, and one on words for missing texts."""
    num_conflicts, found = conflicts(rows.texts, labels.codes, most=MOST_SHOWN, form=_plain)
    missing: Counter[str] = Counter()
    for text in rows.texts:
        parts = (text,) if isinstance(text, str) else text
        for part in parts:
            if len(part) < 10 and part.strip() in MISSING_WORDS:
                missing[part.strip()] += 1
    warnings = []
    if found:
        pairs = "; ".join(_conflict(rows, labels, *pair) for pair in found)
        more = "; …" if num_conflicts > MOST_SHOWN else ""
        warnings.append(
            f"{rows.source}: texts that differ from another by case or blanks only and have another label: {num_conflicts:,} "
            f"({pairs}{more}); decide on one."
        )
    if missing:
        listed = ", ".join(f"{word!r} ({_rows(count)})" for word, count in sorted(missing.items()))
        warnings.append(f"{rows.source}: texts that may stand for a missing value: {listed}; remove these rows if they do.")
    return warnings


def _plain(text: Text) -> Text:
    """Return the form in which texts that differ by case or blanks only are equal."""
    return " ".join(text.casefold().split()) if isinstance(text, str) else (str(_plain(text[0])), str(_plain(text[1])))


def _conflict(rows: Rows, labels: Sequence[RowLabels], one: int, other: int) -> str:
    said = [f"{rows.unit} {rows.positions[index]} {', '.join(names_of(labels[index])) or 'no label'}" for index in (one, other)]
    return " and ".join(said)
