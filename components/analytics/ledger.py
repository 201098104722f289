"""What the coordinator's journal says of analyses: whom they ask, what was answered, and which have not finished.

::

    analysis_started    {analysis, study_digest, sites, study, code_version}
    analysis_resumed    {analysis, code_version}
    question_asked      {analysis, number, step, question}            digest of the question
    answered            {analysis, number, step, site, status, request, answer, cohort, reason}    digests of both
    asked_again         {analysis, number, site, reason}
    waiting             {analysis, reason}
    site_left           {analysis, site, step, reason}
    site_without_data   {analysis, site, reason}
    analysis_stopped    {analysis, reason}
    analysis_finished   {analysis, run, report}
    analysis_cancelled  {analysis, why}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.journal import Entry


@dataclass
class AnalysisLedger:
    """One analysis, as far as the journal knows.

    Attributes:
        analysis: Its identifier.
        study_digest: Of its study.
        roster: The sites that were asked first.
        numbers: By a question's digest, its number.
        answers: By a request's digest, the digest of what was answered, if that can be used again.
        cohorts: By site, its cohort as of its first answer that told something.
        left: Who was left out, and why.
        without_data: Who takes no part, having no data for the study, since it was begun or last taken up.
        step: What was asked last.
        answered: Who answered that.
        waiting: For whom it waits, in words; empty if for nobody in particular.
        stopped: Why it could not go on, in words; empty as long as it goes on.
        finished: Whether it has ended; it is not taken up again.
    """

    analysis: str
    study_digest: str
    roster: list[str]
    numbers: dict[str, int] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    cohorts: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    without_data: list[str] = field(default_factory=list)
    step: str = ""
    answered: list[str] = field(default_factory=list)
    waiting: str = ""
    stopped: str = ""
    finished: bool = False

    @property
    def sites(self) -> list[str]:
        """Who is asked now, in the order of their names."""
        return [site for site in self.roster if site not in self.left and site not in self.without_data]

    def apply(self, event: str, data: Mapping[str, Any]) -> None:
        """Take an event into account."""
        self.waiting = str(data["reason"]) if event == "waiting" else self.waiting if event == "asked_again" else ""
        self.stopped = str(data["reason"]) if event == "analysis_stopped" else ""
        if event == "question_asked":
            self.numbers[data["question"]] = data["number"]
            self.step, self.answered = data["step"], []
        elif event == "answered":
            self._answered(data)
        elif event == "site_left":
            self.left[data["site"]] = data["reason"]
        elif event == "site_without_data":
            self.without_data.append(data["site"])
        elif event == "analysis_resumed":
            self.without_data = []  # it may have been given data: it is asked again
        elif event in ("analysis_finished", "analysis_cancelled"):
            self.finished = True

    def _answered(self, data: Mapping[str, Any]) -> None:
        """Take an answer into account; what failed or was refused may be mended, and is asked again."""
        self.answered.append(data["site"])
        if data["status"] in ("done", "withheld"):
            self.answers[data["request"]] = data["answer"]
        if data["cohort"]:
            self.cohorts.setdefault(data["site"], data["cohort"])


def analyses(entries: Iterable[Entry]) -> dict[str, AnalysisLedger]:
    """Read all analyses of a journal, in the order they began."""
    found: dict[str, AnalysisLedger] = {}
    for entry in entries:
        name = entry.data.get("analysis", "")
        if entry.event == "analysis_started":
            found[name] = AnalysisLedger(name, entry.data["study_digest"], list(entry.data["sites"]))
        elif name in found:
            found[name].apply(entry.event, entry.data)
    return found


def open_analyses(found: Mapping[str, AnalysisLedger]) -> list[AnalysisLedger]:
    """Return what the same command would take up again: of each study, its newest analysis if not finished."""
    newest = {item.study_digest: item for item in found.values()}
    return [item for item in newest.values() if not item.finished]
