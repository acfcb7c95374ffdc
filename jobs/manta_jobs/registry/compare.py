"""`manta models compare`: two versions side by side, and on the champion's frozen test rows if there are any."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape

from manta.console import people_table
from manta.errors import InputError
from manta.evaluation.significance import mcnemar
from manta.labels import names_of
from manta_jobs.registry.side_by_side import SideBySide, set_side_by_side

if TYPE_CHECKING:
    from rich.console import Console

    from manta.registry.models import ModelRegistry
    from manta.registry.paired import Answers
    from manta.registry.versions import RegisteredVersion

NUM_EXAMPLES = 5
NOT_SETTINGS = ("name", "registry.", "serve.", "tune.", "storage")
"""Settings that do not shape the model."""


@dataclass(frozen=True)
class Disagreement:
    """A row that only one of the two versions answers correctly."""

    text: str
    label: str
    first: str
    """Answer of A; `second` is the answer of B."""
    second: str


@dataclass(frozen=True)
class OnRows:
    """The answers of two versions to the same rows."""

    rows_of: str
    """The version whose test rows these are."""
    num_rows: int
    agreement: float
    """Share of rows on which both give the same answer."""
    accuracy: tuple[float, float]
    num_only_first: int
    """Rows that only A answers correctly; `num_only_second` counts those of B."""
    num_only_second: int
    p_value: float
    """P-value of McNemar's two-sided test: the probability of a split at least this uneven by chance."""
    only_first: tuple[Disagreement, ...]
    only_second: tuple[Disagreement, ...]


@dataclass(frozen=True)
class VersionComparison:
    """The differences between two versions."""

    first: RegisteredVersion
    second: RegisteredVersion
    settings: dict[str, tuple[str | None, str | None]]
    """Settings that differ, by dotted name."""
    same_data: bool
    on_rows: OnRows | None
    fault: str | None
    """Reason why the versions cannot be compared on rows."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return {
            "a": {"model": self.first.name, "version": self.first.version, "metrics": self.first.metrics},
            "b": {"model": self.second.name, "version": self.second.version, "metrics": self.second.metrics},
            "settings": self.settings,
            "same_data": self.same_data,
            "on_rows": None if self.on_rows is None else asdict(self.on_rows),
            "fault": self.fault,
        }


def compare_versions(registry: ModelRegistry, first: RegisteredVersion, second: RegisteredVersion) -> VersionComparison:
    """Compare two versions, on the rows of the champion if one of them is, else of the first version that has any.

    Raises:
        RunError: the registry cannot be reached.
    """
    names = sorted(name for name in {*first.config, *second.config} if not any(name.startswith(prefix) for prefix in NOT_SETTINGS))
    settings = {name: (first.config.get(name), second.config.get(name)) for name in names}
    same = first.lineage.get("data_hash") == second.lineage.get("data_hash")
    on_rows, fault = None, None
    try:
        on_rows = _on_rows(registry, first, second)
    except InputError as error:
        fault = str(error)
    return VersionComparison(
        first, second, {key: pair for key, pair in settings.items() if pair[0] != pair[1]}, same, on_rows, fault
    )


def _on_rows(registry: ModelRegistry, first: RegisteredVersion, second: RegisteredVersion) -> OnRows:
    swapped = "champion" in second.aliases or registry.files.frozen_rows(first) is None
    keeper, other = (second, first) if swapped else (first, second)
    both = set_side_by_side(registry, keeper, other)
    a, b = both.answers[::-1] if swapped else both.answers
    only_first, only_second = np.flatnonzero(a.right & ~b.right), np.flatnonzero(b.right & ~a.right)
    counts = len(only_first), len(only_second)
    return OnRows(
        rows_of=str(keeper),
        num_rows=len(a),
        agreement=float((a.decided == b.decided).all(axis=1).mean()),
        accuracy=(float(a.right.mean()), float(b.right.mean())),
        num_only_first=counts[0],
        num_only_second=counts[1],
        p_value=min(1.0, 2 * min(mcnemar(*counts), mcnemar(*counts[::-1]))),
        only_first=tuple(_disagreement(both, a, b, int(row)) for row in only_first[:NUM_EXAMPLES]),
        only_second=tuple(_disagreement(both, a, b, int(row)) for row in only_second[:NUM_EXAMPLES]),
    )


def _disagreement(both: SideBySide, a: Answers, b: Answers, row: int) -> Disagreement:
    text = both.rows.texts[row]
    said = ["|".join(name for name, given in zip(one.names, one.decided[row], strict=True) if given) for one in (a, b)]
    return Disagreement(
        text if isinstance(text, str) else " / ".join(text), "|".join(names_of(both.rows.labels[row])), said[0], said[1]
    )


def show_comparison(comparison: VersionComparison, console: Console) -> None:
    """Print the metrics, the differences in settings and data, and the rows on which the versions disagree."""
    first, second = comparison.first, comparison.second
    table = people_table("", str(first), str(second), "difference", title="Each on its own test rows")
    for key in [key for key in first.metrics if key in second.metrics]:
        before, after = first.metrics[key], second.metrics[key]
        table.add_row(key, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    console.print(table)
    console.print(f"Data: {'the same' if comparison.same_data else 'different'}.")
    if comparison.settings:
        table = people_table("setting", str(first), str(second), title="Settings that differ")
        for name, pair in comparison.settings.items():
            table.add_row(name, *(escape("" if value is None else value) for value in pair))
        console.print(table)
    else:
        console.print("Settings: the same.")
    if comparison.on_rows is not None:
        _show_rows(comparison, comparison.on_rows, console)
    if comparison.fault:
        console.print(f"[yellow]{escape(comparison.fault)}[/]")


def _show_rows(comparison: VersionComparison, rows: OnRows, console: Console) -> None:
    first, second = comparison.first, comparison.second
    console.print(
        f"On {rows.num_rows:,} test rows of {rows.rows_of}: accuracy {rows.accuracy[0]:.4f} and {rows.accuracy[1]:.4f}; "
        f"they say the same on {rows.agreement:.1%}. Only {first} is right on {rows.num_only_first}, only {second} on "
        f"{rows.num_only_second} (McNemar p = {rows.p_value:.2g})."
    )
    for version, examples in ((first, rows.only_first), (second, rows.only_second)):
        if not examples:
            continue
        table = people_table("text", "label", str(first), str(second), title=f"Only {version} is right")
        for item in examples:
            table.add_row(*(escape(cell) for cell in (item.text[:120], item.label, item.first, item.second)))
        console.print(table)
