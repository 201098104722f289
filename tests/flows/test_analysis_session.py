"""What an analysis keeps of its answers, when it goes on without a site, and that it is of one table throughout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.analytics.analysis import Results
from components.analytics.asking import AnswersError
from components.analytics.plan import AnalysisStudy, Attendance, Disclosure
from components.analytics.records import AnalysisAnswer, AnalysisRequest, AskExits, AskSummary
from components.errors import DataError
from components.journal import Journal
from flows import analysis_driver
from flows.analysis_driver import analyse_whole
from flows.analysis_session import (
    AnalysisSession,
    StoppedAnalysisError,
    begin_analysis,
    open_journal,
    request_digest,
)
from flows.progress import Watcher
from tests.components.analytics.hospitals import study

SITES = ["east", "north", "west"]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with open_journal(tmp_path, "trial") as found:
        yield found


def session(journal: Journal, whole: AnalysisStudy | None = None, *, fresh: bool = False) -> AnalysisSession:
    whole = whole or study(SITES)
    return AnalysisSession(whole, begin_analysis(whole, SITES, journal, fresh=fresh), journal, watcher=Watcher())


def request(whole: AnalysisStudy, site: str = "east") -> AnalysisRequest:
    return AnalysisRequest(study="trial", study_digest=whole.digest, site=site, question=AskSummary())


def answer(asked: AnalysisRequest, **changes: Any) -> AnalysisAnswer:
    given = {"site": asked.site, "request_digest": request_digest(asked), "status": "withheld", "reason": "few"}
    return AnalysisAnswer.model_validate({**given, **changes})


def test_an_answer_is_kept_over_a_restart_and_asked_again_where_its_file_is_damaged(journal: Journal) -> None:
    first = session(journal)
    asked = request(first.study)
    number = first.begin(AskSummary(), "summary")
    assert first.kept(asked) is None
    first.note(asked, "summary", number, answer(asked))
    second = session(journal)
    assert (second.analysis, second.kept(asked)) == (first.analysis, answer(asked))
    assert (second.begin(AskSummary(), "summary"), second.begin(AskExits(), "exits")) == (1, 2)
    (file,) = second.folder.glob("answers/*.json")
    file.write_text("{}")
    assert second.kept(asked) is None


def test_with_fresh_it_begins_anew(journal: Journal) -> None:
    assert session(journal).analysis != session(journal, fresh=True).analysis


def test_an_answer_from_another_table_than_it_began_with_ends_it(journal: Journal) -> None:
    running = session(journal)
    asked = request(running.study)
    running.note(asked, "summary", 1, answer(asked, status="done", cohort="a"))
    running.note(asked, "exits", 2, answer(asked, status="done", cohort="a"))
    running.note(asked, "cox", 3, answer(asked))
    with pytest.raises(DataError, match=r"the table of east is not the one that trial-.* began with: start anew"):
        running.note(asked, "cox", 4, answer(asked, status="done", cohort="b"))


def test_a_site_is_left_out_where_the_study_says_so_and_the_results_say_it(journal: Journal) -> None:
    rule = Attendance(quorum=2, required=["north"])
    running = session(journal, study(SITES).model_copy(update={"attendance": rule}))
    assert not running.leave({"north": "gone"})
    assert not running.leave({"east": "gone", "west": "gone"})
    assert running.leave({"west": "gone"})
    assert not running.leave({"east": "gone"})
    assert running.sites == ["east", "north"]
    found = running.annotated(Results(running.study, ["east", "north"]))
    assert found.notes == ["west took no part (2 of 3 sites did): all results are of the others alone."]
    assert found.left_out == {"the analysis": {"west": "gone"}}
    assert session(journal, running.study).sites == ["east", "north"]  # also after a restart


def test_a_stricter_policy_of_a_site_is_noted_with_what_differs(journal: Journal) -> None:
    running = session(journal)
    asked = request(running.study)
    running.note(asked, "summary", 1, answer(asked, policy=Disclosure(smallest_cell=9, queries=200)))
    assert running.annotated(Results(running.study, SITES)).notes == [
        "east lets less leave than the study allows, by its own policy: smallest_cell: 9."
    ]


def test_an_analysis_begins_again_without_the_sites_that_cannot_answer_or_ends(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = session(journal, study(SITES).model_copy(update={"attendance": Attendance(quorum=2)}))
    asked: list[list[str]] = []

    def analyse(whole: AnalysisStudy, ask: Any) -> Results:
        asked.append(running.sites)
        if "west" in running.sites:
            raise AnswersError({"west": "no table"})
        if len(asked) == 3:
            raise AnswersError({"east": "no table"})
        return Results(whole, running.sites)

    monkeypatch.setattr(analysis_driver, "analyse", analyse)
    assert analyse_whole(running, lambda question, step: {}).sites == ["east", "north"]
    with pytest.raises(AnswersError, match="east: no table"):
        analyse_whole(running, lambda question, step: {})
    assert asked == [SITES, ["east", "north"], ["east", "north"]]


def test_once_it_was_stopped_nothing_more_is_asked(journal: Journal) -> None:
    running = session(journal)
    running.stop.set()
    with pytest.raises(StoppedAnalysisError, match="the same command resumes it"):
        running.begin(AskSummary(), "summary")
