"""HTML of versions in the tab Models: tables, curves and the gate's verdict."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from manta_ui.look.charts import Axis, Series, line_chart
from manta_ui.look.markup import breakable, moment
from manta_ui.look.tables import Cell, facts_html, figure_cell, section_html, table_html
from manta_ui.models.card import card_html
from manta_ui.models.confusion_views import confusion_html

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from manta.registry.decisions import Decision
    from manta_ui.clients.tracking import TrackedModel, Version

MOST_CHARACTERS = 16
"""Characters of a hash that are shown; `manta models show` shows all of it."""
TILES = (("accuracy", "accuracy"), ("f1_macro", "macro F1"), ("f1_micro", "micro F1"), ("loss", "loss"))
SETTINGS = ("train.learning_rate", "model.dropout", "train.num_epochs", "train.batch_size", "train.num_workers", "train.zero_stage")
LINEAGE = (("pretrained", "base model"), ("data_hash", "data hash"), ("config_hash", "config hash"), ("git_commit", "git commit"))


def versions_html(versions: Sequence[Version], *, chosen: int | None) -> str:
    """Return a table of all versions with their metrics. A click on a heading sorts it."""
    known = [(name, words) for name, words in TILES if any(name in version.metrics for version in versions)]
    rows = [
        [
            Cell(version.title, sorts_as=version.number, kind="manta-name"),
            Cell(", ".join(version.aliases), kind="manta-good" if "champion" in version.aliases else ""),
            *(figure_cell(version.metrics.get(name), digits=4) for name, _ in known),
            Cell(moment(version.created_ms), sorts_as=version.created_ms),
        ]
        for version in versions
    ]
    headings = ["version", "alias", *(f"test {words}" for _, words in known), "made (UTC)"]
    marked = next((index for index, version in enumerate(versions) if version.number == chosen), None)
    caption = f"{len(versions)} version{'' if len(versions) == 1 else 's'}; the marked one is shown below"
    return table_html("versions", headings, rows, caption=caption, marked=marked)


def version_html(version: Version, report: Mapping[str, Any], card: str) -> str:
    """Return the details of one version. `report` is its run's report.json, `card` its model card; either is empty if missing."""
    badges = "".join(f'<span class="manta-badge">{html.escape(alias)}</span>' for alias in version.aliases)
    return "".join(
        [
            f"<h2>{html.escape(version.title)} {badges}</h2>",
            _tiles_html(version.metrics),
            confusion_html(report),
            f'<div class="manta-grid-of-charts">{_calibration_chart(report)}{_curves(report)}</div>',
            section_html("Where it comes from", facts_html(_facts(version, report))),
            _labels_html(report),
            f"<details><summary>Model card</summary>{card_html(card)}</details>" if card else "",
        ]
    )


def verdict_html(lines: Sequence[Mapping[str, Any]], *, champion: str, candidate: str, title: str) -> str:
    """Return the gate's table with a sentence for each line. The lines that refuse are marked."""
    rows = [
        [
            Cell("passes" if line["passed"] else "refuses", kind="manta-good" if line["passed"] else "manta-bad"),
            Cell(str(line["name"]), kind="manta-named"),
            figure_cell(line["champion"]),
            figure_cell(line["candidate"]),
            Cell(str(line["bound"]), kind="manta-named"),
            Cell(str(line["sentence"]), kind="manta-wide"),
        ]
        for line in sorted(lines, key=lambda line: bool(line["passed"]))
    ]
    return table_html("verdict", ["gate", "line", champion, candidate, "bound", "in words"], rows, caption=title) if rows else ""


def decisions_html(model: TrackedModel) -> str:
    """Return the decisions about a model's versions, newest first."""
    rows = [
        [
            Cell(decision.at[:19].replace("T", " ")),
            Cell(decision.action, kind="manta-bad" if decision.action == "refused" else ""),
            figure_cell(decision.version),
            figure_cell(decision.previous),
            Cell(decision.by),
            Cell(" ".join(filter(None, [decision.why, *_refusals(decision)])), kind="manta-wide"),
        ]
        for decision in reversed(model.decisions)
    ]
    headings = ["when (UTC)", "what", "version", "champion before", "who", "why"]
    return table_html("decisions", headings, rows, caption=f"Decisions about {model.name}, newest first") if rows else ""


