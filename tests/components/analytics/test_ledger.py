"""What a journal of analyses says of them, and which the same command takes up again."""

from pathlib import Path
from typing import Any

from components.analytics.ledger import AnalysisLedger, analyses, open_analyses
from components.journal import Journal

STARTED: dict[str, Any] = {"analysis": "trial-1", "study_digest": "d" * 64, "sites": ["east", "north", "west"]}


def answered(site: str, status: str, request: str, **changes: str) -> dict[str, Any]:
    about = {"site": site, "status": status, "request": request, "answer": "a" * 64, "cohort": "", **changes}
    return {"analysis": "trial-1", "number": 1, "step": "summary", "reason": "", **about}


def ledger(journal: Journal) -> AnalysisLedger:
    return analyses(journal.entries)["trial-1"]


def test_answers_that_are_the_same_when_asked_again_are_kept_and_no_others(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.jsonl") as journal:
        journal.append("analysis_started", **STARTED)
        journal.append("question_asked", analysis="trial-1", number=1, step="summary", question="q" * 64)
        for site, status in (("east", "done"), ("north", "withheld"), ("west", "failed")):
            journal.append("answered", **answered(site, status, site, cohort="c" if site == "east" else ""))
        found = ledger(journal)
    assert found.answers == {"east": "a" * 64, "north": "a" * 64}
    assert (found.numbers, found.cohorts, found.answered) == ({"q" * 64: 1}, {"east": "c"}, ["east", "north", "west"])


def test_who_was_left_out_stays_so_and_waiting_ends_with_the_next_event(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.jsonl") as journal:
        journal.append("analysis_started", **STARTED)
        journal.append("waiting", analysis="trial-1", reason="waiting for west: gone")
        assert ledger(journal).waiting == "waiting for west: gone"
        journal.append("asked_again", analysis="trial-1", number=1, site="east", reason="x")
        assert ledger(journal).waiting == "waiting for west: gone"
        journal.append("site_left", analysis="trial-1", site="west", step="summary", reason="gone")
        found = ledger(journal)
    assert (found.waiting, found.left, found.sites) == ("", {"west": "gone"}, ["east", "north"])


def test_the_newest_of_a_study_is_taken_up_unless_it_has_finished(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.jsonl") as journal:
        journal.append("analysis_started", **STARTED)
        journal.append("analysis_started", **{**STARTED, "analysis": "trial-2"})
        assert [one.analysis for one in open_analyses(analyses(journal.entries))] == ["trial-2"]
        journal.append("analysis_finished", analysis="trial-2", run="r", report="report.html")
        assert open_analyses(analyses(journal.entries)) == []
