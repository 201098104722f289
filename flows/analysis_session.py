"""One analysis while it runs: whom it asks, what was answered, and the journal that a restart reads.

::

    <home>/analyses/<study>/journal.jsonl                  of all analyses of a study
    <home>/analyses/<study>/<analysis>/answers/DIGEST.json    what sites answered, sums and counts
    <home>/analyses/<study>/<analysis>/report.html  tables/  figures/
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.analytics.analysis import Results
from components.analytics.ledger import AnalysisLedger, analyses, open_analyses
from components.analytics.plan import AnalysisStudy, Disclosure
from components.analytics.records import AnalysisAnswer, AnalysisRequest, Question
from components.errors import DataError, QuorumError, WardRoundError
from components.files import has_digest, storage_errors, write_whole
from components.journal import Journal
from components.study import VirtualSites
from flows.cancellation import cancellation
from flows.progress import Watcher
from flows.taking_part import no_data_anywhere, without_data_text
from flows.version import code_version

if TYPE_CHECKING:
    from flows.tenure import Tenure

JOURNAL = "journal.jsonl"
WHOLE = "the analysis"  # what a site that was left out is left out of
USED = ("done", "withheld")  # answers that are the same when they are asked for again


class StoppedAnalysisError(WardRoundError):
    """The operator stopped the analysis; the same command resumes it."""

    exit_code = 130


class SitesLeftError(WardRoundError):
    """A site was left out: what was begun with it is made again without it."""


class AnalysisSession:
    """What an analysis works with.

    Args:
        study: The study.
        ledger: The analysis, as the journal has it.
        journal: Of the study's analyses.
        watcher: Is told each step as it is taken, and for whom is waited.
        tenure: The lease with which it is driven; None in a simulation.
    """

    def __init__(
        self,
        study: AnalysisStudy,
        ledger: AnalysisLedger,
        journal: Journal,
        *,
        watcher: Watcher,
        tenure: Tenure | None = None,
    ) -> None:
        self.study, self.watcher, self.stop = study, watcher, asyncio.Event()
        self._ledger, self._journal, self._tenure = ledger, journal, tenure
        self._policies: dict[str, Disclosure] = {}

    @property
    def analysis(self) -> str:
        """Its identifier."""
        return self._ledger.analysis

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self._journal.path.parent / self.analysis

    @property
    def roster(self) -> list[str]:
        """Who was asked first and has data, in the order of their names."""
        return [site for site in self._ledger.roster if site not in self._ledger.without_data]

    @property
    def sites(self) -> list[str]:
        """Who is asked, in the order of their names."""
        return self._ledger.sites

    def require_going(self) -> None:
        """Return if the analysis goes on.

        Raises:
            StoppedAnalysisError: If the operator has stopped it.
            LeaseLostError: If another process has taken it over.
        """
        if self._tenure is not None and self._tenure.lost:
            self._tenure.require()
        if self.stop.is_set():
            why = cancellation(self.folder)
            end = f"cancelled: {why}" if why is not None else "stopped; the same command resumes it"
            raise StoppedAnalysisError(f"{self.analysis} was {end}")

    def say_resumed(self) -> None:
        """Say that it is taken up again, and where, if anything was asked before."""
        if self._ledger.numbers:
            self.watcher.note(f"resuming {self.analysis} at question {len(self._ledger.numbers)}, {self._ledger.step}")

    def begin(self, question: Question, step: str) -> int:
        """Begin to ask a question; return its number."""
        self.require_going()
        self.watcher.phase(step)
        digest = hashlib.sha256(question.model_dump_json().encode()).hexdigest()
        if digest not in self._ledger.numbers:
            self.record("question_asked", number=len(self._ledger.numbers) + 1, step=step, question=digest)
        return self._ledger.numbers[digest]

    def kept(self, request: AnalysisRequest) -> AnalysisAnswer | None:
        """Return what a site has answered to a question before; None if nothing is kept of it."""
        found = self._ledger.answers.get(request_digest(request))
        if found is None:
            return None
        file = self._answers / f"{found}.json"
        with storage_errors("read", file):
            if not file.exists() or not has_digest(file, found):
                return None  # it is asked again, and answers the same
            answer = AnalysisAnswer.model_validate_json(file.read_bytes())
        self._note_policy(answer)
        return answer

    def note(self, request: AnalysisRequest, step: str, number: int, answer: AnalysisAnswer) -> None:
        """Keep an answer, and write it into the journal.

        Raises:
            DataError: If the site's table is not the one it answered from before.
        """
        before = self._ledger.cohorts.get(answer.site, "")
        if answer.cohort and before not in ("", answer.cohort):
            raise DataError(
                f"the table of {answer.site} is not the one that {self.analysis} began with: start anew with --fresh"
            )
        text = answer.model_dump_json().encode()
        digest = hashlib.sha256(text).hexdigest()
        if answer.status in USED:
            write_whole(self._answers / f"{digest}.json", text)
        self.record(
            "answered", number=number, step=step, site=answer.site, status=answer.status, answer=digest,
            request=request_digest(request), cohort=answer.cohort, reason=answer.reason,
        )  # fmt: skip
        self._note_policy(answer)

    def may_leave(self, sites: set[str]) -> bool:
        """Return whether the study's rule lets it go on without these, too."""
        return self.study.attendance.suffices(len(self.roster), {*self._ledger.left, *sites})

    def leave(self, reasons: Mapping[str, str]) -> bool:
        """Go on without sites, if the study's rule allows that; return whether it does."""
        if not self.may_leave(set(reasons)):
            return False
        for site, reason in sorted(reasons.items()):
            self.record("site_left", site=site, step=self._ledger.step, reason=reason)
        return True

    def excuse(self, answer: AnalysisAnswer) -> bool:
        """Go on without a site that has no data for the study, unless the study names it; return whether it does.

        Raises:
            QuorumError: If no site has data.
        """
        if answer.has_data or not isinstance(self.study.sites, VirtualSites) or answer.site in self._ledger.cohorts:
            return False
        if answer.site in self.study.attendance.required:
            return False
        self.record("site_without_data", site=answer.site, reason=answer.reason)
        if not self.sites:
            raise QuorumError(no_data_anywhere(self.study.study, sorted(self._ledger.without_data)))
        return True

    def waiting(self, text: str) -> None:
        """Say for whom is waited; nobody any more if the text is empty."""
        if text:
            self.record("waiting", reason=text)
        self.watcher.waiting(text)

    def annotated(self, found: Results) -> Results:
        """Return results with what a reader has to know of the sites."""
        notes, left = [*found.notes], self._ledger.left
        for site, policy in sorted(self._policies.items()):
            agreed = dict(self.study.analysis.disclosure)
            own = [f"{name}: {value}" for name, value in dict(policy).items() if value != agreed[name]]
            notes.append(f"{site} lets less leave than the study allows, by its own policy: {', '.join(own)}.")
        if self._ledger.without_data:
            text = without_data_text(self.study.study, sorted(self._ledger.without_data))
            notes.append(f"{text[0].upper()}{text[1:]}.")
        if left:
            notes.append(
                f"{', '.join(left)} took no part ({len(found.sites)} of {len(self.roster)} sites did): all results are "
                "of the others alone."
            )
        return replace(found, notes=notes, left_out=({WHOLE: dict(left)} if left else {}) | found.left_out)

    def finish(self, run: str, report: Path) -> None:
        """Write that it has ended."""
        self.record("analysis_finished", run=run, report=report.name)

    def note_failed(self, error: Exception) -> None:
        """Write why it could not go on; the same command takes it up again."""
        self.record("analysis_stopped", reason="; ".join(str(error).splitlines()) or type(error).__name__)

    def note_stopped(self) -> None:
        """Write that the operator cancelled it, if that is why it stopped."""
        why = cancellation(self.folder)
        if why is not None:
            self.record("analysis_cancelled", why=why)

    def record(self, event: str, **data: Any) -> None:
        """Write an event into the journal, and take it into account."""
        self._ledger.apply(event, self._journal.append(event, analysis=self.analysis, **data).data)

    def require_lead(self) -> None:
        """Return if this process may act for the coordinator.

        Raises:
            LeaseLostError: If another has taken over.
        """
        if self._tenure is not None:
            self._tenure.require()

    @property
    def _answers(self) -> Path:
        return self.folder / "answers"

    def _note_policy(self, answer: AnalysisAnswer) -> None:
        if answer.policy is not None:
            self._policies[answer.site] = answer.policy


