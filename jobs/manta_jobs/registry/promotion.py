"""The choice of the served version: the gate between a candidate and the champion, and the rollback. Every decision is recorded.

A decision is recorded before the alias moves. A decision that cannot be recorded is not carried out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.markup import escape

from manta.config import ExperimentConfig, GateConfig, MetricName
from manta.console import people_table
from manta.errors import InputError, MantaError
from manta.registry.decisions import Action, Decision, line_of_champions
from manta.registry.gate import Verdict, judge

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from manta.inference.artifact import ModelArtifact
    from manta.registry.models import ModelRegistry
    from manta.registry.versions import RegisteredVersion


@dataclass(frozen=True)
class Promotion:
    """The outcome of a promotion or a rollback."""

    version: RegisteredVersion
    champion: RegisteredVersion | None
    """The champion before the decision."""
    action: Action | None
    """None if nothing was decided: the version only waits."""
    verdict: Verdict | None
    notes: tuple[str, ...] = ()

    @property
    def promoted(self) -> bool:
        """True if the version is the champion now."""
        return self.action in {"first", "promoted", "forced"}

    @property
    def passes(self) -> bool:
        """True if there is no champion to compare with, or the gate lets the version pass."""
        return self.champion is None if self.verdict is None else self.verdict.passed

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return {
            "model": self.version.name,
            "version": self.version.version,
            "promoted": self.promoted,
            "action": self.action,
            "previous": None if self.champion is None else self.champion.version,
            "lines": [line.model_dump() for line in self.verdict.lines] if self.verdict else [],
            "notes": list(self.notes),
        }


def promote(
    registry: ModelRegistry,
    version: RegisteredVersion,
    *,
    artifact: ModelArtifact | None = None,
    force: str | None = None,
    allow_equal: bool = False,
    dry_run: bool = False,
) -> Promotion:
    """Make a version the champion if the gate lets it pass, or if `force` gives a reason. The decision is recorded either way.

    With `dry_run` the gate only says what it would decide: nothing is recorded, and no alias moves.

    Raises:
        InputError: it is the champion already, its artifact is gone, the reason is empty, or it cannot be compared.
        RunError: the registry cannot be reached.
    """
    if force is not None and not force.strip():
        raise InputError("--force needs a reason, which is kept in the log: --force 'the labels were wrong'.")
    champion = registry.with_alias(version.name, "champion")
    if champion is not None and champion.version == version.version:
        raise InputError(f"{version} is the champion already.")
    artifact = artifact or registry.files.fetch(version)
    if champion is None and dry_run:
        return Promotion(version, None, None, None, ("There is no champion yet, so it would become that without comparison.",))
    if champion is None:
        return _decided(registry, Promotion(version, None, "forced" if force else "first", None), why=force or "there was none")
    try:
        verdict, notes = compared(registry, champion, version, artifact=artifact, allow_equal=allow_equal)
    except InputError as error:
        if force is None or dry_run:
            raise InputError(f"{error} To promote it all the same: {forcing(version)}") from None
        return _decided(registry, Promotion(version, champion, "forced", None, (str(error),)), why=force)
    if dry_run:
        return Promotion(version, champion, None, verdict, tuple(notes))
    action: Action = "promoted" if verdict.passed else "refused" if force is None else "forced"
    why = force or ("equals are allowed" if allow_equal else "")
    return _decided(registry, Promotion(version, champion, action, verdict, tuple(notes)), why=why)


def compared(
    registry: ModelRegistry,
    champion: RegisteredVersion,
    version: RegisteredVersion,
    *,
    artifact: ModelArtifact,
    allow_equal: bool = False,
) -> tuple[Verdict, list[str]]:
    """Return the gate's verdict on a version against the champion, and notes on the rows. The version's own gate settings apply.

    Raises:
        InputError: they cannot be compared.
        RunError: the registry cannot be reached.
    """
    from manta_jobs.registry.side_by_side import behaviour_pairs, measured_costs, set_side_by_side

    both = set_side_by_side(registry, champion, version)
    gate, main_metric = gate_settings(artifact)
    verdict = judge(
        *both.answers,
        gate=gate,
        main_metric=main_metric,
        behaviour=behaviour_pairs(both),
        costs=measured_costs(both),
        allow_equal=allow_equal,
    )
    return verdict, both.notes


def gate_settings(artifact: ModelArtifact) -> tuple[GateConfig, MetricName]:
    """Return the gate's settings and the metric that a model was trained with; the defaults if its config lacks them."""
    config = artifact.manifest.config
    try:
        gate = GateConfig.model_validate(config.get("registry", {}).get("gate", {}))
    except ValidationError:
        gate = GateConfig()
    return gate, config.get("train", {}).get("metric", "accuracy")


