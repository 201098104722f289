"""Where a site answers: it checks what is asked, remembers it, and lets only records out.

What is remembered lies in the site's own folder and leaves it never: a journal of questions, and for each cohort the
fingerprints of its patients' rows, by which the next cohort is compared with it. So what was told before a restart
counts after it too.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from components.analytics.answering import answer
from components.analytics.cox import numbers_told
from components.analytics.design import coefficient_names
from components.analytics.disclosure import WithheldError
from components.analytics.plan import ARM, Analysis, AnalysisStudy, Disclosure
from components.analytics.records import (
    AnalysisAnswer,
    AnalysisRequest,
    AskResiduals,
    AskRiskSums,
    AskScore,
    Finding,
    Question,
)
from components.analytics.table import Cohort, open_cohort, read_table
from components.errors import DataError, RefusedError, WardRoundError, fit_to_leave
from components.files import storage_errors, write_whole
from components.journal import Journal


@dataclass(frozen=True)
class SiteTable:
    """Where a site's patients and what it remembers are.

    Attributes:
        site: Name of the site.
        file: The table.
        state: The site's own folder for its journal of questions.
    """

    site: str
    file: Path
    state: Path


class SiteDesk:
    """One site, ready to answer the questions of an analysis.

    Args:
        study: The study as the site knows it.
        place: Where the site's table and folder are.
        own: The site's own policy; the stricter of it and the study's holds.

    Raises:
        StorageError: If the site's folder cannot be written, or another process answers from it.
    """

    def __init__(self, study: AnalysisStudy, place: SiteTable, own: Disclosure | None = None) -> None:
        self._study, self._place = study, place
        agreed = study.analysis.disclosure
        self.policy = agreed if own is None else agreed.stricter(own)
        self._cohort: Cohort | None = None
        self._members = ""
        place.state.mkdir(parents=True, exist_ok=True)
        self._journal = Journal.open(place.state / "questions.jsonl")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process answer."""
        self._journal.close()

    def answer_text(self, request: str) -> str:
        """Answer a request as it crosses: JSON in, JSON out; whatever goes wrong is an answer."""
        return self.answer(AnalysisRequest.model_validate_json(request)).model_dump_json()

    def answer(self, request: AnalysisRequest) -> AnalysisAnswer:
        """Answer a request. The same question again gives the same answer and counts once."""
        digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        status, reason, finding = "done", "", None
        try:
            self._review(request)
            cohort = self._open_cohort()
            self._count(request.question, digest)
            finding = answer(request.question, cohort, self._study.analysis, self.policy)
            _require_finite(finding)
        except WithheldError as error:
            status, reason = "withheld", str(error)
        except (RefusedError, DataError) as error:
            status, reason = "refused", str(error)
        except WardRoundError as error:
            status, reason = "failed", fit_to_leave(error)
        except Exception as error:
            # The message may hold a path or a patient's value: it stays in the site's journal.
            self._journal.append("error", question=request.question.kind, error=repr(error)[:2000])
            status, reason = "failed", fit_to_leave(error)
        if status != "done":
            finding = None
            self._journal.append("not_answered", question=request.question.kind, status=status, reason=reason[:500])
        told = finding is not None
        return AnalysisAnswer.model_validate({
            "site": self._place.site, "request_digest": digest, "status": status, "reason": reason, "finding": finding,
            "cohort": self._members if told else "",
            "policy": self.policy if told and self.policy != self._study.analysis.disclosure else None,
        })  # fmt: skip

    def _review(self, request: AnalysisRequest) -> None:
        """Refuse what was not asked of this site, or belongs to another study."""
        if request.site != self._place.site:
            raise RefusedError(f"the question is for {request.site}, this is {self._place.site}")
        if (request.study, request.study_digest) != (self._study.study, self._study.digest):
            raise RefusedError(f"the question is of another study, or another version of {self._study.study}")

    def _open_cohort(self) -> Cohort:
        """Read the table once; compare the cohort with those that were told of before."""
        if self._cohort is None:
            cohort = open_cohort(read_table(self._place.file), self._study.analysis)
            members = self._fingerprints(cohort)
            columns = declarations(self._study.analysis)
            if self.policy.controlled:
                self._require_no_difference(members, columns)
            self._members = self._keep(members, columns)
            self._cohort = cohort
        return self._cohort

    def _fingerprints(self, cohort: Cohort) -> NDArray[np.uint64]:
        """Return one number for each row, ascending, that only this site can make."""
        file = self._place.state / "fingerprint.key"
        with storage_errors("use", file):
            if not file.exists():
                write_whole(file, secrets.token_bytes(32))
            key = file.read_bytes()
        found = b"".join(hashlib.blake2b(row.encode(), key=key, digest_size=8).digest() for row in cohort.rows)
        return np.unique(np.frombuffer(found, dtype=np.uint64))

    def _require_no_difference(self, members: NDArray[np.uint64], columns: Mapping[str, str]) -> None:
        """Refuse a cohort from whose answers, less those of an earlier one, few patients could be told.

        That is one which differs by few patients; or one with some of the same patients, whose columns are cut in
        other bins, other levels or another grid of time: two cuts next to each other have few between them.
        """
        smallest = self.policy.smallest_cell
        for entry in self._journal.find("cohort"):
            file = self._place.state / "cohorts" / entry.data["members"]
            with storage_errors("read", file):
                before = np.frombuffer(file.read_bytes(), dtype=np.uint64)
            more, fewer = len(np.setdiff1d(members, before)), len(np.setdiff1d(before, members))
            if 0 < max(more, fewer) < smallest:
                raise WithheldError(
                    f"the cohort differs from one that was told of before by fewer than {smallest} patients; the "
                    "difference of the answers would be theirs"
                )
            told: dict[str, str] = entry.data["columns"]
            other = sorted(name for name in columns.keys() & told.keys() if columns[name] != told[name])
            if other and len(np.intersect1d(members, before)):
                raise WithheldError(
                    f"column {', '.join(other)} of these patients was told of before with another range, other bins, "
                    "levels or grid; ask for it as it was"
                )

    def _keep(self, members: NDArray[np.uint64], columns: Mapping[str, str]) -> str:
        """Remember a cohort; the file first, then the line that names it."""
        name = hashlib.sha256(members.tobytes()).hexdigest()
        if self._journal.last("cohort", members=name, columns=dict(columns)) is None:
            write_whole(self._place.state / "cohorts" / name, members.tobytes())
            self._journal.append("cohort", members=name, patients=len(members), columns=dict(columns))
        return name

    def _count(self, question: Question, digest: str) -> None:
        """Count a question against the cohort's budget, before it is answered.

        What another study was answered already, word for word, tells nothing more: it is remembered, and costs nothing.
        """
        asked = self._journal.find("question", members=self._members)
        if any(entry.data["request"] == digest for entry in asked):
            return
        told = {entry.data.get("tells", entry.data["request"]): entry.data["numbers"] for entry in asked}
        numbers, tells = _numbers(question, self._study), self._tells(question)
        if self.policy.controlled and tells not in told:
            if len(told) >= self.policy.queries:
                raise WithheldError(
                    f"this cohort has answered {len(told)} questions, which is all that the policy allows"
                )
            assert self._cohort is not None
            entries = len(self._cohort) * _columns(self._study)
            if numbers and numbers + sum(told.values()) > entries:
                raise WithheldError(
                    f"regressions over this cohort would have told more numbers than its table has entries, {entries}"
                )
        self._journal.append(
            "question",
            members=self._members,
            request=digest,
            tells=tells,
            kind=question.kind,
            numbers=numbers,
            study=self._study.study,
            study_digest=self._study.digest,
        )

    def _tells(self, question: Question) -> str:
        """Return the digest of all that an answer about a cohort depends on, whichever study asks."""
        asked = self._study.analysis.model_dump_json(exclude={"disclosure"})
        return hashlib.sha256(
            f"{question.model_dump_json()}{asked}{self.policy.model_dump_json()}".encode()
        ).hexdigest()


