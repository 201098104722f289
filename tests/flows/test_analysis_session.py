"""What an analysis keeps of its answers, when it goes on without a site, and that it is of one table throughout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.analytics.analysis import Results
from components.analytics.asking import AnswersError
from components.analytics.ledger import analyses, open_analyses
from components.analytics.plan import AnalysisStudy, Attendance, Disclosure
from components.analytics.records import AnalysisAnswer, AnalysisRequest, AskExits, AskSummary
from components.errors import DataError, QuorumError
from components.journal import Journal
from components.study import VirtualSites
from flows import analysis_driver
from flows.analysis_driver import analyse_whole
from flows.analysis_session import (
    AnalysisSession,
    StoppedAnalysisError,
    begin_analysis,
    open_journal,
    request_digest,
)
from flows.live import LiveAnalysis
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


def without_data(asked: AnalysisRequest) -> AnalysisAnswer:
    return answer(asked, status="refused", reason=f"{asked.site} has no data for the study trial", has_data=False)


def unnamed() -> AnalysisStudy:
    return study(SITES).model_copy(update={"sites": VirtualSites(count=3, partition="iid")})


def test_a_site_without_data_for_a_study_that_does_not_name_it_takes_no_part_and_is_asked_again_when_resumed(
    journal: Journal,
) -> None:
    running = session(journal, unnamed())
    assert running.excuse(without_data(request(running.study, "west")))
    assert (running.sites, running.roster) == (["east", "north"], ["east", "north"])
    assert not running.excuse(answer(request(running.study, "east")))
    found = running.annotated(Results(running.study, ["east", "north"]))
    assert found.notes == ["Taking no part, without data for the study trial: west."]
    again = session(journal, unnamed())
    assert (again.analysis, again.sites) == (running.analysis, SITES)


def test_a_site_that_the_study_names_or_requires_is_not_excused(journal: Journal) -> None:
    running = session(journal)
    assert not running.excuse(without_data(request(running.study)))
    required = unnamed().model_copy(update={"attendance": Attendance(required=["east"])})
    running = session(journal, required)
    assert not running.excuse(without_data(request(required)))


def test_an_analysis_that_nobody_has_data_for_ends_and_begins_anew_with_whoever_came_since(journal: Journal) -> None:
    whole = unnamed()
    first = AnalysisSession(whole, begin_analysis(whole, ["east"], journal, fresh=False), journal, watcher=Watcher())
    with pytest.raises(QuorumError, match=r"no hospital has data for the study trial \(asked: east\)"):
        first.excuse(without_data(request(whole)))
    second = session(journal, whole)
    assert second.analysis != first.analysis
    assert second.sites == SITES


def test_one_that_has_told_something_is_taken_up_with_those_it_began_with(journal: Journal) -> None:
    whole = unnamed()
    first = AnalysisSession(whole, begin_analysis(whole, ["east"], journal, fresh=False), journal, watcher=Watcher())
    asked = request(whole)
    first.note(asked, "summary", 1, answer(asked, status="done", cohort="a"))
    second = session(journal, whole)
    assert (second.analysis, second.sites) == (first.analysis, ["east"])


def test_one_that_could_not_go_on_says_why_until_it_goes_on(journal: Journal) -> None:
    running = session(journal)
    running.note_failed(DataError("east: no table\nnorth: not accepted"))
    (live,) = open_analyses(analyses(journal.entries))
    assert "stopped: east: no table; north: not accepted; once that is mended" in LiveAnalysis(live, False).line()
    session(journal)
    (live,) = open_analyses(analyses(journal.entries))
    assert "stopped" not in LiveAnalysis(live, False).line()


def test_where_an_analysis_is_taken_up_is_said(journal: Journal) -> None:
    said: list[str] = []

    class Noting(Watcher):
        def note(self, text: str) -> None:
            said.append(text)

    for _ in range(2):
        running = AnalysisSession(
            study(SITES), begin_analysis(study(SITES), SITES, journal, fresh=False), journal, watcher=Noting()
        )
        running.say_resumed()
        running.begin(AskSummary(), "summary")
    assert said == [f"resuming {running.analysis} at question 1, summary"]
