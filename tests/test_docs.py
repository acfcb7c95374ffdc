"""The site of `docs/`: it builds without a warning, its reference is the code's, and what it quotes is real."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

import reference
from manta.config import ExperimentConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGES = ("platform", "jobs", "serve", "ui")


def build(folder: Path, *, site: Path) -> subprocess.CompletedProcess[str]:
    """Build a folder's site as `make docs` does: a warning is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, site=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.slow
def test_a_link_that_leads_nowhere_and_a_guide_without_a_place_in_the_menu_fail_the_build(tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings | {"nav": ["README.md"]}), encoding="utf-8")
    (tmp_path / "docs").mkdir()
    shutil.copy(DOCS / "site_hooks.py", tmp_path / "docs")
    (tmp_path / "docs" / "README.md").write_text("# Guides\n\n[gone](gone.md)\n", encoding="utf-8")
    (tmp_path / "docs" / "alone.md").write_text("# Alone\n", encoding="utf-8")
    built = build(tmp_path, site=tmp_path / "site")
    assert built.returncode != 0
    assert "'gone.md'" in built.stderr
    assert "- alone.md" in built.stderr


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {str(path.relative_to(site)): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {"index.html", "quickstart.html", "tutorials/gpu.html", "reference/configuration.html"} <= pages.keys()
    elsewhere = re.compile(r'<(?:script|link|img)\b[^>]*(?:src|href)="(https?:[^"]+)')
    assert [link for text in pages.values() for link in elsewhere.findall(text)] == []
    assert [name for name, text in pages.items() if "```" in text] == []  # a block of code that was not read as one
    assert "<code>deploy/grafana/manta.json</code>" in pages["operations.html"]  # what the site does not have is a path


@pytest.mark.slow
def test_a_search_finds_every_setting(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    titles = {re.sub(r"<[^>]+>", "", entry["title"]) for entry in index["docs"]}
    assert set(setting_names(ExperimentConfig)) <= titles


def setting_names(section: type[ExperimentConfig], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from setting_names(field.annotation, f"{prefix}{name}.")
        elif "Lora" not in str(field.annotation) and "TuneConfirm" not in str(field.annotation):
            yield f"{prefix}{name}"


@pytest.mark.parametrize("name", ["configuration.md", "command-line.md", "http.md"])
def test_the_reference_is_that_of_the_code(name: str) -> None:
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == reference.pages()[name], "run: make reference"


@pytest.mark.parametrize(
    ("wanted", "page"),
    [
        ("how to train on a GPU", "tutorials/gpu.md"),
        ("what the gate is", "registry.md#the-gate"),
        ("how to bring a model", "encoders.md#bring-a-model"),
        ("what a setting does", "reference/configuration.md"),
        ("why an answer is uncertain", "calibration.md"),
    ],
)
def test_the_index_leads_there_in_one_click(wanted: str, page: str) -> None:
    assert f"]({page})" in (DOCS / "README.md").read_text(encoding="utf-8"), wanted


def test_the_index_of_decisions_lists_each() -> None:
    listed = re.findall(r"\]\((0[^)]+)\)", (DOCS / "decisions" / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))


def test_troubleshooting_quotes_what_the_code_says() -> None:
    said = "\n".join(text for folder in PACKAGES for path in (ROOT / folder).rglob("*.py") for text in texts_of(path))
    quoted = []
    for page in ("troubleshooting.md", "tutorials/gpu.md"):
        table = False
        for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
            table = "| what it says |" in line or (table and line.startswith("|"))
            if table:
                quoted += re.findall(r"`([^`]+)`", line.split("|")[1])
    assert len(quoted) > 25
    assert [words for words in quoted if any(part not in said for part in re.split(r"'label'|\(data.label\)", words))] == []


def texts_of(path: Path) -> Iterator[str]:
    """Every text in a module, with … for what is put in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