def last_verdict(model: TrackedModel, version: int) -> Decision | None:
    """Return the last decision about a version for which the gate was run; None if there is none."""
    return next((item for item in reversed(model.decisions) if item.version == version and item.figures), None)


def learning_curves(name: str, history: Sequence[Mapping[str, Any]], *, best_epoch: int | None = None) -> str:
    """Return loss and accuracy of each epoch as two charts; empty without epochs."""
    if not history:
        return ""
    losses = [("training loss", "train_loss"), ("validation loss", "loss")]
    shares = [("training accuracy", "train_accuracy"), ("validation accuracy", "accuracy"), ("validation macro F1", "f1_macro")]
    return _epoch_chart(f"Loss of {name}", "loss (nats)", losses, history, best_epoch) + _epoch_chart(
        f"Accuracy of {name}", "share", shares, history, best_epoch
    )


def _epoch_chart(
    title: str, unit: str, wanted: list[tuple[str, str]], history: Sequence[Mapping[str, Any]], best_epoch: int | None
) -> str:
    series = [
        Series(words, [(float(epoch["epoch"]), float(epoch[key])) for epoch in history if _is_number(epoch.get(key))], style=style)
        for style, (words, key) in enumerate(wanted)
    ]
    series = [item for item in series if item.points]
    if not series:
        return ""
    across = Axis.around("epoch", [x for item in series for x, _ in item.points], whole=True)
    up = Axis.around(unit, [y for item in series for _, y in item.points])
    marked = title if best_epoch is None else f"{title}; epoch {best_epoch} was kept"
    return line_chart(marked, series, across=across, up=up, mark=best_epoch)


def _curves(report: Mapping[str, Any]) -> str:
    history = report.get("history")
    best = report.get("best_epoch")
    return learning_curves("this run", history if isinstance(history, list) else [], best_epoch=best if _is_number(best) else None)


def _calibration_chart(report: Mapping[str, Any]) -> str:
    parts = report.get("reliability")
    if not isinstance(parts, list) or not parts:
        return ""
    points = [(float(part["confidence"]), float(part["accuracy"])) for part in parts]
    several = report.get("task") == "multilabel"
    low = min(0.5, *(x for x, _ in points))
    return line_chart(
        "Reliability: on the dashed line, its probabilities hold",
        [Series("share that applies" if several else "share that is right", points)],
        across=Axis("probability" if several else "confidence of the answer", max(0.0, low - 0.05), 1.02),
        up=Axis("share that applies" if several else "share that is right", 0.0, 1.04),
        diagonal=True,
    )


def _tiles_html(metrics: Mapping[str, float]) -> str:
    tiles = [f"<li><strong>{metrics[key]:.4f}</strong><span>test {words}</span></li>" for key, words in TILES if key in metrics]
    return f'<ul class="manta-tiles">{"".join(tiles)}</ul>' if tiles else ""


def _facts(version: Version, report: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings = dict(version.run.settings) if version.run else {}
    ran = (report.get("distribution") or {}).get("zero_stage")
    if settings.get("train.zero_stage") == "auto" and ran is not None:
        settings["train.zero_stage"] = f"{ran} (auto)"
    facts = [("made (UTC)", moment(version.created_ms)), ("run", version.lineage.get("run", ""))]
    facts += [(words, version.lineage.get(key, "")[:MOST_CHARACTERS]) for key, words in LINEAGE]
    facts += [(name.rsplit(".", 1)[-1].replace("_", " "), settings.get(name, "")) for name in SETTINGS]
    facts += [("method", str(report.get("method") or "")), ("MLflow run", version.run_id)]
    facts += [("package", version.lineage.get("package_version", "")), ("model folder", str(report.get("artifact") or ""))]
    return [(name, value) for name, value in facts if value]


def _labels_html(report: Mapping[str, Any]) -> str:
    labels = [str(label) for label in report.get("labels") or []]
    names = "".join(f"<li>{breakable(label)}</li>" for label in labels)
    return f'<details><summary>{len(labels)} labels</summary><ul class="manta-names">{names}</ul></details>' if labels else ""


def _refusals(decision: Decision) -> list[str]:
    return [line.sentence for line in decision.figures if not line.passed]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
