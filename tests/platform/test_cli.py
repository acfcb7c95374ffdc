from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from manta import __version__
from manta.cli import GROUPS, build_app, main, with_values_as_typed
from manta.errors import InputError, MantaError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGES = ("manta", "manta_jobs", "manta_serve", "manta_ui")


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def manta(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "manta.cli", *arguments, folder=folder)


def test_what_nobody_foresaw_is_one_sentence_and_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken() -> None:
        try:
            raise KeyError("http://user:secret@host")
        except KeyError as error:
            raise ValueError("two\nlines") from error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("manta.cli.schema", broken)
    monkeypatch.setattr(sys, "argv", ["manta", "schema"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    (log,) = tmp_path.iterdir()
    said = capsys.readouterr().err
    assert said == (
        "Error: manta schema broke off on an error that it does not know: KeyError: 'http://host'. "
        f"The full traceback is in {log}.\n"
    )
    assert "in broken" in log.read_text()
    assert "secret" not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_help_lists_every_command(tmp_path: Path) -> None:
    done = manta("--help", folder=tmp_path)
    assert done.returncode == 0
    names = [name for names in GROUPS.values() for name in names]
    assert re.findall(r"^│ ([a-z]+) ", done.stdout, flags=re.MULTILINE) == names
    assert set(names) == {"schema", *(point.name for point in entry_points(group="manta.commands"))}
    assert done.stderr == ""


def test_help_shows_what_people_type() -> None:
    def shown(command: Any) -> Iterator[str]:
        for parameter in command.params:
            yield parameter.display_type_rich(typer.Context(command)) or ""
        for inner in getattr(command, "commands", {}).values():
            yield from shown(inner)

    typed = set(shown(with_values_as_typed(typer.main.get_command(build_app()))))
    assert {"NAME=VALUE", "PORT", "COLUMN", ""} <= typed
    assert [value for value in typed if "<" in value and "|" not in value] == []  # types; choices stand between < and >


def test_a_shell_gets_completion_for_commands_and_options(tmp_path: Path) -> None:
    def completed(words: str) -> set[str]:
        environment = os.environ | {"_MANTA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        command = [sys.executable, "-c", "import sys; sys.argv[0] = 'manta'; from manta.cli import main; main()"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
        return set(done.stdout.split())

    assert completed("manta pre") == {"predict", "preflight"}
    assert "--resume" in completed("manta train --")


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    done = manta("--version", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"manta {__version__}\n")


def test_the_schema_is_json_that_explains_every_setting(tmp_path: Path) -> None:
    done = manta("schema", folder=tmp_path)
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert schema["required"] == ["name", "data"]
    for section in [schema, *schema["$defs"].values()]:
        unexplained = [name for name, field in section["properties"].items() if not {"description", "$ref"} & set(field)]
        assert unexplained == []


@pytest.mark.parametrize("arguments", [["--nope"], ["nope"], ["train"], ["train", "--nope", "e.yaml"]])
def test_wrong_arguments_leave_with_2(tmp_path: Path, own_storage: Path, arguments: list[str]) -> None:
    done = manta(*arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage:" in done.stderr or "which experiment?" in done.stderr
    assert not own_storage.exists()


@pytest.mark.parametrize("verb", ["train", "tune"])
def test_a_missing_experiment_is_one_sentence(tmp_path: Path, own_storage: Path, verb: str) -> None:
    done = manta(verb, "missing.yaml", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: missing.yaml: no such config file; check the path.\n"
    assert not own_storage.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("name: x\ndata: {train: rows.csv}\ntrian: {}\n", [], "Error: e.yaml:3: unknown setting trian; did you mean train?\n"),
        ("name: x\ndata: {train: rows.csv}\n", ["--set", "seed"], "Error: --set seed: write it as name=value"),
        ("name: x\ndata: {train: '[red]rows.csv'}\n", [], "[red]rows.csv: no such file; check data.train.\n"),
    ],
)
def test_wrong_input_leaves_with_2_and_writes_nothing(
    tmp_path: Path, own_storage: Path, text: str, arguments: list[str], message: str
) -> None:
    (tmp_path / "e.yaml").write_text(text)
    done = manta("train", "e.yaml", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    said = [line for line in done.stderr.splitlines() if not line.endswith(" …")]  # a slow machine says what it is doing
    assert len(said) == 1
    assert said[0].startswith("Error: ")
    assert not own_storage.exists()


def test_the_command_line_imports_no_heavy_package(tmp_path: Path) -> None:
    heavy = ("torch", "ray", "mlflow", "gradio", "transformers", "deepspeed", "datasets", "sklearn", "fastapi")
    code = f"import sys, manta.cli as cli; cli.build_app(); print([name for name in {heavy} if name in sys.modules])"
    done = python("-c", code, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("command", [["models", "list"], ["keys", "list"], ["jobs", "list", "--address", "http://127.0.0.1:9"]])
def test_a_list_imports_no_heavy_package(tmp_path: Path, own_storage: Path, command: list[str]) -> None:
    heavy = ("mlflow", "ray", "torch", "transformers", "pandas", "pyarrow", "sqlalchemy", "fastapi", "numpy")
    code = (
        f"import sys, manta.cli as cli; sys.argv = {['manta', *command]}\n"
        f"try: cli.main()\nfinally: print([name for name in {heavy} if name in sys.modules])"
    )
    assert python("-c", code, folder=tmp_path).stdout == "[]\n"


@pytest.mark.parametrize("from_root", [False, True], ids=["elsewhere", "repository"])
def test_the_packages_live_beside_pythons_own_platform(tmp_path: Path, from_root: bool) -> None:
    code = f"import platform, {', '.join(PACKAGES)}; print(platform.python_version(), platform.__file__)"
    done = python("-c", code, folder=ROOT if from_root else tmp_path)
    assert done.returncode == 0, done.stderr
    version, file = done.stdout.split()
    assert version == ".".join(map(str, sys.version_info[:3]))
    assert not Path(file).is_relative_to(ROOT / "platform")


@pytest.mark.parametrize("folder", ["platform", "jobs", "serve", "ui", "tests", "tests/platform", "tests/platform/data"])
def test_source_roots_are_no_packages(folder: str) -> None:
    """`platform/__init__.py` would shadow Python's own `platform` for everything started from the root."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_every_entry_point_is_a_command() -> None:
    app = build_app()
    names = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert names == {"schema"} | {point.name for point in entry_points(group="manta.commands")}


def test_exit_codes_tell_wrong_input_from_a_failed_run() -> None:
    assert (MantaError.exit_code, RunError.exit_code, InputError.exit_code) == (1, 1, 2)
