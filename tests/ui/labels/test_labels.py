"""The tab Labels: what a queue of suspects offers to whom, what its keys decide, and that no decision is ever lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from manta.cluster.ports import free_ports
from manta.errors import InputError
from manta.label_check.decisions import LabelDecision, add_decisions, read_decisions
from manta.label_check.learned import LEARNED_FILE, Learned
from manta.label_check.suspects import CHECKS, SUSPECTS_FILE, UNLABELED, Neighbor, Place, Suspect, Suspects
from manta_ui.labels.growth import Growth
from manta_ui.labels.suspect_queue import Desks, SuspectQueue, check_files, decide, key_of, opened, refreshed, taken_back
from manta_ui.labels.suspect_views import choices, last_html, other_labels, suspect_html, without_button

from ..visits import START_TIMEOUT_S, chromium, visiting

if TYPE_CHECKING:
    from collections.abc import Iterator

EVIL = "<img src=x onerror=alert(1)>"
LABELS = ("account", "billing", "delivery")


def suspect(number: int) -> Suspect:
    place = Place("train.csv", "line", number + 2, "test")
    near = Neighbor(f"near {number} {EVIL}", "account", 0.9, place)
    return Suspect(f"row {number} {EVIL}", "billing", "delivery", 0.9, 0.05, 0.05, ("label",), place, (near,))


def write_check(storage: Path, count: int) -> Path:
    """Write a check with so many suspects into a storage; the file of its decisions."""
    file = storage / CHECKS / "rows-20260131" / SUSPECTS_FILE
    file.parent.mkdir(parents=True)
    decisions = storage / "labels.jsonl"
    Suspects(tuple(map(suspect, range(count))), LABELS, "rows.csv", decisions).write(file)
    return decisions


@pytest.fixture
def queue(tmp_path: Path) -> SuspectQueue:
    write_check(tmp_path, 4)
    return opened(check_files(tmp_path)[0])


def on_disk(queue: SuspectQueue) -> list[tuple[str, object]]:
    return [(item.text_hash, item.new) for _, item in read_decisions(queue.found.decisions)]


def test_two_people_are_given_different_rows_and_see_what_is_decided(queue: SuspectQueue) -> None:
    desks = Desks()
    ada = desks.next_open(queue, start=0, session="ada")
    bob = desks.next_open(queue, start=0, session="bob")
    assert (ada.at, bob.at) == (0, 1)
    decide(ada, "delivery", who="ada")
    bob = desks.next_open(refreshed(bob), start=0, session="bob")
    assert bob.at == 1
    assert bob.num_decided == 1
    assert desks.next_open(refreshed(ada), start=1, session="ada").at == 2
    carol = desks.next_open(refreshed(queue), start=0, session="carol")
    assert carol.at == 3
    assert desks.next_open(refreshed(queue), start=0, session="dan").suspect is None


def test_a_decision_is_on_disk_and_can_be_taken_back(queue: SuspectQueue) -> None:
    first = queue.found.rows[0].text_hash
    now = decide(queue, None, who="ada")
    assert on_disk(queue) == [(first, None)]
    now = decide(now.moved(1), "billing", who="ada")
    assert now.decided[key_of(queue.found.rows[1])].is_kept
    back = taken_back(now)
    assert (back.at, on_disk(queue)) == (1, [(first, None)])
    back = taken_back(back)
    assert (back.at, back.num_decided, on_disk(queue)) == (0, 0, [])
    assert taken_back(back) is back


def test_a_label_that_the_data_does_not_have_is_refused(queue: SuspectQueue) -> None:
    with pytest.raises(InputError, match="'refund' is not a label of the data"):
        decide(queue, "refund", who="ada")
    assert not queue.found.decisions.exists()


def test_what_cannot_be_written_is_one_sentence(queue: SuspectQueue) -> None:
    queue.found.decisions.mkdir()
    with pytest.raises(InputError, match="the decision is not kept"):
        decide(queue, "delivery", who="ada")


def test_each_decision_has_a_key_and_texts_are_shown_as_text(queue: SuspectQueue) -> None:
    assert [(choice.key, choice.new) for choice in choices(queue)] == [
        ("k", "billing"),
        ("c", "delivery"),
        ("d", None),
        ("1", "account"),
    ]
    assert (other_labels(queue), without_button(queue)) == (["account"], [])
    many = replace(queue, found=replace(queue.found, labels=(*LABELS, *(f"label {number}" for number in range(20)))))
    assert [choice.key for choice in choices(many)] == ["k", "c", "d", "1"]  # of many labels, that of the neighbor
    assert len(without_button(many)) == 21
    shown = suspect_html(queue, LabelDecision("0", "billing", "delivery", "bob"))
    assert EVIL not in shown
    assert "test row, train.csv:2" in shown
    assert "changed to delivery by bob" in shown
    assert "0 of 4 rows are decided" in last_html(queue.moved(9))


def test_a_row_without_a_label_gets_one_by_a_number_key(queue: SuspectQueue) -> None:
    rows = (replace(queue.found.rows[0], given=UNLABELED, kinds=()), *queue.found.rows[1:])
    unlabeled = replace(queue, found=replace(queue.found, rows=rows))
    assert choices(unlabeled) == [
        ("1", "account", "account", ""),
        ("2", "billing", "billing", ""),
        ("3", "delivery", "delivery", "90%"),
        ("d", "None of the labels", None, ""),
    ]
    many = replace(unlabeled, found=replace(unlabeled.found, labels=(*LABELS, *(f"label {number}" for number in range(20)))))
    assert [choice.new for choice in choices(many)] == ["account", "delivery", None]
    now = decide(unlabeled, "billing", who="ada")
    assert now.mine[-1][1].old == UNLABELED
    assert "labeled billing by ada" in suspect_html(now, now.mine[-1][1])
    assert "Run the same manta data suggest again" in last_html(now.moved(9))


def test_the_accuracy_is_told_with_everybodys_labels(tmp_path: Path) -> None:
    queue = unlabeled_queue(tmp_path)
    file, growth = str(check_files(tmp_path)[0]), Growth()
    assert growth.html(file, queue) == ""  # a check of labels has none
    assert growth.html(None, None) == ""
    clusters = np.eye(3, dtype=np.float32)
    Learned(
        LABELS,
        np.repeat(clusters, 4, axis=0),
        np.repeat(np.arange(3), 4),
        np.arange(12) % 3,
        np.ones(12, dtype=bool),
        np.repeat(clusters, 2, axis=0)[:4],
        tuple(row.text_hash for row in queue.found.rows),
        strength=10.0,
    ).write(Path(file).with_name(LEARNED_FILE))
    assert (
        "With 12 labeled rows, a linear model has 100.0% of rows right that it has not learned from (76% to 100%)."
        in growth.html(file, queue)
    )
    queue = decide(queue, "account", who="ada")
    queue = decide(refreshed(queue.moved(1)), None, who="bob")  # none of the labels
    assert "With 13 labeled rows" in growth.html(file, queue)
    assert "it was 100.0% with 12." in growth.html(file, queue)
    queue = decide(decide(queue.moved(1), "delivery", who="bob").moved(1), "account", who="ada")
    assert "With 15 labeled rows" in growth.html(file, queue)
    Path(file).with_name(LEARNED_FILE).write_bytes(b"PK")
    assert "run manta data suggest again" in Growth().html(file, queue)


def unlabeled_queue(storage: Path) -> SuspectQueue:
    """A queue of four rows without a label."""
    write_check(storage, 4)
    found = opened(check_files(storage)[0]).found
    replace(found, rows=tuple(replace(row, given=UNLABELED, kinds=()) for row in found.rows)).write(check_files(storage)[0])
    return opened(check_files(storage)[0])


class Served:
    """`manta ui` in front of a storage, in a process that can be killed."""

    def __init__(self, storage: Path, port: int) -> None:
        log = storage / "page.log"
        command = [sys.executable, "-m", "manta.cli", "ui", "--port", str(port), "--api", "http://127.0.0.1:9"]
        with log.open("w") as output:
            environment = os.environ | {"MANTA_STORAGE": str(storage)}
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_TIMEOUT_S
        while "The page is at" not in log.read_text():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=30)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "storage"
    write_check(folder, 10_000)
    return folder


@pytest.mark.page
@pytest.mark.timeout(420)
def test_two_people_decide_with_keys_about_10000_rows_and_a_kill_loses_nothing(storage: Path) -> None:
    from playwright.sync_api import expect

    port = free_ports(1)[0]
    url, page = f"http://127.0.0.1:{port}", Served(storage, port)
    decisions = storage / "labels.jsonl"
    try:
        with chromium() as browser:
            with visiting(browser, url, expect_faults=True) as ada, visiting(browser, url, expect_faults=True) as bob:
                for visit in (ada, bob):
                    visit.page.get_by_role("tab", name="Labels", exact=True).focus()
                    visit.page.keyboard.press("Enter")
                    expect(visit.part("labels-card")).to_contain_text("of 10,000 decided")
                texts = [visit.part("labels-card").locator(".manta-queue-text") for visit in (ada, bob)]
                assert texts[0].inner_text() != texts[1].inner_text()
                told = []
                for key, words in (("c", "changed to delivery"), ("k", "kept"), ("d", "dropped"), ("1", "changed to account")):
                    before = [text.inner_text() for text in texts]
                    for visit in (ada, bob):  # both, before either has an answer
                        visit.page.keyboard.press(key)
                    for visit, text, old in zip((ada, bob), texts, before, strict=True):
                        expect(visit.part("labels-note")).to_contain_text(f"is {words}")
                        expect(text).not_to_have_text(old)
                        told.append((old, words))
                assert len({text for text, _ in told}) == 8
                skipped = texts[0].inner_text()
                ada.page.keyboard.press("s")
                expect(texts[0]).not_to_have_text(skipped)
                ada.page.keyboard.press("u")
                expect(ada.part("labels-note")).to_contain_text("taken back")
                expect(texts[0]).to_have_text(told[6][0])
                page.end(signal.SIGKILL)
            kept = {item.text_hash: item.new for _, item in read_decisions(decisions)}
            assert sorted(map(str, kept.values())) == sorted(["delivery", "billing", "None"] * 2 + ["account"])
            page = Served(storage, port)
            with visiting(browser, url, expect_faults=True) as again:
                again.open("Labels")
                expect(again.part("labels-card")).to_contain_text("7 of 10,000 decided")
    finally:
        page.end(signal.SIGTERM)


def test_a_file_of_decisions_that_somebody_broke_is_one_sentence(queue: SuspectQueue) -> None:
    add_decisions(queue.found.decisions, [LabelDecision(queue.found.rows[0].text_hash, "billing", "delivery")])
    with queue.found.decisions.open("a") as file:
        file.write("x\n")
    with pytest.raises(InputError, match="line 2: the decision is no JSON"):
        refreshed(queue)
