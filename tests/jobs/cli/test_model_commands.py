"""`manta models`: what each verb says, as JSON and to people, and what it refuses."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from manta.errors import InputError
from manta.inference.artifact import ModelArtifact
from manta.registry.models import ModelRegistry
from manta_jobs.cli.model_commands import models

from ..registered import Trained, register

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from manta.storage.folders import Storage

    Run = Callable[..., dict[str, Any]]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("desk")]


@pytest.fixture(scope="module")
def desk(shared_storage: Storage, classifiers: dict[str, Trained]) -> None:
    """Version 1 is the champion, 2 a worse one, 3 a better one and the candidate."""
    for kind in ("good", "worse", "better"):
        register(shared_storage, classifiers[kind], name="desk")
    registry = ModelRegistry(shared_storage)
    registry.set_champion(registry.get("desk", version=1))


@pytest.fixture
def run(shared_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a verb with --json; its one object, with what people saw under `shown`."""
    monkeypatch.setenv("MANTA_STORAGE", str(shared_storage.root))
    monkeypatch.setenv("MANTA_USER", "ada@desk")
    monkeypatch.setenv("COLUMNS", "250")

    def invoke(*arguments: str, code: int = 0) -> dict[str, Any]:
        result = CliRunner().invoke(models, [*arguments, "--json"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) | {"shown": result.stderr}

    return invoke


def test_a_mistyped_storage_is_told_and_not_made(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANTA_STORAGE", str(tmp_path / "typo"))
    with pytest.raises(InputError, match="there is no registry in"):
        run("list")
    assert not (tmp_path / "typo").exists()


def test_list_has_every_version_with_its_aliases(run: Run) -> None:
    found = run("list", "desk")
    assert [(item["version"], item["aliases"]) for item in found["models"]] == [(3, ["candidate"]), (2, []), (1, ["champion"])]
    assert "champion" in found["shown"]
    assert run("list", "nobody's")["models"] == []


def test_the_list_cuts_no_name_at_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("list")["shown"]
    assert "champion" in shown
    assert "candidate" in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_show_has_everything_on_one_screen(run: Run, classifiers: dict[str, Trained]) -> None:
    found = run("show", "desk@3")
    manifest = classifiers["better"].artifact.manifest
    assert found["lineage"]["data_hash"] == manifest.data_hash
    assert len(found["lineage"]["config_hash"]) == 64
    assert found["environment"]["torch"] == manifest.versions["torch"]
    assert found["lineage"]["package_version"]
    assert found["frozen_test_rows"] == 300
    assert found["config"]["train.metric"] == "accuracy"
    assert (found["aliases"], found["fault"]) == (["candidate"], None)
    for word in ("desk@3 (candidate)", manifest.data_hash, found["run_id"], "3 (multiclass): account, billing, delivery"):
        assert word in found["shown"]
    assert len(found["shown"].splitlines()) < 40


def test_compare_says_who_is_right_where_the_other_is_wrong(run: Run) -> None:
    found = run("compare", "desk", "desk@2")
    rows = found["on_rows"]
    assert (rows["rows_of"], rows["num_rows"]) == ("desk@1", 300)
    assert rows["accuracy"][0] > rows["accuracy"][1]
    assert rows["num_only_first"] - rows["num_only_second"] == round(300 * (rows["accuracy"][0] - rows["accuracy"][1]))
    example = rows["only_first"][0]
    assert example["first"] == example["label"] != example["second"]
    assert (found["same_data"], found["settings"]) == (False, {})
    assert "Data: different." in found["shown"]
    turned = run("compare", "desk@2", "desk")["on_rows"]
    assert (turned["rows_of"], turned["num_only_second"]) == ("desk@1", rows["num_only_first"])


def test_promote_refuses_with_exit_code_1_and_rollback_undoes(run: Run) -> None:
    refused = run("promote", "desk@2", code=1)
    assert (refused["promoted"], refused["action"]) == (False, "refused")
    assert "desk@2 is not promoted" in refused["shown"]
    assert run("promote", "desk@candidate")["action"] == "promoted"
    back = run("rollback", "desk")
    assert (back["action"], back["version"], back["previous"]) == ("rolled back", 1, 3)
    shown = run("show", "desk")
    assert [item["action"] for item in shown["decisions"]] == ["refused", "promoted", "rolled back"]
    assert {item["by"] for item in shown["decisions"]} == {"ada@desk"}
    assert "rolled back: version 1" in shown["shown"]


def test_a_dry_run_says_what_the_gate_would_decide_and_changes_nothing(run: Run) -> None:
    before = run("show", "desk")
    refused = run("promote", "desk@2", "--dry-run", code=1)
    assert (refused["promoted"], refused["action"]) == (False, None)
    assert [line["name"] for line in refused["lines"] if not line["passed"]][:1] == ["accuracy"]
    assert "The gate would refuse desk@2." in refused["shown"]
    passed = run("promote", "desk@3", "--dry-run")
    assert all(line["passed"] for line in passed["lines"])
    assert "The gate would let desk@3 pass." in passed["shown"]
    assert run("show", "desk") == before


def test_what_changes_things_wants_a_version(run: Run) -> None:
    for verb in ("promote", "delete"):
        with pytest.raises(InputError, match="desk: which version"):
            run(verb, "desk")
    with pytest.raises(InputError, match="desk@latest: what follows @ is a version, such as desk@3, or champion or candidate"):
        run("promote", "desk@latest")


def test_delete_asks_and_spares_what_is_used(
    run: Run, shared_storage: Storage, classifiers: dict[str, Trained], request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    for _ in range(2):
        register(shared_storage, classifiers["good"], name=name)
    registry = ModelRegistry(shared_storage)
    with pytest.raises(InputError, match=f"{name}@2 is the candidate; promote or register another one first"):
        run("delete", f"{name}@2", "--yes")
    with pytest.raises(InputError, match=f"{name}@1 would be deleted .* add --yes"):
        run("delete", f"{name}@1")
    folder = registry.files.fetch(registry.get(name, version=1)).path
    assert run("delete", f"{name}@1", "--yes")["deleted"] is True
    assert not folder.exists()
    assert [item["version"] for item in run("list", name)["models"]] == [2]
    assert register(shared_storage, classifiers["good"], name=name).version == 3


def test_a_version_whose_files_are_gone_is_listed_and_says_so(
    run: Run, shared_storage: Storage, classifiers: dict[str, Trained], request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    version = register(shared_storage, classifiers["good"], name=name)
    folder = ModelRegistry(shared_storage).files.fetch(version).path
    shutil.rmtree(folder)
    assert [item["version"] for item in run("list", name)["models"]] == [1]
    found = run("show", f"{name}@1")
    assert f"its folder {folder} is gone" in found["fault"]
    assert "is gone" in found["shown"]
    with pytest.raises(InputError, match="is gone; train it again"):
        run("promote", f"{name}@1")


def test_export_writes_a_folder_once(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    found = run("export", "desk@2", "--to", str(folder))
    assert (found["model"], found["version"], found["folder"]) == ("desk", 2, str(folder))
    assert str(folder) in found["shown"]
    assert ModelArtifact.load(folder).manifest.name == "desk"
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 3
    with pytest.raises(InputError, match="there already, and not an empty folder"):
        run("export", "desk@2", "--to", str(folder))
