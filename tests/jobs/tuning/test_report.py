"""The report of a search: what its page says, that its pictures show something, and that it needs nothing else."""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from manta.config import ExperimentConfig
from manta_jobs.tuning.journal import Confirmation, Trial
from manta_jobs.tuning.report.importance import LEAST_TRIALS, importance
from manta_jobs.tuning.report.report import write_search_report
from manta_jobs.tuning.report.results import SearchResults, log_ticks, short_text, value_text
from manta_jobs.tuning.report.savings import savings
from manta_jobs.tuning.report.sections import range_text

_spec = importlib.util.spec_from_file_location("searches", Path(__file__).with_name("searches.py"))
assert _spec is not None
assert _spec.loader is not None
searches = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(searches)

PLOTS = ["scatter", "learning_curves", "parallel_coordinates", "importance", "confirmation"]
TEST_METRICS = {"accuracy": 0.8412, "f1_micro": 0.8412, "f1_macro": 0.8355, "loss": 0.512, "validation_accuracy": 0.9}
BASELINE = {"accuracy": 0.741, "f1_macro": 0.73}


@dataclass
class Page(HTMLParser):
    """A page's texts by the id of the innermost element that has one, its rows by table and its tags."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[tuple[str, list[str]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag in ("meta", "link", "img", "source"):
            return
        self._open.append((tag, found.get("id")))
        if tag == "tr":
            self.rows.setdefault(self._id(), []).append((found.get("class") or "", []))
        if tag in ("td", "th"):
            self.rows[self._id()][-1][1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.texts[self._id()] = self.texts.get(self._id(), "") + data
        if any(tag in ("td", "th") for tag, _ in self._open):
            self.rows[self._id()][-1][1][-1] += data

    def _id(self) -> str:
        return next((id_ for _, id_ in reversed(self._open) if id_), "")


def written(
    folder: Path,
    *,
    config: ExperimentConfig | None = None,
    trials: list[Trial] | None = None,
    confirmations: list[Confirmation] | None = None,
    **facts: Any,
) -> tuple[Page, str]:
    """The parsed page and its source; the usual search unless told otherwise."""
    config = searches.config_of() if config is None else config
    trials = searches.usual_search() if trials is None else trials
    best = max(trials, key=lambda trial: trial.score(config) or -math.inf, default=None)
    values = None if best is None or best.score(config) is None else best.values
    values = facts.pop("winner_values", values)
    facts = {"best": None if values is None else config.with_values(values), "test_metrics": TEST_METRICS} | facts
    path = write_search_report(config, trials=trials, confirmations=confirmations or [], folder=folder, **facts)
    source = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(source)
    return page, source


def assert_not_blank(picture: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[1] == 1280, picture
    assert float(pixels[..., :3].std()) > 0.01, picture


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page, str]:
    """The report of a usual search, with confirmation and baseline."""
    folder = tmp_path_factory.mktemp("usual")
    config, trials = searches.config_of(), searches.usual_search()
    confirmations = searches.confirmations_of(trials, config)
    values = confirmations[0].trial.values
    page, source = written(folder, confirmations=confirmations, trials=trials, winner_values=values, baseline_metrics=BASELINE)
    return folder, page, source


def test_the_report_tells_of_the_method_for_few_rows_that_is_kept(tmp_path: Path) -> None:
    page, _ = written(tmp_path, method="contrastive", kept="Kept: contrastive. No lead.", baseline_metrics=BASELINE)
    assert page.texts["headline"] == page.texts["kept"] == "Kept: contrastive. No lead."
    assert page.texts["comparison"].startswith("The method contrastive beats TF-IDF with logistic regression by 0.1002")
    assert page.rows["metrics"][0][1] == ["metric", "contrastive", "TF-IDF"]


def test_the_headline_names_the_winner_with_mean_and_deviation(usual: tuple[Path, Page, str]) -> None:
    _, page, _ = usual
    expected = searches.confirmations_of(searches.usual_search(), searches.config_of())[0]
    assert page.texts["headline"] == (
        f"{expected.trial.name} won among 16 trials: "
        f"validation accuracy {expected.mean:.4f} ± {expected.std:.4f} over 3 other seeds."
    )
    assert page.texts["comparison"] == (
        "Fine-tuning beats TF-IDF with logistic regression by 0.1002 in test accuracy: 0.8412 against 0.7410."
    )
    assert [cells for _, cells in page.rows["metrics"]] == [
        ["metric", "fine-tuned", "TF-IDF"],
        ["accuracy", "0.8412", "0.7410"],
        ["macro F1", "0.8355", "0.7300"],
        ["loss", "0.5120", "–"],
    ]


@pytest.mark.slow
def test_a_baseline_that_is_not_beaten_is_said_plainly(tmp_path: Path) -> None:
    page, _ = written(tmp_path, trials=searches.usual_search()[:2], baseline_metrics={"accuracy": 0.894})
    assert "does not beat TF-IDF with logistic regression in test accuracy: 0.8412 against 0.8940" in page.texts["comparison"]


@pytest.mark.slow
def test_a_config_that_stays_although_another_mean_is_better_says_why(tmp_path: Path) -> None:
    config, (own, other, *_) = searches.config_of(), searches.usual_search()
    confirmations = [Confirmation(own, [], [0.80, 0.82]), Confirmation(other, [], [0.81, 0.83])]
    trials, values = [own, other], own.values
    page, _ = written(tmp_path, config=config, trials=trials, confirmations=confirmations, winner_values=values)
    assert page.texts["why-it-stays"].startswith("The mean of trial-001 is 0.0100 better than that of trial-000; one standard")
    page, _ = written(tmp_path, config=config, trials=trials, confirmations=confirmations[:1], winner_values=values)
    assert "why-it-stays" not in page.texts


def test_the_best_config_is_whole_and_repeats_the_winner(usual: tuple[Path, Page, str]) -> None:
    _, page, _ = usual
    config = searches.config_of()
    winner = searches.confirmations_of(searches.usual_search(), config)[0].trial
    assert ExperimentConfig.model_validate(yaml.safe_load(page.texts["best-yaml"])) == config.with_values(winner.values)
    assert "manta train best.yaml" in page.texts["repeat"]


def test_every_trial_is_in_the_table_best_first_and_failed_ones_red_with_their_reason(usual: tuple[Path, Page, str]) -> None:
    _, page, _ = usual
    rows = page.rows["trials-table"][1:]
    assert len(rows) == 16
    assert sorted(cells[0] for _, cells in rows) == [trial.name for trial in searches.usual_search()]
    assert rows[0][0] == "winner"
    scores = [float(cells[5]) for style, cells in rows if style in ("", "winner")]
    assert scores == sorted(scores, reverse=True)
    (failed,) = [cells for style, cells in rows if style == "failed"]
    assert failed[0] == "trial-005"
    assert "Loss is no number any more at step 61." in failed[1]
    style, idle = rows[-1]
    assert (style, idle[0], idle[1].strip(), idle[2:]) == ("idle", "trial-015", "not run", ["–", "–", "0 of 3", "–", "–"])
    assert "1 not run" in page.texts["trials"]
    (own,) = [cells for _, cells in rows if "config's own values" in cells[1]]
    assert own[0] == "trial-000"


def test_savings_count_what_stopping_early_saved_and_nothing_else() -> None:
    config = searches.config_of()
    values = {"train.learning_rate": 1e-4, "model.dropout": 0.1}
    trials = [
        searches.trial_of(0, values),
        searches.trial_of(1, values, status="stopped early", count=1),
        searches.trial_of(2, values, status="failed", count=2),
        searches.trial_of(3, {}, status="not run", count=0),
        searches.trial_of(4, values | {"train.num_epochs": 5}, status="stopped early", count=2),
    ]
    saved = savings(trials, config)
    assert (saved.num_planned, saved.num_run, saved.num_not_run, saved.num_saved) == (17, 8, 9, 5)
    assert saved.share == pytest.approx(5 / 17)
    assert saved.worker_s == pytest.approx(2 * (4 * 5 + 8 * 10))
    assert saved.saved_worker_s == pytest.approx(2 * 5 * searches.EPOCH_S)


def test_savings_without_trials_and_without_times() -> None:
    config = searches.config_of()
    assert savings([], config).share == 0
    stopped = Trial("trial-000", {}, "stopped early", history=[{"epoch": 1, "accuracy": 0.5}])
    saved = savings([stopped], config)
    assert (saved.num_saved, saved.worker_s, saved.saved_worker_s) == (2, None, None)


def test_the_pictures_show_something_and_the_page_holds_them(usual: tuple[Path, Page, str]) -> None:
    folder, page, _ = usual
    assert sorted(path.name for path in (folder / "plots").iterdir()) == sorted(f"{name}.png" for name in PLOTS)
    for name in PLOTS:
        assert_not_blank(folder / "plots" / f"{name}.png")
    images = [found for tag, found in page.tags if tag == "img"]
    assert len(images) == len(PLOTS)
    assert all(image["alt"] and str(image["src"]).startswith("data:image/svg+xml;base64,") for image in images)
    assert [found["id"] for tag, found in page.tags if tag == "figure"] == [f"plot-{name}" for name in PLOTS]


def test_the_page_is_one_file_with_headings_in_order(usual: tuple[Path, Page, str]) -> None:
    _, page, source = usual
    for tag, found in page.tags:
        for key in ("src", "srcset", "href"):
            assert str(found.get(key, "data:")).startswith(("data:", "#")), (tag, found)
    assert re.findall(r"url\(|@import|https?://", re.sub(r'"data:[^"]*"', "", source)) == []
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_all_text_is_escaped(tmp_path: Path) -> None:
    attack = "<script>alert('$x$')</script>"
    weights = {attack: 2.0}
    config = searches.config_of({"train.class_weights": {"choice": [weights, "balanced"]}})
    trials = [
        Trial(attack, {"train.class_weights": weights}, "done", history=searches.epochs_of(0.8)),
        Trial("b", {"train.class_weights": "balanced"}, "failed", reason=attack),
    ]
    confirmations = [Confirmation(trials[0], [], [0.7, 0.8])]
    page, source = written(tmp_path, config=config, trials=trials, confirmations=confirmations)
    assert "<script>alert" not in source
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.texts["headline"].startswith(attack)
    assert attack in page.rows["trials-table"][2][1][1]


CASES: dict[str, tuple[ExperimentConfig, list[Trial]]] = {
    "no trial": (searches.config_of(), []),
    "one trial": (searches.config_of(), searches.usual_search()[:1]),
    "no epoch": (searches.config_of(), [searches.trial_of(0, searches.usual_search()[0].values, status="failed", count=0)]),
    "all failed but one": (
        searches.config_of(),
        [searches.trial_of(n, t.values, status="failed" if n else "done", count=0 if n else 3)
         for n, t in enumerate(searches.usual_search()[:4])],
    ),
    "one field": (
        searches.config_of({"model.dropout": {"uniform": [0.0, 0.4]}}),
        [searches.trial_of(n, {"model.dropout": n / 10}, 0.7 + n / 50) for n in range(4)],
    ),
    "words and truths": (
        searches.config_of({"train.schedule": {"choice": ["linear", "cosine"]},
                            "model.freeze_embeddings": {"choice": [True, False]}}),
        [searches.trial_of(n, {"train.schedule": ("linear", "cosine")[n % 2], "model.freeze_embeddings": n > 4}, 0.7 + n / 100)
         for n in range(10)],
    ),
    "sections, nothing and mixed kinds": (
        searches.config_of({"model.lora": {"choice": [None, {"rank": 8}]}, "train.early_stopping": {"choice": [None, 1]},
                            "train.micro_batch_size": {"choice": [4, 8]}}),
        [searches.trial_of(0, {"model.lora": None, "train.early_stopping": None, "train.micro_batch_size": "auto"}),
         searches.trial_of(1, {"model.lora": {"rank": 8}, "train.early_stopping": 1, "train.micro_batch_size": 8})],
    ),
    "loss": (searches.config_of(metric="loss"), searches.usual_search()),
    "no numbers": (
        searches.config_of(),
        [Trial("a", searches.usual_search()[0].values, "failed", history=[searches.epochs_of(0.5)[0] | {"accuracy": math.nan}])],
    ),
}  # fmt: skip


def test_a_range_of_whole_numbers_keeps_its_bounds() -> None:
    config = searches.config_of({"train.num_epochs": {"randint": [2, 5]}})
    (field,) = SearchResults(config, [searches.trial_of(0, {"train.num_epochs": 3})], [], None).fields
    assert (field.low, field.high) == (2, 5)
    assert range_text(config.tune.searched["train.num_epochs"]) == "2 to 5"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_report_is_written_of_whatever_is_known(case: str, tmp_path: Path) -> None:
    config, trials = CASES[case]
    results = SearchResults(config, trials, [], None)
    best = results.ranked[0] if results.ranked and results.ranked[0].status != "failed" else None
    page, _ = written(tmp_path, config=config, trials=trials, winner_values=best.values if best else None, test_metrics={})
    for name in PLOTS:
        assert_not_blank(tmp_path / "plots" / f"{name}.png")
    assert len(page.rows["trials-table"]) == len(trials) + 1
    if best is None:
        assert page.texts["headline"].startswith("No winner")
        assert "best-yaml" not in page.texts
    else:
        assert page.texts["headline"].startswith(f"{best.name} won")


def test_a_lower_loss_wins() -> None:
    config, trials = CASES["loss"]
    results = SearchResults(config, trials, [], None)
    scores = [results.score(trial) for trial in results.ranked if trial.status != "failed"]
    assert scores == sorted(score for score in scores if score is not None)


def test_importance_finds_the_setting_that_mattered() -> None:
    found = importance(SearchResults(searches.config_of(), searches.usual_search(24), [], None))
    assert found.shares["train.learning_rate"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.num_trials == 22


def test_importance_is_not_told_from_few_trials_or_from_noise() -> None:
    few = importance(SearchResults(searches.config_of(), searches.usual_search()[: LEAST_TRIALS - 2], [], None))
    assert few.shares == {}
    assert "too few" in str(few.reason)
    generator = np.random.default_rng(0)
    noise = [
        searches.trial_of(n, {"train.learning_rate": 10 ** generator.uniform(-4.5, -3), "model.dropout": generator.uniform(0, 0.4)},
                          generator.uniform(0.7, 0.8))
        for n in range(20)
    ]  # fmt: skip
    told = importance(SearchResults(searches.config_of(), noise, [], None))
    assert told.shares == {}
    assert "does not predict" in str(told.reason)


def test_values_are_written_as_people_write_them() -> None:
    values = [3e-4, 2.6999e-4, 0.1, 0.0, True, None, 16, "linear", [1, 2], 1500.0]
    assert [value_text(value) for value in values] == [
        "3e-4", "2.7e-4", "0.1", "0", "true", "null", "16", "linear", "[1, 2]", "1500",
    ]  # fmt: skip
    assert short_text("microsoft/deberta-v3-small-mnli", most=11) == "micro…-mnli"
    assert log_ticks(3e-5, 1e-3) == [5e-5, 1e-4, 2e-4, 5e-4, 1e-3]


@pytest.mark.page
@pytest.mark.timeout(180)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 375])
def test_a_browser_shows_every_plot_and_asks_for_nothing(usual: tuple[Path, Page, str], scheme: str, width: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    report = usual[0] / "report.html"
    requested: list[str] = []
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("request", lambda request: requested.append(request.url))
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(("file:", "data:")) else route.abort())
        page.goto(report.as_uri())
        sizes = page.evaluate("[...document.images].map((image) => [image.alt, image.naturalWidth, image.naturalHeight])")
        chosen = page.evaluate("[...document.images].map((image) => image.currentSrc)")
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        page.locator("#trials-table th button", has_text="took").click()
        took = page.locator("#trials-table tbody tr td:last-child").all_inner_texts()
        page.locator(".yaml button").click()
        browser.close()
    assert len(sizes) == len(PLOTS)
    assert all(alt and wide > 0 and high > 0 for alt, wide, high in sizes)
    assert len(set(chosen)) == len(PLOTS)
    assert overflow <= 0
    assert took == ["15 s"] * 7 + ["25 s"] + ["35 s"] * 7 + ["–"]
    assert faults == []
    assert [url for url in requested if not url.startswith(("data:", report.as_uri()))] == []
