import base64
import dataclasses
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from components.evaluation.intervals import Estimate
from components.evaluation.report import duration_text, round_row, training_report
from components.evaluation.summary import ReportFigure, RoundSummary, SiteSummary, TrainingSummary
from components.rounds import ItemCounts

HOSTILE = "<script>alert('x')</script>\" onload='y' & {{ 7*7 }}"
PNG = b"\x89PNG\r\n\x1a\nnot really"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags, their attributes and the text, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []  # type: tuple[str, list[str]]
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def around(value: float, support: int = 100) -> Estimate:
    return Estimate(value, value - 0.05, value + 0.05, support)


def summary(**changes: Any) -> TrainingSummary:
    rounds = (
        RoundSummary(1, "1", {"north": (80, 84), "south": (40, 40)}, 2.5, around(0.81), "a" * 64),
        RoundSummary(2, "2", {"north": (80, 84)}, 71.0, around(0.913), "b" * 64, {"south": "refused: policy"}),
    )
    sites = (
        SiteSummary("north", ItemCounts(expected=84, usable=80, quarantined=4), {"auroc": around(0.9, 60)}),
        SiteSummary(
            "south", ItemCounts(expected=40, usable=40, quarantined=0), {}, {"auroc": "no item has the class"},
            {"local": around(0.7), "global": around(0.88)},
        ),
    )  # fmt: skip
    plain = TrainingSummary(
        study="pneumonia", description="Chest films.", study_text="study: pneumonia\n", study_digest="c" * 64,
        training="t-1", started=datetime(2026, 11, 3, 14, 2, tzinfo=UTC),
        ended=datetime(2026, 11, 3, 14, 4, tzinfo=UTC),
        stopped="All rounds were run.", code_version="wardround 0.1.0", strategy="FedAvg", network="CNN", kind="binary",
        classes=("clear", "pneumonia"), threshold=0.5, bins=1000, metric="auroc", rounds=rounds, best_round=2,
        test_metric="auroc", champion="2", sites=sites, test={"auroc": around(0.925, 120), "loss": around(0.4, 120)},
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_the_report_says_what_happened() -> None:
    text = " ".join(Page(training_report(summary())).text.split())
    for said in (
        "pneumonia", "2026-11-03 14:02 UTC", "All rounds were run.", "0.925", "0.875 to 0.975", "version 2",
        "from round 2 of 2", "120 of 124 items usable, 4 quarantined", "2 min 0 s", "1 min 11 s",
        "north 80/84, south 40/40", "without south (refused: policy)", "bbbbbbbbbbbb", "0.913", "n 60",
        "wardround predict models:/pneumonia@champion FILE...", "south: no value for AUROC: no item has the class.",
        "study: pneumonia", "1000 bins", "95 %",
    ):  # fmt: skip
        assert said in text, said


def test_tests_are_told_by_ranks_where_rounds_watch_the_loss_and_what_has_no_interval_is_told_without() -> None:
    found = {"auroc": around(0.925, 120), "loss": Estimate(0.4, 0.4, 0.4, 120)}
    text = " ".join(Page(training_report(summary(metric="loss", test=found))).text.split())
    assert "AUROC, all test items0.92595 % interval 0.875 to 0.975" in text.replace("\u202f", " ")
    assert "Loss0.400120" in text
    assert "0.400 to 0.400" not in text


def test_days_are_whole_and_say_of_which_arm_and_in_what() -> None:
    found = {"effect": Estimate(-120.32, -288.699, 48.059, 286), "benefit_slope": Estimate(-0.08, -1.391, 1.231, 286)}
    told = summary(test=found, benefit="drug: yes less no, days of the first 1825")
    text = " ".join(Page(training_report(told)).text.split())
    assert "Mean effect of the treatment drug: yes less no, days of the first 1825-120-289 to 48286" in text
    assert "Slope of the benefit-0.080-1.391 to 1.231286" in text


def test_equal_summaries_give_equal_reports() -> None:
    assert training_report(summary()) == training_report(summary())


def hostile(value: Any) -> Any:
    """The same record with every text in it hostile, keys included."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, tuple):
        return tuple(hostile(item) for item in value)
    if isinstance(value, dict):
        return {HOSTILE if not isinstance(item, Estimate) else key: hostile(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, Estimate | type):
        return type(value)(**{item.name: hostile(getattr(value, item.name)) for item in dataclasses.fields(value)})
    return value


def test_hostile_text_in_every_field_stays_text() -> None:
    figure = ReportFigure("ROC", "curves", PNG)
    honest = summary(comparison={"pooled": around(0.9)}, figures=(figure,), links={"MLflow": "http://localhost"})
    named = dataclasses.replace(hostile(honest), metric="auroc", test_metric="auroc")
    page = Page(training_report(named))
    expected = Page(training_report(dataclasses.replace(honest, links={"MLflow": "no link"})))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in expected.tags}
    assert {name for _, attributes in page.tags for name in attributes} == {
        name for _, attributes in expected.tags for name in attributes
    }
    assert page.text.count(HOSTILE) > 20


def test_hostile_names_of_models_and_metrics_stay_text() -> None:
    page = Page(training_report(summary(comparison={HOSTILE: around(0.9)}, metric=HOSTILE, test_metric=HOSTILE)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert HOSTILE in page.text


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs() -> None:
    text = training_report(
        summary(figures=(ReportFigure("ROC", "curves", PNG),), links={"MLflow": "http://localhost:5000"})
    )
    page = Page(text)
    assert {"script", "link", "iframe", "object", "base", "form"}.isdisjoint(tag for tag, _ in page.tags)
    assert [attributes["src"] for _, attributes in page.tags if "src" in attributes] == [
        f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    ]
    assert not re.search(r"url\(|@import|expression\(", text)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "http://[", "/runs"]
)
def test_only_web_addresses_become_links(address: str) -> None:
    page = Page(training_report(summary(links={"there": address, "MLflow": "https://localhost:5000/#/runs/1"})))
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["https://localhost:5000/#/runs/1"]
    assert address in page.text


def test_a_training_without_a_champion_and_without_rounds_has_a_report() -> None:
    page = Page(
        training_report(summary(rounds=(), best_round=None, champion="", test={}, sites=(), undefined={"auroc": "x"}))
    )
    assert "no version was chosen" in page.text
    assert "wardround predict" not in page.text
    assert "All sites: no value for AUROC: x." in page.text


def test_models_are_compared_in_one_order_by_the_names_that_the_terminal_has() -> None:
    text = training_report(summary(comparison={"pooled": around(0.9), "global": around(0.89), "local": around(0.7)}))
    names = ["local only", "federated", "pooled data"]
    assert re.findall(r'class="number">(local|global|pooled|local only|federated|pooled data)<', text) == names


def test_taking_part_is_not_compared_with_nothing() -> None:
    alone = dataclasses.replace(summary().sites[1], comparison={"global": around(0.88)})
    assert "What taking part is worth" in training_report(summary())
    assert "What taking part is worth" not in training_report(summary(sites=(alone,)))


def test_what_a_table_is_of_does_not_scroll_with_it() -> None:
    text = training_report(summary(subgroups={"women": {"auroc": around(0.8)}}, external={"auroc": around(0.8)}))
    assert "<caption" not in text
    assert len(re.findall(r'</p>\n<div class="scroll', text)) == text.count('<div class="scroll')


def test_a_round_of_many_sites_is_counted_not_listed() -> None:
    absent = {f"late-{index}": "failed" for index in range(12)}
    row = round_row(RoundSummary(1, "1", {f"s{index}": (9, 10) for index in range(300)}, 1.0, None, "0" * 64, absent))
    assert row["took_part"] == "300 sites"
    assert row["used"] == "2700/3000"
    assert row["absent"].endswith("late-7 (failed) and 4 more")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.04, "0.0 s"), (59.4, "59.4 s"), (3599.6, "1 h 0 min"), (90000, "25 h 0 min")]
)
def test_duration_text(seconds: float, said: str) -> None:
    assert duration_text(seconds) == said
