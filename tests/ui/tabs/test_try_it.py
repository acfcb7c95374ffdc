"""People try, judge and compare: the tabs Classify, Correct, Batch and Compare in a browser, in front of a real service."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from manta.cluster.ports import free_ports
from manta.config import ExperimentConfig
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage
from manta_ui.access.accounts import Accounts

from ...conftest import rows_of
from ...jobs.registered import register, train_tiny
from ...serve.live_api import live_api
from ...serve.untrained import artifact_of
from ..visits import chromium, page_process, violations, visiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from ..visits import Visit

pytestmark = [pytest.mark.page, pytest.mark.timeout(420)]
LABELS = ["account", "billing", "delivery"]
TEXT = "my parcel is late and the courier was please now"
EVIL = "<script>alert(1)</script> **parcel** <img src=x onerror=alert(2)>"
NUM_ROWS = 10_000
LATER_MS = 240_000


@dataclass(frozen=True)
class Stack:
    """A page in front of a model with a champion and a candidate."""

    url: str
    champion: Predictor
    candidate: Predictor


@pytest.fixture(scope="module")
def stack(serve_port: int, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    from ray import serve

    from manta_serve.running.app import ServeArguments, build

    folder = tmp_path_factory.mktemp("try")
    storage = Storage(folder / "storage")
    rows = rows_of(LABELS, 160)
    versions = []
    for name, count, steps in (("good", 120, 40), ("worse", 6, 20)):
        made = train_tiny(folder / name, rows=rows[:count], test=rows[120:], steps=steps, model=tiny_model, settings={})
        versions.append(register(storage, made, name="desk"))
    registry = ModelRegistry(storage)
    registry.set_champion(versions[0])
    champion, candidate = (Predictor(registry.files.fetch(version), device="cpu") for version in versions)
    settings = {"feedback": True, "traffic": {"candidate": 0.001}}
    arguments = ServeArguments.model_validate(
        {"model": "desk", "storage": str(storage.root), "require_keys": False, "serve": settings}
    )
    try:
        serve.run(build(arguments), name="manta", route_prefix="/")
        # The page has another storage: here the service tells it which versions there are, in other tests MLflow does.
        with page_process(folder / "page", log=folder / "page.log", api=f"http://127.0.0.1:{serve_port}") as url:
            yield Stack(url, champion, candidate)
    finally:
        serve.delete("manta")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def visit(stack: Stack, browser: Browser) -> Iterator[Visit]:
    with visiting(browser, stack.url) as found:
        yield found


def test_a_person_asks_why_and_takes_the_question_elsewhere(visit: Visit, stack: Stack, browser: Browser) -> None:
    from playwright.sync_api import expect

    said = stack.champion.predict([TEXT])[0]
    expect(visit.part("model")).to_have_text("desk version 1: 3 labels, test accuracy 50.0%")
    visit.ask(TEXT)
    expect(visit.part("answer")).to_contain_text("version 1 · ")
    expect(visit.part("answer").locator(".manta-label")).to_have_text(said.label)
    expect(visit.part("answer").locator(".manta-bar")).to_have_count(3)
    expect(visit.part("history")).to_contain_text(f"{TEXT}{said.label}")
    visit.part("why-button").click()
    expect(visit.part("why").locator("h2")).to_have_text(f"Why {said.label}?")
    expect(visit.part("why").locator(".manta-words")).to_have_text(TEXT)
    assert {"parcel", "courier"} & set(visit.part("why").locator(".manta-words .manta-for").all_inner_texts())
    assert violations(visit) == []

    visit.part("copy-curl").click()
    expect(visit.part("manta-said")).to_have_text("Copied")
    command = visit.page.evaluate("navigator.clipboard.readText()")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert f'"label":"{said.label}"' in done.stdout
    visit.part("copy-link").click()
    link = visit.page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{stack.url}/#my%20parcel")  # after the #, which no server is told
    with visiting(browser, stack.url, at=link.removeprefix(stack.url)) as other:
        expect(other.part("text").locator("textarea")).to_have_value(TEXT)
        expect(other.part("answer").locator(".manta-label")).to_have_text(said.label)

    example = visit.part("examples").locator("button").first
    text = example.inner_text()
    example.click()
    expect(visit.part("text").locator("textarea")).to_have_value(text)
    expect(visit.part("history").locator("button")).to_have_count(2)
    visit.part("history").locator("button").last.click()
    expect(visit.part("text").locator("textarea")).to_have_value(TEXT)


def test_nothing_typed_asks_for_a_text(visit: Visit) -> None:
    from playwright.sync_api import expect

    visit.ask("  ")
    expect(visit.part("note")).to_have_text("Type a text first.")


def test_corrections_are_one_click_and_become_a_run(visit: Visit, stack: Stack) -> None:
    from playwright.sync_api import expect

    visit.open("Correct")
    expect(visit.part("corrections")).to_contain_text("No corrections yet")
    visit.open("Classify")
    said = stack.champion.predict([TEXT])[0].label
    visit.ask(TEXT)
    visit.part("judge-right").click()
    expect(visit.part("judge-note")).to_have_text(f"Thank you: kept as {said}.")
    wrong = f"{TEXT} again"
    other = next(label for label in LABELS if label != stack.champion.predict([wrong])[0].label)
    visit.ask(wrong)
    expect(visit.part("history")).to_contain_text(wrong)
    visit.part("judge-one").get_by_text(other, exact=True).click()
    expect(visit.part("judge-note")).to_have_text(f"Thank you: kept as {other}.")

    visit.open("Correct")
    expect(visit.part("corrections")).to_contain_text(re.compile("2\\s*since the champion was trained"))
    expect(visit.part("corrections")).to_contain_text(re.compile("1\\s*of them were wrong"))
    box = visit.part("correction-config").locator("textarea")
    expect(box).to_have_value(re.compile("feedback/desk/feedback.sqlite"))
    config = ExperimentConfig.model_validate(yaml.safe_load(box.input_value()))
    with closing(sqlite3.connect(str(config.data.feedback))) as database:
        assert database.execute("SELECT count(*) FROM feedback").fetchone() == (2,)
    assert violations(visit) == []
    with visit.page.expect_download() as download:
        visit.part("download-config").click()
    assert download.value.path().read_text() == box.input_value()
    visit.part("to-jobs").click()
    expect(visit.page.get_by_role("tab", name="Jobs", exact=True)).to_have_attribute("aria-selected", "true")


def test_ten_thousand_rows_are_each_answered_once(visit: Visit, stack: Stack, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    texts = [text for text, _ in rows_of(LABELS, NUM_ROWS - 2, seed=4)] + [EVIL, " "]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "message"), *enumerate(texts)])
    (tmp_path / "bad.csv").write_text("a,b\n1\n3\n")
    upload = visit.page.locator("#batch-file input[type=file]")
    visit.open("Batch")
    expect(visit.part("batch-progress")).to_contain_text("Drop a file to classify all its rows")
    assert violations(visit) == []
    upload.set_input_files(tmp_path / "bad.csv")
    expect(visit.part("batch-progress")).to_have_text("bad.csv, line 2: 1 field where the header has 2; check the delimiters.")
    visit.part("batch-file").get_by_label("Remove").or_(visit.part("batch-file").get_by_label("Clear")).first.click()
    upload.set_input_files(tmp_path / "rows.csv")
    expect(visit.part("batch-progress")).to_contain_text("rows.csv: 10,000 rows.")
    visit.part("batch-start").click()
    expect(visit.part("batch-progress").locator("progress")).to_be_visible()
    expect(visit.part("batch-progress")).to_contain_text("10,000 rows by desk version 1", timeout=LATER_MS)
    expect(visit.part("batch-progress")).to_contain_text("Rows without an answer: 1")
    expect(visit.part("batch-table")).to_contain_text("Rows 1 to 50 of 10,000, page 1 of 200")
    assert violations(visit) == []

    with visit.page.expect_download() as download:
        visit.part("batch-download").click()
    with open(download.value.path(), newline="") as file:  # noqa: PTH123  # csv wants its line ends as they are
        found = list(csv.DictReader(file))
    assert [(int(row["id"]), row["message"]) for row in found] == list(enumerate(texts))
    for row, expected in zip(found, stack.champion.predict(texts[:-1]), strict=False):
        assert (row["label"], float(row["score"])) == (expected.label, pytest.approx(expected.score, abs=1e-4))
    assert found[-1]["problem"] == "The row has no text."

    visit.part("batch-page").locator("input").fill("200")
    expect(visit.part("batch-table")).to_contain_text("page 200 of 200")
    expect(visit.part("batch-table")).to_contain_text(EVIL)
    visit.part("batch-label").locator("input").click()
    visit.page.get_by_role("option", name="billing").click()
    billing = sum(row["label"] == "billing" for row in found)
    expect(visit.part("batch-table")).to_contain_text(f"of {billing:,}, page 1 of")
    assert set(visit.part("batch-table").locator("tbody td:nth-child(3)").all_inner_texts()) == {"billing"}


def test_a_row_that_cannot_be_read_says_why_and_the_rest_is_answered(visit: Visit, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    deep = '{"text": ' + "[" * 100_000
    (tmp_path / "rows.jsonl").write_text(
        f'{{"text": "my parcel is late"}}\n{deep}\n{{"text": "half \\ud83d"}}\n{{"text": "my card"}}\n'
    )
    visit.open("Batch")
    visit.page.locator("#batch-file input[type=file]").set_input_files(tmp_path / "rows.jsonl")
    expect(visit.part("batch-progress")).to_contain_text("rows.jsonl: 4 rows. 1 of them cannot be read.")
    visit.part("batch-start").click()
    expect(visit.part("batch-progress")).to_contain_text("Rows without an answer: 2", timeout=LATER_MS)
    expect(visit.part("batch-table")).to_contain_text("Line 2: not usable JSON (more than 64 brackets within each other).")
    expect(visit.part("batch-table")).to_contain_text("The text holds half of a surrogate pair, which is no character.")
    expect(visit.part("batch-start")).to_be_enabled()
    with visit.page.expect_download() as download:
        visit.part("batch-download").click()
    rows = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert [row["problem"] is None for row in rows] == [True, False, False, True]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_is_found_at_once_is_shown(times: int, visit: Visit, tmp_path: Path) -> None:
    """Answers that come before the browser has built what shows them, each time in a browser of its own; then again."""
    from playwright.sync_api import expect

    visit.open("Batch")
    results = visit.part("batch-table").locator("tbody tr")
    for count in (2, 1):
        file = tmp_path / f"rows-{times}-{count}.csv"
        file.write_text("text\n" + "my parcel is late\n" * count)
        if count == 1:
            visit.part("batch-file").get_by_label("Remove").or_(visit.part("batch-file").get_by_label("Clear")).first.click()
            expect(visit.part("batch-results")).to_be_hidden()
        visit.page.locator("#batch-file input[type=file]").set_input_files(file)
        expect(visit.part("batch-progress")).to_contain_text(file.name)
        visit.part("batch-start").click()
        expect(results).to_have_count(count)
        expect(visit.part("batch-download")).to_be_visible()


def test_two_versions_are_compared_on_a_text_and_on_a_file(visit: Visit, stack: Stack, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    texts = [text for text, _ in rows_of(LABELS, 60, seed=5)]
    answers = [[item.label for item in model.predict(texts)] for model in (stack.champion, stack.candidate)]
    apart = [index for index in range(60) if answers[0][index] != answers[1][index]]
    assert apart
    visit.open("Compare")
    expect(visit.part("compare-left").locator("input")).to_have_value("1")
    expect(visit.part("compare-right").locator("input")).to_have_value("2")
    expect(visit.part("compare-metrics")).to_contain_text("accuracy")
    visit.ask(texts[apart[0]], box="compare-text")
    expect(visit.part("compare-answers")).to_contain_text("The versions disagree.")
    assert visit.part("compare-answers").locator(".manta-bar:first-child .manta-bar-name").all_inner_texts() == [
        answers[0][apart[0]],
        answers[1][apart[0]],
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    visit.page.locator("#compare-file input[type=file]").set_input_files(tmp_path / "rows.jsonl")
    expect(visit.part("compare-progress")).to_contain_text("60 rows")
    visit.part("compare-start").click()
    expect(visit.part("compare-progress")).to_have_text("60 rows by versions 1 and 2.")
    expect(visit.part("compare-agreement")).to_contain_text(re.compile(rf"{len(apart)}\s*disagreements"))
    first = visit.part("compare-table").locator("tbody tr").nth(len(apart) - 1).locator("td")
    assert first.last.inner_text() == "no"
    assert violations(visit) == []
    visit.part("compare-right").locator("input").fill("77")
    visit.part("compare-right").locator("input").press("Enter")
    expect(visit.part("compare-metrics")).to_contain_text("version 77 of desk", ignore_case=True)


def test_ten_people_at_once_see_their_own_answers(stack: Stack, browser: Browser) -> None:
    from contextlib import ExitStack

    from playwright.sync_api import expect

    texts = [f"{text} {number}" for number, (text, _) in enumerate(rows_of(LABELS, 10, seed=6))]
    with ExitStack() as open_pages:
        visits = [open_pages.enter_context(visiting(browser, stack.url)) for _ in texts]
        for visit in visits:
            expect(visit.part("model")).to_contain_text("desk version 1")
        for visit, text in zip(visits, texts, strict=True):
            visit.ask(text)
        for visit, text, said in zip(visits, texts, stack.champion.predict(texts), strict=True):
            expect(visit.part("answer").locator(".manta-label")).to_have_text("Not sure" if said.uncertain else said.label)
            expect(visit.part("history").locator("button > span:first-child")).to_have_text([text])


def test_what_people_type_and_labels_are_text(tiny_model: Path, browser: Browser, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    artifact_of(tiny_model, tmp_path / "model", labels=LabelSpace.from_labels([EVIL, "*b*", "plain"]), examples=[EVIL])
    with (
        live_api(tmp_path / "model", tmp_path / "storage", log=tmp_path / "api.log") as (_, api),
        page_process(tmp_path / "page", log=tmp_path / "page.log", api=api) as url,
        visiting(browser, url) as visit,
    ):
        expect(visit.part("examples").locator("button")).to_have_text(EVIL)
        visit.ask(EVIL)
        expect(visit.part("answer")).to_contain_text(EVIL)
        expect(visit.part("history")).to_contain_text(EVIL)
        visit.part("why-button").click()
        expect(visit.part("why").locator(".manta-words")).to_have_text(EVIL)
        visit.part("judge-one").get_by_text(EVIL, exact=True).click()
        expect(visit.part("judge-note")).to_have_text(f"Thank you: kept as {EVIL}.")
        visit.open("Correct")
        expect(visit.part("corrections")).to_contain_text(EVIL)
        assert visit.page.locator("img[src=x]").count() == 0


def test_an_api_that_goes_is_told_and_one_that_comes_back_is_used(tiny_model: Path, browser: Browser, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    artifact_of(tiny_model, tmp_path / "model", labels=LabelSpace.from_labels(LABELS))
    port = free_ports(1)[0]
    where = (tmp_path / "model", tmp_path / "storage")
    with (
        page_process(tmp_path / "page", log=tmp_path / "page.log", api=f"http://127.0.0.1:{port}") as url,
        visiting(browser, url) as visit,
    ):
        box = visit.part("text").locator("textarea")
        expect(visit.part("status")).to_contain_text("No model answers at")
        with live_api(*where, log=tmp_path / "api.log", port=port, may_end=True) as (process, _):
            expect(visit.part("status")).to_have_text("")
            expect(visit.part("model")).to_contain_text("desk version 1")
            box.press_sequentially("half a sen")
            process.kill()
            expect(visit.part("status")).to_contain_text("What you typed stays here. The page goes on by itself")
            box.press_sequentially("tence")
            box.press("Control+Enter")
            expect(visit.part("note")).to_contain_text("No model answers at")
            assert violations(visit) == []
        for tab in ("Correct", "Batch", "Compare"):
            visit.open(tab)
            assert violations(visit) == []
        visit.open("Classify")
        with live_api(*where, log=tmp_path / "api.log", port=port):
            expect(visit.part("status")).to_have_text("")
            expect(box).to_have_value("half a sentence")
            box.press("Control+Enter")
            expect(visit.part("answer")).to_contain_text("version 1 · ")


def test_people_log_in(browser: Browser, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    right = "correct horse"
    Accounts(tmp_path / "users.json").add("ann", password=right, may_promote=False)
    options = ("--auth", str(tmp_path / "users.json"))
    with (
        page_process(tmp_path / "page", log=tmp_path / "page.log", api="http://127.0.0.1:9", options=options) as url,
        visiting(browser, url, expect_faults=True) as visit,  # the browser tells of each answer that is a refusal
    ):
        name, word = visit.page.get_by_label("username"), visit.page.get_by_label("password")
        expect(name).to_be_visible()
        assert visit.part("text").count() == 0
        name.fill("ann")
        word.fill("wrong horse")
        visit.page.get_by_role("button", name="Login").click()
        expect(visit.page.get_by_text("Incorrect")).to_be_visible()
        name.fill("ann")  # gradio has emptied both
        word.fill(right)
        visit.page.get_by_role("button", name="Login").click()
        expect(visit.part("text")).to_be_visible()