def settle(
    registry: ModelRegistry,
    version: RegisteredVersion,
    config: ExperimentConfig,
    *,
    artifact: ModelArtifact,
) -> Promotion:
    """Promote the new version at the end of a run if it may be promoted. In any case the version stays registered."""
    earlier = [decision for decision in registry.decisions(version.name) if decision.version == version.version]
    champion = registry.with_alias(version.name, "champion")
    if champion is not None and champion.version == version.version:
        return Promotion(version, None, "promoted", None, ("It is the champion.",))  # decided before the run was interrupted
    if not config.registry.promote:
        return Promotion(version, champion, None, None, ("It is not promoted: registry.promote is false.",))
    if earlier:
        return Promotion(version, champion, earlier[-1].action, None, ("It was decided before the run broke off.",))
    try:
        return promote(registry, version, artifact=artifact)
    except MantaError as error:
        return Promotion(version, champion, None, None, (f"It is not promoted: {error}",))


def rollback(registry: ModelRegistry, name: str) -> Promotion:
    """Make the previous champion the champion again. Each further call goes back by one more, never forward.

    Versions that were deleted or whose artifact is gone are skipped.

    Raises:
        InputError: there is no champion, or none before it.
        RunError: the registry cannot be reached.
    """
    champion = registry.get(name)
    line = line_of_champions(registry.decisions(name))
    if champion.version in line:  # versions recorded after it never became the champion
        del line[len(line) - 1 - line[::-1].index(champion.version) :]
    versions = {version.version: version for version in registry.versions(name)}
    notes: list[str] = []
    for number in reversed(line):
        version = versions.get(number)
        if version is not None and version.version != champion.version and registry.files.exist(version):
            return _decided(registry, Promotion(version, champion, "rolled back", None, tuple(notes)), why="")
        if number != champion.version:
            notes.append(
                f"Version {number} is passed over: it is {'deleted' if version is None else 'registered, its files gone'}."
            )
    raise InputError(f"{name}: there is no champion before version {champion.version} to go back to.")


def _decided(registry: ModelRegistry, promotion: Promotion, *, why: str) -> Promotion:
    """Record a decision, then carry it out."""
    version, champion, action = promotion.version, promotion.champion, promotion.action
    if action is None:
        raise ValueError("nothing was decided")
    figures = promotion.verdict.lines if promotion.verdict else ()
    previous = None if champion is None else champion.version
    registry.record(version.name, Decision(action=action, version=version.version, previous=previous, why=why, figures=figures))
    if action != "refused":
        registry.set_champion(version)
    return promotion


def forcing(version: RegisteredVersion) -> str:
    """Return the command that promotes a version against the gate's verdict."""
    return f'manta models promote {version} --force "why"'


def refusal_commands(promotion: Promotion) -> list[tuple[str, str]]:
    """Return the commands that follow a refusal, each with its purpose; empty without one."""
    version, champion = promotion.version, promotion.champion
    if promotion.action != "refused":
        return []
    return [
        (f"manta models compare {champion} {version}", "see where they differ"),
        (forcing(version), "promote it all the same"),
    ]


def outcome_lines(promotion: Promotion) -> list[str]:
    """Return the outcome in words, with markup, and the reasons for a refusal."""
    version, champion = promotion.version, promotion.champion
    if promotion.action == "refused":
        failing = promotion.verdict.failing if promotion.verdict else ()
        reasons = [f"  [red]• {escape(line.sentence)}[/]" for line in failing]
        return [f"[red]{version} is not promoted:[/] {champion} stays the champion.", *reasons]
    if promotion.action == "rolled back":
        return [f"{version} is the champion again, {champion} no longer."]
    if promotion.promoted and champion is not None:
        return [f"{version} is the champion now; back to {champion}: manta models rollback {version.name}"]
    if promotion.action is None and promotion.verdict is not None:
        return [f"The gate would {'let ' + str(version) + ' pass' if promotion.passes else 'refuse ' + str(version)}."]
    if promotion.action == "first":
        return [f"{version} is the champion: there was none to compare it with."]
    return []


def show_promotion(promotion: Promotion, console: Console) -> None:
    """Print the gate's table with failing lines in red, and the outcome."""
    if promotion.verdict is not None and promotion.champion is not None:
        console.print(gate_table(promotion.verdict, champion=promotion.champion, candidate=promotion.version))
    for line in (*map(escape, promotion.notes), *outcome_lines(promotion)):
        console.print(line)
    for command, what in refusal_commands(promotion):
        console.print(f"  {escape(command)}   [dim]# {what}[/]")


def gate_table(verdict: Verdict, *, champion: RegisteredVersion, candidate: RegisteredVersion) -> Table:
    """Return a table with both figures and the bound of every line of the gate."""
    title = f"{candidate} beside the champion {champion}, on {verdict.num_rows:,} test rows"
    table = people_table("", f"{champion}", f"{candidate}", "bound", "", title=title)
    for line in verdict.lines:
        ending = "ok" if line.passed else "no"
        figures = (f"{figure:.4g}" for figure in (line.champion, line.candidate))
        table.add_row(escape(line.name), *figures, line.bound, ending, style="" if line.passed else "red")
    return table
