"""Facts about the tree itself, and about the examples of README and guides."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from manta.cli import build_app
from manta.config import ExperimentConfig
from manta_serve.running.commands import RUN

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
NOT_RUN = "# not run here: "


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_no_package_marker_shadows_a_module() -> None:
    for folder in ("platform", "jobs", "serve", "ui", "tests", "tests/platform"):
        assert not (ROOT / folder / "__init__.py").exists(), folder


def test_the_readmes_yaml_is_a_valid_experiment() -> None:
    (support,) = (ExperimentConfig.model_validate(yaml.safe_load(document)) for document in blocks("yaml"))
    assert (support.name, support.data.train) == ("support", "data/train.csv")


@pytest.mark.parametrize("page", GUIDES)
def test_a_guides_yaml_is_a_valid_experiment_and_its_links_lead_somewhere(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for document in re.findall(r'```yaml(?: title="(?!behaviour)\S+)?\n(.*?)```', text, flags=re.DOTALL):
        ExperimentConfig.model_validate(yaml.safe_load(document))
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / "docs" / page).parent.joinpath(target).exists(), target


def test_every_command_of_the_readme_exists() -> None:
    app = build_app()
    verbs = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    lines = [line for block in blocks("console") for line in block.splitlines()]
    shown = {line.removeprefix("$ manta ").split()[0] for line in lines if line.startswith("$ manta ")}
    listed = set(re.findall(r"^\| `manta (\w+)", (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert shown <= listed
    assert listed == verbs
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", " ".join([*lines, *re.findall(r"`[^`]+`", README)]))) <= targets


@pytest.mark.parametrize("page", ["../README.md", *GUIDES])
def test_a_guides_commands_are_ones_that_manta_takes(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for line in re.findall(r"^\$ manta (.*)$", text, flags=re.MULTILINE):
        command, arguments = named_command(shlex.split(line, comments=True))
        command.make_context(line, arguments)  # what is missing or unknown is an error
    for line in re.findall(r"`manta ([^`|\\]+)`", text):
        command, arguments = named_command([word.strip("[]") for word in line.split()])
        options = {option for parameter in command.params for option in parameter.opts}
        if re.match("submit [a-z]", line):  # the verb's own options follow
            options |= {option for parameter in named_command(line.split()[1:])[0].params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= options, line


def commands(page: str) -> dict[str, str]:
    """Commands in a page's consoles, each with the reason why it is not run here: a comment at its end, or above its block."""
    found = {}
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL):
        first, *_ = block.splitlines()
        above = first.partition(NOT_RUN)[2] if first.startswith("#") else ""
        for line in block.splitlines():
            if line.startswith("$ "):
                found[line.removeprefix("$ ").partition(" # ")[0].strip()] = line.partition(NOT_RUN)[2] or above
    return found


def test_what_is_not_run_says_why() -> None:
    assert all(commands("kubernetes.md").values())
    assert all(why or command.startswith("manta ") for command, why in commands("clusters.md").items())


def named_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that they begin with, and what is left of them."""
    command: Any = typer.main.get_command(build_app())
    while words and not words[0].startswith("-") and (commands := getattr(command, "commands", {})):
        known = words[0] in commands
        command, words = commands[words[0] if known else RUN], words[known:]  # `manta serve NAME` leaves it out
    return command, words


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 150
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "package", ["manta", "manta.cli", "manta_jobs.cli.commands", "manta_serve.running.commands", "manta_ui.running.commands"]
)
def test_importing_the_command_line_loads_nothing_heavy(package: str) -> None:
    heavy = ("torch", "ray", "transformers", "mlflow", "gradio", "deepspeed")
    code = f"import sys, {package}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_driver_does_not_import_deepspeed() -> None:
    code = "import sys, manta_jobs.runs.train, manta_jobs.runs.tune, manta_jobs.training.worker; print('deepspeed' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_tables_for_people_come_from_one_place() -> None:
    """There a cell that is too long wraps; a table of rich's own would cut it."""
    sources = [path for folder in ("platform", "jobs", "serve", "ui") for path in (ROOT / folder).rglob("*.py")]
    makers = [path.name for path in sources if re.search(r"(?<![_\w.])Table\(", path.read_text(encoding="utf-8"))]
    assert makers == ["console.py"]


@pytest.mark.parametrize("word", ["surely", "ONNX form ", "ONNX forms", "eight-bit form", "whoever", "Whoever"])
def test_words_that_readers_stumble_on_are_not_used(word: str) -> None:
    sources = [path for folder in ("platform", "jobs", "serve", "ui") for path in (ROOT / folder).rglob("*.py")]
    found = [str(path) for path in [*sources, *(ROOT / "docs").rglob("*.md")] if word in path.read_text(encoding="utf-8")]
    assert found == []