def declarations(analysis: Analysis) -> dict[str, str]:
    """Return how each column is cut into cells, as text: the grid of time, ranges and bins, levels."""
    time = analysis.time
    found = {time.column: f"{time.step:g} to {time.end:g}", analysis.arm.column: "/".join(sorted(analysis.arm.levels))}
    for item in analysis.covariates:
        cut = "/".join(sorted(item.levels)) if item.levels is not None else f"{item.range} in {item.bins}"
        found[item.name] = cut
    return found


def _columns(study: AnalysisStudy) -> int:
    """Return how many coefficients all of a study's columns would have."""
    analysis = study.analysis
    return len(coefficient_names(analysis, [ARM, *(item.name for item in analysis.covariates)])[0])


def _numbers(question: Question, study: AnalysisStudy) -> int:
    """Return how many numbers a regression's question lets out; 0 for those whose cells are checked one by one."""
    if not isinstance(question, AskScore | AskRiskSums | AskResiduals):
        return 0
    return numbers_told(len(question.coefficients))


def _require_finite(finding: Finding) -> None:
    """Refuse to send what is not a number: JSON would turn it into nothing."""
    try:
        json.dumps(finding.model_dump(mode="python"), allow_nan=False)
    except ValueError:
        raise RefusedError("the sums are not finite; the covariates or the coefficients are out of range") from None