def request_digest(request: AnalysisRequest) -> str:
    """Return the SHA-256 of a request, as its answer names it."""
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()


def open_journal(home: Path, study: str) -> Journal:
    """Open the journal of a study's analyses.

    Raises:
        JournalError: If another process drives it.
    """
    return Journal.open(home / "analyses" / study / JOURNAL)


def begin_analysis(study: AnalysisStudy, sites: list[str], journal: Journal, *, fresh: bool) -> AnalysisLedger:
    """Begin an analysis, or take up the one of this study that has not finished.

    Args:
        study: The study.
        sites: Whom to ask; one that is taken up asks whom it asked, once anybody has told it something.
        journal: Of the study's analyses.
        fresh: Begin anew in any case.
    """
    found = {item.study_digest: item for item in open_analyses(analyses(journal.entries))}.get(study.digest)
    if found is not None and not fresh and (found.cohorts or found.roster == sorted(sites)):
        journal.append("analysis_resumed", analysis=found.analysis, code_version=code_version())
        found.apply("analysis_resumed", {})
        return found
    name = f"{study.study[:40]}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    journal.append(
        "analysis_started", analysis=name, study_digest=study.digest, sites=sorted(sites),
        study=study.model_dump(mode="json"), code_version=code_version(),
    )  # fmt: skip
    return AnalysisLedger(name, study.digest, sorted(sites))
