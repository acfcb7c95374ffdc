"""The queue of the tab Correct in a browser: the least sure rows of a file, one key each."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import yaml

from manta_ui.clients.api import ServeClient

from ..visits import chromium, visiting

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Locator

    from ..exhibits import Exhibit
    from ..visits import Visit

pytestmark = [pytest.mark.page, pytest.mark.server, pytest.mark.timeout(420)]


def test_the_least_sure_rows_are_judged_with_a_key_each(shown: Exhibit, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    texts = shown.texts[-5:]
    (tmp_path / "rows.csv").write_text("text\n" + "".join(f"{text}\n" for text in texts))
    answers = dict(zip(texts, ServeClient(shown.api).classify_all([(text,) for text in texts]), strict=True))
    queue = sorted(texts, key=lambda text: (not answers[text].uncertain, max(answers[text].scores.values())))
    likely = {text: list(answers[text].scores) for text in texts}
    with chromium() as browser, visiting(browser, shown.url) as visit:
        visit.open("Correct")
        expect(visit.part("queue-card")).to_contain_text("No rows to look through yet")
        visit.page.get_by_role("button", name="Open Batch").click()
        visit.page.locator("#batch-file input[type=file]").set_input_files(tmp_path / "rows.csv")
        visit.part("batch-start").click()
        visit.part("batch-unsure").click()
        row, keys = visit.part("queue-card").locator(".manta-queue-text"), visit.page.keyboard
        expect(row).to_be_visible()
        expect(row).to_have_text(queue[0])
        keys.press("Enter")
        expect(row).to_have_text(queue[1])
        keys.press("2")
        expect(row).to_have_text(queue[2])
        keys.press("ArrowRight")
        expect(row).to_have_text(queue[3])
        keys.press("ArrowLeft")
        expect(row).to_have_text(queue[2])
        visit.part("queue-card").get_by_role("button", name=likely[queue[2]][4]).click()
        expect(row).to_have_text(queue[3])
        judged = {queue[0]: likely[queue[0]][0], queue[1]: likely[queue[1]][1], queue[2]: likely[queue[2]][4]}

        visit.open("Batch")
        lines = visit.part("batch-table").locator("tbody tr")
        for text, label in judged.items():
            expect(lines.filter(has_text=text).locator("td").last).to_contain_text(label)
        lines.filter(has_text=queue[4]).get_by_role("button", name="Correct").click()
        expect(row).to_have_text(queue[4])
        config = yaml.safe_load(visit.part("correction-config").locator("textarea").input_value())
    with closing(sqlite3.connect(config["data"]["feedback"])) as database:
        kept = dict(database.execute("SELECT text, label FROM feedback").fetchall())
    assert {text: json.loads(kept[json.dumps(text)]) for text in judged} == judged


def test_random_texts_of_the_service_are_judged_and_tell_its_accuracy(shown: Exhibit) -> None:
    from playwright.sync_api import expect

    asked = [f"{text} {number}" for number, text in enumerate(shown.texts[:40])]
    api = ServeClient(shown.api)
    api.classify_all([(text,) for text in asked])
    before = {item.texts[0]: item.correction for item in api.sampled_texts()[0]}
    assert before.keys() & set(asked)
    with chromium() as browser:
        with visiting(browser, shown.url) as visit:
            card, keys = start_judging(visit, "queue-random"), visit.page.keyboard
            first = str(card.locator(".manta-queue-text").text_content())
            keys.press("Enter")
            expect(card).to_contain_text("right: an accuracy between")
            expect(card.locator(".manta-queue-text")).not_to_have_text(first)
            second = str(card.locator(".manta-queue-text").text_content())
            keys.press("2")
            expect(card.locator(".manta-queue-text")).not_to_have_text(second)
        with visiting(browser, shown.url) as visit:  # what was judged stays so for everybody
            card = start_judging(visit, "queue-random")
            assert card.locator(".manta-queue-text").text_content() not in (first, second)
            card = start_judging(visit, "queue-unsure")
            expect(card).to_contain_text("the least sure first")
    after = {item.texts[0]: item.correction for item in api.sampled_texts()[0]}
    assert {text for text in after if after[text] != before[text]} == {first, second}


def start_judging(visit: Visit, button: str) -> Locator:
    from playwright.sync_api import expect

    visit.open("Correct")
    visit.part(button).click()
    expect(visit.part("queue-note")).to_contain_text("random texts of the latest")
    card = visit.part("queue-card")
    expect(card.locator(".manta-queue-text")).to_be_visible()
    return card
